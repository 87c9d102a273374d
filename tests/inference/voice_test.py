"""Lips move where a voice is, and rest under music, applause and breath."""

import pathlib
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax import audio
from lipsync_jax.audio import SAMPLE_RATE, SILENCE
from lipsync_jax.common import disk_array
from lipsync_jax.inference import options as options_lib
from lipsync_jax.inference import report, speech
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.media import audio_reader, memory
from lipsync_jax.rendering import mesh_renderer
from tests.helpers import sounds

SPEECH = pathlib.Path(__file__).resolve().parents[2] / 'examples/jfk.flac'
REST = 5.0  # seconds of the other sound
FADE = 1.0  # seconds at its edge in which lips come to rest


@pytest.fixture(scope='module')
def words() -> np.ndarray:
  found = audio_reader.probe_audio(SPEECH)
  blocks = audio.resample_blocks(found.rate, audio_reader.read_audio(found))
  return sounds.scaled(np.concatenate(list(blocks)))


@pytest.fixture(scope='module')
def predict():
  return NetworkCache().articulator()


def track(samples: np.ndarray) -> speech.SpeechTrack:
  sound = memory.memory_audio(samples.astype(np.float32), SAMPLE_RATE)
  return speech.SpeechTrack('largest', sound, None)


def motion(mel, predict, start: float, end: float) -> float:
  """Deviation of the coefficients between two seconds."""
  times = np.arange(start, end, 1 / 25)
  rows = disk_array.to_disk(mel.T)
  found = mesh_renderer.predict_coefficients(rows, times, predict)
  return float(np.sqrt(found.var(0).sum()))


@pytest.mark.parametrize('name', ['music', 'organ', 'applause', 'breath'])
def test_lips_rest_after_the_words(name, words, predict):
  spoken = words.size / SAMPLE_RATE
  one = track(np.concatenate([words, getattr(sounds, name)(REST)]))
  mel, seconds, share = speech.voiced_mel(one, None)
  assert float(seconds) == pytest.approx(spoken + REST, abs=0.01)
  assert 0.4 < share < 0.7
  spans = (0.4, spoken), (spoken + FADE, spoken + REST)
  said, rest = (motion(mel, predict, *span) for span in spans)
  assert rest < 0.1 * said
  # The level alone leaves them moving.
  loud = speech.speech_mel(one, None)[0]
  assert motion(loud, predict, *spans[1]) > 3 * rest


def test_lips_rest_before_the_words(words, predict):
  one = track(np.concatenate([sounds.music(REST), words]))
  mel = speech.voiced_mel(one, None)[0]
  rest = motion(mel, predict, 0, REST - FADE)
  assert rest < 0.1 * motion(mel, predict, REST + 0.4, REST + 10)


def test_words_alone_stay_as_they_are(words):
  one = track(words)
  by_level, _ = speech.speech_mel(one, None)
  mel, _, share = speech.voiced_mel(one, None)
  assert share > 0.6 and (mel <= by_level).all()
  changed = (mel != by_level).any(0)
  kept = (by_level - SILENCE).sum(0)
  assert changed.mean() < 0.05
  assert (mel - SILENCE).sum() > 0.99 * kept.sum()


def test_equal_sounds_give_equal_bits(words):
  first, again = (speech.voiced_mel(track(words), None) for _ in '12')
  np.testing.assert_array_equal(first[0], again[0])
  assert first[1:] == again[1:]


def test_sound_without_any_voice_is_gated_by_its_level(capsys):
  one = track(sounds.music(REST))
  mel, _, share = speech.voiced_mel(one, None)
  assert share == 0
  np.testing.assert_array_equal(mel, speech.speech_mel(one, None)[0])
  job = options_lib.SyncOptions('face.mp4')
  assert speech.track_mels(job, [one])[2] == [0]
  assert capsys.readouterr().err.count('no voice was found') == 1


def test_without_the_gate_nothing_is_measured(words):
  job = options_lib.SyncOptions('face.mp4', no_noise_gate=True)
  one = track(words)
  mels, _, shares = speech.track_mels(job, [one])
  raw = speech.speech_mel(one, None, False)[0]
  assert shares == [None]
  np.testing.assert_array_equal(mels[0].read(0, len(mels[0])), raw.T)


def test_report_tells_that_no_voice_was_found():
  facts = {'person': 0, 'audio': '', 'frames_spoken': 9}
  parts = {'tracks': (), 'skipped': ()}
  for voiced in (None, 0.0, 0.4):
    one = report.SpeakerReport(**facts, **parts, voiced=voiced)
    whole = report.SyncReport(
      '',
      '',
      8,
      6,
      Fraction(25),
      1.0,
      25,
      '',
      (one,),
      (),
      (),
      '',
      4,
      {},
      {},
      1,
      1,
    )
    told = any('no voice' in line for line in whole.warnings)
    assert told == (voiced == 0)
    assert whole.to_dict()['speakers'][0].get('voiced') == voiced
