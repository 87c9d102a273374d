"""Conversion between 16-bit samples and floating point.

Reading has one scale, and writing has two:

* `int16_to_float` divides by `INT16_SCALE`, so that -32768 becomes -1.
* `float_to_int16` multiplies by `INT16_MAX` unless told otherwise. A sample
  of 1 then becomes the largest 16-bit value; sound that is written to be
  played uses this scale.
* `float_to_int16(wave, INT16_SCALE)` is the inverse of `int16_to_float`. Data
  preparation uses it, so that the samples of 16-bit files stay the same.
"""

import numpy as np
from jaxtyping import Float, Int16

INT16_SCALE = 32768  # divisor of 16-bit samples
INT16_MIN, INT16_MAX = -32768, 32767


def int16_to_float(
  samples: Int16[np.ndarray, '*n'], dtype: type = np.float32
) -> Float[np.ndarray, '*n']:
  """Samples in [-1, 1); the quotients are exact in float32 and float64."""
  return samples.astype(dtype) / dtype(INT16_SCALE)


def float_to_int16(
  wave: Float[np.ndarray, '*n'], scale: int = INT16_MAX
) -> Int16[np.ndarray, '*n']:
  """16-bit samples of a waveform, rounded and clipped to the 16-bit range.

  Args:
    wave: samples, full scale is -1..1.
    scale: value of a sample of 1, `INT16_MAX` or `INT16_SCALE`.
  """
  return np.clip(np.rint(wave * scale), INT16_MIN, INT16_MAX).astype(np.int16)
