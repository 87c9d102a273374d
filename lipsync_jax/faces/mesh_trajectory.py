"""The mesh of one person over a video: canonical shapes and poses.

Poses are smoothed as crops are (`trajectory.smooth_span`); shapes only a
little, since lips move fast. Both never cross a cut or a gap. Shapes lie on
disk.

Shapes: f frames of the video, p mesh points.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from lipsync_jax.common.disk_array import RowFile
from lipsync_jax.faces import mesh, trajectory
from lipsync_jax.faces.identity import Person
from lipsync_jax.faces.tracks import Analysis
from lipsync_jax.faces.trajectory import FaceTrajectory

SHAPE_SECONDS = 0.02  # of the kernel that smooths shapes
OPEN_NEUTRAL = 0.012  # canonical units of lip opening
CLOSING_PENALTY = 0.02  # of large motion, relative


@dataclasses.dataclass(frozen=True)
class MeshTrajectory:
  """One person's mesh in every frame of a video.

  The frame position of a canonical point c is axes @ c + origin, in pixels.

  Attributes:
    present: frames with a mesh.
    shapes: canonical shapes, `mesh.pack`, [f p 3].
    axes, origin: the pose; the smoothed pose, where lips are drawn.
    neutral: the person's face with closed lips.
    opening: lip opening of every frame, canonical units; NaN if absent.
  """

  present: Bool[np.ndarray, 'f']
  shapes: RowFile
  axes: Float32[np.ndarray, 'f 3 3']
  origin: Float32[np.ndarray, 'f 3']
  smooth_axes: Float32[np.ndarray, 'f 3 3']
  smooth_origin: Float32[np.ndarray, 'f 3']
  neutral: Float[np.ndarray, 'p 3']
  opening: Float32[np.ndarray, 'f']

  def with_closed_lips(
    self, basis: Float[np.ndarray, 'n p 3']
  ) -> 'MeshTrajectory':
    """The trajectory with a neutral shape whose lips touch.

    A person who never closes the mouth, such as on a photo with a smile, has an
    open neutral shape. It is closed by the natural motion of least size.

    Args:
      basis: displacements at coefficient 1, canonical units.
    """
    gaps = mesh.lip_gaps(self.neutral[None])[0]
    if gaps.mean() < OPEN_NEUTRAL:
      return self
    change = mesh.lip_gaps(basis)  # [n 11]
    penalty = CLOSING_PENALTY * np.trace(change @ change.T) / len(change)
    inverse = np.linalg.inv(change @ change.T + penalty * np.eye(len(change)))
    closing = -gaps @ change.T @ inverse
    neutral = self.neutral + np.tensordot(closing, basis, 1)
    return dataclasses.replace(self, neutral=neutral)

  def shape(self, frame: int) -> Float[np.ndarray, 'p 3']:
    """The canonical shape of a frame."""
    return mesh.unpack(self.shapes.read(frame, frame + 1))[0]

  def source_points(
    self, frame: int, shape: Float[np.ndarray, 'p 3']
  ) -> Float[np.ndarray, 'p 2']:
    """A canonical shape in the frame's measured pose, pixels."""
    return shape @ self.axes[frame, :2].T + self.origin[frame, :2]

  def target_points(
    self,
    frame: int,
    shape: Float[np.ndarray, 'p 3'],
    displacement: Float[np.ndarray, 'p 3'],
    strength: float = 1.0,
  ) -> Float[np.ndarray, 'p 2']:
    """The mesh with other lips, in the frame's smoothed pose, pixels.

    Args:
      frame: of the source.
      shape: of the frame.
      displacement: from the neutral shape, at strength 1.
      strength: 0 leaves the source's lips; 1 is natural.
    """
    target = mesh.displace(
      shape[None], self.neutral, displacement[None], strength
    )[0]
    measured = self.source_points(frame, target)
    smooth = target @ self.smooth_axes[frame, :2].T
    smooth += self.smooth_origin[frame, :2]
    share = mesh.displacement_weights()[:, None] * min(strength, 1.0)
    return measured + share * (smooth - measured)


def build_mesh_trajectory(
  analysis: Analysis, person: Person, face: FaceTrajectory
) -> MeshTrajectory | None:
  """The mesh trajectory of a person; None if the analysis has no meshes.

  Args:
    analysis: of the video.
    person: of `identity.group_people`.
    face: the person's crops; its spans and filled frames hold for the mesh.
  """
  if analysis.meshes is None or any(
    track.mesh_rows is None for track in person.tracks
  ):
    return None
  count = len(analysis.times)
  rows = np.full(count, -1, np.int64)
  boxes = np.zeros((count, 4), np.float32)
  for track in person.tracks:
    rows[track.frames] = track.mesh_rows
    boxes[track.frames] = track.boxes
  builder = _Builder(analysis, face, rows, boxes)
  return builder.build()


