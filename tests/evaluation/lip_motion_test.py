"""lip_motion.py: amplitude, rest and closures, good mouths and bad ones."""

import dataclasses

import numpy as np
import pytest

from lipsync_jax.evaluation import lip_motion, metrics, ridge_scorer
from lipsync_jax.evaluation.clip import EvalClip
from lipsync_jax.evaluation.image_metrics import MouthColors
from lipsync_jax.evaluation.landmarks import LipReading
from lipsync_jax.evaluation.metrics import Source

COUNT = 100  # frames: speech, a pause from frame 40 to 69, speech
LOUD = np.r_[0:40, 70:COUNT]


def sound():
  """Noise with a pause."""
  wave = np.random.default_rng(0).normal(0, 3000, COUNT * 640)
  wave[40 * 640 : 70 * 640] *= 1e-3
  return wave.round().astype(np.int16)


def talking(resting=True):
  """Openings of lips that close every ten frames of speech."""
  gap = 0.03 + 0.03 * np.cos(2 * np.pi * np.arange(COUNT) / 10)
  if resting:
    gap[40:70] = 0
  return gap


def speech():
  mask = np.zeros(COUNT, bool)
  mask[LOUD] = True
  return mask


def test_speech_and_pauses_are_found():
  found = lip_motion.speech_frames(sound(), COUNT)
  assert found[LOUD].all() and not found[43:68].any()
  pause = lip_motion.pause_frames(found)
  assert pause[50:60].all() and not pause[:44].any() and not pause[67:].any()
  assert not lip_motion.speech_frames(np.zeros(6400, np.int16), 10).any()
  assert lip_motion.speech_frames(sound()[:0], 0).shape == (0,)


def test_weak_lips_have_a_small_amplitude():
  def deviation(gap):
    return lip_motion.opening_deviation(gap, speech())

  source = deviation(talking())
  assert lip_motion.amplitude_ratio(source, source) == 1
  weak = lip_motion.amplitude_ratio(deviation(0.3 * talking()), source)
  assert weak == pytest.approx(0.3)
  assert np.isnan(lip_motion.amplitude_ratio(source, 0.0))
  assert np.isnan(deviation(np.full(COUNT, np.nan)))


def test_lips_that_move_in_pauses_are_seen():
  still = lip_motion.silence_ratio(talking(), speech())
  moving = lip_motion.silence_ratio(talking(resting=False), speech())
  assert still < 0.05 and moving > 0.8
  assert np.isnan(lip_motion.silence_ratio(talking(), np.ones(COUNT, bool)))


def test_closures_of_good_and_bad_mouths():
  expected = lip_motion.closure_frames(talking(), speech())
  assert expected.any() and not expected[41:69].any()  # a pause is none

  def scores(gap):
    found = lip_motion.closure_frames(gap, speech())
    return lip_motion.closure_scores(found, expected)

  assert scores(talking()) == (1, 1)
  recall, precision = scores(np.roll(talking(resting=False), 1))
  assert recall > 0.9 and precision > 0.8  # within a frame
  recall, precision = scores(np.roll(talking(resting=False), 5))
  assert recall < 0.2 and precision < 0.2  # open where it should be closed
  recall, precision = scores(talking() + 0.02)  # never closes
  assert recall == 0 and np.isnan(precision)
  recall, precision = scores(np.zeros(COUNT))  # never opens
  assert recall == 1 and precision < 0.6
  lost = talking()
  lost[5] = np.nan  # a frame without landmarks
  assert not lip_motion.closure_frames(lost, speech())[5]


def clip(wave):
  pictures = tuple(np.zeros((8, 8, 3), np.uint8) for _ in range(COUNT))
  crops = np.tile([4.0, 4, 8, 8, 0], (COUNT, 1))
  return EvalClip('a', 'a', pictures, crops, wave)


def reading(gap):
  return LipReading(np.zeros((COUNT, 89, 2)), gap)


def test_silence_compares_with_the_sources_speech():
  absent = MouthColors(*np.full((3, COUNT, 3), np.nan))
  own = clip(sound())
  deviation = lip_motion.opening_deviation(talking(), speech())
  source = Source(own, reading(talking()), absent, deviation)
  quiet = dataclasses.replace(own, wave=0 * own.wave)

  def values(made, gap, closures=None):
    return metrics.articulation_metrics(made, reading(gap), source, closures)

  closed = values(quiet, 0.1 * talking(resting=False))
  assert closed.keys() == {'silence_ratio'} and closed['silence_ratio'] < 0.15
  assert values(quiet, talking(resting=False))['silence_ratio'] > 0.8
  expected = lip_motion.closures_of(own, reading(talking()))
  good = values(own, talking(), expected)
  assert good['lip_deviation'] == pytest.approx(100 * deviation, rel=0.05)
  assert good['closure_recall'] == good['closure_precision'] == 100
  assert values(own, talking() + 0.02, expected)['closure_recall'] == 0


def test_ridge_values_of_a_late_and_of_a_frozen_mouth():
  shifts = np.arange(-15, 16)
  curve = np.exp(-np.square(shifts / 3.0))
  good = metrics.ridge_values(curve)
  assert good['ridge_near'] == 100 and good['ridge_r'] == 1
  late = metrics.ridge_values(np.roll(curve, 4))
  assert late['ridge_near'] == 0 and late['ridge_offset'] == -4
  frozen = metrics.ridge_values(np.full(2 * ridge_scorer.MAX_SHIFT + 1, np.nan))
  assert np.isnan(frozen['ridge_near'])


def test_transcripts_are_read_beside_the_file(tmp_path):
  (tmp_path / 'a.txt').write_text("Text:  BIN BLUE, DON'T 5\nConf:  5\n")
  assert lip_motion.read_transcript(str(tmp_path / 'a.mp4')) == (
    "bin blue don't"
  )
  assert lip_motion.read_transcript(str(tmp_path / 'b.mp4')) == ''
  assert lip_motion.read_transcript('') == ''


def test_no_marks_without_the_package_or_sound(monkeypatch):
  assert lip_motion.labial_frames(np.zeros(32_000, np.int16), 50) is None
  monkeypatch.setattr(lip_motion, 'has_phonemes', lambda: False)
  assert lip_motion.labial_frames(sound(), COUNT) is None


def test_labials_of_grid_are_where_the_lips_close(shared):
  pytest.importorskip('pocketsphinx')
  from lipsync_jax.evaluation import video_clip

  path = shared / 'media/clips/grid_bbaf2n.mpg'
  if not path.is_file():
    pytest.skip(f'needs {path}, which is absent')
  wave = video_clip.video_audio(str(path))
  found = lip_motion.labial_frames(wave, 75, 'bin blue at f two now')
  # By eye: lips touch in frames 22 to 24 and 27 to 31.
  np.testing.assert_allclose(np.flatnonzero(found), [24, 30], atol=1)
  assert lip_motion.align_words(wave, 'qqqq zzzz') == []
  late = np.concatenate([np.zeros(16_000, np.int16), wave])
  moved = lip_motion.labial_frames(late, 100, 'bin blue at f two now')
  np.testing.assert_allclose(np.flatnonzero(moved), [49, 55], atol=1)
