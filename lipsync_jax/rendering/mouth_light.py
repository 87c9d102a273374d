"""The light on a mouth: that of a reference, changed to that of the frame.

Shapes: h w rows and columns of the mouth's region, p mesh points.
"""

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.media import yuv
from lipsync_jax.media.types import Color

MAX_GAIN = 16.0
# Largest by smallest gain of the channels, from which the former colors count
# less, and from which they do not count.
COLORED = (1.7, 3.0)
FLOOR = 2.0  # levels, added to both colors of a gain
USUAL_SKIN = np.array([1.25, 0.95, 0.80])  # RGB relative to its mean
SKIN_RANGE = (0.65, 1.5)  # of people's skin in white light, relative to it


def rgb_of(
  code: Float[np.ndarray, '3'], color: Color
) -> Float[np.ndarray, '3']:
  """RGB in 0..255 of a Y, U, V code value."""
  matrix = yuv.yuv_to_rgb_matrix(color)
  return np.clip(matrix[:, :3] @ code + matrix[:, 3], 0, 255)


def light_change(
  before: Float[np.ndarray, '3'], now: Float[np.ndarray, '3'], color: Color
) -> Float[np.ndarray, '3']:
  """Factor of each RGB channel from one frame's skin to another's.

  Args:
    before, now: mean Y, U, V of the same skin.
    color: encoding of the video.
  """
  old, new = (rgb_of(code, color) + FLOOR for code in (before, now))
  return np.clip(new / old, 1 / MAX_GAIN, MAX_GAIN)


def relight(
  planes: tuple[np.ndarray, ...],
  before: Float[np.ndarray, '3'],
  now: Float[np.ndarray, '3'],
  color: Color,
) -> tuple[Float32[np.ndarray, '_ _'], ...]:
  """The planes of a mouth in the light of another frame.

  Every RGB channel is multiplied. Where the light changes its color much, the
  former colors tell little about the new ones: the skin's color, as dark as
  the luma, replaces them.

  Args:
    planes: Y, and U and V of half the size; code values.
    before, now: mean Y, U, V of the skin around the mouth.
    color: encoding of the video.
  """
  import cv2

  gains = light_change(before, now, color)
  luma, *chroma = (plane.astype(np.float32) for plane in planes)
  size = luma.shape[::-1]
  wide = [cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in chroma]
  matrix = yuv.yuv_to_rgb_matrix(color)
  linear, zero = matrix[:, :3], matrix[:, 3]
  back = np.linalg.inv(linear)
  turn = back @ (gains[:, None] * linear)
  shift = back @ (gains * zero - zero)
  whole = np.concatenate([turn, shift[:, None]], 1).astype(np.float32)
  lit = cv2.split(cv2.transform(cv2.merge([luma, *wide]), whole))
  black, *gray = -back @ zero  # code value of black
  low, high = np.log(COLORED)
  share = np.clip(
    (np.log(gains.max() / gains.min()) - low) / (high - low), 0, 1
  )
  # Brightness with the gain of the luma: a channel's gain may be extreme.
  level = max(float(now[0]) - black, 1.0)
  plain = (luma - black) * level / max(float(before[0]) - black, 1.0) + black
  luma = (lit[0] + share * (plain - lit[0])).astype(np.float32)
  scale = np.clip((luma - black) / level, 0, 1.3)
  half = chroma[0].shape[::-1]
  out = [luma]
  for plane, middle, skin in zip(lit[1:], gray, now[1:], strict=True):
    tinted = middle + (skin - middle) * scale
    mixed = (plane + share * (tinted - plane)).astype(np.float32)
    out.append(cv2.resize(mixed, half, interpolation=cv2.INTER_AREA))
  return tuple(out)


def colored_light(skin: Float[np.ndarray, '3']) -> Float[np.ndarray, '3']:
  """Color of the light on skin: RGB factors, 1 in white light.

  Args:
    skin: mean RGB. Skin in white light keeps SKIN_RANGE around USUAL_SKIN.
  """
  relative = skin / max(float(skin.mean()), 1.0) / USUAL_SKIN
  return relative / np.clip(relative, *SKIN_RANGE)
