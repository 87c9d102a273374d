"""16-bit samples: one scale to read, two to write."""

import numpy as np
import pytest

from lipsync_jax.audio import pcm

ALL_SAMPLES = np.arange(-32768, 32768).astype(np.int16)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_every_sample_survives_the_inverse_scale(dtype):
  wave = pcm.int16_to_float(ALL_SAMPLES, dtype)
  assert wave.dtype == dtype
  assert np.array_equal(wave, ALL_SAMPLES / np.float64(32768))
  assert np.array_equal(pcm.float_to_int16(wave, pcm.INT16_SCALE), ALL_SAMPLES)


def test_the_two_scales_differ_by_at_most_one_step():
  wave = np.linspace(-1, 1, 9999, dtype=np.float32)
  played = pcm.float_to_int16(wave).astype(int)
  stored = pcm.float_to_int16(wave, pcm.INT16_SCALE).astype(int)
  assert np.abs(played - stored).max() == 1
  assert played[-1] == stored[-1] == 32767
  assert (played[0], stored[0]) == (-32767, -32768)


def test_values_beyond_full_scale_are_clipped():
  wave = np.array([-2, 2, -1.00001, 1.00001])
  for scale in (pcm.INT16_MAX, pcm.INT16_SCALE):
    samples = pcm.float_to_int16(wave, scale)
    assert samples[:2].tolist() == [-32768, 32767]
  # A mix is clipped first; its smallest sample is then -32767.
  assert pcm.float_to_int16(np.clip(wave, -1, 1))[0] == -32767
