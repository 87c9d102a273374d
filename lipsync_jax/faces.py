"""Faces: the landmarks kept, the crop a network sees, the turn of a head.

Alphabet: `t` frames, `n` the 89 landmarks kept, `h w` pixels. Coordinates
are pixels of the full frame, x right and y down, continuous: the centre of
the first pixel is (0.5, 0.5). Boxes are (x0, y0, x1, y1), half-open. Angles
are radians in the image plane, positive when the head leans to the right of
the picture (the eye on the right side is the lower one).

The crop is the box of a face detector made steady (Wav2Lip, spec 7.3): the
family's networks learnt on such boxes, forehead to chin without the hair,
squeezed to a square. Training and inference both cut with `crops` and `take`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8


class FaceError(ValueError):
  """No usable face: one line with what was found and what to do."""


# MediaPipe's face mesh has 478 points; these 89 are what masks, crops and
# mouth measures need, 712 bytes a face and frame.
# The oval runs from the top of the forehead over the picture's right side.
_OVAL = (
  10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288,
  397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136,
  172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# Lips run from the picture's left corner over the upper lip.
_OUTER = (
  61, 185, 40, 39, 37, 0, 267, 269, 270, 409,
  291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
)  # fmt: skip
_INNER = (
  78, 191, 80, 81, 82, 13, 312, 311, 310, 415,
  308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
)  # fmt: skip
_EYES = (33, 133, 362, 263)  # corners, left to right in the picture
_IRISES = (468, 473)
_WINGS = (129, 358)  # of the nose
_CHEEKS = (205, 425)
_NOSE = (1, 2, 168)  # tip, base (subnasale), bridge
KEPT = _OVAL + _OUTER + _INNER + _EYES + _IRISES + _WINGS + _CHEEKS + _NOSE

OVAL, OUTER, INNER = slice(0, 36), slice(36, 56), slice(56, 76)
EYES, IRISES = slice(76, 80), slice(80, 82)
WINGS, CHEEKS = slice(82, 84), slice(84, 86)
NOSE, SUBNASALE, BRIDGE = 86, 87, 88
CHIN = 18
UPPER_LIP, LOWER_LIP = 56 + 5, 56 + 15  # of the inner lips, at the middle
# The oval without the jaw: what stays when the mouth opens.
UPPER_OVAL = (*range(10), *range(27, 36))
STEADY = (*UPPER_OVAL, 76, 77, 78, 79, BRIDGE)
SIDES = (28, 8)  # widest points of the oval, left and right

# Where YuNet's box lies against the landmarks: medians over 250 faces of 30
# clips. Width 0.983 of the oval's (p10 0.943, p90 1.042); top 0.126 of the
# face's height above the oval's top; bottom 0.003 above the chin.
BOX_WIDTH = 0.98
BOX_TOP = 0.126
# `--pads 0 10 0 0` of Wav2Lip is 10 pixels of a face some 250 pixels high.
# Differs from Wav2Lip: scales with the face.
PAD_BOTTOM = 0.04

BLOCK = 2048  # frames measured at once, to keep memory flat


@dataclasses.dataclass(frozen=True)
class Crop:
  """A rectangle leaning with the head: centre and sides in pixels, radians."""

  cx: float
  cy: float
  w: float
  h: float
  roll: float


def crop_of(row: Float[np.ndarray, '5']) -> Crop:
  """One row of `crops` as a Crop."""
  return Crop(*(float(v) for v in row))


def box_crop(box) -> Crop:
  """The upright crop of a constant box (x0, y0, x1, y1) in pixels."""
  x0, y0, x1, y1 = (float(v) for v in box)
  if not (x1 > x0 and y1 > y0):
    raise FaceError(
      f'a face box needs width and height, found x {x0:g} to {x1:g} and '
      f'y {y0:g} to {y1:g}; give it as top bottom left right'
    )
  return Crop((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, 0.0)


def bounds(points: Float[np.ndarray, '*t n 2']) -> Float[np.ndarray, '*t 4']:
  """The smallest upright boxes round landmarks."""
  return np.concatenate([points.min(-2), points.max(-2)], axis=-1)


def detector_boxes(
  points: Float[np.ndarray, 't n 2'],
) -> Float[np.ndarray, 't 4']:
  """Upright boxes as YuNet would draw them, jaw and all, from landmarks."""
  box = bounds(points[:, OVAL])
  box[:, 1] -= BOX_TOP * (box[:, 3] - box[:, 1])
  return box


def overlaps(
  a: Float[np.ndarray, 'a 4'], b: Float[np.ndarray, 'b 4']
) -> Float[np.ndarray, 'a b']:
  """Intersection over union of every box of `a` with every box of `b`."""
  low = np.maximum(a[:, None, :2], b[None, :, :2])
  high = np.minimum(a[:, None, 2:], b[None, :, 2:])
  common = np.prod(np.maximum(high - low, 0), -1)  # [a b]
  area_a, area_b = (np.prod(v[:, 2:] - v[:, :2], -1) for v in (a, b))
  union = area_a[:, None] + area_b[None] - common
  return common / np.maximum(union, 1e-9)


def _upright(
  points: Float[np.ndarray, 't n 2'],
) -> tuple[Float[np.ndarray, 't n 2'], Float[np.ndarray, 't']]:
  """Landmarks turned about the frame's corner until the eyes are level."""
  eyes = points[:, EYES]
  line = eyes[:, 2:].mean(1) - eyes[:, :2].mean(1)  # [t 2]
  roll = np.arctan2(line[:, 1], line[:, 0])
  c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
  x, y = points[..., 0], points[..., 1]
  return np.stack([c * x + s * y, c * y - s * x], -1), roll


