"""Log-mel spectrograms, as Wav2Lip computes them (spec 1.1-1.5).

A waveform is mono at 16 kHz in [-1, 1]. A log-mel is `[80, t]` in
[-4, 4], 80 columns a second; column k is centered on sample 200 k.

`log_mel` is written once for numpy and jax (`xnp`). `stream_log_mel` returns
the same columns from blocks of sound, in bounded memory.

Shapes: n samples, t mel columns, m mel bins.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

import numpy as np
from jaxtyping import Float

from lipsync_jax.common.errors import LipSyncError

SAMPLE_RATE = 16000  # Hz
FFT_SIZE = 800  # samples, 50 ms: window and transform length
HOP = 200  # samples, 12.5 ms
MELS = 80  # bins
F_MIN, F_MAX = 55.0, 7600.0  # Hz, edges of the lowest and highest filter
PREEMPHASIS = 0.97
MIN_AMPLITUDE = 1e-5  # floor of the mel amplitude: -100 dB
REFERENCE_DB = 20.0
SPAN_DB = 100.0
SILENCE = -4.0  # value of digital silence on the scale, which is symmetric

COLUMNS_PER_SECOND = SAMPLE_RATE // HOP
assert COLUMNS_PER_SECOND * HOP == SAMPLE_RATE
BLOCK = 10 * SAMPLE_RATE  # samples transformed at once by `stream_log_mel`
NO_SAMPLES = 'expected sound, found 0 samples: check the audio file'


class AudioError(LipSyncError):
  """Sound from which no mel window can be computed."""


def hz_to_mel(hertz):
  """Slaney's mel of a frequency in Hz: linear to 1 kHz, then logarithmic."""
  hertz = np.asarray(hertz, np.float64)
  above = 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4)
  return np.where(hertz < 1000, hertz * 3 / 200, above)


def mel_to_hz(mel):
  """Frequency in Hz of Slaney's mel; the inverse of `hz_to_mel`."""
  mel = np.asarray(mel, np.float64)
  return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


@functools.cache
def mel_filterbank() -> Float[np.ndarray, 'm bins']:
  """Triangular filters of unit area over the 401 FFT bins (spec 1.4)."""
  ends = hz_to_mel(F_MIN), hz_to_mel(F_MAX)
  edges = mel_to_hz(np.linspace(*ends, MELS + 2))
  bins = np.arange(FFT_SIZE // 2 + 1) * (SAMPLE_RATE / FFT_SIZE)
  left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  rise = (bins - left) / (center - left)
  fall = (right - bins) / (right - center)
  filters = np.maximum(0, np.minimum(rise, fall)) * 2 / (right - left)
  return filters.astype(np.float32)  # float32 because librosa's are


def preemphasize(wave, xnp: ModuleType = np, before=0.0):
  """Pre-emphasis y[n] = x[n] - 0.97 x[n - 1].  [n] -> [n]

  Args:
    wave: samples.
    xnp: numpy or jax.numpy.
    before: the sample x[-1] before the first.
  """
  first = xnp.asarray([before], dtype=wave.dtype)
  return wave - PREEMPHASIS * xnp.concatenate([first, wave[:-1]])


def mel_columns(padded, xnp: ModuleType = np):
  """Mel columns of a pre-emphasized signal.  [400 + n + 400] -> [80, t]

  Returns one column per hop whose 800 samples lie within the signal.
  """
  count = 1 + (padded.shape[0] - FFT_SIZE) // HOP
  at = HOP * np.arange(count)[:, None] + np.arange(FFT_SIZE)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SIZE) / FFT_SIZE)
  frames = padded[at] * xnp.asarray(hann[None], dtype=padded.dtype)  # [t, 800]
  magnitude = xnp.abs(xnp.fft.rfft(frames, axis=-1))  # [t, 401]
  filters = xnp.asarray(mel_filterbank(), dtype=magnitude.dtype)
  mel = filters @ magnitude.T  # [80, t]
  decibel = 20 * xnp.log10(xnp.maximum(MIN_AMPLITUDE, mel)) - REFERENCE_DB
  scaled = 8 * (decibel + SPAN_DB) / SPAN_DB - 4
  return xnp.clip(scaled, -4, 4)


def log_mel(wave, xnp: ModuleType = np):
  """Normalized log-mel of a whole waveform.  [n] -> float32 [80, 1 + n // 200]

  Ends are padded by reflection, as librosa <= 0.8 did when the published
  weights were trained; zeros change the first and last two columns by up
  to 3 (spec 1.5). numpy computes in float64, and so does jax under
  `jax.enable_x64`. In float32 the error of jax's FFT reaches 1e-2 in bins
  far below the loudest one of their column (above -3.5 on this scale).

  Raises:
    AudioError: the waveform is empty.
  """
  if wave.shape[0] == 0:
    raise AudioError(NO_SAMPLES)
  wave = wave.astype(np.float64 if xnp is np else xnp.result_type(float))
  emphasized = preemphasize(wave, xnp)
  padded = xnp.pad(emphasized, FFT_SIZE // 2, mode='reflect')
  return mel_columns(padded, xnp).astype(np.float32)


def stream_log_mel(
  blocks: Iterable[Float[np.ndarray, '_']],
  progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, '80 t']:
  """`log_mel` of a waveform that arrives in blocks, in bounded memory.

  Only the mel, 25 kB a second, stays in memory, and only once.

  Args:
    blocks: consecutive samples, 16 kHz mono.
    progress: called with the number of samples read so far.

  Raises:
    AudioError: the blocks hold no sample.
  """
  # A bytearray grows in place. Parts that are joined at the end, or an
  # `ndarray.resize` of NumPy 2.5, would hold the mel twice.
  columns = bytearray()
  for part in _stream_columns(blocks, progress):
    columns.extend(part.T.astype(np.float32).tobytes())
  return np.frombuffer(columns, np.float32).reshape(-1, MELS).T


def _stream_columns(
  blocks: Iterable[Float[np.ndarray, '_']],
  progress: Callable[[int], None] | None,
) -> Iterator[Float[np.ndarray, '80 _']]:
  """Yield the columns of `stream_log_mel`, some seconds at a time."""
  half, total = FFT_SIZE // 2, 0
  held = np.zeros(0, np.float64)  # emphasized, from the next column's start
  last, started = 0.0, False
  for block in blocks:
    if not block.size:
      continue
    held = np.concatenate(
      [held, preemphasize(block.astype(np.float64), before=last)]
    )
    last, total = float(block[-1]), total + block.size
    if not started and held.size > half:
      held, started = np.concatenate([held[half:0:-1], held]), True
    if started and held.size >= BLOCK:
      # The rest is long enough for the reflection at the end.
      count = (held.size - FFT_SIZE) // HOP
      yield mel_columns(held[: HOP * (count - 1) + FFT_SIZE])
      held = held[HOP * count :]
    if progress:
      progress(total)
  if not total:
    raise AudioError(NO_SAMPLES)
  tail = (0 if started else half, half)
  yield mel_columns(np.pad(held, tail, mode='reflect'))
