"""The mesh warp: moves the pixels of a frame to the target mesh.

Every triangle of the tessellation is mapped from its target to its source
position. A ring around the face stays fixed, so that chin and neck stretch
without a seam. The map is computed on a grid of at most GRID_SIZE cells a side,
once for the upper and once for the lower lip, since the two move apart. Planes
are then resampled at their own resolution.

Shapes: p mesh points, t triangles, h w rows and columns of the changed region.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from lipsync_jax.faces import mesh
from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import lip_edges, lip_seam

GRID_SIZE = 192  # cells along the longer side of the changed region
RING_SCALE = 1.5  # of the fixed ring, relative to the outline of the face
MIN_MOTION = 0.02  # pixels; slower points keep their exact values
STRIP = 0.12  # canonical units by which each lip's map is extended
SOURCE_STRIP = 0.02  # the same in the source, whose hole shows teeth
MARGIN = 2  # pixels around the changed region
MAX_ROW = 4096  # places read at once in one row

Points = Float[np.ndarray, 'p 2']


@dataclasses.dataclass(frozen=True)
class WarpField:
  """Source positions of the pixels of a region of the frame."""

  box: tuple[int, int, int, int]  # x0, y0, x1, y1 in the frame, even
  luma: lip_seam.Seam
  chroma: lip_seam.Seam  # in pixels of chroma

  @property
  def shift(self) -> Float32[np.ndarray, 'h w 2']:
    """Source minus target position, pixels of luma."""
    return self.luma.shift


@functools.cache
def _topology() -> tuple[Int[np.ndarray, 't 3'], Int[np.ndarray, 's 3']]:
  """Triangles of face and ring, and of the strips at the inner lips.

  Vertices 478 to 513 are the ring, then the strips' outer edges of the upper
  and of the lower lip.
  """
  count = len(mesh.OVAL_IDS)
  ring = mesh.NUM_POINTS + np.arange(count)
  oval, ahead = np.array(mesh.OVAL_IDS), np.roll(np.arange(count), -1)
  skirt = np.concatenate(
    [
      np.stack([oval, oval[ahead], ring], -1),
      np.stack([oval[ahead], ring[ahead], ring], -1),
    ]
  )
  strips = []
  first = mesh.NUM_POINTS + count
  for lip in (mesh.UPPER_LIP_IDS, mesh.LOWER_LIP_IDS):
    edge, size = np.array(lip), len(lip)
    outer = first + np.arange(size)
    first += size
    strips += [
      np.stack([edge[:-1], edge[1:], outer[:-1]], -1),
      np.stack([edge[1:], outer[1:], outer[:-1]], -1),
    ]
  return np.concatenate([mesh.triangles(), skirt]), np.concatenate(strips)


def _with_ring_and_strips(
  source: Points, target: Points, unit: float, down: Float[np.ndarray, '2']
) -> tuple[Float[np.ndarray, 'q 2'], Float[np.ndarray, 'q 2']]:
  """Both meshes with the fixed ring, and the outer edges of the strips."""
  oval = source[list(mesh.OVAL_IDS)]
  center = oval.mean(0)
  ring = center + RING_SCALE * (oval - center)
  # The strips taper to the corners, where both lips meet.
  taper = np.sin(np.linspace(0, np.pi, len(mesh.UPPER_LIP_IDS)))
  out = []
  for points, width in ((source, SOURCE_STRIP), (target, STRIP)):
    strip = width * unit * taper[:, None] * down
    upper = points[list(mesh.UPPER_LIP_IDS)] + strip
    lower = points[list(mesh.LOWER_LIP_IDS)] - strip
    out.append(np.concatenate([points, ring, upper, lower]))
  return out[0], out[1]


def warp_field(
  source: Points,
  target: Points,
  frame: tuple[int, int],
  edges: Float[np.ndarray, '2 11'] | None = None,
) -> WarpField | None:
  """The field that moves the source mesh to the target mesh.

  Args:
    source, target: x, y in pixels of the frame.
    frame: height and width.
    edges: of `lip_edges.inner_edges`; None: landmarks lie on the lips.

  Returns:
    None if no point moves.
  """
  right = source[mesh.EYE_CORNERS[1]] - source[mesh.EYE_CORNERS[0]]
  unit = float(np.hypot(*right))
  down = np.array([-right[1], right[0]]) / max(unit, 1e-6)
  edges = np.zeros((2, len(mesh.UPPER_LIP_IDS))) if edges is None else edges
  source = lip_edges.without_teeth(source, target, unit, down, edges)
  source, target = _with_ring_and_strips(source, target, unit, down)
  faces, strips = _topology()
  motion = np.hypot(*(source - target).T)
  moving = motion > MIN_MOTION
  faces = faces[moving[faces].any(1)]
  if not len(faces):
    return None
  box = _region(np.concatenate([source[faces], target[faces]]), frame)
  if box is None:
    return None
  size = np.array([box[2] - box[0], box[3] - box[1]])
  cells = np.maximum(np.ceil(size / max(1.0, size.max() / GRID_SIZE)), 2)
  grid = _Grid(np.array(box[:2], float), size / cells, cells.astype(int))
  half = len(strips) // 2
  maps = _affine_shifts(source, target, np.concatenate([faces, strips]))
  empty = np.full(grid.shape, len(maps), np.int32)
  maps = np.concatenate([maps, np.zeros((1, 2, 3), np.float32)])
  base = grid.paint(empty, faces, target, 0)
  shift = grid.shifts(base, maps)
  fields = []
  for first in (0, half):
    part, number = strips[first : first + half], len(faces) + first
    ids = grid.paint(base.copy(), part, target, number)
    fields.append(grid.resize(grid.shifts(ids, maps, base, shift), size))
  below = lip_seam.below_lips(target, box, down, unit)
  return WarpField(box, *lip_seam.join_lips(*fields, below))


def _region(
  points: Float[np.ndarray, '*n 2'], frame: tuple[int, int]
) -> tuple[int, int, int, int] | None:
  """The even box of the points within the frame; None if it is empty."""
  h, w = frame[0] // 2 * 2, frame[1] // 2 * 2
  flat = points.reshape(-1, 2)
  low = np.floor((flat.min(0) - MARGIN) / 2).astype(int) * 2
  high = np.ceil((flat.max(0) + MARGIN) / 2).astype(int) * 2
  x0, y0 = np.maximum(low, 0)
  x1, y1 = np.minimum(high, [w, h])
  if x1 - x0 < 4 or y1 - y0 < 4:
    return None
  return int(x0), int(y0), int(x1), int(y1)


@dataclasses.dataclass(frozen=True)
class _Grid:
  """Cells over the changed region."""

  corner: Float[np.ndarray, '2']  # of the region in the frame, pixels
  cell: Float[np.ndarray, '2']  # size of a cell, pixels
  count: Int[np.ndarray, '2']  # cells along x and y

  @property
  def shape(self) -> tuple[int, int]:
    return int(self.count[1]), int(self.count[0])

  def paint(
    self,
    ids: np.ndarray,
    faces: Int[np.ndarray, 't 3'],
    points: Points,
    at: int,
  ) -> Int[np.ndarray, 'h w']:
    """Write the number of each triangle, from `at`, into its cells."""
    import cv2

    # OpenCV's cell centers are whole numbers; four bits of subpixels.
    places = (points - self.corner) / self.cell - 0.5
    fixed = np.rint(places[faces] * 16).astype(np.int32)
    for number, corners in enumerate(fixed, at):
      cv2.fillConvexPoly(ids, corners, number, lineType=cv2.LINE_8, shift=4)
    return ids

  def shifts(
    self,
    ids: Int[np.ndarray, 'h w'],
    maps: Float32[np.ndarray, 't 2 3'],
    known: Int[np.ndarray, 'h w'] | None = None,
    values: Float32[np.ndarray, 'h w 2'] | None = None,
  ) -> Float32[np.ndarray, 'h w 2']:
    """The shift at the center of each cell.

    Args:
      ids: number of the map of each cell.
      maps: of `_affine_shifts`, then a map of zeros.
      known, values: ids and shifts that are known; only others are computed.
    """
    if known is None:
      out = np.zeros((*self.shape, 2), np.float32)
      rows, columns = np.nonzero(ids < len(maps) - 1)
    else:
      out = values.copy()
      rows, columns = np.nonzero(ids != known)
    x = np.float32(self.corner[0]) + (columns + np.float32(0.5)) * np.float32(
      self.cell[0]
    )
    y = np.float32(self.corner[1]) + (rows + np.float32(0.5)) * np.float32(
      self.cell[1]
    )
    chosen = maps[ids[rows, columns]]  # [n 2 3]
    shift = chosen[:, :, 0] * x[:, None] + chosen[:, :, 1] * y[:, None]
    out[rows, columns] = shift + chosen[:, :, 2]
    return out

  def resize(
    self, shift: Float32[np.ndarray, 'h w 2'], size: Int[np.ndarray, '2']
  ) -> Float32[np.ndarray, 'y x 2']:
    """The shifts of cells on the pixels of the region."""
    import cv2

    return cv2.resize(
      shift, (int(size[0]), int(size[1])), interpolation=cv2.INTER_LINEAR
    )


def _affine_shifts(
  source: Points, target: Points, faces: Int[np.ndarray, 't 3']
) -> Float32[np.ndarray, 't 2 3']:
  """Affine maps from a target position to source minus target position.

  A triangle without area gets the mean shift of its corners.
  """
  a, b, c = np.moveaxis(target[faces], 1, 0)
  shifts = source - target
  sa, sb, sc = np.moveaxis(shifts[faces], 1, 0)
  edges = np.stack([b - a, c - a], -1)  # [t 2 2], columns
  area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
  flat = np.abs(area) < 1e-3
  edges[flat] = np.eye(2)
  change = np.stack([sb - sa, sc - sa], -1)
  change[flat] = 0
  linear = change @ np.linalg.inv(edges)
  offset = sa - np.einsum('tij,tj->ti', linear, a)
  offset[flat] = ((sa + sb + sc) / 3)[flat]
  return np.concatenate([linear, offset[..., None]], -1).astype(np.float32)


def warp_frame(frame: Frame, field: WarpField) -> tuple[np.ndarray, ...]:
  """The planes of the region, warped; unmoved pixels keep their values."""
  seams = (field.luma, field.chroma)
  # The source may lie outside the region: read from a larger part.
  shift = field.luma.shift
  reach = int(np.ceil(max(-shift.min(), shift.max()))) + 3
  maps = [
    _PlaneMap.build(seam, step)
    for seam, step in zip(seams, (1, 2), strict=True)
  ]
  return tuple(
    maps[step - 1].warp(plane, field.box, reach)
    for plane, step in zip(frame.planes, (1, 2, 2), strict=True)
  )


@dataclasses.dataclass(frozen=True)
class _PlaneMap:
  """Source positions relative to the region, for planes of one resolution."""

  seam: lip_seam.Seam
  step: int  # luma pixels of a pixel
  x: Float32[np.ndarray, 'h w']
  y: Float32[np.ndarray, 'h w']
  still: Bool[np.ndarray, 'h w']

  @classmethod
  def build(cls, seam: lip_seam.Seam, step: int) -> '_PlaneMap':
    import cv2

    dx, dy = cv2.split(seam.shift)
    limit = MIN_MOTION / step
    still = (cv2.absdiff(dx, 0) <= limit) & (cv2.absdiff(dy, 0) <= limit)
    columns = np.arange(dx.shape[1], dtype=np.float32)
    rows = np.arange(dx.shape[0], dtype=np.float32)[:, None]
    return cls(seam, step, dx + columns, dy + rows, still)

  def warp(
    self, plane: np.ndarray, box: tuple[int, int, int, int], reach: int
  ) -> np.ndarray:
    """The region of a plane, warped."""
    import cv2

    x0, y0, x1, y1 = (side // self.step for side in box)
    top, left = max(y0 - reach, 0), max(x0 - reach, 0)
    part = np.ascontiguousarray(plane[top : y1 + reach, left : x1 + reach])
    corner = np.array([x0 - left, y0 - top], np.float32)

    def read(x, y):
      return cv2.remap(
        part,
        x + corner[0],
        y + corner[1],
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
      )

    new = read(self.x, self.y)
    rows, columns, share = self.seam.rows, self.seam.columns, self.seam.share
    if len(rows):
      place = self.seam.other + np.stack([columns, rows], -1)
      place = _as_picture(place.astype(np.float32))
      first = new[rows, columns].astype(np.float32)
      second = read(place[..., 0], place[..., 1]).reshape(-1)[: len(rows)]
      second = second.astype(np.float32)
      mixed = first + share * (second - first)
      new[rows, columns] = np.rint(mixed).astype(new.dtype)
    np.copyto(new, plane[y0:y1, x0:x1], where=self.still)
    return new


def _as_picture(
  places: Float32[np.ndarray, 'n 2'],
) -> Float32[np.ndarray, 'h w 2']:
  """Places in rows of at most MAX_ROW, the last one filled up.

  OpenCV's `remap` refuses pictures with more than 32766 rows or columns.
  """
  width = min(len(places), MAX_ROW)
  missing = -len(places) % width
  padded = np.pad(places, ((0, missing), (0, 0)))
  return padded.reshape(-1, width, 2)
