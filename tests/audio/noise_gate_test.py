"""Pauses become silence, and speech stays unchanged to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax.audio import SILENCE, log_mel, noise_gate

RATE = 16000


def spoken(noise: float, seconds=(1.0, 0.8, 1.0), level=0.3) -> np.ndarray:
  """A buzz, a pause and a buzz over steady noise."""
  rng = np.random.default_rng(0)
  parts, on = [], True
  for length in seconds:
    t = np.arange(round(length * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 15))
    parts.append(level * on * buzz * (1.2 + np.sin(2 * np.pi * 4 * t)))
    on = not on
  wave = np.concatenate(parts)
  wave += noise * rng.standard_normal(wave.size)
  return log_mel(wave.astype(np.float32))


@pytest.mark.parametrize('noise', [0.0, 1e-4, 1e-3, 1e-2])
def test_a_pause_is_silent_and_words_are_whole(noise):
  mel = spoken(noise)
  out = noise_gate.apply_noise_gate(mel)
  assert (out[:, 98:130] == SILENCE).all()
  for words in (slice(0, 78), slice(146, None)):
    np.testing.assert_array_equal(out[:, words], mel[:, words])
  share = (out - SILENCE)[:, 78:146].sum(0)
  assert (share <= (mel - SILENCE)[:, 78:146].sum(0) + 1e-3).all()


def test_the_fade_is_gradual():
  mel = np.full((80, 200), -1.0, np.float32)
  mel[:, :60] = 2
  mel[:, 140:] = 2
  out = noise_gate.apply_noise_gate(mel)
  steps = np.abs(np.diff(out[40]))[75:]
  fall = np.abs(np.diff(out[40]))[60:76]
  assert fall.max() < 0.3 * 3 and steps[:45].max() < 0.3 * 3
  assert (out[:, 90:120] == SILENCE).all()


def test_noise_as_loud_as_the_voice_opens_the_gate():
  mel = spoken(0.3)
  np.testing.assert_array_equal(noise_gate.apply_noise_gate(mel), mel)


def test_short_gaps_stay():
  mel = spoken(0.0, (1.0, 0.15, 1.0))
  np.testing.assert_array_equal(noise_gate.apply_noise_gate(mel), mel)


def test_empty_and_silent_mels():
  none = np.zeros((80, 0), np.float32)
  assert noise_gate.apply_noise_gate(none).shape == (80, 0)
  quiet = np.full((80, 90), SILENCE, np.float32)
  np.testing.assert_array_equal(noise_gate.apply_noise_gate(quiet), quiet)


def test_in_place_is_the_same():
  mel = spoken(1e-3)
  out = noise_gate.apply_noise_gate(mel)
  # As it comes from `audio.stream_log_mel`: column after column.
  own = np.array(mel, order='F')
  assert noise_gate.apply_noise_gate(own, out=own) is own
  np.testing.assert_array_equal(own, out)
  assert not np.array_equal(mel, out)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_the_gate_never_raises_a_value(seed, columns):
  rng = np.random.default_rng(seed)
  walk = np.cumsum(rng.normal(0, 0.3, columns))
  mel = np.clip(walk + rng.normal(0, 1, (80, columns)), -4, 4)
  mel = mel.astype(np.float32)
  out = noise_gate.apply_noise_gate(mel)
  assert out.dtype == mel.dtype and (out <= mel).all()
  assert (out >= SILENCE).all()