@dataclasses.dataclass(frozen=True)
class _Builder:
  analysis: Analysis
  face: FaceTrajectory
  rows: Int[np.ndarray, 'f']  # of the meshes; -1: not measured
  boxes: Float32[np.ndarray, 'f 4']

  def build(self) -> MeshTrajectory:
    count = len(self.rows)
    shapes = RowFile((mesh.NUM_POINTS, 3), np.int16)
    axes = np.zeros((count, 3, 3), np.float32)
    origin = np.zeros((count, 3), np.float32)
    opening = np.full(count, np.nan, np.float32)
    for first in range(0, count, mesh.BLOCK):
      here = slice(first, min(first + mesh.BLOCK, count))
      block, pose = self.canonical(here)
      axes[here], origin[here] = pose
      known = self.face.present[here]
      opening[here][known] = mesh.lip_opening(block)[known]
      shapes.append(mesh.pack(block))
    smooth_axes, smooth_origin = self.smooth_pose(axes, origin)
    return MeshTrajectory(
      present=self.face.present,
      shapes=shapes,
      axes=axes,
      origin=origin,
      smooth_axes=smooth_axes,
      smooth_origin=smooth_origin,
      neutral=self.neutral(shapes, opening),
      opening=opening,
    )

  def canonical(self, here: slice):
    """Smoothed canonical shapes of a block of frames, and its poses."""
    times = self.analysis.times
    reach = int(np.ceil(3 * SHAPE_SECONDS / max(_frame_seconds(times), 1e-3)))
    low = max(here.start - reach, 0)
    high = min(here.stop + reach, len(times))
    points = self.measured(np.arange(low, high))
    similarity = mesh.align(points, mesh.reference_shape())
    shapes = similarity.apply(points)
    out = shapes.copy()
    for start, end in self.face.spans:
      a, b = max(int(start), low) - low, min(int(end), high) - low
      if b - a > 2:
        flat = shapes[a:b].reshape(b - a, -1)
        smooth = trajectory.local_linear(
          flat, times[low + a : low + b], SHAPE_SECONDS
        )
        out[a:b] = smooth.reshape(shapes[a:b].shape)
    part = slice(here.start - low, here.stop - low)
    axes = np.swapaxes(similarity.rotation, 1, 2)
    axes = axes / similarity.scale[:, None, None]
    origin = -np.einsum('nij,nj->ni', axes, similarity.translation)
    return out[part], (axes[part], origin[part])

  def measured(
    self, frames: Int[np.ndarray, 'n']
  ) -> Float[np.ndarray, 'n p 3']:
    """Meshes in frame pixels, interpolated in filled frames.

    Frames without the person have the reference shape.
    """
    out = np.tile(mesh.reference_shape(), (len(frames), 1, 1))
    known = np.flatnonzero(self.rows >= 0)
    if not known.size:
      return out
    after = np.searchsorted(known, frames).clip(0, len(known) - 1)
    before = np.where(self.rows[frames] >= 0, after, (after - 1).clip(0))
    a, b = known[before], known[after]
    present, measured = self.face.present[frames], self.rows[frames] >= 0
    part = present & measured
    if part.any():
      out[part] = self.unpack(frames[part])
    part = present & ~measured
    if part.any():
      first, last = self.unpack(a[part]), self.unpack(b[part])
      span = np.maximum(b[part] - a[part], 1)
      share = ((frames[part] - a[part]) / span)[:, None, None]
      out[part] = first + share * (last - first)
    return out

  def unpack(self, frames: Int[np.ndarray, 'n']) -> Float[np.ndarray, 'n p 3']:
    packed = self.analysis.meshes.take(self.rows[frames])
    return mesh.from_box(mesh.unpack(packed), self.boxes[frames])

  def smooth_pose(self, axes, origin):
    """Poses without jitter, span by span."""
    values = np.concatenate([axes.reshape(-1, 9), origin], 1)  # pixels
    out = values.copy()
    for start, end in self.face.spans:
      here = slice(int(start), int(end))
      width = self.face.crops[here, 2]
      out[here] = trajectory.smooth_span(
        values[here], self.analysis.times[here], width
      )
    return out[:, :9].reshape(-1, 3, 3), out[:, 9:]

  def neutral(self, shapes: RowFile, opening) -> Float[np.ndarray, 'p 3']:
    """The mean of the frames with the least lip opening."""
    known = np.flatnonzero(self.rows >= 0)
    if not known.size:
      return mesh.reference_shape()
    closed = known[mesh.least_open(opening[known])]
    return mesh.mean_shape(shapes, closed)


def _frame_seconds(times: Float[np.ndarray, 'f']) -> float:
  """Median seconds between frames."""
  return float(np.median(np.diff(times))) if len(times) > 1 else 0.04
