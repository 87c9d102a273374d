"""Mouths made of the source's own pixels, moved by a predicted mesh.

Shapes: p mesh points, f source frames, o output frames, n coefficients.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from lipsync_jax import audio
from lipsync_jax.common import disk_array
from lipsync_jax.faces import mesh
from lipsync_jax.faces.mesh_trajectory import MeshTrajectory
from lipsync_jax.media.types import Frame
from lipsync_jax.models import articulator
from lipsync_jax.rendering import mouth_interior, mouth_patches
from lipsync_jax.rendering.mouth_interior import Reference
from lipsync_jax.rendering.mouth_patches import Mouth, Patch
from lipsync_jax.rendering.mouth_reader import MouthReader
from lipsync_jax.rendering.renderer import FrameJob, RenderPlan

CHUNK = 1024  # mel columns at once
BATCH = 4  # mouths a batch: frames are rendered one by one
SCHEDULE_BLOCK = 256  # frames
LEAD_SECONDS = 0.02  # by which lips precede the sound, as in real speech
USUAL_MOTION = 0.026  # canonical units, deviation of a speaker's lip opening
MIN_MOTION = 0.012  # below: the source does not speak
SCALE_LIMITS = (0.8, 1.8)  # of the coefficients


@dataclasses.dataclass(frozen=True)
class MeshSpeaker:
  """One speaker of the mesh renderer.

  Attributes:
    face: the mesh in the source frames.
    coefficients: of the articulator, for each output frame.
    references: mouths of the source with an interior; () draws it.
    schedule: the reference of each output frame.
    other, share: the reference that is mixed in, and its share.
  """

  face: MeshTrajectory
  coefficients: Float32[np.ndarray, 'o n']
  references: tuple[Reference, ...]
  schedule: Int[np.ndarray, 'o']
  other: Int[np.ndarray, 'o']
  share: Float32[np.ndarray, 'o']

  def mixture(self, position: int) -> list[tuple[Reference, float]]:
    """The references of an output frame and their shares; [] draws."""
    if not self.references:
      return []
    first = self.references[int(self.schedule[position])]
    share = float(self.share[position])
    if not share:
      return [(first, 1.0)]
    second = self.references[int(self.other[position])]
    return [(first, 1 - share), (second, share)]


@dataclasses.dataclass(frozen=True)
class MeshRenderer:
  """The mesh warp as a `MouthRenderer`.

  Attributes:
    speakers: in the plan's order.
    basis: displacements at coefficient 1, [n p 3], canonical units.
    first: number of the first output frame, for a part of the output.
    strength: 0 leaves the source's lips, 1 is natural.
    batch: mouths at a time.
  """

  speakers: tuple[MeshSpeaker, ...]
  basis: Float[np.ndarray, 'n p 3']
  strength: float = 1.0
  first: int = 0
  batch: int = BATCH

  def part(self, first: int) -> 'MeshRenderer':
    """The renderer of the output from frame `first` on."""
    return dataclasses.replace(self, first=self.first + first)

  def extract(self, plan: RenderPlan, job: FrameJob, number: int) -> Any:
    """Nothing: the frame itself is warped."""
    return True

  def render(
    self, plan: RenderPlan, mouths: Sequence[tuple[FrameJob, int]]
  ) -> list[tuple[Patch, ...]]:
    """The changed regions of each frame, in the order of compositing."""
    return [
      self.render_mouth(plan, job, number, _share(plan, job, number))
      for job, number in mouths
    ]

  def render_mouth(
    self, plan: RenderPlan, job: FrameJob, number: int, share: float
  ) -> tuple[Patch, ...]:
    """The warped region and the interior of one mouth.

    Args:
      plan: of the output.
      job: with the source frame.
      number: of the speaker.
      share: of the way from the source's mouth, 0, to the new one, 1.
    """
    speaker = self.speakers[number]
    position = self.first + job.position
    index = plan.frames[job.position].index
    shape = speaker.face.shape(index)
    source = speaker.face.source_points(index, shape)
    displacement = np.tensordot(speaker.coefficients[position], self.basis, 1)
    target = speaker.face.target_points(
      index, shape, displacement, share * self.strength
    )
    target = mouth_patches.fit_target(source, target, not speaker.references)
    unit = max(_pixels_per_unit(speaker.face, index), 1e-6)
    mouth = Mouth(plan.video, job.frame, source, target, unit)
    warped = mouth_patches.warped_patch(mouth)
    if warped is None:
      return ()
    mixture = speaker.mixture(position)
    inside = mouth_patches.interior_patch(mouth, mixture)
    if inside is None:
      return (warped,)
    if share < 1:
      inside = mouth_patches.toward_source(mouth, inside, share)
    return warped, inside

  def composite(
    self, plan: RenderPlan, job: FrameJob, number: int, frame: Frame
  ) -> Frame:
    """The frame with the patches of one mouth."""
    patches = job.outputs[number]
    if not patches:
      return frame
    planes = [plane.copy() for plane in frame.planes]
    limit = 2**plan.video.color.depth - 1
    for patch in patches:
      mouth_patches.blend(planes, patch, limit)
    return dataclasses.replace(frame, planes=tuple(planes))


def _share(plan: RenderPlan, job: FrameJob, number: int) -> float:
  """How far a mouth is on the way from the source's to the new one."""
  opacity = float(plan.speakers[number].opacity[job.position])
  return opacity * job.uncovered.get(number, 1.0)