def _median(values: Float[np.ndarray, 't']) -> float:
  known = values[np.isfinite(values)]
  return float(np.median(known)) if known.size else float('nan')


def _measures(points: Float[np.ndarray, 't n 2']) -> Float[np.ndarray, 't 7']:
  """What a crop is made of, with the eyes level: left, right and top of the
  oval, chin, height and radius of the steady points; then the lean."""
  turned, roll = _upright(points.astype(np.float64))
  upper = turned[:, UPPER_OVAL]
  x0, x1 = upper[..., 0].min(1), upper[..., 0].max(1)
  gap = turned[:, LOWER_LIP, 1] - turned[:, UPPER_LIP, 1]
  # 0.7: the chin's share of the gap, 0.53 to 1.0 in ten talking clips.
  chin = turned[:, CHIN, 1] - 0.7 * np.maximum(gap, 0)
  # The radius of the steady points follows YuNet's height within 2.2 % and
  # is quieter (0.4 % of the width) than the height itself (0.6 %).
  steady = turned[:, STEADY]
  anchor = steady.mean(1)  # [t 2]
  radius = np.sqrt(((steady - anchor[:, None]) ** 2).sum(-1).mean(1))
  return np.stack(
    [x0, x1, upper[..., 1].min(1), chin, anchor[:, 1], radius, roll], -1
  )


def crops(
  points: Float[np.ndarray, 't n 2'],
  pads: tuple[float, float, float, float] | None = None,
) -> Float[np.ndarray, 't 5']:
  """Crops (cx, cy, w, h, roll) of one person's face, frame by frame.

  Size, place and lean come from what does not move in speech: the eyes
  and the oval above the jaw. The chin would move the box, so the height is
  the person's median proportion, corrected for how far the lips are apart.
  Differs from Wav2Lip: its detector's box grows with every open vowel.

  Args:
    points: landmarks of one track, pixels; NaN where there is no face.
    pads: pixels added at top, bottom, left and right, as `--pads`; None
      lowers the bottom edge by 4 % of the height, what Wav2Lip's default
      of 10 pixels is on an average face.
  """
  starts = range(0, max(len(points), 1), BLOCK)
  rows = np.concatenate([_measures(points[i : i + BLOCK]) for i in starts])
  x0, x1, brow, chin, level, radius, roll = rows.T
  top = level - radius * _median((level - brow) / radius)
  # 1.03: the mean opening of talking lips, which the boxes that the
  # networks learnt on did follow.
  height = 1.03 * radius * _median((chin - top) / radius)
  middle, width = (x0 + x1) / 2, BOX_WIDTH * (x1 - x0)
  low, high = top - BOX_TOP * height, top + height
  if pads is None:
    high = high + PAD_BOTTOM * (high - low)
    left, right = middle - width / 2, middle + width / 2
  else:
    low, high = low - pads[0], high + pads[1]
    left, right = middle - width / 2 - pads[2], middle + width / 2 + pads[3]
  u, v = (left + right) / 2, (low + high) / 2
  c, s = np.cos(roll), np.sin(roll)
  return np.stack(
    [c * u - s * v, s * u + c * v, right - left, high - low, roll], -1
  )


def crop_matrix(crop: Crop, size: int) -> Float[np.ndarray, '2 3']:
  """The affine map from frame pixels to pixels of the square crop."""
  c, s = np.cos(crop.roll), np.sin(crop.roll)
  scale = np.array([[size / crop.w], [size / crop.h]])
  turn = np.array([[c, s], [-s, c]]) * scale
  centre = np.array([crop.cx, crop.cy])
  return np.concatenate([turn, (size / 2 - turn @ centre)[:, None]], 1)


