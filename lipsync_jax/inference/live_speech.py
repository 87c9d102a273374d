"""Coefficients of mouth motion for sound that is still being recorded.

The articulator sees DELAY_SECONDS of sound after the start of a frame, where
the network's context is 0.6 s. The last column is repeated REPEATED times,
which was the best of the measured substitutes (docs/api.md, Live). The window
of a frame depends on its number only, so chunks of any length give the same
bits.

Shapes: n samples, t mel columns, c coefficients.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float32

from lipsync_jax import audio
from lipsync_jax.audio import incremental, noise_gate
from lipsync_jax.inference.options import SyncError
from lipsync_jax.models import articulator
from lipsync_jax.rendering import mesh_renderer

DELAY_SECONDS = 0.25  # sound after the start of a frame that the frame needs
COLUMN_SECONDS = audio.FFT_SIZE / 2 / audio.SAMPLE_RATE  # right of its center
WINDOW = 80  # columns of a frame: the network's 64, and those to the right
REPEATED = 8  # columns
GATE_TAIL = 14  # columns: speech after a shorter pause passes whole
GATE_REACH = GATE_TAIL + noise_gate.RAMP_COLUMNS


class LiveSpeech:
  """Coefficients of one frame after the other, from chunks of sound.

  Args:
    predict: of `articulator.build_articulator`.
    rate: samples/s of the sound.
    fps: frames/s.
    gated: replace faint noise in pauses by silence.
  """

  def __init__(
    self, predict: Callable, rate: int, fps: Fraction, gated: bool = True
  ):
    self.rate, self.fps = rate, fps
    self.samples = 0  # received
    self.frames = 0  # given
    self.finished = False
    self._predict, self._gated = predict, gated
    self._resampler = incremental.Resampler(rate)
    self._mel = incremental.MelStream()
    self._gate = noise_gate.RunningGate()
    # Silence before the first column, as in the network's offline use.
    self._first = -(WINDOW + GATE_REACH)  # number of the first held column
    self._columns = [np.full(audio.MELS, audio.SILENCE, np.float32)] * (
      WINDOW + GATE_REACH
    )
    self._speech = [False] * (WINDOW + GATE_REACH)

  def push(self, samples: np.ndarray) -> None:
    """Take a chunk: int16 or floats in [-1, 1], mono.

    Raises:
      SyncError: another type or shape, or the sound has ended.
    """
    if self.finished:
      raise SyncError(
        'push: expected a stream that is open, found a finished one; open '
        'another with session.stream'
      )
    wave = as_wave(samples)
    self.samples += len(wave)
    self._append(self._mel.push(self._resampler.push(wave)))

  def finish(self) -> None:
    """Take the end of the sound; silence follows it."""
    if self.finished:
      return
    self.finished = True
    self._append(self._mel.push(self._resampler.finish()))
    self._append(self._mel.finish())

  @property
  def total(self) -> int:
    """Frames of the sound so far, as a finished stream has them."""
    return round(Fraction(self.samples, self.rate) * self.fps)

  def ready(self) -> Iterator[tuple[Float32[np.ndarray, 'c'], bool]]:
    """The coefficients of the frames that are complete.

    Yields:
      The unscaled coefficients of the next frame, and whether any of its
      window is speech.
    """
    while not self.finished or self.frames < self.total:
      end = window_end(self.frames, self.fps)
      missing = end - self._first - len(self._columns)
      if missing > 0 and not self.finished:
        return
      silence = np.full((max(missing, 0), audio.MELS), audio.SILENCE)
      self._append(silence.astype(np.float32))
      window = self._window(end)
      number = self.frames
      self.frames += 1
      self._drop(window_end(self.frames, self.fps))
      heard = bool(window.max() > audio.SILENCE)
      yield self._coefficients(window, end, number), heard

  def _append(self, columns: Float32[np.ndarray, 't 80']) -> None:
    for column in columns:
      self._columns.append(column)
      self._speech.append(self._gate.push(column))

  def _drop(self, end: int) -> None:
    """Forget the columns before the window that ends at `end`."""
    count = end - WINDOW - GATE_REACH - self._first
    if count > 0:
      del self._columns[:count], self._speech[:count]
      self._first += count

  def _window(self, end: int) -> Float32[np.ndarray, 't 80']:
    """The gated columns before number `end`."""
    at = end - self._first
    window = np.stack(self._columns[at - WINDOW : at])
    if not self._gated:
      return window
    speech = np.array(self._speech[at - WINDOW - GATE_REACH : at])
    share = noise_gate.open_share(speech, GATE_TAIL)[-WINDOW:, None]
    share = share.astype(np.float32)
    return audio.SILENCE + share * (window - np.float32(audio.SILENCE))

  def _coefficients(
    self, window: Float32[np.ndarray, 't 80'], end: int, number: int
  ) -> Float32[np.ndarray, 'c']:
    mel = np.concatenate([window, np.repeat(window[-1:], REPEATED, 0)])
    steps = self._predict(mel[None])[0]
    middle = float((number + Fraction(1, 2)) / self.fps)
    seconds = middle + mesh_renderer.LEAD_SECONDS
    seconds -= (end - WINDOW) / audio.COLUMNS_PER_SECOND
    position = articulator.step_positions(np.array([seconds]))
    return articulator.interpolate(steps, position)[0]

  def warm_up(self) -> None:
    """Compile the network for the window."""
    shape = (1, WINDOW + REPEATED, audio.MELS)
    self._predict(np.full(shape, audio.SILENCE, np.float32))


def window_end(number: int, fps: Fraction) -> int:
  """The mel column before which the window of a frame ends; even.

  Its last column is complete DELAY_SECONDS after the start of the frame.
  """
  heard = float(number / fps) + DELAY_SECONDS
  heard -= COLUMN_SECONDS + incremental.RESAMPLING_SECONDS
  count = math.floor(heard * audio.COLUMNS_PER_SECOND) + 1
  return count // articulator.STEP_COLUMNS * articulator.STEP_COLUMNS


def as_wave(samples: np.ndarray) -> Float32[np.ndarray, 'n']:
  """A chunk as floats; NaN and infinity become 0.

  Raises:
    SyncError: not int16 or floats, or not of one axis.
  """
  known = isinstance(samples, np.ndarray) and (
    samples.dtype == np.int16 or samples.dtype.kind == 'f'
  )
  if not known or samples.ndim != 1:
    found = type(samples).__name__
    if isinstance(samples, np.ndarray):
      found = f'{samples.dtype} of shape {samples.shape}'
    raise SyncError(
      'push: expected mono samples [n], int16 or floats in [-1, 1], found '
      f'{found}; convert them with astype, or take one channel'
    )
  if samples.dtype == np.int16:
    return audio.int16_to_float(samples)
  wave = samples.astype(np.float32)
  return np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0)
