"""Image and motion metrics without networks.

Pictures are aligned pairs of uint8 RGB. Landmarks have the order of
`landmarks.LANDMARK_IDS`, in pixels. Lengths are in percent of the crop's width,
so that faces of all sizes compare. Colors are CIE Lab with L in 0..100; a
distance of 2 is just visible.

Shapes: t frames, h w pixels, p landmarks.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from lipsync_jax.faces import boxes, crop, landmarks
from lipsync_jax.faces.landmarks import INNER_LIPS, OUTER_LIPS, RIGID_POINTS

MAX_PSNR = 100.0  # dB, of equal pictures
# Three pairs of inner lip points around the middle, upper and lower.
UPPER_LIP_IDS = [INNER_LIPS.start + i for i in (4, 5, 6)]
LOWER_LIP_IDS = [INNER_LIPS.start + i for i in (16, 15, 14)]
MOUTH_MARGIN = 0.25  # around the lips, relative to their box
MIN_CHANGE = 4.0  # levels of 255: less is coding noise
SEAM_RADIUS = 5  # pixels across a border
SKIN_RING = (1.25, 1.7)  # scales of the outer lips around their center
MIN_HEIGHT = 0.02  # of an open mouth, relative to the width of the face crop
MIN_FLICKER_STEPS = 5  # second differences

Pictures = UInt8[np.ndarray, 't h w 3']
Points = Float[np.ndarray, 't p 2']
Colors = Float[np.ndarray, 't 3']


def luma(pictures: UInt8[np.ndarray, '*t 3']) -> Float[np.ndarray, '*t']:
  """Brightness in 0..255 (BT.601)."""
  return pictures @ np.array([0.299, 0.587, 0.114], np.float32)


def psnr(generated: Pictures, truth: Pictures) -> Float[np.ndarray, 't']:
  """Peak signal-to-noise ratio of each frame, dB, at most MAX_PSNR."""
  apart = generated.astype(np.float32) - truth
  error = np.square(apart).mean((1, 2, 3), dtype=np.float64)
  return np.minimum(10 * np.log10(255**2 / np.maximum(error, 1e-12)), MAX_PSNR)


def ssim(generated: Pictures, truth: Pictures) -> Float[np.ndarray, 't']:
  """Structural similarity of the brightness of each frame, at most 1.

  Gaussian window of sigma 1.5, K1 0.01, K2 0.03 (Wang et al. 2004).
  """
  import cv2

  def blur(x):
    return cv2.GaussianBlur(x, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

  low, small = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  out = np.empty(len(generated))
  for i, (a, b) in enumerate(zip(generated, truth, strict=True)):
    x, y = luma(a), luma(b)
    mx, my = blur(x), blur(y)
    vx, vy = blur(x * x) - mx * mx, blur(y * y) - my * my
    both = blur(x * y) - mx * my
    top = (2 * mx * my + low) * (2 * both + small)
    out[i] = (top / ((mx * mx + my * my + low) * (vx + vy + small))).mean()
  return out


def lip_distance(
  generated: Points, truth: Points, width: Float[np.ndarray, 't']
) -> Float[np.ndarray, 't']:
  """Mean distance of the 40 lip landmarks of each frame, % of the width."""
  mouth = slice(OUTER_LIPS.start, INNER_LIPS.stop)
  apart = np.linalg.norm(generated[:, mouth] - truth[:, mouth], axis=-1)
  return 100 * apart.mean(1) / width


def lip_opening(
  points: Points, width: Float[np.ndarray, 't']
) -> Float[np.ndarray, 't']:
  """Gap between the inner lips of each frame, % of the width."""
  gap = np.linalg.norm(
    points[:, LOWER_LIP_IDS] - points[:, UPPER_LIP_IDS], axis=-1
  )
  return 100 * gap.mean(1) / width


def mouth_motion(
  points: Points,
  width: Float[np.ndarray, 't'],
  pieces: list[slice] | None = None,
) -> float:
  """Standard deviation of `lip_opening` over time, %.

  Under silence it measures leakage: lip motion of the source that remains.
  """
  gap = lip_opening(points, width)
  parts = [gap[p][np.isfinite(gap[p])] for p in pieces or [slice(None)]]
  return _mean([part.std() for part in parts if part.size])


def landmark_jitter(
  points: Points,
  width: Float[np.ndarray, 't'],
  pieces: list[slice] | None = None,
) -> float:
  """Jitter of the mouth relative to the face, % of the width.

  It is the root mean square of the second difference of the mouth's corners
  and the chin, relative to points that do not move in speech.
  """
  chosen = [OUTER_LIPS.start, OUTER_LIPS.start + 10, landmarks.CHIN]
  place = points[:, chosen].mean(1) - points[:, list(RIGID_POINTS)].mean(1)
  place = 100 * place / width[:, None]
  steps = [np.diff(place[p], 2, axis=0) for p in pieces or [slice(None)]]
  return float(np.sqrt(_mean(np.square(np.concatenate(steps)).sum(1))))


def mouth_boxes(
  points: Points, crops: Float[np.ndarray, 't 5'], size: int
) -> Int[np.ndarray, 't 4']:
  """Box of the lips in the square crop of `size`, whole pixels.

  Without landmarks it is the average position of a mouth.
  """
  usual = np.array([0.28, 0.6, 0.72, 0.9]) * size
  out = np.tile(usual, (len(points), 1))
  for i in np.flatnonzero(np.isfinite(points).all((1, 2))):
    matrix = crop.crop_matrix(crop.crop_from_row(crops[i]), size)
    box = boxes.bounding_boxes(
      crop.transform_points(matrix, points[i, OUTER_LIPS].astype(np.float64))
    )
    grow = MOUTH_MARGIN * (box[2:] - box[:2])
    out[i] = np.concatenate([box[:2] - grow, box[2:] + grow])
  out = np.clip(np.rint(out), 0, size).astype(np.int64)
  out[:, 2:] = np.maximum(out[:, 2:], np.minimum(out[:, :2] + 4, size))
  out[:, :2] = np.minimum(out[:, :2], out[:, 2:] - 4)
  return out


def sharpness(
  generated: Pictures, truth: Pictures, boxes: Int[np.ndarray, 't 4']
) -> float:
  """Gradient energy of the mouth relative to the ground truth's."""
  energies = np.zeros(2)
  for a, b, (x0, y0, x1, y1) in zip(generated, truth, boxes, strict=True):
    for i, picture in enumerate((a, b)):
      part = luma(picture[y0:y1, x0:x1])
      rows, columns = np.gradient(part)
      energies[i] += np.square(rows).sum() + np.square(columns).sum()
  return float(energies[0] / energies[1]) if energies[1] else float('nan')


