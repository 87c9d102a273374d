"""Gains that give a dim or colored picture usual light.

Detectors and generators saw faces in daylight. A picture is multiplied, channel
by channel, before such a network reads it.
"""

import numpy as np
from jaxtyping import Float, UInt8

USUAL = 150.0  # levels, the goal of the percentile
DIM = (60.0, 100.0)  # levels of the percentile: dim below, usual above
# Weakest channel by the strongest one: colored light below, usual above.
ONE_SIDED = (0.3, 0.4)
MAX_GAIN = 16.0  # more amplifies the steps of 8 bits


def light_gains(
  rgb: UInt8[np.ndarray, 'h w 3'], percentile: float = 80
) -> Float[np.ndarray, '3']:
  """Factors that give every channel's percentile the level USUAL.

  They are 1 in usual light, and change smoothly towards it, so that a fade has
  no step. The percentile 80 of a face crop is its skin.
  """
  step = max(1, min(rgb.shape[:2]) // 64)
  seen = np.percentile(rgb[::step, ::step], percentile, axis=(0, 1))
  share = max(
    _share_below(seen.mean(), DIM),
    _share_below(seen.min() / max(seen.max(), 1), ONE_SIDED),
  )
  gains = np.clip(USUAL / np.maximum(seen, 1), 1 / MAX_GAIN, MAX_GAIN)
  return gains**share


def _share_below(value: float, span: tuple[float, float]) -> float:
  """1 below the span, 0 above, linear between."""
  low, high = span
  return float(np.clip((high - value) / (high - low), 0, 1))


def even_light(
  rgb: UInt8[np.ndarray, 'h w 3'], percentile: float = 80
) -> UInt8[np.ndarray, 'h w 3']:
  """The picture times its `light_gains`; itself in usual light."""
  gains = light_gains(rgb, percentile)
  if (gains == 1).all():
    return rgb
  return np.clip(rgb * gains.astype(np.float32), 0, 255).astype(np.uint8)
