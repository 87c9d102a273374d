"""The log-mel of sound that is still being recorded.

The same samples in other chunks give the same bits: every output depends on its
own inputs only, and each is computed alone.

Shapes: n samples, m resampled samples, k taps, t mel columns.
"""

import math

import numpy as np
from jaxtyping import Float, Float32, Int

from lipsync_jax.audio import mel

MIN_RATE, MAX_RATE = 8000, 192_000  # Hz
CROSSINGS = 16  # zero crossings of the filter on either side
CUTOFF = 0.94  # of the lower Nyquist frequency
KAISER_BETA = 9.0  # 90 dB of attenuation
# By which 16 kHz samples may lag behind the input.
RESAMPLING_SECONDS = (CROSSINGS + 1) / MIN_RATE


class Resampler:
  """Mono sound at 16 kHz from chunks at any rate.

  `resampling.resample_blocks` computes in blocks that delay the sound by up to
  0.1 s. This filter delays it by RESAMPLING_SECONDS at most.

  Args:
    rate: Hz, MIN_RATE to MAX_RATE.
  """

  def __init__(self, rate: int):
    common = math.gcd(rate, mel.SAMPLE_RATE)
    self.rate = rate
    self._up, self._down = mel.SAMPLE_RATE // common, rate // common
    self._reach = math.ceil(CROSSINGS * max(1, rate / mel.SAMPLE_RATE))
    self._filters = _polyphase_filters(self._up, rate, self._reach)
    # Zeros before the first sample, as before any sound.
    self._held = np.zeros(self._reach - 1, np.float32)
    self._first = 1 - self._reach  # number of the first held sample
    self._received = self._sent = 0

  def push(self, samples: Float32[np.ndarray, 'n']) -> Float32[np.ndarray, 'm']:
    """The resampled sound that `samples` complete."""
    self._received += len(samples)
    if self.rate == mel.SAMPLE_RATE:
      return samples
    self._held = np.concatenate([self._held, samples])
    # Output j needs inputs up to floor(j down / up) + reach.
    last = self._received - 1 - self._reach
    end = max(((last + 1) * self._up - 1) // self._down + 1, self._sent)
    out = self._compute(np.arange(self._sent, end))
    self._sent = end
    drop = self._sent * self._down // self._up - self._reach + 1 - self._first
    self._held, self._first = self._held[drop:], self._first + drop
    return out

  def finish(self) -> Float32[np.ndarray, 'm']:
    """The rest; the sound is then as long as the input."""
    if self.rate == mel.SAMPLE_RATE:
      return np.zeros(0, np.float32)
    missing = round(self._received * self._up / self._down) - self._sent
    more = np.zeros(2 * self._reach + self._down // self._up + 1, np.float32)
    return self.push(more)[:missing]

  def _compute(self, numbers: Int[np.ndarray, 'm']) -> Float[np.ndarray, 'm']:
    at = numbers * self._down // self._up - self._reach + 1 - self._first
    taps = self._held[at[:, None] + np.arange(2 * self._reach)]
    return (taps * self._filters[numbers * self._down % self._up]).sum(-1)


def _polyphase_filters(
  phases: int, rate: int, reach: int
) -> Float32[np.ndarray, 'p k']:
  """Windowed sinc filters at fractions of an input sample.

  Args:
    phases: of the filters; phase p is p / phases after a sample.
    rate: of the input, Hz.
    reach: input samples on either side.
  """
  apart = np.arange(1 - reach, reach + 1) - np.arange(phases)[:, None] / phases
  cutoff = CUTOFF * min(1, mel.SAMPLE_RATE / rate)
  edge = np.sqrt(np.maximum(1 - (apart / reach) ** 2, 0))
  filters = np.sinc(cutoff * apart) * np.i0(KAISER_BETA * edge)
  return (filters / filters.sum(1, keepdims=True)).astype(np.float32)


class MelStream:
  """`mel.log_mel` of 16 kHz sound that arrives in chunks of any length.

  Column k is complete with sample 200 k + 400.
  """

  def __init__(self):
    self._held = np.zeros(0, np.float64)  # emphasized
    self._last = 0.0
    self._started = False

  def push(
    self, samples: Float32[np.ndarray, 'n']
  ) -> Float32[np.ndarray, 't 80']:
    """The columns that `samples` complete."""
    if not samples.size:
      return np.zeros((0, mel.MELS), np.float32)
    wave = samples.astype(np.float64)
    emphasized = mel.preemphasize(wave, before=self._last)
    self._last = float(wave[-1])
    self._held = np.concatenate([self._held, emphasized])
    half = mel.FFT_SIZE // 2
    if not self._started:
      if self._held.size <= half:
        return np.zeros((0, mel.MELS), np.float32)
      self._held = np.concatenate([self._held[half:0:-1], self._held])
      self._started = True
    return self._take_columns()

  def finish(self) -> Float32[np.ndarray, 't 80']:
    """The last columns, with the end of the sound reflected."""
    half = mel.FFT_SIZE // 2
    if not self._held.size:
      return np.zeros((0, mel.MELS), np.float32)
    tail = (0 if self._started else half, half)
    self._held = np.pad(self._held, tail, mode='reflect')
    return self._take_columns()

  def _take_columns(self) -> Float32[np.ndarray, 't 80']:
    count = max(1 + (self._held.size - mel.FFT_SIZE) // mel.HOP, 0)
    out = np.empty((count, mel.MELS), np.float32)
    for k in range(count):
      # A product of matrices rounds as its shape has it: one at a time.
      first = mel.HOP * k
      part = self._held[first : first + mel.FFT_SIZE]
      out[k] = mel.mel_columns(part)[:, 0]
    self._held = self._held[mel.HOP * count :]
    return out