def move(
  matrix: Float[np.ndarray, '2 3'], points: Float[np.ndarray, '*t n 2']
) -> Float[np.ndarray, '*t n 2']:
  """Points under an affine map."""
  return points @ matrix[:, :2].T + matrix[:, 2]


def between(
  matrix: Float[np.ndarray, '2 3'],
  source: tuple[float, float, float, float] = (0, 0, 1, 1),
) -> Float[np.ndarray, '2 3']:
  """A frame-to-crop map for OpenCV's pixel indices, whose centres are whole.

  Args:
    matrix: a map of continuous frame pixels.
    source: corner x, y and pixel size x, y of the array that is read.
  """
  x, y, dx, dy = source
  turn = matrix[:, :2] * np.array([dx, dy])
  # Index i of the source is frame position corner + (i + 0.5) * pixel size.
  start = np.array([x + 0.5 * dx, y + 0.5 * dy])
  shift = matrix[:, :2] @ start + matrix[:, 2] - 0.5
  return np.concatenate([turn, shift[:, None]], 1)


def openings(
  points: Float[np.ndarray, 't n 2'], rows: Float[np.ndarray, 't 5']
) -> Float32[np.ndarray, 't']:
  """How far the lips are apart, of the height of each frame's crop."""
  gap = points[:, LOWER_LIP] - points[:, UPPER_LIP]  # [t 2]
  gap, roll = gap.astype(np.float64), rows[:, 4].astype(np.float64)
  down = gap[:, 1] * np.cos(roll) - gap[:, 0] * np.sin(roll)
  return (down / rows[:, 3]).astype(np.float32)


def corners(crop: Crop) -> Float[np.ndarray, '4 2']:
  """The crop's corners in the frame: top left, then clockwise."""
  c, s = np.cos(crop.roll), np.sin(crop.roll)
  right = np.array([c, s]) * crop.w / 2
  down = np.array([-s, c]) * crop.h / 2
  centre = np.array([crop.cx, crop.cy])
  return np.stack(
    [
      centre - right - down,
      centre + right - down,
      centre + right + down,
      centre - right + down,
    ]
  )


def roi(
  crop: Crop, frame: tuple[int, int], margin: float = 0.06
) -> Int[np.ndarray, '4']:
  """The whole-pixel box of a frame of `frame` = (h, w) that a crop needs.

  The margin, a share of the crop's sides, leaves room to blend at the edge.
  Raises FaceError when the crop lies outside the frame.
  """
  h, w = frame
  box = bounds(corners(crop))
  wide = np.array([crop.w, crop.h]) * margin + 2
  low = np.maximum(np.floor(box[:2] - wide), 0)
  high = np.minimum(np.ceil(box[2:] + wide), [w, h])
  if (high - low).min() < 1:
    raise FaceError(
      f'the face box lies outside the {w}x{h} frame; check --box and --crop'
    )
  return np.concatenate([low, high]).astype(np.int64)


def take(
  rgb: UInt8[np.ndarray, 'h w 3'],
  crop: Crop,
  size: int,
  corner: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, 'size size 3']:
  """Cut a crop out of (part of) a frame and scale it to a square.

  Args:
    rgb: the frame, or its part that `roi` names, whose first pixel is at
      `corner` (x, y) of the frame. Beyond its edge the edge is repeated.
    crop: what to cut, in pixels of the frame.
    size: side of the result, pixels.
  """
  import cv2

  h, w = rgb.shape[:2]
  # warpAffine reads 2x2 pixels however much it shrinks, so a large face is
  # first averaged down. Differs from Wav2Lip, whose bilinear resize aliases.
  shrink = int(min(crop.w, crop.h) / size)
  if shrink >= 2:
    small = (max(round(w / shrink), 1), max(round(h / shrink), 1))
    rgb = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)
  source = (*corner, w / rgb.shape[1], h / rgb.shape[0])
  return cv2.warpAffine(
    rgb,
    between(crop_matrix(crop, size), source),
    (size, size),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )


def yaw(points: Float[np.ndarray, 't n 2']) -> Float[np.ndarray, 't']:
  """Turn of the head, degrees, positive towards the picture's right.

  From how far the nose has left the middle of the oval's sides: within
  some 10 degrees up to 40, where the far side begins to hide.
  """
  turned, _ = _upright(points.astype(np.float64))
  left, right = (turned[:, side, 0] for side in SIDES)
  half = np.maximum((right - left) / 2, 1e-6)
  # The nose's tip stands about half a face width before the axis.
  lever = (turned[:, NOSE, 0] - (left + right) / 2) / half
  return np.degrees(np.arctan(lever))
