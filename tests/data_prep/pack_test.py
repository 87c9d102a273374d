"""What goes through the narrow wire comes out as it was, nearly."""

import dataclasses

import numpy as np
import pytest

from data_prep import pack
from lipsync_jax.data import batches, device_dataset, synthetic, tfrecord
from lipsync_jax.data.clip import DATASET_NAME, Clip, ClipDataset, write_clips
from lipsync_jax.data.windows import WINDOW_SPECS
from lipsync_jax.faces import landmarks


def speaking(clip: Clip) -> Clip:
  """The clip with landmarks whose lips part and close."""
  points = clip.points.copy()
  points[:, landmarks.LOWER_LIP, 1] += 3 + 3 * np.sin(np.arange(len(points)))
  return dataclasses.replace(clip, points=points)


@pytest.fixture(scope='module')
def ways(tmp_path_factory):
  """Shards of cartoons, and the same packed and unpacked."""
  folder = tmp_path_factory.mktemp('pack')
  before, after = folder / 'before', folder / 'after'
  before.mkdir()
  for split in pack.SPLITS:
    keys = [f'{split}{i % 2}/{i:05d}' for i in range(3)]
    made = [
      speaking(synthetic.synthetic_clip(k, 30 + i, 0))
      for i, k in enumerate(keys)
    ]
    write_clips(before / tfrecord.shard_name(DATASET_NAME, split, 0, 1), made)
  words = [str(before), str(folder / 'wire'), '--crf=16', '--pieces=2']
  assert pack.main(['pack', *words]) == 0
  assert pack.main(['unpack', str(folder / 'wire'), str(after)]) == 0
  return before, after


@pytest.mark.parametrize('split', pack.SPLITS)
def test_pictures_and_sound_come_back(ways, split):
  before, after = (ClipDataset(folder, split) for folder in ways)
  assert sorted(before.keys) == sorted(after.keys)
  for i, key in enumerate(before.keys):
    one, two = before[i], after[after.keys.index(key)]
    assert len(one.frames) == len(two.frames)
    assert one.wave.shape == two.wave.shape and one.mel.shape == two.mel.shape
    made = [
      device_dataset.stored_crops(clip, 96, 0).astype(float)
      for clip in (one, two)
    ]
    gaps = [np.abs(made[0][:-1] - made[1][k : k + len(made[0]) - 1])
            for k in (0, 1)]  # fmt: skip
    assert gaps[0].mean() < 3 and gaps[0].mean() < gaps[1].mean()
    waves = [clip.wave.astype(float) for clip in (one, two)]
    middle = slice(2000, -2000)
    alike = [
      np.corrcoef(waves[0][middle], np.roll(waves[1], k)[middle])[0, 1]
      for k in (-8, 0, 8)
    ]
    assert alike[1] > 0.98 and alike[1] == max(alike)
    assert np.abs(one.mel - two.mel)[:, 5:-5].mean() < 0.3
    lips = [
      landmarks.lip_openings(clip.points, clip.crops) for clip in (one, two)
    ]
    np.testing.assert_allclose(*lips, atol=2e-4)
    assert np.ptp(lips[0]) > 0.01


def test_what_was_unpacked_can_be_trained_on(ways):
  source = ClipDataset(ways[1], 'train')
  plan = batches.index_dataset(source, WINDOW_SPECS['contrastive'])
  batch = next(iter(batches.example_batches(source, plan, 2, 96, threads=1)))
  assert batch['frames'].shape == (2, 4, 48, 96, 15)


def test_an_empty_folder_is_an_error(tmp_path):
  with pytest.raises(SystemExit, match='found none'):
    pack.main(['unpack', str(tmp_path), str(tmp_path / 'out')])