def seam_step(generated: Pictures, truth: Pictures) -> float:
  """Visibility of the edge of the changed region, levels of 255.

  It is the range of the difference between both pictures within SEAM_RADIUS,
  averaged along the outline of the region that differs. A soft and
  color-matched edge is near 0.
  """
  import cv2

  around = np.ones((SEAM_RADIUS, SEAM_RADIUS), np.uint8)
  steps = []
  for a, b in zip(generated, truth, strict=True):
    change = cv2.blur(luma(a) - luma(b), (3, 3))
    area = (np.abs(change) > MIN_CHANGE).astype(np.uint8)
    area = cv2.morphologyEx(area, cv2.MORPH_OPEN, around)
    area = cv2.morphologyEx(area, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    line = _outline(area)
    if line.any():
      jump = cv2.dilate(change, around) - cv2.erode(change, around)
      steps.append(float(jump[line].mean()))
    else:
      steps.append(0.0)
  return _mean(steps)


def _outline(area: UInt8[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """Outline of the largest connected area, without the picture's border."""
  import cv2

  outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
  line = np.zeros(area.shape, np.uint8)
  if outlines:
    widest = max(outlines, key=cv2.contourArea)
    cv2.drawContours(line, [widest], 0, 1, 1)
  line[[0, -1]], line[:, [0, -1]] = 0, 0
  return line > 0


@dataclasses.dataclass(frozen=True)
class MouthColors:
  """Mean Lab colors of each frame; NaN where a region is absent."""

  lips: Colors
  skin: Colors
  interior: Colors  # NaN where the mouth is open by less than MIN_HEIGHT


def mouth_colors(
  pictures: Sequence[UInt8[np.ndarray, '_ _ 3']],
  points: Points,
  widths: Float[np.ndarray, 't'],
) -> MouthColors:
  """The colors of every frame.

  Args:
    pictures: RGB.
    points: landmarks; NaN where unknown.
    widths: of the face crop, pixels.
  """
  out = np.full((3, len(pictures), 3), np.nan)
  for i, picture in enumerate(pictures):
    if np.isfinite(points[i]).all():
      out[:, i] = _frame_colors(picture, points[i], widths[i])
  return MouthColors(*out)


def color_flicker(
  interior: Colors, pieces: Sequence[slice] = (slice(None),)
) -> float:
  """Root mean square of the second difference in time of the color.

  Frames with a closed mouth are left out. NaN if few frames remain.
  """
  steps = np.concatenate([np.diff(interior[p], 2, axis=0) for p in pieces])
  squares = np.square(steps).sum(1)
  known = squares[np.isfinite(squares)]
  if known.size < MIN_FLICKER_STEPS:
    return float('nan')
  return float(np.sqrt(known.mean()))


def color_distance(generated: Colors, truth: Colors) -> float:
  """Distance of the mean colors of two clips, Lab units."""
  a, b = (c[np.isfinite(c).all(1)] for c in (generated, truth))
  if not len(a) or not len(b):
    return float('nan')
  return float(np.linalg.norm(a.mean(0) - b.mean(0)))


def _frame_colors(
  picture: UInt8[np.ndarray, 'h w 3'],
  points: Float[np.ndarray, '89 2'],
  width: float,
) -> Float[np.ndarray, '3 3']:
  """Mean colors of lips, skin and interior."""
  import cv2

  outer, inner = points[landmarks.OUTER_LIPS], points[landmarks.INNER_LIPS]
  center = outer.mean(0)
  near, far = (center + scale * (outer - center) for scale in SKIN_RING)
  h, w = picture.shape[:2]
  x0, y0 = np.clip(np.floor(far.min(0)), 0, [w, h]).astype(int)
  x1, y1 = np.clip(np.ceil(far.max(0)) + 1, 0, [w, h]).astype(int)
  if x1 <= x0 or y1 <= y0:
    return np.full((3, 3), np.nan)
  part = picture[y0:y1, x0:x1].astype(np.float32) / 255
  lab = cv2.cvtColor(part, cv2.COLOR_RGB2Lab)

  def area(outline: Float[np.ndarray, 'k 2']) -> Bool[np.ndarray, 'a b']:
    canvas = np.zeros(lab.shape[:2], np.uint8)
    corner = np.rint(outline - [x0, y0]).astype(np.int32)
    return cv2.fillPoly(canvas, [corner], 1) > 0

  inside = area(inner)
  long = np.ptp(inner, axis=0).max()  # pixels between the corners
  is_open = inside.sum() >= MIN_HEIGHT * width * long
  return np.stack(
    [
      _mean_color(lab, area(outer) & ~inside),
      _mean_color(lab, area(far) & ~area(near)),
      _mean_color(lab, inside & is_open),
    ]
  )


def _mean_color(lab, region: Bool[np.ndarray, 'a b']) -> np.ndarray:
  return lab[region].mean(0) if region.any() else np.full(3, np.nan)


def _mean(values) -> float:
  values = np.asarray(values, np.float64)
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else float('nan')
