"""Lips move where a voice is, and rest under music, applause and breath."""

import dataclasses
import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from lipsync_jax import sync
from lipsync_jax.audio import SAMPLE_RATE, SILENCE
from lipsync_jax.common import disk_array
from lipsync_jax.inference import options as options_lib
from lipsync_jax.inference import report, speech
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.media import memory
from lipsync_jax.rendering import mesh_renderer
from tests.helpers import gate_table, sounds, test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO = ROOT / 'examples/mona.jpg'
REST = 5.0  # seconds of the other sound
FADE = 1.0  # seconds at its edge in which lips come to rest


@pytest.fixture(scope='module')
def words() -> np.ndarray:
  return sounds.spoken()


def first_frame(path) -> np.ndarray:
  with av.open(str(path)) as file:
    return next(file.decode(video=0)).to_ndarray(format='rgb24')


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


@pytest.mark.parametrize('name', ['music', 'organ', 'applause', 'breath'])
def test_lips_rest_without_any_voice(name, capsys):
  one = track(getattr(sounds, name)(REST))
  mel, _, share = speech.voiced_mel(one, None)
  assert share == 0 and (mel == SILENCE).all()
  job = options_lib.SyncOptions('face.mp4')
  assert speech.track_mels(job, [one])[2] == [0]
  told = capsys.readouterr().err
  assert told.count('\n') == 1 and '--no-noise-gate' in told
  speech.track_mels(dataclasses.replace(job, quiet=True), [one])
  assert not capsys.readouterr().err


def test_a_photo_under_music_keeps_still(tmp_path):
  """The frames move with --no-noise-gate, so that the rest is no accident."""
  path = test_clips.write_wav(tmp_path / 'music.wav', sounds.music(1.0))
  spread, found = {}, {}
  for free in (False, True):
    out = tmp_path / f'{free}.mp4'
    found[free] = sync.sync(
      PHOTO, path, out, crf=0, quiet=True, no_noise_gate=free
    )
    with av.open(str(out)) as file:
      frames = [f.to_ndarray(format='gray') for f in file.decode(video=0)]
    spread[free] = np.ptp(np.array(frames).astype(int), axis=0).max()
  assert spread[False] == 0 < spread[True]
  source = np.asarray(Image.open(PHOTO).convert('RGB')).astype(int)
  rested = first_frame(tmp_path / 'False.mp4').astype(int)
  height, width = (
    min(a, b) for a, b in zip(source.shape[:2], rested.shape[:2], strict=True)
  )
  off = np.abs(source[:height, :width] - rested[:height, :width])
  assert off.mean() < 2
  told = report.SyncReport.from_dict(found[False]).warnings
  assert found[False]['speakers'][0]['voiced'] == 0
  assert sum('no voice was found' in line for line in told) == 1
  assert 'voiced' not in found[True]['speakers'][0]


def recall(voice, sound) -> float:
  """Share of the columns of a voice that the gate keeps."""
  on, _ = gate_table.labels(voice)
  mel = speech.voiced_mel(track(sound), None)[0]
  return float((mel > SILENCE).any(0)[on].mean())


@pytest.mark.parametrize('decibel', [0, -30, -40])
def test_soft_voices_are_kept(words, decibel):
  assert recall(words, 10 ** (decibel / 20) * words) > 0.97


def test_whispers_are_kept(words):
  whisper = sounds.whispered(words)
  assert recall(words, whisper) > 0.9


@pytest.mark.parametrize('decibel', [0, -30])
def test_every_speech_file_is_kept(decibel, shared):
  """Six languages and a song."""
  folder = shared / 'media/speech'
  files = sorted(folder.iterdir())
  assert files
  for path in files:
    wave = sounds.spoken(path)
    assert recall(wave, 10 ** (decibel / 20) * wave) > 0.95, path.name


def test_the_background_plays_under_music_without_a_voice(words):
  size = round(REST * SAMPLE_RATE)
  one = track(np.concatenate([words, sounds.music(REST)]))
  job = options_lib.SyncOptions('face.mp4')
  speaks = speech.voice_columns(one, job)
  ends = round(80 * words.size / SAMPLE_RATE)
  assert speaks[:ends].mean() > 0.7
  assert not speaks[ends + 80 :].any() and speaks.size > ends + size // 400
  free = dataclasses.replace(job, no_noise_gate=True)
  assert speech.voice_columns(one, free)[ends + 80 :].all()


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
