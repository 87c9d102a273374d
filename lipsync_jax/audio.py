"""From sound to the mel windows that drive the lips.

A waveform is mono at 16 kHz in [-1, 1]. A log-mel is `[80, t]` in
[-4, 4], 80 columns a second, column k centred on sample 200 k. A video
frame shown at time `t` is driven by 16 columns, 200 ms.

`log_mel` is written once for numpy and jax (`xnp`); host code that must
not hold an hour of sound streams through `mel_stream`, which gives the
same columns. Source: spec sections 1.1-1.7 of Wav2Lip's `audio.py`.

Alphabet: n samples, t mel columns, m mel bins, s columns of a window.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int

SAMPLE_RATE = 16000  # Hz
FFT = 800  # samples, 50 ms: window and transform length
HOP = 200  # samples, 12.5 ms
MELS = 80  # bins
LOW, HIGH = 55.0, 7600.0  # Hz, edges of the lowest and highest filter
PREEMPHASIS = 0.97
FLOOR = 1e-5  # amplitude; 20 log10 of it is the -100 dB of the scale
REFERENCE_DB = 20.0
SPAN_DB = 100.0
SILENCE = -4.0  # what digital silence maps to; the scale is symmetric

COLUMNS_PER_SECOND = SAMPLE_RATE // HOP
assert COLUMNS_PER_SECOND * HOP == SAMPLE_RATE
BLOCK = 10 * SAMPLE_RATE  # samples transformed at once by `mel_stream`
ROOM = 2**17  # columns, 27 minutes, for which `mel_stream` takes an address
WINDOW = 16  # columns driving one frame: 200 ms, five frames at 25 frames/s

# How long before a frame is shown its window starts. With CENTRED the
# frame is the third of the five that a window spans at 25 frames/s. The
# public training code of Wav2Lip is one frame off that, and its inference
# starts the window with the frame, so its lips lead the sound (spec 1.7).
CENTRED = Fraction(2, 25)
WAV2LIP_TRAINING = Fraction(1, 25)
WAV2LIP_INFERENCE = Fraction(0)


class AudioError(ValueError):
  """Sound that cannot drive lips; the message says what to do."""


def mono(block: Float[np.ndarray, 'c n']) -> Float[np.ndarray, 'n']:
  """Mix channels to one.

  The mean, as librosa has it, unless the channels cancel (left = -right,
  a common recording fault): then the loudest channel, so that it is heard.
  """
  block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
  mean = block.mean(0)
  powers = np.square(block).mean(1) if block.shape[1] else block[:, 0]
  if block.shape[0] > 1 and np.square(mean).mean() < 1e-3 * powers.max():
    return block[powers.argmax()].astype(np.float32)
  return mean.astype(np.float32)


def resampled(
  rate: int, blocks: Iterable[Float[np.ndarray, '_ _']]
) -> Iterator[Float[np.ndarray, '_']]:
  """Mono 16 kHz from blocks at `rate` Hz, streamed.

  soxr at its high quality, as librosa >= 0.10 resamples; sound that is
  already at 16 kHz passes through untouched.
  """
  if rate == SAMPLE_RATE:
    for block in blocks:
      yield mono(block)
    return
  import soxr

  stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype='float32')
  for block in blocks:
    out = stream.resample_chunk(mono(block))
    if out.size:
      yield out
  tail = stream.resample_chunk(np.zeros(0, np.float32), last=True)
  if tail.size:
    yield tail


def to_mel_scale(hertz):
  """Slaney's mel of a frequency in Hz: linear to 1 kHz, then log."""
  hertz = np.asarray(hertz, np.float64)
  above = 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4)
  return np.where(hertz < 1000, hertz * 3 / 200, above)


def to_hertz(mel):
  """Inverse of `to_mel_scale`."""
  mel = np.asarray(mel, np.float64)
  return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


