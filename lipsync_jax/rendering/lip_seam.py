"""The seam between the lips in a warped frame.

The map of the upper lip and that of the lower lip meet at the lip line. Pixels
on the line mix both, for chroma at its own resolution: a mean of the two maps
would read the mouth between the lips. Lips that the warp closes get the shade
that touching lips have; the source's pixels show it only where its own lips
touch.

Shapes: p mesh points, n pixels on the seam, h w rows and columns of the changed
region.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from lipsync_jax.faces import mesh
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Color

SOFTNESS = 0.006  # canonical units, deviation of the seam's blur
MIN_JUMP = 0.05  # pixels; smaller differences of the maps are no seam
CREASE_WIDTH = 0.011  # canonical units, deviation of the shade
CREASE_DEPTH = 0.42  # share of the luma taken at the line
COLOR_SHARE = 0.35  # of the depth, by which colors fade
CREASE_GAP = 0.035  # canonical units; wider lips have no shade
CLOSING = 0.03  # canonical units of closing with the full shade
CORNER_SHARE = 0.7  # of the shade at the first pair beside the corners

Points = Float[np.ndarray, 'p 2']


@dataclasses.dataclass(frozen=True)
class Seam:
  """A shift with a jump at the lip line, on one grid of pixels."""

  shift: Float32[np.ndarray, 'h w 2']  # source minus target position
  rows: Int[np.ndarray, 'n']  # of the mixed pixels
  columns: Int[np.ndarray, 'n']
  other: Float32[np.ndarray, 'n 2']  # the second shift of the mixed pixels
  share: Float32[np.ndarray, 'n']  # of the second shift's pixel, at most 0.5


def lip_line(points: Points) -> Float[np.ndarray, '11 2']:
  """The middle between the inner lips, from corner to corner."""
  upper = points[list(mesh.UPPER_LIP_IDS)]
  return (upper + points[list(mesh.LOWER_LIP_IDS)]) / 2


def below_lips(
  points: Points,
  box: tuple[int, int, int, int],
  down: Float[np.ndarray, '2'],
  unit: float,
) -> UInt8[np.ndarray, 'h w']:
  """How much of each pixel lies below the lip line, 0 to 255.

  Args:
    points: target mesh, pixels.
    box: region of the frame.
    down: unit vector from the eyes to the chin.
    unit: pixels of a canonical unit.
  """
  import cv2

  line = lip_line(points)
  reach = 2.0 * float(np.hypot(*(line[-1] - line[0])) + 1) * down
  polygon = np.concatenate([line, line[::-1] + reach])
  area = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
  fixed = np.rint((polygon - box[:2] - 0.5) * 16).astype(np.int32)
  cv2.fillPoly(area, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
  # The blur costs much on the whole region: only around the line.
  room = int(np.ceil(4 * SOFTNESS * unit)) + 3
  h, w = area.shape
  x0, y0 = np.clip(np.floor(line.min(0) - box[:2]).astype(int) - room, 0, None)
  x1, y1 = np.ceil(line.max(0) - box[:2]).astype(int) + room
  part = np.s_[y0 : min(max(y1, y0), h), x0 : min(max(x1, x0), w)]
  if area[part].size:
    sigma = max(0.5, SOFTNESS * unit)
    area[part] = cv2.GaussianBlur(area[part], (0, 0), sigma)
  return area


def join_lips(
  upper: Float32[np.ndarray, 'h w 2'],
  lower: Float32[np.ndarray, 'h w 2'],
  below: UInt8[np.ndarray, 'h w'],
) -> tuple[Seam, Seam]:
  """The shifts of luma and of chroma from those of each lip; changes `upper`.

  Args:
    upper, lower: luma pixels; they differ near the lip line only.
    below: of `below_lips`.
  """
  halves = (yuv.halve_plane(part) / 2 for part in (upper, lower))
  return (
    _join(upper, lower, below),
    _join(*halves, yuv.halve_plane(below)),
  )


def _join(upper, lower, below) -> Seam:
  import cv2

  inside = below >= 128
  rows, columns = np.nonzero((below > 0) & (below < 255))
  here, there = upper[rows, columns], lower[rows, columns]
  jump = np.abs(here - there).max(-1, initial=0) > MIN_JUMP
  rows, columns = rows[jump], columns[jump]
  first = inside[rows, columns]
  other = np.where(first[:, None], here[jump], there[jump])
  share = below[rows, columns].astype(np.float32) / 255
  share = np.where(first, 1 - share, share)
  # Several times as fast as a masked copy of NumPy for two channels.
  upper = cv2.copyTo(lower, inside.view(np.uint8), upper)
  return Seam(upper, rows, columns, other, share)


def shade_line(
  planes: tuple[np.ndarray, ...],
  box: tuple[int, int, int, int],
  source: Points,
  target: Points,
  unit: float,
  color: Color,
) -> None:
  """Darken the line between lips that the warp closes, in place.

  Args:
    planes: of the region, code values.
    box: region of the frame.
    source, target: mesh, pixels.
    unit: pixels of a canonical unit.
    color: encoding of the code values.
  """
  import cv2

  upper, lower = list(mesh.UPPER_LIP_IDS), list(mesh.LOWER_LIP_IDS)
  gap = np.hypot(*(target[lower] - target[upper]).T) / unit
  closing = np.hypot(*(source[lower] - source[upper]).T) / unit - gap
  depth = np.clip(closing / CLOSING, 0, 1) * np.clip(1 - gap / CREASE_GAP, 0, 1)
  depth[[0, -1]] = CORNER_SHARE * depth[[1, -2]]
  if depth.max() < 0.01:
    return
  line = lip_line(target) - box[:2] - 0.5
  sigma = max(0.6, CREASE_WIDTH * unit)
  room = int(np.ceil(3 * sigma)) + 2
  h, w = planes[0].shape
  low = np.maximum(np.floor(line.min(0)).astype(int) - room, 0) // 2 * 2
  high = np.ceil(line.max(0)).astype(int) + room
  high = np.minimum((high + 1) // 2 * 2, [w, h])
  if (high - low).min() < 2:
    return
  shade = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
  fixed = np.rint((line - low) * 16).astype(np.int32)
  for a, b, share in zip(
    fixed[:-1], fixed[1:], (depth[1:] + depth[:-1]) / 2, strict=True
  ):
    ends = a.tolist(), b.tolist()
    cv2.line(shade, *ends, round(255 * share), 1, cv2.LINE_AA, 4)
  # A line of one pixel has this height after the blur.
  shade = cv2.GaussianBlur(shade.astype(np.float32), (0, 0), sigma)
  shade *= CREASE_DEPTH / 255 * np.sqrt(2 * np.pi) * sigma
  shade = np.minimum(shade, CREASE_DEPTH)
  black = 0 if color.full else 2 ** (color.depth - 4)
  gray = 2 ** (color.depth - 1)
  for plane, step, zero in zip(
    planes, (1, 2, 2), (black, gray, gray), strict=True
  ):
    (x0, y0), (x1, y1) = low // step, high // step
    part = plane[y0:y1, x0:x1]
    share = shade if step == 1 else COLOR_SHARE * yuv.halve_plane(shade)
    value = part - (part - np.float32(zero)) * share
    part[:] = np.rint(value).astype(plane.dtype)
