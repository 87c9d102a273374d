"""A prepared face, of which single frames are rendered on demand.

Only the region that changes is composited and converted to RGB; all other
pixels are copied. What the mesh renderer decides from the whole output (the
range of motion, the schedule of references) comes from the frames so far.

Shapes: f frames, k references, h w rows and columns of a picture, p mesh
points, c coefficients.
"""

import dataclasses
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Float32, UInt8

from lipsync_jax.faces import mesh
from lipsync_jax.faces.mesh_trajectory import MeshTrajectory
from lipsync_jax.media import memory, yuv
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.rendering import (
  mesh_renderer,
  mouth_interior,
  mouth_patches,
  mouth_reader,
)
from lipsync_jax.rendering.renderer import FrameJob, RenderPlan
from lipsync_jax.rendering.timeline import OutputFrame

USUAL_PREDICTION = 0.0215  # canonical units, deviation of the predicted opening
USUAL_SECONDS = 4.0  # of sound that the usual value counts for
MEMORY_SECONDS = 30.0  # of sound whose range of motion counts


@dataclasses.dataclass(frozen=True)
class HeldMesh(MeshTrajectory):
  """A mesh trajectory whose shapes are in memory, safe for threads."""

  held: Float[np.ndarray, 'f p 3'] = dataclasses.field(
    default_factory=lambda: np.zeros((0, mesh.NUM_POINTS, 3))
  )

  def shape(self, frame: int) -> Float[np.ndarray, 'p 3']:
    """The canonical shape of a frame."""
    return self.held[frame]


@dataclasses.dataclass(frozen=True)
class MouthState:
  """What a frame needs besides the source.

  Attributes:
    coefficients: scaled to the speaker's range of motion.
    reference: number of the interior.
    other, share: the reference that is mixed in, and its share.
  """

  coefficients: Float32[np.ndarray, 'c']
  reference: int = 0
  other: int = 0
  share: float = 0.0


def hold_mesh(face: MeshTrajectory) -> HeldMesh:
  """The trajectory with its shapes in memory."""
  fields = {f.name: getattr(face, f.name) for f in dataclasses.fields(face)}
  return HeldMesh(
    **fields, held=mesh.unpack(face.shapes.read(0, len(face.shapes)))
  )


def build_live_face(
  video: Video,
  frames: tuple[Frame, ...],
  face: MeshTrajectory,
  opacity: Float[np.ndarray, 'f'],
  basis: Float[np.ndarray, 'c p 3'],
) -> 'LiveFace':
  """A face with its interior references.

  Args:
    video: opened; `rate` is that of the output.
    frames: of the video, from its first one.
    face: the speaker's mesh in these frames.
    opacity: of the new mouth in these frames.
    basis: of the articulator.
  """
  held = hold_mesh(face.with_closed_lips(basis))
  numbers = mouth_reader.reference_frames(held)
  numbers = numbers[numbers < len(frames)]
  references = tuple(
    mouth_interior.read_reference(
      frames[k], held.source_points(k, held.shape(k))
    )
    for k in numbers.tolist()
  )
  shapes = held.held[numbers]
  still = yuv.to_rgb(video, frames[0]) if len(frames) == 1 else None
  return LiveFace(
    video, frames, held, opacity, references, shapes, basis, still
  )


