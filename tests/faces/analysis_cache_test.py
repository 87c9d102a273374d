"""Analyzes: the cache gives back what went in, and survives damage."""

import numpy as np
import pytest

from lipsync_jax.common import cache
from lipsync_jax.faces import analysis_cache
from lipsync_jax.faces.landmarks import FaceError
from tests.helpers.synthetic_face import face
from tests.helpers.track_fixtures import analysis, track


def sample(count=50):
  frames = np.arange(count)
  return analysis(
    frames / 25,
    [20] if count > 20 else [],
    track(frames, [face(100 + f) for f in frames]),
    track(frames[5:9], [face(400)] * 4),
  )


def same(a, b):
  assert a.frame == b.frame and len(a.tracks) == len(b.tracks)
  np.testing.assert_array_equal(a.times, b.times)
  np.testing.assert_array_equal(a.cuts, b.cuts)
  for one, two in zip(a.tracks, b.tracks, strict=True):
    for name in ('frames', 'boxes', 'scores', 'points', 'appearance'):
      np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize('empty', [True, False])
def test_round_trip(tmp_path, empty):
  before = analysis([0.0, 0.04], []) if empty else sample()
  analysis_cache.save_analysis(tmp_path / 'a.npz', before, 1.5)
  after, reach = analysis_cache.load_analysis(tmp_path / 'a.npz')
  same(before, after)
  assert reach == 1.5 and list(tmp_path.iterdir()) == [tmp_path / 'a.npz']


@pytest.fixture
def computed():
  calls = []

  def compute(count=50):
    calls.append(count)
    return sample(count)

  compute.calls = calls
  return compute


def test_a_second_run_computes_nothing(computed):
  first = analysis_cache.cached_analysis('k1', None, computed)
  same(first, analysis_cache.cached_analysis('k1', None, computed))
  assert len(computed.calls) == 1
  analysis_cache.cached_analysis('k2', None, computed)
  assert len(computed.calls) == 2


def test_more_serves_for_less_and_less_not_for_more(computed):
  analysis_cache.cached_analysis('k3', 1.0, lambda: computed(26))
  short = analysis_cache.cached_analysis('k3', 0.5, computed)
  assert len(short.times) == 13 and computed.calls == [26]
  assert len(analysis_cache.cached_analysis('k3', 1.5, computed).times) == 38
  assert len(analysis_cache.cached_analysis('k3', None, computed).times) == 50
  assert computed.calls == [26, 50, 50]
  analysis_cache.cached_analysis('k3', 9.0, computed)
  assert computed.calls == [26, 50, 50]


@pytest.mark.parametrize('way', ['cut', 'flip', 'empty', 'text', 'lie'])
def test_a_damaged_file_is_computed_again(computed, way):
  analysis_cache.cached_analysis('k4' + way, None, computed)
  path = cache.cache_dir('faces') / f'k4{way}.npz'
  content = bytearray(path.read_bytes())
  if way == 'flip':
    content[len(content) // 2] ^= 255
  if way == 'lie':
    table = dict(np.load(path))
    np.savez(path, **{**table, 'frames': table['frames'] + 9})
    content = path.read_bytes()
  damaged = {
    'cut': content[: len(content) // 2],
    'empty': b'',
    'text': b'not an archive',
  }
  path.write_bytes(damaged.get(way, content))
  with pytest.raises(FaceError, match='delete it'):
    analysis_cache.load_analysis(path)
  assert (
    len(analysis_cache.cached_analysis('k4' + way, None, computed).times) == 50
  )
  assert len(computed.calls) == 2
  same(analysis_cache.load_analysis(path)[0], sample())


def test_pickles_are_refused(tmp_path):
  path = tmp_path / 'evil.npz'
  np.savez(path, times=np.array([{}], object))
  with pytest.raises(FaceError):
    analysis_cache.load_analysis(path)


def test_a_cache_that_cannot_be_written_is_no_error(
  computed, monkeypatch, tmp_path
):
  (tmp_path / 'file').write_text('in the way')
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', str(tmp_path / 'file'))
  assert len(analysis_cache.cached_analysis('k5', None, computed).times) == 50


def test_key_is_of_content_and_view(tmp_path):
  one, two = tmp_path / 'one.mp4', tmp_path / 'two.avi'
  one.write_bytes(b'same')
  two.write_bytes(b'same')
  key = analysis_cache.content_key(one, 'v')
  assert key == analysis_cache.content_key(two, 'v') and len(key) == 64
  assert key != analysis_cache.content_key(one, 'w')
  two.write_bytes(b'other')
  assert key != analysis_cache.content_key(two, 'v')
