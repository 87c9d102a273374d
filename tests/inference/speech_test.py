"""Several voices: their sum, their lengths, their refusals."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.audio import mel as mel_lib
from lipsync_jax.audio import noise_gate
from lipsync_jax.inference import dialogue, speech
from lipsync_jax.inference.speech import SpeechTrack
from lipsync_jax.media import audio_reader
from tests.helpers import test_clips


def tone(pitch: float, seconds: float, rate: int = 16000, level: float = 0.4):
  t = np.arange(round(seconds * rate)) / rate
  return level * np.sin(2 * np.pi * pitch * t)


def voice(path, samples, rate=16000) -> SpeechTrack:
  test_clips.write_wav(path, samples, rate)
  return SpeechTrack('left', audio_reader.probe_audio(path), None)


def spectrum(samples, rate, pitch, start, end) -> float:
  """Amplitude of one pitch between two seconds."""
  part = samples[int(start * rate) : int(end * rate)]
  t = np.arange(len(part)) / rate
  return 2 * abs(np.mean(part * np.exp(-2j * np.pi * pitch * t)))


def write_mix(path, cast):
  sources = [dialogue.stereo_blocks(t.sound, t.origin) for t in cast]
  dialogue.write_flac(path, dialogue.mix_sources(sources))


def test_a_mix_holds_every_voice_to_its_end(tmp_path):
  cast = [
    voice(tmp_path / 'a.wav', tone(440, 3.3)),
    voice(tmp_path / 'b.wav', tone(1000, 1.5, 44100), 44100),
  ]
  path = tmp_path / 'mix.flac'
  write_mix(path, cast)
  found = audio_reader.probe_audio(path)
  assert (found.rate, found.channels, found.codec) == (48000, 2, 'flac')
  samples = np.concatenate(list(audio_reader.read_audio(found)), 1)
  assert abs(samples.shape[1] - 3.3 * 48000) < 50
  np.testing.assert_array_equal(*samples)
  for pitch, start, end, level in (
    (440, 0.1, 1.4, 0.4),
    (1000, 0.1, 1.4, 0.4),
    (440, 1.7, 3.2, 0.4),
    (1000, 1.7, 3.2, 0.0),
  ):
    assert spectrum(samples[0], 48000, pitch, start, end) == pytest.approx(
      level, abs=0.01
    )


def test_too_loud_is_cut_not_wrapped(tmp_path):
  cast = [voice(tmp_path / f'{i}.wav', tone(200, 0.5, level=0.9)) for i in 'ab']
  write_mix(tmp_path / 'mix.flac', cast)
  found = audio_reader.probe_audio(tmp_path / 'mix.flac')
  samples = np.concatenate(list(audio_reader.read_audio(found)), 1)[0]
  raw = 1.8 * np.sin(2 * np.pi * 200 * np.arange(samples.size) / 48000)
  assert np.abs(samples - np.clip(raw, -1, 1)).max() < 0.02


def test_listening_gates_pauses_and_obeys_the_preview(tmp_path):
  rng = np.random.default_rng(0)
  samples = np.concatenate([tone(300, 1), np.zeros(16000), tone(300, 1)])
  samples += 1e-4 * rng.standard_normal(samples.size)
  one = voice(tmp_path / 'a.wav', samples)
  gated, length = speech.speech_mel(one, None)
  raw, _ = speech.speech_mel(one, None, gated=False)
  assert length == 3 and raw[:, 110:140].max() > -4 == gated[:, 110:140].max()
  np.testing.assert_array_equal(gated[:, :78], raw[:, :78])
  assert speech.speech_mel(one, 0.5)[1] == pytest.approx(0.5)


def test_listening_holds_the_mel_once(monkeypatch):
  """Parts that are joined, or a gated copy, would be there beside it."""
  rng = np.random.default_rng(0)
  blocks = (rng.normal(size=(1, 3200)).astype(np.float32) for _ in range(500))
  monkeypatch.setattr(speech.decoder, 'read_audio', lambda *_: blocks)
  monkeypatch.setattr(mel_lib, 'BLOCK', 4000)
  monkeypatch.setattr(noise_gate, 'BLOCK', 256)
  none = Fraction(0)
  one = audio_reader.AudioStream(
    'a.wav', 16000, 1, 'pcm_s16le', none, none, none, 0
  )
  tracemalloc.start()
  try:
    mel, length = speech.speech_mel(SpeechTrack('left', one, None), None)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert length == 100 and mel.shape == (80, 8001)
  assert peak < 1.6 * mel.nbytes, peak / mel.nbytes
