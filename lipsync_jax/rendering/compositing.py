"""Compositing of a generated face into a frame without a visible seam.

Only the lower face inside the face oval changes. Its edge is soft, lies inside
that region, and has the source's colors. Colors are RGB in 0..255.

Shapes: s side of the network's square, h w the part of the frame that changes,
n the landmarks of `landmarks.LANDMARK_IDS`.

Differs from Wav2Lip, which pastes the whole rectangle (spec 7.2, step 8);
`whole_box_patch` does that.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8

from lipsync_jax.faces.crop import (
  Crop,
  crop_bounds,
  crop_matrix,
  opencv_affine,
  transform_points,
)
from lipsync_jax.faces.landmarks import (
  CHEEKS,
  OUTER_LIPS,
  OVAL,
  SUBNASALE,
  WINGS,
)
from lipsync_jax.rendering import detail_transfer

# The mask has the same grid for every face size, so that its edge moves by
# fractions of a pixel.
MASK_GRID = (256, 192)  # rows, columns; a face's own proportions
FEATHER = 0.06  # width of the soft edge, of the face's width
COLOR_GRID = 48  # side of the grid on which colors are compared

Patch = tuple[np.ndarray, np.ndarray, tuple[int, int]]


def _smoothstep(x: np.ndarray) -> Float32[np.ndarray, '*s']:
  x = np.clip(x, 0, 1).astype(np.float32)
  return x * x * (3 - 2 * x)


def _fill_polygon(points: Float[np.ndarray, 'p 2']) -> Bool[np.ndarray, 'h w']:
  """Grid cells inside a closed polygon given in grid units."""
  import cv2

  area = np.zeros(MASK_GRID, np.uint8)
  # Four bits of sub-pixel; OpenCV's pixel centers are whole numbers.
  fixed = np.rint((points - 0.5) * 16).astype(np.int32)
  cv2.fillPoly(area, [fixed], 1, shift=4)
  return area > 0


def _distance_to_outside(
  inside: Bool[np.ndarray, 'h w'], beyond: bool = False
) -> Float32[np.ndarray, 'h w']:
  """Distance of each cell to the outside, in widths of the grid.

  Args:
    inside: cells of the region.
    beyond: count the cells around the grid as inside.
  """
  import cv2

  padded = np.pad(inside.astype(np.uint8), 1, constant_values=beyond)
  far = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
  return far[1:-1, 1:-1] / MASK_GRID[1]


def face_mask(
  points: Float[np.ndarray, 'n 2'], crop: Crop
) -> Float32[np.ndarray, '256 192']:
  """Opacity of the generated face over the crop, 0 to 1, on a fine grid.

  The region lies below a line from the oval's sides over the cheeks and the
  wings of the nose to its base, and above the jaw. It is 0 on its edge and
  outside, 1 some 6 % of the face's width further in, and 1 on the lips even
  close to the nose. Without landmarks (NaN) the region is the lower part of
  an ellipse in the crop.
  """
  scale = np.array([MASK_GRID[1], MASK_GRID[0]])
  if not np.isfinite(points).all():
    return _box_mask()
  where = transform_points(crop_matrix(crop, 1), points.astype(np.float64))
  where = where * scale
  oval = where[OVAL]
  region = np.concatenate(
    [
      oval[9:28],  # the jaw, from right to left
      where[CHEEKS][:1],
      where[WINGS][:1],
      where[SUBNASALE : SUBNASALE + 1],
      where[WINGS][1:],
      where[CHEEKS][1:],
    ]
  )
  face = _distance_to_outside(_fill_polygon(oval))
  # fillPoly draws one cell too wide; interpolation adds one more.
  edge = 2.5 / MASK_GRID[1]
  body = _distance_to_outside(_fill_polygon(region) & (face > 0))
  lips = _fill_polygon(where[OUTER_LIPS])
  near = 1 - (_distance_to_outside(~lips, beyond=True) - 0.02) / (
    FEATHER / 2
  )  # 1 up to 2 % around
  mouth = np.minimum(_smoothstep(near), _smoothstep((face - edge) / FEATHER))
  return np.maximum(_smoothstep((body - edge) / FEATHER), mouth)


def _box_mask() -> Float32[np.ndarray, '256 192']:
  """`face_mask` of a face with a known box only."""
  y, x = np.mgrid[0 : MASK_GRID[0], 0 : MASK_GRID[1]] + 0.5
  x, y = x / MASK_GRID[1], y / MASK_GRID[0]
  inside = np.hypot((x - 0.5) / 0.49, (y - 0.48) / 0.49) < 1
  return _smoothstep(_distance_to_outside(inside & (y > 0.56)) / FEATHER)


def resample_mask(
  mask: Float32[np.ndarray, '256 192'],
  crop: Crop,
  box: tuple[int, int, int, int],
) -> Float32[np.ndarray, 'h w']:
  """A `face_mask` on the pixels of a whole-pixel box of the frame."""
  import cv2

  h, w = box[3] - box[1], box[2] - box[0]
  to_grid = crop_matrix(crop, 1) * np.array([[MASK_GRID[1]], [MASK_GRID[0]]])
  # For a face much smaller than the grid: average before sampling, within the
  # mask.
  shrink = int(MASK_GRID[1] / max(crop.w, 1))
  if shrink >= 2:
    mean = cv2.blur(mask, (shrink, shrink), borderType=cv2.BORDER_CONSTANT)
    mask = np.where(mask > 0, mean, 0).astype(np.float32)
  return cv2.warpAffine(
    mask,
    opencv_affine(to_grid, (box[0], box[1], 1, 1)),
    (w, h),
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_CONSTANT,
  )


def lower_half_mask(size: int) -> Float32[np.ndarray, 's s']:
  """1 on the rows that the generator fills in, 0 above (spec 2)."""
  mask = np.zeros((size, size), np.float32)
  mask[size // 2 :] = 1
  return mask


def match_color(
  generated: Float32[np.ndarray, 's s 3'],
  source: Float32[np.ndarray, 's s 3'],
  alpha: Float32[np.ndarray, 's s'],
) -> Float32[np.ndarray, 's s 3']:
  """Shift the generated face to the source's colors at the mask's edge.

  The color difference is measured in the soft edge, where both show the same
  skin, and extended inwards by normalized convolution. It is smooth, so that
  the mouth keeps its contrast. Pixels that differ by more than color, such as
  a moved chin, get little weight.
  """
  import cv2

  change = source - generated
  weight = 4 * alpha * (1 - alpha)
  band = weight > 0.3
  if band.sum() < 8:
    return generated
  common = np.median(change[band], axis=0)
  odd = np.abs(change - common).max(-1) / 12  # levels of 255
  weight = weight / (1 + odd * odd)
  both = np.dstack([change * weight[..., None], weight])  # [s s 4]
  small = min(COLOR_GRID, len(alpha))
  both = cv2.resize(both, (small, small), interpolation=cv2.INTER_AREA)
  both = cv2.GaussianBlur(
    both, (0, 0), small / 8, borderType=cv2.BORDER_CONSTANT
  )
  # Far from the edge, the median difference applies.
  faint = 1e-4
  total = both[..., 3:] + faint
  field = (both[..., :3] + faint * common.astype(np.float32)) / total
  size = alpha.shape[::-1]
  return generated + cv2.resize(field, size, interpolation=cv2.INTER_LINEAR)


def paste_patch(
  generated: Shaped[np.ndarray, 's s 3'],
  source: Shaped[np.ndarray, 's s 3'],
  crop: Crop,
  points: Float[np.ndarray, 'n 2'],
  frame: tuple[int, int],
  picture: UInt8[np.ndarray, 'y x 3'] | None = None,
  at: tuple[int, int] = (0, 0),
  gains: Float[np.ndarray, '3'] | None = None,
) -> Patch:
  """The part of a frame that changes, with its opacity.

  Args:
    generated: the network's face, 0..255, uint8 or float.
    source: the crop it was made from (`crop.extract_crop`), 0..255.
    crop: place of both in the frame.
    points: landmarks for the mask, pixels of the frame; NaN if unknown.
    frame: height and width of the frame.
    picture: the part of the frame that the crop covers, as the source of
      detail; None transfers none.
    at: (x, y) of the first pixel of `picture` in the frame.
    gains: the light of `generated` by that of the frame, for each channel
      (`light.light_gains`); None: the same light.

  Returns:
    RGB patch [h, w, 3] in 0..255, its opacity alpha [h, w] in 0..1, and (x, y)
    of its first pixel in the frame. The frame keeps its pixels where alpha is
    0.
  """
  import cv2

  size = len(generated)
  box = tuple(int(v) for v in crop_bounds(crop, frame))
  mask = face_mask(points, crop)
  alpha = resample_mask(mask, crop, box)
  rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
  if not rows.size:
    rows = columns = np.array([0])
  part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  alpha = np.ascontiguousarray(alpha[part])
  corner = (box[0] + int(columns[0]), box[1] + int(rows[0]))
  small = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
  gains = np.ones(3) if gains is None else gains
  gains = gains.astype(np.float32)
  # Limits of differences hold in usual light.
  source = source.astype(np.float32) * gains
  face = match_color(generated.astype(np.float32), source, small)
  shrink = int(size / max(min(crop.w, crop.h), 1))
  shown = face
  if shrink >= 2:
    size //= shrink
    shown = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
  patch = cv2.warpAffine(
    shown,
    opencv_affine(crop_matrix(crop, size), (*corner, 1, 1)),
    alpha.shape[::-1],
    flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REPLICATE,
  )
  if picture is not None:
    flow = detail_transfer.flow_and_confidence(face, source)
    patch = detail_transfer.transfer_detail(
      patch, corner, flow, crop, picture * gains, at
    )
  return np.clip(patch / gains, 0, 255), alpha, corner


def whole_box_patch(
  generated: Shaped[np.ndarray, 's s 3'], crop: Crop, frame: tuple[int, int]
) -> Patch:
  """Wav2Lip's compositing: the whole box, hard edges (spec 7.2).

  Values are truncated to whole numbers before the bilinear resize. The crop
  must have no roll; its sides are rounded to whole pixels.
  """
  import cv2

  h, w = frame
  x0, y0 = round(crop.cx - crop.w / 2), round(crop.cy - crop.h / 2)
  x1, y1 = round(crop.cx + crop.w / 2), round(crop.cy + crop.h / 2)
  face = np.clip(generated, 0, 255).astype(np.uint8)
  patch = cv2.resize(
    face, (max(x1 - x0, 1), max(y1 - y0, 1)), interpolation=cv2.INTER_LINEAR
  )
  low = np.array([max(x0, 0), max(y0, 0)])
  patch = patch[low[1] - y0 : h - y0, low[0] - x0 : w - x0].astype(np.float32)
  return patch, np.ones(patch.shape[:2], np.float32), (int(low[0]), int(low[1]))