@dataclasses.dataclass(frozen=True)
class LiveFace:
  """A photo or a short video with everything its frames need; not changed.

  Attributes:
    video: whose `rate` is that of the frames.
    frames: decoded.
    face: the speaker's mesh with closed lips.
    opacity: of the new mouth in each source frame.
    references: mouths of the source; () draws the interior.
    reference_shapes: canonical shapes of the references.
    basis: of the articulator.
    still: the picture of a photo from a file.
  """

  video: Video
  frames: tuple[Frame, ...]
  face: HeldMesh
  opacity: Float[np.ndarray, 'f']
  references: tuple[mouth_interior.Reference, ...]
  reference_shapes: Float[np.ndarray, 'k p 3']
  basis: Float[np.ndarray, 'c p 3']
  still: UInt8[np.ndarray, 'h w 3'] | None = None

  def picture(self, index: int) -> UInt8[np.ndarray, 'h w 3']:
    """A new array of a source frame, bit for bit."""
    if isinstance(self.video, memory.MemoryVideo):
      return self.video.pictures[index].copy()
    if self.still is not None:
      return self.still.copy()
    return yuv.to_rgb(self.video, self.frames[index])

  def render(
    self, index: int, mouth: MouthState, strength: float
  ) -> UInt8[np.ndarray, 'h w 3']:
    """A source frame with another mouth.

    Args:
      index: of the source frame.
      mouth: of the output frame.
      strength: 0 leaves the source's lips, 1 is natural.
    """
    picture, frame = self.picture(index), self.frames[index]
    if not strength or not self.opacity[index]:
      return picture
    patches = self._patches(index, mouth, strength)
    if not patches:
      return picture
    boxes = np.array([patch.box for patch in patches])
    x0, y0, x1, y1 = (
      *boxes[:, :2].min(0).tolist(),
      *boxes[:, 2:].max(0).tolist(),
    )
    before = tuple(
      plane[y0 // s : y1 // s, x0 // s : x1 // s]
      for plane, s in zip(frame.planes, (1, 2, 2), strict=True)
    )
    planes = [plane.copy() for plane in before]
    limit = 2**self.video.color.depth - 1
    for patch in patches:
      a, b, c, d = patch.box
      moved = dataclasses.replace(patch, box=(a - x0, b - y0, c - x0, d - y0))
      mouth_patches.blend(planes, moved, limit)
    new = yuv.to_rgb(self.video, Frame(0, frame.time, tuple(planes)))
    region = picture[y0:y1, x0:x1]
    if isinstance(self.video, memory.MemoryVideo):
      # The difference is added, so that unchanged pixels keep their values.
      new = new.astype(np.int16)
      new -= yuv.to_rgb(self.video, Frame(0, frame.time, before))
      new = np.clip(new[: len(region), : region.shape[1]] + region, 0, 255)
    region[:] = new
    return picture

  def _patches(
    self, index: int, mouth: MouthState, strength: float
  ) -> tuple[mouth_patches.Patch, ...]:
    """The changed regions of a frame."""
    speaker = mesh_renderer.MeshSpeaker(
      self.face,
      mouth.coefficients[None],
      self.references,
      np.array([mouth.reference]),
      np.array([mouth.other]),
      np.array([mouth.share], np.float32),
    )
    drawing = mesh_renderer.MeshRenderer((speaker,), self.basis, strength)
    shown = OutputFrame(Fraction(0), 1 / self.video.rate, index)
    plan = RenderPlan(self.video, (), (shown,), ())
    job, share = FrameJob(0, self.frames[index]), float(self.opacity[index])
    return drawing.render_mouth(plan, job, 0, share)


class MouthMotion:
  """Scale and interior of one mouth after the other, from those before.

  It is the counterpart of `mesh_renderer.build_speaker` for an output whose
  future is unknown.
  """

  def __init__(self, prepared: LiveFace):
    face, rate = prepared.face, float(prepared.video.rate)
    self._neutral, self._basis = face.neutral, prepared.basis
    self._goal = mesh_renderer.motion_goal(face)
    self._gaps = mesh.lip_gaps(prepared.basis).mean(1)
    self._limit = MEMORY_SECONDS * rate  # frames
    self._count = USUAL_SECONDS * rate
    self._mean, self._variance = 0.0, USUAL_PREDICTION**2
    self._fade = max(1, round(mouth_interior.FADE_SECONDS * rate))  # frames
    self._reference = self._other = 0
    self._shown = -1  # frames of the reference so far; -1 before the first
    self._lips = self._openings = None
    if prepared.references:
      self._lips = mouth_interior.lip_shapes(prepared.reference_shapes)
      self._openings = mesh.lip_opening(prepared.reference_shapes)

  def next(
    self, coefficients: Float32[np.ndarray, 'c'], heard: bool
  ) -> MouthState:
    """The state of the next frame.

    Args:
      coefficients: of the articulator.
      heard: whether the frame counts for the range of motion.
    """
    if heard:
      self._count_opening(float(coefficients @ self._gaps))
    scale = mesh_renderer.scale_to(self._goal, self._variance**0.5)
    scaled = coefficients * scale
    if self._lips is None:
      return MouthState(scaled)
    self._choose_reference(scaled)
    left = self._fade - self._shown  # frames in which the former is seen
    share = max(left, 0) / (self._fade + 1)
    return MouthState(scaled, self._reference, self._other, share)

  def _count_opening(self, opening: float) -> None:
    """Move the running mean and variance by one frame."""
    self._count = min(self._count + 1, self._limit)
    step = 1 / self._count
    apart = opening - self._mean
    self._mean += step * apart
    self._variance += step * ((1 - step) * apart**2 - self._variance)

  def _choose_reference(self, coefficients: Float32[np.ndarray, 'c']) -> None:
    """Keep the reference, or take one that is clearly better."""
    moved = self._neutral + np.tensordot(coefficients, self._basis, 1)
    moved = mesh.uncross_lips(moved[None])
    cost = np.abs(mouth_interior.lip_shapes(moved) - self._lips).mean(1)
    narrow = mesh.lip_opening(moved) - self._openings
    cost += mouth_interior.NARROW_COST * np.maximum(narrow, 0)
    best = int(cost.argmin())
    if self._shown < 0:
      self._reference = self._other = best
      self._shown = self._fade
      return
    self._shown += 1
    better = cost[best] + mouth_interior.CHANGE_COST < cost[self._reference]
    if better and self._shown >= self._fade:
      self._other, self._reference = self._reference, best
      self._shown = 0
