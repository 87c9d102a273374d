"""Voices, and sounds that are no voice.

All sounds are mono at 16 kHz with a root mean square of 0.1.

Shapes: n samples.
"""

import functools
import pathlib

import numpy as np
from jaxtyping import Float32

from lipsync_jax import audio
from lipsync_jax.audio import SAMPLE_RATE as RATE
from lipsync_jax.media import audio_reader

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / 'examples/jfk.flac'

LEVEL = 0.1  # root mean square
CHORDS = ((220, 262, 330), (175, 220, 262), (196, 247, 294), (165, 196, 247))

Wave = Float32[np.ndarray, 'n']


@functools.cache
def spoken(path: pathlib.Path = EXAMPLE) -> Wave:
  """The sound of a file, by default words of one speaker."""
  found = audio_reader.probe_audio(path)
  blocks = audio.resample_blocks(found.rate, audio_reader.read_audio(found))
  return scaled(np.concatenate(list(blocks)))


def whispered(wave: Wave, seed: int = 0) -> Wave:
  """A voice without its pitch: noise with the smoothed spectrum of the voice.

  The transform has windows of 32 ms; the spectrum is smoothed over 400 Hz.
  """
  size, hop = 512, 128
  rng = np.random.default_rng(seed)
  padded = np.pad(wave, (size, size))
  starts = np.arange(0, padded.size - size + 1, hop)
  window = np.hanning(size + 1)[:-1]
  frames = padded[starts[:, None] + np.arange(size)] * window
  power = np.abs(np.fft.rfft(frames)) ** 2
  smooth = np.ones(13) / 13
  power = np.stack([np.convolve(row, smooth, 'same') for row in power])
  noise = np.fft.rfft(rng.standard_normal(frames.shape) * window)
  found = np.fft.irfft(noise * np.sqrt(power)) * window
  out = np.zeros(padded.size)
  for start, frame in zip(starts, found, strict=True):
    out[start : start + size] += frame
  return scaled(out[size : size + wave.size])


def scaled(wave: np.ndarray) -> Wave:
  """The sound at LEVEL."""
  return (wave * (LEVEL / np.sqrt(np.mean(wave**2)))).astype(np.float32)


def filtered(wave: np.ndarray, low: float, high: float) -> np.ndarray:
  """The frequencies of a sound between two values in Hz."""
  spectrum = np.fft.rfft(wave)
  hertz = np.fft.rfftfreq(wave.size, 1 / RATE)
  soft = np.clip((hertz - low) / (0.3 * low + 1), 0, 1)
  soft *= np.clip((high - hertz) / (0.3 * high), 0, 1)
  return np.fft.irfft(spectrum * soft, wave.size)


def chords(seconds: float, seed: int = 0) -> Wave:
  """Plucked chords of three notes with overtones, two a second."""
  rng = np.random.default_rng(seed)
  out = np.zeros(round(seconds * RATE))
  for number, first in enumerate(range(0, out.size, RATE // 2)):
    t = np.arange(out.size - first) / RATE
    for note in CHORDS[number // 2 % 4]:
      for overtone in range(1, 7):
        tone = np.sin(2 * np.pi * note * overtone * t + 6.28 * rng.random())
        out[first:] += tone * np.exp(-t * (1.5 + overtone)) / overtone
  return scaled(out)


def organ(seconds: float) -> Wave:
  """Sustained chords with vibrato, which are more like a voice."""
  t = np.arange(round(seconds * RATE)) / RATE
  out = np.zeros(t.size)
  swing = 0.004 * np.sin(2 * np.pi * 5.5 * t) / 5.5
  for number, notes in enumerate(np.array(CHORDS)):
    on = (t // 2 % 4) == number
    for note in notes:
      for overtone in range(1, 9):
        out += on * np.sin(2 * np.pi * note * overtone * (t + swing)) / overtone
  return scaled(out)


def drums(seconds: float, seed: int = 0) -> Wave:
  """A bass drum and a hi-hat, 120 beats a minute."""
  rng = np.random.default_rng(seed)
  out = np.zeros(round(seconds * RATE))
  for number, first in enumerate(range(0, out.size, RATE // 4)):
    t = np.arange(out.size - first) / RATE
    hat = rng.standard_normal(t.size) * np.exp(-t * 60)
    out[first:] += 0.4 * np.diff(hat, prepend=0)
    if number % 2 == 0:
      out[first:] += (
        2 * np.sin(8 * (1 - np.exp(-t * 30)) + 350 * t) * np.exp(-t * 14)
      )
  return scaled(out)


def music(seconds: float, seed: int = 0) -> Wave:
  """Chords and drums."""
  return scaled(chords(seconds, seed) + 0.7 * drums(seconds, seed))


def applause(seconds: float, seed: int = 0) -> Wave:
  """300 claps a second: bursts of filtered noise."""
  rng = np.random.default_rng(seed)
  out = np.zeros(round(seconds * RATE))
  for first in rng.integers(0, out.size, round(300 * seconds)):
    size = min(600, out.size - first)
    burst = np.exp(-np.arange(size) / 60) * rng.lognormal(0, 0.7)
    out[first : first + size] += burst * rng.standard_normal(size)
  return scaled(filtered(out, 700, 3500))


def breath(seconds: float, seed: int = 0) -> Wave:
  """Breaths of 0.8 s, every 2 s: noise from 300 to 4000 Hz."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * RATE)) / RATE
  swell = np.maximum(np.sin(2 * np.pi * t / 2), 0) ** 0.7 * (t % 2 < 0.8)
  noise = filtered(rng.standard_normal(t.size), 300, 4000)
  return scaled(noise * swell + 1e-3 * rng.standard_normal(t.size))


def noise(seconds: float, seed: int = 0) -> Wave:
  """Pink noise whose level swings by 10 dB, as of traffic."""
  rng = np.random.default_rng(seed)
  size = round(seconds * RATE)
  spectrum = np.fft.rfft(rng.standard_normal(size))
  spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1))
  t = np.arange(size) / RATE
  swing = 10 ** (5 * np.sin(2 * np.pi * 0.4 * t + seed) / 20)
  return scaled(np.fft.irfft(spectrum, size) * swing)


def hum(seconds: float) -> Wave:
  """Mains hum of 50 Hz and its overtones."""
  t = np.arange(round(seconds * RATE)) / RATE
  return scaled(
    sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 12)) + 0.0
  )
