"""MFCC features, the sound input of SyncNet v2 (spec 8.2)."""

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.audio import mel


def mfcc(samples: Int[np.ndarray, 'n']) -> Float[np.ndarray, 't 13']:
  """MFCC of a waveform, 100 rows a second.

  Frames of 25 ms without a window function, 26 HTK triangles up to 8 kHz,
  DCT-II, lifter 22. Coefficient 0 is the logarithm of the frame's energy.

  Args:
    samples: 16-bit values at 16 kHz, unscaled.
  """
  size, hop, bands, length = 400, 160, 26, 512
  x = mel.preemphasize(samples.astype(np.float64))
  count = 1 + max(0, -(-(x.size - size) // hop))
  x = np.pad(x, (0, (count - 1) * hop + size - x.size))
  frames = x[hop * np.arange(count)[:, None] + np.arange(size)]
  power = np.square(np.abs(np.fft.rfft(frames, length))) / length
  tiny = np.finfo(float).eps

  def log_floored(v):
    return np.log(np.where(v == 0, tiny, v))

  ends = 2595 * np.log10(1 + np.array([0, mel.SAMPLE_RATE / 2]) / 700)
  hertz = 700 * (10 ** (np.linspace(*ends, bands + 2) / 2595) - 1)
  edges = np.floor((length + 1) * hertz / mel.SAMPLE_RATE)
  k = np.arange(length // 2 + 1)
  left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  rise, fall = (k - left) / (center - left), (right - k) / (right - center)
  filters = np.where(k < center, rise, fall) * ((k >= left) & (k < right))
  energies = log_floored(power @ filters.T)
  n = np.arange(13)
  basis = np.cos(np.pi * n[:, None] * (2 * np.arange(bands) + 1) / (2 * bands))
  gain = np.where(n == 0, np.sqrt(1 / bands), np.sqrt(2 / bands))
  out = energies @ (gain[:, None] * basis).T * (1 + 11 * np.sin(np.pi * n / 22))
  out[:, 0] = log_floored(power.sum(1))
  return out