def _pixels_per_unit(face: MeshTrajectory, index: int) -> float:
  """Pixels of a canonical unit in a frame."""
  return float(np.linalg.norm(face.smooth_axes[index, :, 0]))


def predict_coefficients(
  mel: disk_array.RowFile,
  times: Float[np.ndarray, 'o'],
  predict: Callable[[np.ndarray], np.ndarray],
) -> Float32[np.ndarray, 'o n']:
  """The articulator's coefficients at times, in bounded memory.

  Args:
    mel: log-mel columns, [t 80].
    times: seconds, ascending.
    predict: of `articulator.build_articulator`.
  """
  context, count = articulator.CONTEXT, len(mel)
  steps = []
  for first in range(0, max(count, 1), CHUNK):
    block = np.full((1, CHUNK + 2 * context, audio.MELS), audio.SILENCE)
    low, high = max(first - context, 0), min(first + CHUNK + context, count)
    at = low - (first - context)
    block[0, at : at + high - low] = mel.read(low, high)
    out = predict(block.astype(np.float32))[0]
    skip = context // articulator.STEP_COLUMNS
    steps.append(out[skip : skip + CHUNK // articulator.STEP_COLUMNS])
  steps = np.concatenate(steps)
  return articulator.interpolate(steps, articulator.step_positions(times))


def build_speaker(
  reader: MouthReader,
  rate: float,
  coefficients: Float32[np.ndarray, 'o n'],
  basis: Float[np.ndarray, 'n p 3'],
  hidden: Callable[[int], bool] | None = None,
) -> MeshSpeaker:
  """A speaker with the interior references of the video.

  Args:
    reader: has visited its frames.
    rate: frames a second.
    coefficients: for each output frame.
    basis: of the articulator.
    hidden: whether an object covers the lips of a source frame; such frames
      are no references.
  """
  face = reader.face
  coefficients = coefficients * motion_scale(face, coefficients, basis)
  none = np.zeros(len(coefficients), np.int64)
  mouths = reader.references(hidden)
  if not mouths:
    return MeshSpeaker(
      face, coefficients, (), none, none, none.astype(np.float32)
    )
  shapes = np.stack([face.shape(k) for k in mouths])
  lips, openings = mouth_interior.lip_shapes(shapes), mesh.lip_opening(shapes)
  targets, wanted = [], []
  for first in range(0, len(coefficients), SCHEDULE_BLOCK):
    part = coefficients[first : first + SCHEDULE_BLOCK]
    moved = face.neutral + np.tensordot(part, basis, 1)
    moved = mesh.uncross_lips(moved)
    targets.append(mouth_interior.lip_shapes(moved).astype(np.float32))
    wanted.append(mesh.lip_opening(moved))
  schedule = mouth_interior.schedule_references(
    np.concatenate(targets), np.concatenate(wanted), lips, openings
  )
  fades = mouth_interior.fade_schedule(schedule, rate)
  references = tuple(mouths.values())
  return MeshSpeaker(face, coefficients, references, schedule, *fades)


def motion_scale(
  face: MeshTrajectory,
  coefficients: Float32[np.ndarray, 'o n'],
  basis: Float[np.ndarray, 'n p 3'],
) -> np.float32:
  """Factor that gives the lips the speaker's own range of motion.

  The range is the standard deviation of the lip opening in the source, or
  USUAL_MOTION where the source does not speak.
  """
  gaps = mesh.lip_gaps(basis).mean(1)
  return scale_to(motion_goal(face), float(np.std(coefficients @ gaps)))


def motion_goal(face: MeshTrajectory) -> float:
  """The deviation of the lip opening in the output, canonical units."""
  own = float(np.nanstd(face.opening)) if face.present.sum() > 25 else 0.0
  return own if own > MIN_MOTION else USUAL_MOTION


def scale_to(goal: float, predicted: float) -> np.float32:
  """Factor within SCALE_LIMITS from one deviation to another."""
  return np.float32(np.clip(goal / max(predicted, 1e-4), *SCALE_LIMITS))
