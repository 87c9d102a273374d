"""ridge.py: hears openings, finds shifts, keeps to real files."""

import numpy as np
import pytest

from lipsync_jax.audio import log_mel
from lipsync_jax.data import synthetic
from lipsync_jax.data.clip import write_clips
from lipsync_jax.evaluation import ridge_scorer

RATE = 640


def sounds(seed, count=120):
  """(mel features, opening) of a drawn voice whose mouth opens with it."""
  wave, gap = synthetic.synthetic_speech(count, np.random.default_rng(seed))
  mel = log_mel(wave / np.float32(32768)).astype(np.float64)
  return ridge_scorer.audio_features(mel, count), gap.astype(np.float64)


@pytest.fixture(scope='module')
def fitted():
  return ridge_scorer.fit_ridge(((*sounds(i), 1.0) for i in range(12)), 'drawn')


def test_features_hear_the_sound_about_their_frame():
  mel = np.tile(np.arange(100.0), (80, 1))  # every column its number
  x = ridge_scorer.audio_features(mel, 20).reshape(
    20, ridge_scorer.BANDS, ridge_scorer.GROUPS
  )
  # Frame 10 is shown at 0.4 s, column 32; 24 columns from 0.26 s on.
  np.testing.assert_allclose(x[10, 0], 20 + 1 + 3 * np.arange(8))


@pytest.mark.parametrize('late', [-10, -3, 0, 1, 7, 10])
def test_shift_of_unheard_clips_is_found(fitted, late):
  x, gap = sounds(99)
  x, gap = x[20:100], gap[20 + late : 100 + late]
  found = ridge_scorer.correlation_curve(x, gap, fitted)
  assert ridge_scorer.best_offset(found) == -late
  assert found.max() > 0.7


def test_frozen_or_foreign_mouth_does_not_correlate(fitted):
  x, gap = sounds(98)
  assert np.isnan(ridge_scorer.correlation_curve(x, 0 * gap, fitted)).all()
  assert (
    abs(
      ridge_scorer.correlation_curve(x, sounds(97)[1], fitted)[
        ridge_scorer.MAX_SHIFT
      ]
    )
    < 0.5
  )
  gap[3] = np.nan  # a frame without landmarks
  assert (
    ridge_scorer.correlation_curve(x, gap, fitted)[ridge_scorer.MAX_SHIFT] > 0.7
  )


def test_saved_coefficients_come_back(fitted, tmp_path):
  ridge_scorer.save_ridge(tmp_path / 'r.npz', fitted)
  again = ridge_scorer.load_ridge(tmp_path / 'r.npz')
  np.testing.assert_array_equal(again.weights, fitted.weights)
  assert again.source == 'drawn'
  (tmp_path / 'bad.npz').write_bytes(b'no')
  with pytest.raises(ridge_scorer.RidgeError, match='expected coefficients'):
    ridge_scorer.load_ridge(tmp_path / 'bad.npz')


def test_shipped_coefficients_hear_more_when_voices_are_loud():
  shipped = ridge_scorer.load_ridge()
  assert 'speakers' in shipped.source
  loud, quiet = (np.full((80, 200), level) for level in (1.0, -4.0))
  mel = np.concatenate([quiet, loud, quiet], 1)
  heard = ridge_scorer.audio_features(mel, 180) @ shipped.weights
  assert heard[80:110].mean() > heard[10:50].mean()


def test_command_fits_and_tries(tmp_path, capsys):
  for split, names in (('train', 'abcd'), ('val', 'ef')):
    clips = [synthetic.synthetic_clip(f'{n}/00000', 60, 0) for n in names]
    path = tmp_path / f'lipsync_clips-{split}.tfrecord-00000-of-00001'
    write_clips(path, [opened(clip) for clip in clips])
  out = tmp_path / 'r.npz'
  assert not ridge_scorer.main(['--data', str(tmp_path), '--out', str(out)])
  assert 'fitted on 4 clips of 4 speakers' in capsys.readouterr().out
  assert ridge_scorer.load_ridge(out).weights.any()
  assert (
    ridge_scorer.main(['--data', str(tmp_path / 'no'), '--out', str(out)]) == 1
  )


def opened(clip):
  """A drawn clip with landmarks that tell its opening."""
  import dataclasses

  from lipsync_jax.evaluation import image_metrics

  count = len(clip.frames)
  level = np.abs(clip.wave[: count * RATE].reshape(count, -1)).mean(1)
  points = clip.points.copy()
  points[:, image_metrics.LOWER_LIP_IDS, 1] += 20 * level[:, None] / level.max()
  return dataclasses.replace(clip, points=points)
