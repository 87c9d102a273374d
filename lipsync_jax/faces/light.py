"""Gains that give a dim or colored picture usual light.

Detectors and generators saw faces in daylight. A picture is multiplied, channel
by channel, before such a network reads it.
"""

import numpy as np
from jaxtyping import Float, UInt8

USUAL = 150.0  # levels, the goal of the percentile
DIM = 60.0  # levels, the percentile of a dim picture
ONE_SIDED = 0.35  # weakest channel by the strongest one in colored light
MAX_GAIN = 16.0  # more amplifies the steps of 8 bits


def light_gains(
  rgb: UInt8[np.ndarray, 'h w 3'], percentile: float = 80
) -> Float[np.ndarray, '3']:
  """Factors that give every channel's percentile the level USUAL.

  They are 1 in usual light. The percentile 80 of a face crop is its skin.
  """
  step = max(1, min(rgb.shape[:2]) // 64)
  seen = np.percentile(rgb[::step, ::step], percentile, axis=(0, 1))
  if seen.mean() >= DIM and seen.min() >= ONE_SIDED * seen.max():
    return np.ones(3)
  return np.clip(USUAL / np.maximum(seen, 1), 1 / MAX_GAIN, MAX_GAIN)


def even_light(
  rgb: UInt8[np.ndarray, 'h w 3'], percentile: float = 80
) -> UInt8[np.ndarray, 'h w 3']:
  """The picture times its `light_gains`; itself in usual light."""
  gains = light_gains(rgb, percentile)
  if (gains == 1).all():
    return rgb
  return np.clip(rgb * gains.astype(np.float32), 0, 255).astype(np.uint8)
