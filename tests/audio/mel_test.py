"""Log-mel, MFCC and windows against stored values, librosa and SciPy."""

import json
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax import audio
from lipsync_jax.audio import mel


def golden_signal():
  n = np.arange(16000)
  x = 0.30 * np.sin(2 * np.pi * 220 * n / 16000)
  x += 0.20 * np.sin(2 * np.pi * 1330 * n / 16000 + 0.5)
  x += 0.05 * np.sin(2 * np.pi * 3770 * n / 16000) * (n > 8000)
  return x.astype(np.float32)


@pytest.fixture(scope='module')
def golden(shared):
  path = shared / 'reference' / 'golden.json'
  return json.loads(path.read_text())['audio']


def speech_like(n, seed=0):
  """Noise whose level alternates between silence and full scale."""
  rng = np.random.default_rng(seed)
  swing = np.sin(np.arange(n) / 3000) ** 8
  return (swing * rng.standard_normal(n) * 0.2).astype(np.float32)


def test_mel_is_the_golden_one(golden):
  mel = audio.log_mel(golden_signal())
  assert list(mel.shape) == golden['mel_shape']
  for column in ('t0', 't1', 't40', 't41', 't60', 't80'):
    expected = golden['mel_reflect'][column]
    np.testing.assert_allclose(mel[::8, int(column[1:])], expected, atol=2e-5)
  assert abs(mel.mean() - golden['mel_reflect']['mean']) < 1e-6
  assert abs(mel.max() - golden['mel_reflect']['max']) < 1e-5


def test_filters_are_the_golden_ones(golden):
  filters = mel.mel_filterbank()
  for row, total in golden['mel_filter_rowsum'].items():
    assert abs(filters[int(row)].sum() - total) < 1e-7
  for row, peak in golden['mel_filter_peak'].items():
    assert abs(filters[int(row)].max() - peak) < 1e-8
  assert ((filters > 0).sum(1) >= 3).all()


def test_mel_agrees_with_librosa():
  librosa = pytest.importorskip('librosa')
  from scipy.signal import lfilter

  wave = speech_like(40000)
  emphasised = lfilter([1, -0.97], [1], wave)
  spectrum = librosa.stft(
    emphasised, n_fft=800, hop_length=200, pad_mode='reflect'
  )
  bank = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
  decibel = 20 * np.log10(np.maximum(1e-5, bank @ np.abs(spectrum))) - 20
  expected = np.clip(8 * (decibel + 100) / 100 - 4, -4, 4)
  np.testing.assert_allclose(audio.log_mel(wave), expected, atol=2e-6)


def test_jax_agrees_to_1e_5():
  for wave in (golden_signal(), speech_like(30000)):
    with jax.enable_x64(True):
      got = audio.log_mel(jnp.asarray(wave), jnp)
    np.testing.assert_allclose(got, audio.log_mel(wave), atol=1e-5)


def test_jax_float32_agrees_where_there_is_sound():
  wave = speech_like(30000)
  expected = audio.log_mel(wave)
  got = jax.jit(lambda w: audio.log_mel(w, jnp))(wave)
  assert np.abs(got - expected)[expected > -3.5].max() < 1e-2


@pytest.mark.parametrize('n', [1, 399, 400, 401, 800, 16000, 16001])
@pytest.mark.parametrize('block', [1, 333, 5000])
def test_stream_equals_whole(n, block, monkeypatch):
  monkeypatch.setattr(mel, 'BLOCK', 1600)
  if block == 1 and n > 1000:
    pytest.skip('sixteen thousand blocks of one sample teach nothing new')
  wave = speech_like(n, seed=n)
  pieces = [wave[i : i + block] for i in range(0, n, block)]
  np.testing.assert_allclose(
    audio.stream_log_mel(pieces), audio.log_mel(wave), atol=1e-6
  )


def test_silence_is_the_floor_and_sound_stays_in_range():
  assert (audio.log_mel(np.zeros(5000, np.float32)) == audio.SILENCE).all()
  loud = audio.log_mel(np.sign(speech_like(5000)).astype(np.float32))
  assert loud.max() <= 4 and loud.min() >= -4


