"""Pictures of a training clip: boxes with a margin, scaling, JPEG.

Shapes: n frames of a clip, h w pixels.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8

from lipsync_jax.faces import crop
from lipsync_jax.faces.boxes import bounding_boxes


def crop_boxes(
  crops: Float[np.ndarray, 'n 5'], frame: tuple[int, int], margin: float
) -> Int[np.ndarray, 'n 4']:
  """Boxes of one size that contain each crop and a margin.

  Corners are even, since chroma is stored for 2 x 2 pixels. The frame's edge
  limits the margin.
  """
  h, w = frame
  wide = np.array(
    [bounding_boxes(crop.crop_corners(crop.crop_from_row(c))) for c in crops]
  )
  room = margin * crops[:, [2, 3, 2, 3]] * np.array([-1, -1, 1, 1])
  wide = wide + room
  sides = np.ceil((wide[:, 2:] - wide[:, :2]).max(0) / 2) * 2 + 2
  sides = np.minimum(sides, [w // 2 * 2, h // 2 * 2]).astype(np.int64)
  middle = (wide[:, :2] + wide[:, 2:]) / 2
  low = np.round((middle - sides / 2) / 2).astype(np.int64) * 2
  low = np.clip(low, 0, (np.array([w, h]) - sides) // 2 * 2)
  return np.concatenate([low, low + sides], -1)


def image_scale(sides, max_side: int) -> Float[np.ndarray, '2']:
  """JPEG pixels per source pixel, along x and y."""
  share = min(1.0, max_side / max(sides))
  return np.maximum(np.round(np.asarray(sides) * share), 1) / sides


def scale_down(
  rgb: UInt8[np.ndarray, 'h w 3'], max_side: int
) -> UInt8[np.ndarray, '_ _ 3']:
  """The picture with sides of at most `max_side` pixels."""
  import cv2

  sides = np.array(rgb.shape[1::-1])
  size = np.round(sides * image_scale(sides, max_side)).astype(int)
  if (size == sides).all():
    return rgb
  return cv2.resize(rgb, size.tolist(), interpolation=cv2.INTER_AREA)


def encode_jpeg(rgb: UInt8[np.ndarray, 'h w 3'], quality: int) -> bytes:
  """The picture as JPEG."""
  import cv2

  flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
  bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
  return cv2.imencode('.jpg', bgr, flags)[1].tobytes()
