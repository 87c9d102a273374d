"""The crop of a face: a rectangle with the roll of the head.

It is the stabilized box of a face detector (Wav2Lip, spec 7.3): forehead to
chin without the hair, scaled to a square. Training and inference both use
`face_crops` and `extract_crop`.

Shapes: t frames, n landmarks, h w pixels.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8

from lipsync_jax.faces import boxes, landmarks

# `--pads 0 10 0 0` of Wav2Lip is 10 pixels of a face of some 250 pixels.
# Differs from Wav2Lip: it scales with the face.
PAD_BOTTOM = 0.04

BLOCK = 2048  # frames at once, for constant memory


@dataclasses.dataclass(frozen=True)
class Crop:
  """A rectangle with the roll of the head, in pixels and radians."""

  cx: float
  cy: float
  w: float
  h: float
  roll: float


def crop_from_row(row: Float[np.ndarray, '5']) -> Crop:
  """One row of `face_crops` as a Crop."""
  return Crop(*(float(v) for v in row))


def crop_from_box(box) -> Crop:
  """The upright crop of a box (x0, y0, x1, y1) in pixels."""
  x0, y0, x1, y1 = (float(v) for v in box)
  if not (x1 > x0 and y1 > y0):
    raise landmarks.FaceError(
      f'a face box needs width and height, found x {x0:g} to {x1:g} and '
      f'y {y0:g} to {y1:g}; give it as top bottom left right'
    )
  return Crop((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, 0.0)


def _median(values: Float[np.ndarray, 't']) -> float:
  known = values[np.isfinite(values)]
  return float(np.median(known)) if known.size else float('nan')


def _measures(points: Float[np.ndarray, 't n 2']) -> Float[np.ndarray, 't 7']:
  """Measures of the face with its eyes level, and its roll.

  Returns:
    Left, right and top of the oval, chin, height, radius of the rigid points;
    roll in radians.
  """
  turned, roll = landmarks.level_eyes(points.astype(np.float64))
  upper = turned[:, landmarks.UPPER_OVAL]
  x0, x1 = upper[..., 0].min(1), upper[..., 0].max(1)
  gap = turned[:, landmarks.LOWER_LIP, 1] - turned[:, landmarks.UPPER_LIP, 1]
  # 0.7: the chin's share of the gap, 0.53 to 1.0 in ten talking clips.
  chin = turned[:, landmarks.CHIN, 1] - 0.7 * np.maximum(gap, 0)
  # The radius of the rigid points follows YuNet's height within 2.2 % and
  # has less noise (0.4 % of the width) than the height itself (0.6 %).
  steady = turned[:, landmarks.RIGID_POINTS]
  anchor = steady.mean(1)  # [t 2]
  radius = np.sqrt(((steady - anchor[:, None]) ** 2).sum(-1).mean(1))
  return np.stack(
    [x0, x1, upper[..., 1].min(1), chin, anchor[:, 1], radius, roll], -1
  )


def face_crops(
  points: Float[np.ndarray, 't n 2'],
  pads: tuple[float, float, float, float] | None = None,
) -> Float[np.ndarray, 't 5']:
  """Crops (cx, cy, w, h, roll) of one person's face, frame by frame.

  Size, position and roll come from points that do not move in speech: the eyes
  and the oval above the jaw. The chin would move the box, so the height is the
  person's median proportion, corrected by the lip opening.
  Differs from Wav2Lip: its detector's box grows with every open vowel.

  Args:
    points: landmarks of one track, pixels; NaN without a face.
    pads: pixels added at top, bottom, left and right, as `--pads`. None lowers
      the bottom edge by 4 % of the height: Wav2Lip's default of 10 pixels on an
      average face.
  """
  starts = range(0, max(len(points), 1), BLOCK)
  rows = np.concatenate([_measures(points[i : i + BLOCK]) for i in starts])
  x0, x1, brow, chin, level, radius, roll = rows.T
  top = level - radius * _median((level - brow) / radius)
  # 1.03: the mean opening of speaking lips, which is part of the boxes of the
  # networks' training data.
  height = 1.03 * radius * _median((chin - top) / radius)
  middle, width = (x0 + x1) / 2, boxes.BOX_WIDTH * (x1 - x0)
  low, high = top - boxes.BOX_TOP * height, top + height
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
  center = np.array([crop.cx, crop.cy])
  return np.concatenate([turn, (size / 2 - turn @ center)[:, None]], 1)


def transform_points(
  matrix: Float[np.ndarray, '2 3'], points: Float[np.ndarray, '*t n 2']
) -> Float[np.ndarray, '*t n 2']:
  """Points under an affine map."""
  return points @ matrix[:, :2].T + matrix[:, 2]


def opencv_affine(
  matrix: Float[np.ndarray, '2 3'],
  source: tuple[float, float, float, float] = (0, 0, 1, 1),
) -> Float[np.ndarray, '2 3']:
  """A frame-to-crop map for OpenCV, whose pixel centers are whole numbers.

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


def crop_corners(crop: Crop) -> Float[np.ndarray, '4 2']:
  """The crop's corners in the frame: top left, then clockwise."""
  c, s = np.cos(crop.roll), np.sin(crop.roll)
  right = np.array([c, s]) * crop.w / 2
  down = np.array([-s, c]) * crop.h / 2
  center = np.array([crop.cx, crop.cy])
  return np.stack(
    [
      center - right - down,
      center + right - down,
      center + right + down,
      center - right + down,
    ]
  )


def crop_bounds(
  crop: Crop, frame: tuple[int, int], margin: float = 0.06
) -> Int[np.ndarray, '4']:
  """The whole-pixel box that a crop needs of a frame of size (h, w).

  The margin, relative to the crop's sides, allows blending at the edge.

  Raises:
    FaceError: the crop lies outside the frame.
  """
  h, w = frame
  box = boxes.bounding_boxes(crop_corners(crop))
  wide = np.array([crop.w, crop.h]) * margin + 2
  low = np.maximum(np.floor(box[:2] - wide), 0)
  high = np.minimum(np.ceil(box[2:] + wide), [w, h])
  if (high - low).min() < 1:
    raise landmarks.FaceError(
      f'the face box lies outside the {w}x{h} frame; check --box and --crop'
    )
  return np.concatenate([low, high]).astype(np.int64)


def extract_crop(
  rgb: UInt8[np.ndarray, 'h w 3'],
  crop: Crop,
  size: int,
  corner: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, 'size size 3']:
  """Cut a crop out of a frame, or part of it, and scale it to a square.

  Args:
    rgb: the frame, or the part of `crop_bounds`. The edge is repeated outside.
    crop: in pixels of the frame.
    size: side of the result in pixels.
    corner: (x, y) of the first pixel of `rgb` in the frame.
  """
  import cv2

  h, w = rgb.shape[:2]
  # warpAffine reads 2x2 pixels at any scale, so a large face is averaged down
  # first. Differs from Wav2Lip, whose bilinear resize aliases.
  shrink = int(min(crop.w, crop.h) / size)
  if shrink >= 2:
    small = (max(round(w / shrink), 1), max(round(h / shrink), 1))
    rgb = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)
  source = (*corner, w / rgb.shape[1], h / rgb.shape[0])
  return cv2.warpAffine(
    rgb,
    opencv_affine(crop_matrix(crop, size), source),
    (size, size),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )
