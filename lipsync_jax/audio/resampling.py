"""Mono sound at one rate from blocks of any sample rate and channel count.

Shapes: c channels, n samples.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from lipsync_jax.audio import mel


def to_mono(block: Float[np.ndarray, 'c n']) -> Float[np.ndarray, 'n']:
  """Mix channels to one; NaN and infinity become 0.

  The result is the mean, as in librosa, unless the channels cancel each
  other (left = -right, a common recording fault). It is then the loudest
  channel, since the mean would be silent.
  """
  block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
  mean = block.mean(0)
  powers = np.square(block).mean(1) if block.shape[1] else block[:, 0]
  if block.shape[0] > 1 and np.square(mean).mean() < 1e-3 * powers.max():
    return block[powers.argmax()].astype(np.float32)
  return mean.astype(np.float32)


def resample_blocks(
  rate: int,
  blocks: Iterable[Float[np.ndarray, '_ _']],
  target: int = mel.SAMPLE_RATE,
) -> Iterator[Float[np.ndarray, '_']]:
  """Stream mono sound at `target` Hz from blocks of channels at `rate` Hz.

  soxr resamples at its high quality, as librosa >= 0.10 does. Sound at the
  target's rate is only mixed to mono.
  """
  if rate == target:
    for block in blocks:
      yield to_mono(block)
    return
  import soxr

  stream = soxr.ResampleStream(rate, target, 1, dtype='float32')
  for block in blocks:
    samples = stream.resample_chunk(to_mono(block))
    if samples.size:
      yield samples
  tail = stream.resample_chunk(np.zeros(0, np.float32), last=True)
  if tail.size:
    yield tail
