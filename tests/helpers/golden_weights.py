"""Weights and inputs of the golden numbers, made from names alone.

Every tensor of a PyTorch state dict is drawn from a generator seeded by
the CRC-32 of its name (spec section 10), so that two implementations can
agree on 36 million weights without exchanging a file.
"""

import math
import zlib

import numpy as np


def tensor(name: str, shape: tuple, gain: float) -> np.ndarray:
  """One tensor in PyTorch's layout, float32."""
  if name.endswith('num_batches_tracked'):
    return np.zeros(shape, np.int64)
  seed = zlib.crc32(name.encode()) & 0xFFFFFFFF
  r = np.random.RandomState(seed).standard_normal(shape)
  if name.endswith('running_mean'):
    r = 0.1 * r
  elif name.endswith('running_var'):
    r = 1 + 0.2 * np.abs(r)
  elif len(shape) >= 2:
    r = gain * r / math.sqrt(math.prod(shape[1:]))
  elif name.endswith('weight'):
    r = 1 + 0.1 * r
  else:
    r = 0.1 * r
  return r.astype(np.float32)


def state_dict(records: list[dict], gain: float) -> dict[str, np.ndarray]:
  """A whole state dict from [{'name', 'shape'}, …]."""
  return {
    r['name']: tensor(r['name'], tuple(r['shape']), gain) for r in records
  }


GAIN = {'generator': 1.0, 'syncnet': 1.0}
GAIN |= {k: math.sqrt(2) for k in ('discriminator', 'eval_syncnet_v2')}


def uniform(tag: str, low: float, high: float, shape: tuple) -> np.ndarray:
  """An input, drawn by its tag (float64)."""
  rs = np.random.RandomState(zlib.crc32(tag.encode()) & 0xFFFFFFFF)
  return rs.uniform(low, high, shape)
