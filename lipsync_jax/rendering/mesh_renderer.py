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
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Color, Frame, Video
from lipsync_jax.models import articulator
from lipsync_jax.rendering import (
  drawn_mouth,
  lip_edges,
  lip_seam,
  mesh_warp,
  mouth_interior,
  mouth_light,
  own_interior,
)
from lipsync_jax.rendering.mouth_interior import Reference
from lipsync_jax.rendering.mouth_reader import MouthReader
from lipsync_jax.rendering.renderer import FrameJob, RenderPlan

CHUNK = 1024  # mel columns at once
BATCH = 4  # mouths a batch: frames are rendered one by one
SCHEDULE_BLOCK = 256  # frames
LEAD_SECONDS = 0.02  # by which lips precede the sound, as in real speech
USUAL_MOTION = 0.026  # canonical units, deviation of a speaker's lip opening
MIN_MOTION = 0.012  # below: the source does not speak
SCALE_LIMITS = (0.8, 1.8)  # of the coefficients
SKIN_IDS = (50, 205, 187, 280, 425, 411, 199)  # cheeks and chin


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

  def reference_planes(
    self,
    position: int,
    target: Float[np.ndarray, 'p 2'],
    box: tuple[int, int, int, int],
    skin: Float[np.ndarray, '3'],
    gap: float,
    color: Color,
  ) -> tuple[Float32[np.ndarray, '_ _'], ...]:
    """The interior of an output frame, on the planes of a box.

    Args:
      position: of the output frame.
      target: mesh, pixels.
      box: region of the frame.
      skin: `mouth_interior.surrounding_skin` of the frame, whose light the
        interior gets.
      gap: of the lips' middle, canonical units.
      color: encoding of the video.
    """
    shade = mouth_interior.shadow(gap)

    def planes_of(number):
      reference = self.references[int(number)]
      shift = mouth_interior.interior_shift(target, reference.points, box)
      planes = mouth_interior.reference_planes(reference, shift, box, shade)
      return mouth_light.relight(planes, reference.skin, skin, color)

    planes, share = planes_of(self.schedule[position]), self.share[position]
    if not share:
      return planes
    second = planes_of(self.other[position])
    return tuple(
      a + share * (b - a) for a, b in zip(planes, second, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Patch:
  """New planes of a region of a frame."""

  box: tuple[int, int, int, int]
  planes: tuple[np.ndarray, ...]


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
    if not speaker.references:
      target = drawn_mouth.taper_corners(target, source)
    size, color = job.frame.planes[0].shape, plan.video.color
    edges = None
    if self.strength:
      target = lip_edges.limit_stretch(source, target)
      edges = lip_edges.inner_edges(job.frame, source, color.depth)
    field = mesh_warp.warp_field(source, target, size, edges)
    if field is None:
      return ()
    planes = mesh_warp.warp_frame(job.frame, field)
    unit = max(_pixels_per_unit(speaker.face, index), 1e-6)
    lip_seam.shade_line(planes, field.box, source, target, unit, color)
    warped = Patch(field.box, planes)
    inside = self.interior(
      plan.video, job.frame, speaker, position, index, target
    )
    if share < 1:
      mix = own_interior.OwnInterior(job.frame, source, target, unit, share)
      inside = tuple(
        Patch(part.box, mix.planes(part.planes, part.box)) for part in inside
      )
    return (warped, *inside)

  def interior(
    self,
    video: Video,
    frame: Frame,
    speaker: MeshSpeaker,
    position: int,
    index: int,
    target: Float[np.ndarray, 'p 2'],
  ) -> tuple[Patch, ...]:
    """The inside of the mouth with its opacity as a fourth plane."""
    size = frame.planes[0].shape
    box = mouth_interior.mouth_box(target, size, 0.05)
    opacity = mouth_interior.hole_mask(target, box)
    if not opacity.any():
      return ()
    unit = max(_pixels_per_unit(speaker.face, index), 1e-6)
    gap = float(np.hypot(*(target[14] - target[13]))) / unit
    if speaker.references:
      skin = mouth_interior.surrounding_skin(frame, target)
      planes = speaker.reference_planes(
        position, target, box, skin, gap, video.color
      )
    else:
      skin = skin_color(video, frame, target)
      planes = drawn_mouth.draw_mouth(video, target, box, unit, skin)
    # Closed lips touch: the interior fades with the gap.
    opacity = opacity * own_interior.opening_share(target, unit)
    return (Patch(box, (*planes, opacity)),)

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
      blend(planes, patch, limit)
    return dataclasses.replace(frame, planes=tuple(planes))


def blend(planes: list, patch: Patch, limit: int) -> None:
  """Blend a patch into planes, in place."""
  x0, y0, x1, y1 = patch.box
  mask = patch.planes[3] if len(patch.planes) > 3 else None
  for plane, new, step in zip(planes, patch.planes, (1, 2, 2), strict=False):
    where = np.s_[y0 // step : y1 // step, x0 // step : x1 // step]
    if mask is None:
      plane[where] = new
      continue
    share = mask if step == 1 else yuv.halve_plane(mask)
    old = plane[where].astype(np.float32)
    mixed = np.rint(old + share * (new.astype(np.float32) - old))
    plane[where] = np.clip(mixed, 0, limit)


def _share(plan: RenderPlan, job: FrameJob, number: int) -> float:
  """How far a mouth is on the way from the source's to the new one."""
  opacity = float(plan.speakers[number].opacity[job.position])
  return opacity * job.uncovered.get(number, 1.0)


def _pixels_per_unit(face: MeshTrajectory, index: int) -> float:
  """Pixels of a canonical unit in a frame."""
  return float(np.linalg.norm(face.smooth_axes[index, :, 0]))


def skin_color(
  video: Video, frame: Frame, points: Float[np.ndarray, 'p 2']
) -> Float[np.ndarray, '3']:
  """Median RGB of the cheeks and the chin."""
  places = np.floor(points[list(SKIN_IDS)]).astype(int)
  colors = [
    yuv.to_rgb(video, frame, (x - 1, y - 1, x + 2, y + 2)).reshape(-1, 3)
    for x, y in places.tolist()
  ]
  colors = np.concatenate(colors)
  return np.median(colors, axis=0) if len(colors) else np.full(3, 128.0)


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
