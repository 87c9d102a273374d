"""Silero VAD in NumPy equals the original, from blocks of any size."""

import importlib.util
import pathlib

import numpy as np
import pytest

from lipsync_jax import audio
from lipsync_jax.media import audio_reader
from lipsync_jax.models import voice_detector
from tests.helpers import sounds

SPEECH = pathlib.Path(__file__).resolve().parents[2] / 'examples/jfk.flac'
# Of onnxruntime 1.32 and silero_vad.onnx in the wheel silero-vad 6.2.3, for
# the windows 0, 1, ... 15 of SPEECH.
GOLDEN = (
  *(0.002, 0.084, 0.294, 0.134, 0.079, 0.040, 0.053, 0.050),
  *(0.029, 0.034, 0.332, 0.940, 0.925, 0.843, 0.970, 0.987),
)


@pytest.fixture(scope='module')
def wave() -> np.ndarray:
  found = audio_reader.probe_audio(SPEECH)
  blocks = audio_reader.read_audio(found)
  return np.concatenate(list(audio.resample_blocks(found.rate, blocks)))


def test_golden_values(wave):
  found = voice_detector.voice_probability(wave[: 16 * voice_detector.WINDOW])
  np.testing.assert_allclose(found, GOLDEN, atol=6e-4)


def test_equals_the_original(wave):
  """The original gets window after window, with the state of the last."""
  onnxruntime = pytest.importorskip('onnxruntime')
  wheel = importlib.util.find_spec('silero_vad')
  if wheel is None:
    pytest.skip('needs the weights in the wheel silero-vad')
  folder = pathlib.Path(wheel.submodule_search_locations[0])
  run = onnxruntime.InferenceSession(folder / 'data/silero_vad.onnx').run
  state, before = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
  expected = []
  for window in wave[: wave.size // 512 * 512].reshape(-1, 512):
    given = np.concatenate([before, window])[None]
    rate = np.array(16000, np.int64)
    out, state = run(None, {'input': given, 'state': state, 'sr': rate})
    before = window[-64:]
    expected.append(out[0, 0])
  found = voice_detector.voice_probability(wave)[: len(expected)]
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_blocks_of_any_size_give_the_same_bits(wave):
  wave = wave[:100_001]
  whole = voice_detector.voice_probability(wave)
  assert whole.size == -(-wave.size // voice_detector.WINDOW)
  for size in (777, 40_000):
    found: list[np.ndarray] = []
    parts = [wave[i : i + size] for i in range(0, wave.size, size)]
    seen = list(voice_detector.watch_voice(iter(parts), found))
    np.testing.assert_array_equal(np.concatenate(seen), wave)
    np.testing.assert_array_equal(np.concatenate(found), whole)


def test_no_sound_has_no_windows():
  assert voice_detector.voice_probability(np.zeros(0, np.float32)).size == 0


@pytest.mark.parametrize('gain', [1, 0.004])
def test_a_voice_is_found_at_any_level(wave, gain):
  found = voice_detector.voice_probability(gain * wave)
  assert np.mean(found > 0.5) > 0.6


@pytest.mark.parametrize(
  'name', ['music', 'organ', 'applause', 'breath', 'noise', 'hum']
)
def test_other_sounds_are_no_voice(name):
  found = voice_detector.voice_probability(getattr(sounds, name)(4))
  assert np.quantile(found, 0.98) < 0.2