def test_no_sound_is_an_error():
  with pytest.raises(audio.AudioError, match='0 samples'):
    audio.log_mel(np.zeros(0, np.float32))
  with pytest.raises(audio.AudioError, match='0 samples'):
    audio.stream_log_mel([])


def test_channels_that_cancel_are_not_lost():
  left = speech_like(4000)
  both = np.stack([left, -left])
  np.testing.assert_array_equal(audio.to_mono(both), left)
  np.testing.assert_allclose(audio.to_mono(np.stack([left, left])), left)


@pytest.mark.parametrize('rate', [8000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_pitch_and_length(rate):
  n = 2 * rate
  tone = np.sin(2 * np.pi * 440 * np.arange(n) / rate).astype(np.float32)
  blocks = [tone[None, i : i + 1000] for i in range(0, n, 1000)]
  got = np.concatenate(list(audio.resample_blocks(rate, blocks)))
  assert abs(got.size - 32000) <= 1
  assert np.abs(np.fft.rfft(got[:32000])).argmax() == 880
  expected = np.sin(2 * np.pi * 440 * np.arange(got.size) / 16000)
  assert np.abs(got - expected)[500:-500].max() < 2e-3


def test_resampling_agrees_with_librosa():
  librosa = pytest.importorskip('librosa')
  wave = speech_like(44100)
  expected = librosa.resample(
    wave, orig_sr=44100, target_sr=16000, res_type='soxr_hq'
  )
  got = np.concatenate(list(audio.resample_blocks(44100, [wave[None]])))
  n = min(got.size, expected.size)
  np.testing.assert_allclose(got[:n], expected[:n], atol=1e-4)


@pytest.mark.parametrize(
  'samples, fps, count',
  [
    (16000, 25, 22),
    (16000, 30, 26),
    (80000, 25, 122),
    (160000, 25, 247),
    (160000, 30, 296),
    (160000, 29.97, 296),
    (160000, 24, 237),
  ],
)
def test_original_chunk_rule(samples, fps, count):
  total = 1 + samples // 200
  starts = audio.wav2lip_starts(total, fps)
  assert len(starts) == count and starts[-1] == total - 16
  if (samples, fps) == (16000, 25):
    assert starts[:6].tolist() == [0, 3, 6, 9, 12, 16]


def test_original_rule_refuses_short_sound():
  with pytest.raises(audio.AudioError, match='16 mel columns'):
    audio.wav2lip_starts(15, 25)


def test_centered_window_is_frames_minus_two_to_plus_two():
  at_25 = [Fraction(f, 25) for f in range(100)]
  starts = audio.window_starts(at_25)
  expected = [16 * (f - 2) // 5 for f in range(100)]  # floor(3.2 (f - 2))
  assert starts.tolist() == expected


@pytest.mark.parametrize(
  'fps', [Fraction(24000, 1001), 25, Fraction(30000, 1001), 50, 60, 7]
)
def test_window_starts_never_drift(fps):
  times = [i / Fraction(fps) for i in range(0, 90000, 501)]
  starts = audio.window_starts(times, lead=Fraction(0))
  error = np.array([float(80 * t) for t in times]) - starts
  assert (error >= 0).all() and (error < 1).all()


def test_windows_pad_with_silence_on_both_sides():
  mel = np.arange(80 * 20, dtype=np.float32).reshape(80, 20)
  got = audio.mel_windows(mel, np.array([-6, 0, 10, 50]))
  assert got.shape == (4, 80, 16)
  assert (got[0, :, :6] == audio.SILENCE).all()
  np.testing.assert_array_equal(got[0, :, 6:], mel[:, :10])
  np.testing.assert_array_equal(got[1], mel[:, :16])
  assert (got[2, :, 10:] == audio.SILENCE).all()
  assert (got[3] == audio.SILENCE).all()
  on_device = audio.mel_windows(
    jnp.asarray(mel), np.array([-6, 0, 10, 50]), jnp
  )
  np.testing.assert_array_equal(on_device, got)


def test_mfcc_is_the_golden_one(golden):
  samples = np.round(golden_signal().astype(np.float64) * 20000)
  got = audio.mfcc(samples.astype(np.int16))
  assert list(got.shape) == golden['mfcc_shape']
  for row, expected in golden['mfcc'].items():
    np.testing.assert_allclose(got[int(row[1:])], expected, atol=1e-4)
