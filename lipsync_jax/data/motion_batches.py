"""Batches that train the articulator: windows of sound with mouth motion.

A window is WINDOW_FRAMES frames at 25 frames/s with the log-mel around them.
Order and randomness are functions of (seed, number of the batch) alone, as in
`sampler`. Augmentation changes the voice and the tempo, and replaces some
windows by silence with closed lips.

Shapes: b batch, f frames and t mel columns of a window, n coefficients.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax import audio
from lipsync_jax.data import augmentation
from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.data.motion import MotionDataset, MotionError

WINDOW_FRAMES = 32
CONTEXT = 64  # mel columns on either side of the window
COLUMNS_PER_FRAME = audio.COLUMNS_PER_SECOND / audio.FPS
FRAME_CENTER = 0.5  # frames: the middle of the time a frame is shown
NOISE_LEVELS = (-3.8, -1.5)  # of the log-mel of synthetic silence
MAX_VALIDATION_FRAMES = 250  # of a clip; data_prep cuts longer ones

Batch = dict  # arrays by name


@dataclasses.dataclass(frozen=True)
class MotionAugmentation:
  """Changes of a window. Zero leaves a property as it is.

  Attributes:
    gain: dB louder or softer, at most.
    vtlp: relative stretch of the spectrum, at most.
    tempo: relative change of the speed of sound and motion, at most.
    noise: probability of a noise floor.
    neighbor: probability that sound of another clip surrounds the clip.
    silence: share of the windows that are synthetic silence.
    time_mask: mel columns set to silence, at most.
    frequency_mask: neighboring mel bins set to silence, at most.
  """

  gain: float = 6.0
  vtlp: float = 0.1
  tempo: float = 0.1
  noise: float = 0.5
  neighbor: float = 0.5
  silence: float = 0.1
  time_mask: int = 0
  frequency_mask: int = 0

  @property
  def voice(self) -> Augmentation:
    """The part that `augmentation.perturb_voice` applies."""
    return Augmentation(gain=self.gain, vtlp=self.vtlp)


# Windows as they are.
NO_CHANGE = MotionAugmentation(
  **dict.fromkeys(
    (field.name for field in dataclasses.fields(MotionAugmentation)), 0
  )
)


def window_columns(frames: int) -> int:
  """Mel columns of a window with its context, a whole number of steps."""
  columns = int(np.ceil(frames * COLUMNS_PER_FRAME)) + 2 * CONTEXT
  return columns + columns % 2


def frame_times(count: int) -> Float32[np.ndarray, 'f']:
  """Seconds of the frames of a window from its first mel column."""
  times = (np.arange(count) + FRAME_CENTER) / audio.FPS
  return (times + CONTEXT / audio.COLUMNS_PER_SECOND).astype(np.float32)


def _stack(rows: Iterable[Batch]) -> Batch:
  rows = list(rows)
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _lerp_rows(
  rows: Float[np.ndarray, 'm k'],
  places: Float[np.ndarray, 't'],
  low: int,
  high: int,
) -> Float[np.ndarray, 't k']:
  """Rows `low` to `high` of an array at fractional places; edges repeat."""
  place = np.clip(places + low, low, high - 1)
  below = np.floor(place).astype(np.int64)
  above = np.minimum(below + 1, high - 1)
  share = (place - below)[:, None].astype(np.float32)
  return rows[below] * (1 - share) + rows[above] * share


@dataclasses.dataclass(frozen=True)
class MotionSampler:
  """This process's rows of every global batch, a source for grain.

  Args:
    dataset: of the training split.
    batch: windows of a global batch.
    seed: of the order and of the augmentation.
    change: the augmentation.
    by_speaker: share of the windows whose speaker is drawn evenly.
    process: index and count.

  Raises:
    MotionError: `batch` is not a multiple of the process count.
  """

  dataset: MotionDataset
  batch: int
  seed: int = 0
  change: MotionAugmentation = NO_CHANGE
  by_speaker: float = 0.5
  process: tuple[int, int] = (0, 1)

  def __post_init__(self):
    if self.batch % self.process[1]:
      raise MotionError(
        f'expected a batch that {self.process[1]} processes can share, found '
        f'{self.batch}; choose a multiple'
      )

  def __len__(self) -> int:
    return sys.maxsize // (2 * self.batch)

  def __getitem__(self, number: int) -> Batch:
    """The rows of batch `number`."""
    count = self.batch // self.process[1]
    first = self.process[0] * count
    return _stack(
      self._row(np.random.default_rng([self.seed, int(number), row]))
      for row in range(first, first + count)
    )

  def _row(self, rng: np.random.Generator) -> Batch:
    data, change = self.dataset, self.change
    clip = self._choose_clip(rng)
    tempo = 1 + change.tempo * rng.uniform(-1, 1)
    length = int(data.lengths[clip])
    span = WINDOW_FRAMES * tempo
    start = rng.uniform(0, max(length - span, 0))
    start = np.floor(start) if not change.tempo else start
    frames = start + np.arange(WINDOW_FRAMES) * tempo
    row = window_motion(data, clip, frames)
    columns = window_columns(WINDOW_FRAMES)
    first = (start + FRAME_CENTER * (1 - tempo)) * COLUMNS_PER_FRAME
    places = first + (np.arange(columns) - CONTEXT) * tempo
    neighbor = rng.random() < change.neighbor
    other = int(rng.integers(len(data))) if neighbor else None
    row['mel'] = window_mel(data, clip, places, other)
    row['times'] = frame_times(WINDOW_FRAMES)
    if rng.random() < change.silence:
      row = silenced(row, rng)
    else:
      row['mel'] = perturbed(row['mel'], change, rng)
    row['seed'] = rng.integers(2**31, dtype=np.int32)
    return row

  def _choose_clip(self, rng: np.random.Generator) -> int:
    data = self.dataset
    if rng.random() < self.by_speaker:
      speaker = rng.integers(len(data.names))
      return int(rng.choice(np.flatnonzero(data.speakers == speaker)))
    return int(rng.integers(len(data)))


def window_motion(
  data: MotionDataset, clip: int, frames: Float[np.ndarray, 'f']
) -> Batch:
  """Coefficients and gaps of a clip at fractional frame numbers."""
  low, high = data.frames[clip : clip + 2].tolist()
  speaker = data.speakers[clip]
  inside = frames <= high - low - 1
  near = np.clip(np.rint(frames) + low, low, high - 1).astype(np.int64)
  return {
    'clip': np.int32(clip),
    'speaker': np.int32(speaker),
    'coefficients': _lerp_rows(data.coefficients, frames, low, high),
    'gaps': _lerp_rows(data.gaps, frames, low, high),
    'neutral_gaps': data.neutral_gaps[speaker],
    'valid': inside.astype(np.float32),
    'speech': (inside & data.speech[near]).astype(np.float32),
  }


def window_mel(
  data: MotionDataset,
  clip: int,
  places: Float[np.ndarray, 't'],
  other: int | None = None,
) -> Float[np.ndarray, 't 80']:
  """The log-mel of a clip at fractional columns.

  Columns outside are silence, or sound of another clip.
  """
  low, high = data.columns[clip : clip + 2].tolist()
  mel = _lerp_rows(data.mel, places, low, high)
  before, after = places < 0, places > high - low - 1
  if other is None:
    mel[before | after] = audio.SILENCE
    return mel.astype(np.float32)
  start, end = data.columns[other : other + 2].tolist()
  size = end - start
  if before.any():
    mel[before] = data.mel[start + (np.rint(places[before]) % size).astype(int)]
  if after.any():
    ahead = np.rint(places[after] - (high - low)) % size
    mel[after] = data.mel[start + ahead.astype(int)]
  return mel.astype(np.float32)


def perturbed(
  mel: Float[np.ndarray, 't 80'],
  change: MotionAugmentation,
  rng: np.random.Generator,
) -> Float[np.ndarray, 't 80']:
  """A log-mel with another voice, loudness, noise floor, and a masked gap."""
  uniforms = rng.random(augmentation.windows.NUM_UNIFORMS)
  mel = augmentation.perturb_voice(mel.T[None], change.voice, uniforms)[0].T
  if rng.random() < change.noise:
    mel = np.maximum(mel, noise_floor(len(mel), rng))
  width = int(rng.integers(change.time_mask + 1))
  if width:
    start = int(rng.integers(len(mel) - width + 1))
    mel[start : start + width] = audio.SILENCE
  height = int(rng.integers(change.frequency_mask + 1))
  if height:
    low = int(rng.integers(audio.MELS - height + 1))
    mel[:, low : low + height] = audio.SILENCE
  return mel.astype(np.float32)


def noise_floor(
  columns: int, rng: np.random.Generator
) -> Float[np.ndarray, 't 80']:
  """The log-mel of steady noise with a random level and slope."""
  level = rng.uniform(*NOISE_LEVELS)
  slope = rng.uniform(-1.0, 0.3) * np.linspace(0, 1, audio.MELS)
  noise = rng.normal(0, 0.2, (columns, audio.MELS))
  return np.clip(level + slope + noise, audio.SILENCE, -audio.SILENCE)


def silenced(row: Batch, rng: np.random.Generator) -> Batch:
  """The row with a noise floor instead of sound, and closed lips."""
  mel = np.full_like(row['mel'], audio.SILENCE)
  if rng.random() < 0.7:
    mel = noise_floor(len(mel), rng).astype(np.float32)
  return row | {
    'mel': mel,
    'coefficients': np.zeros_like(row['coefficients']),
    'gaps': np.tile(row['neutral_gaps'], (len(row['gaps']), 1)),
    'valid': np.ones_like(row['valid']),
    'speech': np.zeros_like(row['speech']),
  }


@dataclasses.dataclass(frozen=True)
class MotionClips:
  """Whole clips of the validation split, padded, a source for grain.

  The rows that fill up the last batch have `mask` 0.
  """

  dataset: MotionDataset
  batch: int
  process: tuple[int, int] = (0, 1)

  @functools.cached_property
  def frames(self) -> int:
    """Frames of the longest clip."""
    return int(min(self.dataset.lengths.max(), MAX_VALIDATION_FRAMES))

  def __len__(self) -> int:
    return -(-len(self.dataset) // self.batch)

  def __getitem__(self, number: int) -> Batch:
    count = self.batch // self.process[1]
    first = int(number) * self.batch + self.process[0] * count
    return _stack(self._row(i) for i in range(first, first + count))

  def _row(self, item: int) -> Batch:
    data, count = self.dataset, self.frames
    clip = min(item, len(data) - 1)
    row = window_motion(data, clip, np.arange(count, dtype=np.float64))
    places = np.arange(window_columns(count), dtype=np.float64) - CONTEXT
    row['mel'] = window_mel(data, clip, places)
    return row | {
      'times': frame_times(count),
      'seed': np.int32(0),
      'mask': np.float32(item < len(data)),
    }
