"""film.py: frames, order and sound of a validation film."""

import av
import numpy as np
import pytest

from lipsync_jax.data import synthetic
from lipsync_jax.data.batches import (
  decode_crops,
  example_batches,
  index_dataset,
  to_model_inputs,
)
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.data.windows import WINDOW_SPECS
from lipsync_jax.training import sample_video


@pytest.fixture
def source(tmp_path):
  synthetic.build_dataset(tmp_path, seed=0, speakers=1, frames=33)
  return ClipDataset(tmp_path, 'val')


def parts(batch):
  """As the recipe's `show`, with a gray generator."""
  ready = to_model_inputs(batch)
  made = np.full_like(ready['target'], 0.5)
  return {'face': ready['face'], 'made': made, 'true': ready['target']}


@pytest.mark.parametrize('batch', [4, 16])
def test_film_shows_every_whole_window_once(batch, source):
  clip, size = source[0], 96
  batches = sample_video.clip_batches(source, 0, size, batch)
  shown = np.stack(list(sample_video.video_frames(batches, parts)))
  assert shown.shape == (30, size, 4 * size, 3)
  for i in (0, 7, 29):
    window = decode_crops(clip, i - i % 5 + np.arange(5), size)
    np.testing.assert_array_equal(shown[i, :, 3 * size :], window[i % 5])
    np.testing.assert_array_equal(
      shown[i, : size // 2, size : 2 * size], window[i % 5, : size // 2]
    )
    assert not shown[i, size // 2 :, size : 2 * size].any()
    assert (shown[i, :, 2 * size : 3 * size] == 128).all()
  # References are from the farther end.
  last, begin = (decode_crops(clip, at + np.arange(5), size) for at in (28, 0))
  np.testing.assert_array_equal(shown[0, :, :size], last[0])
  np.testing.assert_array_equal(shown[29, :, :size], begin[4])


def test_windows_have_the_shapes_of_validation(source):
  plan = index_dataset(source, WINDOW_SPECS['generator'])
  usual = next(iter(example_batches(source, plan, 4, 96, rounds=1)))
  (mine, _) = sample_video.clip_batches(source, 0, 96, 4)
  assert mine.keys() == usual.keys()
  for name, value in usual.items():
    assert (mine[name].shape, mine[name].dtype) == (value.shape, value.dtype)


def test_film_carries_its_sound_and_colors(source, tmp_path):
  clip = source[0]
  path = tmp_path / 'videos/00000002.mp4'
  batches = sample_video.clip_batches(source, 0, 96, 8)
  shown = list(sample_video.video_frames(batches, parts))
  sample_video.write_video(path, shown, clip)
  with av.open(str(path)) as file:
    seen = [f.to_ndarray(format='rgb24') for f in file.decode(video=0)]
  with av.open(str(path)) as file:
    heard = [f.to_ndarray()[0] for f in file.decode(audio=0)]
    rate = file.streams.audio[0].rate
  assert (len(seen), rate) == (30, 16000)
  assert np.abs(np.float32(seen[7]) - shown[7]).mean() < 4
  heard = np.concatenate(heard)
  assert len(heard) == pytest.approx(30 * 640, abs=2048)
  frames = min(len(heard) // 640, 30)
  loud = [
    np.abs(x[: frames * 640].astype(np.float64)).reshape(frames, -1).mean(1)
    for x in (heard, clip.wave)
  ]
  assert np.corrcoef(*loud)[0, 1] > 0.9


def test_newest_films_stay(tmp_path):
  for step in range(8):
    (tmp_path / f'{step:08d}.mp4').touch()
  sample_video.remove_old_videos(tmp_path)
  left = sorted(int(path.stem) for path in tmp_path.iterdir())
  assert left == [3, 4, 5, 6, 7]


def test_clip_that_fills_the_film_is_chosen(source):
  source.frames = np.array([40, 60, 75, 90, 80])
  assert sample_video.choose_clip(source) == 2
  source.frames = np.array([40, 60, 50])
  assert sample_video.choose_clip(source) == 1