@functools.cache
def mel_filters() -> Float[np.ndarray, 'm bins']:
  """Triangular filters of unit area over the 401 FFT bins (spec 1.4)."""
  ends = to_mel_scale(LOW), to_mel_scale(HIGH)
  edges = to_hertz(np.linspace(*ends, MELS + 2))
  bins = np.arange(FFT // 2 + 1) * (SAMPLE_RATE / FFT)
  left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  rise = (bins - left) / (centre - left)
  fall = (right - bins) / (right - centre)
  filters = np.maximum(0, np.minimum(rise, fall)) * 2 / (right - left)
  return filters.astype(np.float32)  # float32 because librosa's are


def preemphasised(wave, xnp: ModuleType = np, before=0.0):
  """y[n] = x[n] - 0.97 x[n - 1]; `before` is x[-1].  [n] -> [n]"""
  first = xnp.asarray([before], dtype=wave.dtype)
  return wave - PREEMPHASIS * xnp.concatenate([first, wave[:-1]])


def columns(padded, xnp: ModuleType = np):
  """Mel columns of a pre-emphasised signal.  [400 + n + 400] -> [80, t]

  One column per hop for which all 800 samples are there.
  """
  count = 1 + (padded.shape[0] - FFT) // HOP
  at = HOP * np.arange(count)[:, None] + np.arange(FFT)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
  frames = padded[at] * xnp.asarray(hann[None], dtype=padded.dtype)  # [t, 800]
  magnitude = xnp.abs(xnp.fft.rfft(frames, axis=-1))  # [t, 401]
  filters = xnp.asarray(mel_filters(), dtype=magnitude.dtype)
  mel = filters @ magnitude.T  # [80, t]
  decibel = 20 * xnp.log10(xnp.maximum(FLOOR, mel)) - REFERENCE_DB
  scaled = 8 * (decibel + SPAN_DB) / SPAN_DB - 4
  return xnp.clip(scaled, -4, 4)


def log_mel(wave, xnp: ModuleType = np):
  """Normalised log-mel of a whole waveform.  [n] -> float32 [80, 1 + n // 200]

  Ends are padded by reflection, as librosa <= 0.8 did when the published
  weights were trained; zeros change the first and last two columns by up
  to 3 (spec 1.5). numpy computes in float64. So does jax under
  `jax.enable_x64`; in float32 its FFT noise shows where a column is far
  below its loudest bin (up to 1e-2 above -3.5 on this scale).
  """
  if wave.shape[0] == 0:
    raise AudioError('expected sound, found 0 samples: check the audio file')
  wave = wave.astype(np.float64 if xnp is np else xnp.result_type(float))
  emphasised = preemphasised(wave, xnp)
  padded = xnp.pad(emphasised, FFT // 2, mode='reflect')
  return columns(padded, xnp).astype(np.float32)


def mel_stream(
  blocks: Iterable[Float[np.ndarray, '_']],
  progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, '80 t']:
  """`log_mel` of a waveform that arrives in blocks, in bounded memory.

  Only the mel (25 kB a second) is kept, once, as columns that follow each
  other. `progress` hears the samples read.
  """
  # One block from the start, which costs what is written to it: parts that
  # are joined at the end are there twice and leave holes in the heap.
  mel, count = np.empty((ROOM, MELS), np.float32), 0
  for part in _mel_blocks(blocks, progress):
    first, count = count, count + part.shape[1]
    if count > len(mel):
      mel.resize((count + len(mel) // 16, MELS), refcheck=False)
    mel[first:count] = part.T
  mel.resize((count, MELS), refcheck=False)
  return mel.T


def _mel_blocks(
  blocks: Iterable[Float[np.ndarray, '_']],
  progress: Callable[[int], None] | None,
) -> Iterator[Float[np.ndarray, '80 _']]:
  """The columns of `mel_stream`, some seconds at a time."""
  half, total = FFT // 2, 0
  held = np.zeros(0, np.float64)  # emphasised, from the next column's start
  last, started = 0.0, False
  for block in blocks:
    if not block.size:
      continue
    held = np.concatenate(
      [held, preemphasised(block.astype(np.float64), before=last)]
    )
    last, total = float(block[-1]), total + block.size
    if not started and held.size > half:
      held, started = np.concatenate([held[half:0:-1], held]), True
    if started and held.size >= BLOCK:
      # Keep enough behind for the reflection at the end.
      count = (held.size - FFT) // HOP
      yield columns(held[: HOP * (count - 1) + FFT])
      held = held[HOP * count :]
    if progress:
      progress(total)
  if not total:
    raise AudioError('expected sound, found 0 samples: check the audio file')
  tail = (0 if started else half, half)
  yield columns(np.pad(held, tail, mode='reflect'))


def window_starts(
  times: Iterable[Fraction], lead: Fraction = CENTRED
) -> Int[np.ndarray, 'f']:
  """First mel column of the window of a frame shown at each time (seconds).

  Exact: floor(80 (time - lead)). May be negative or past the end, where
  `windows` finds silence, so that every frame of a video has a window.
  """
  starts = ((COLUMNS_PER_SECOND * (t - lead)) // 1 for t in times)
  return np.fromiter((int(s) for s in starts), np.int64)


def wav2lip_starts(total: int, fps: float | int) -> Int[np.ndarray, 'f']:
  """Window starts of the original inference (spec 1.6), for `--compat`.

  Frames stop about 0.13 s before the sound does: the last window is the
  last 16 columns of `total`.
  """
  if total < WINDOW:
    raise AudioError(
      f'expected at least {WINDOW} mel columns (0.19 s) in the original '
      f'convention, found {total}: use longer audio or leave --compat off'
    )
  step, starts = float(COLUMNS_PER_SECOND) / fps, []
  while int(len(starts) * step) + WINDOW <= total:
    starts.append(int(len(starts) * step))
  return np.array([*starts, total - WINDOW], np.int64)


def windows(mel, starts, xnp: ModuleType = np):
  """Gather windows, silence outside.  [80, t], [f] -> [f, 80, 16]"""
  at = xnp.asarray(starts)[:, None] + np.arange(WINDOW)[None]  # [f, s]
  inside = (at >= 0) & (at < mel.shape[1])
  found = mel[:, xnp.clip(at, 0, mel.shape[1] - 1)]  # [80, f, s]
  found = xnp.where(inside[None], found, xnp.asarray(SILENCE, mel.dtype))
  return found.transpose(1, 0, 2)


def mfcc(samples: Int[np.ndarray, 'n']) -> Float[np.ndarray, 't 13']:
  """MFCC by which SyncNet v2 hears: 100 rows a second (spec 8.2).

  `samples` are 16-bit values at 16 kHz, unscaled. 25 ms frames, no window
  function, 26 HTK triangles to 8 kHz, DCT-II, lifter 22; coefficient 0 is
  the log of the frame's energy.
  """
  size, hop, bands, length = 400, 160, 26, 512
  x = preemphasised(samples.astype(np.float64))
  count = 1 + max(0, -(-(x.size - size) // hop))
  x = np.pad(x, (0, (count - 1) * hop + size - x.size))
  frames = x[hop * np.arange(count)[:, None] + np.arange(size)]
  power = np.square(np.abs(np.fft.rfft(frames, length))) / length
  tiny = np.finfo(float).eps

  def floored(v):
    return np.log(np.where(v == 0, tiny, v))

  ends = 2595 * np.log10(1 + np.array([0, SAMPLE_RATE / 2]) / 700)
  hertz = 700 * (10 ** (np.linspace(*ends, bands + 2) / 2595) - 1)
  edges = np.floor((length + 1) * hertz / SAMPLE_RATE)
  k = np.arange(length // 2 + 1)
  left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  rise, fall = (k - left) / (centre - left), (right - k) / (right - centre)
  filters = np.where(k < centre, rise, fall) * ((k >= left) & (k < right))
  energies = floored(power @ filters.T)
  n = np.arange(13)
  basis = np.cos(np.pi * n[:, None] * (2 * np.arange(bands) + 1) / (2 * bands))
  gain = np.where(n == 0, np.sqrt(1 / bands), np.sqrt(2 / bands))
  out = energies @ (gain[:, None] * basis).T * (1 + 11 * np.sin(np.pi * n / 22))
  out[:, 0] = floored(power.sum(1))
  return out
