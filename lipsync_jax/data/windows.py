"""Which frames and mel columns make a training example.

A `WindowSpec` names a kind of example, a `WindowIndex` lists every window that
a split offers for it, and `sample_windows` draws a batch: a few integers a
row. Streaming (`batches`) and the device-resident data set (`device_dataset`)
read the same samples, so they give the same batches. Source: spec section 5.4.

A window is five consecutive frames at 25 frames/s, named by its first frame.

Shapes: n clips of a split, c usable clips, b batch, k windows of an example.
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import Bool, Int

from lipsync_jax import audio
from lipsync_jax.audio import FPS, FRAMES_PER_WINDOW
from lipsync_jax.common.errors import LipSyncError

NUM_UNIFORMS = 14  # uniform numbers that a sample carries for augmentation
PAIR_CANDIDATES = 12  # frame pairs of which `select_most_different` keeps one
SAMPLING_ORDERS = ('clip', 'window', 'speaker')
WindowSample = dict  # arrays by name, numpy or jax
Rows = Int[np.ndarray, 'b']


class WindowError(LipSyncError):
  """A split offers no window for the example that was asked for."""


@dataclasses.dataclass(frozen=True)
class WindowSpec:
  """A kind of training example.

  Attributes:
    frames: target frames; FRAMES_PER_WINDOW consecutive ones, or two single
      frames of a clip whose mouths differ most.
    windows_per_clip: windows of one clip that compete for each other's sound.
    has_reference: each target frame comes with a reference frame.
    shared_mel: the example also holds the mel window that all target frames
      share, which the expert SyncNet takes.
    has_label: the faces belong to the sound or not, and a label says which.
  """

  frames: int = FRAMES_PER_WINDOW
  windows_per_clip: int = 1
  has_reference: bool = False
  shared_mel: bool = False
  has_label: bool = False

  @property
  def is_contrastive(self) -> bool:
    return self.windows_per_clip > 1

  @property
  def is_pair(self) -> bool:
    """Whether single frames are chosen instead of consecutive ones."""
    return self.frames != FRAMES_PER_WINDOW

  @property
  def faces(self) -> int:
    """Target faces of one example."""
    return self.frames * self.windows_per_clip


WINDOW_SPECS = {
  'syncnet': WindowSpec(has_label=True),
  'contrastive': WindowSpec(windows_per_clip=4),
  'generator': WindowSpec(has_reference=True, shared_mel=True),
  'pair': WindowSpec(frames=2, has_reference=True),
}


def arange_along_last(count: int, rank: int) -> Int[np.ndarray, '...']:
  """0, 1, … along the last of `rank` axes; the others have length 1."""
  return np.arange(count, dtype=np.int32).reshape((1,) * (rank - 1) + (-1,))


@dataclasses.dataclass(frozen=True)
class WindowIndex:
  """All windows that a split offers for one kind of example."""

  spec: WindowSpec
  sampling: str  # of SAMPLING_ORDERS
  clips: Int[np.ndarray, 'c']  # number of each usable clip in its data set
  first_frame: int  # at which the first window of any clip starts
  num_starts: Int[np.ndarray, 'c']  # windows of each clip, from `first_frame`
  num_windows: Int[np.ndarray, 'c']  # windows of each clip by frames alone
  speaker_rows: tuple[Int[np.ndarray, '_'], ...]  # rows of `clips` by speaker
  min_offset: int  # frames
  max_offset: int | None  # frames
  cross_clip_probability: float  # [0, 1]

  def __len__(self) -> int:
    """Examples of one epoch."""
    by_window = self.sampling == 'window'
    return int(self.ends[-1]) if by_window else len(self.clips)

  @functools.cached_property
  def ends(self) -> Int[np.ndarray, 'c']:
    """Running count of the windows of all clips."""
    return np.cumsum(self.num_starts)


def index_windows(
  frames: Int[np.ndarray, 'n'],
  mel_columns: Int[np.ndarray, 'n'],
  speakers: Sequence[str],
  spec: WindowSpec,
  *,
  sampling: str = 'clip',
  min_offset: int | None = None,
  max_offset: int | None = None,
  cross_clip_probability: float = 0.0,
  lead: Fraction = audio.CENTERED_LEAD,
  pad_audio: bool = False,
  keep: Bool[np.ndarray, 'n'] | None = None,
) -> WindowIndex:
  """Find the windows of all clips.

  Args:
    frames, mel_columns, speakers: of every clip (`clip.ClipDataset`).
    spec: the kind of example.
    sampling: an epoch is every clip once ('clip', as Wav2Lip draws), every
      window once ('window'), or as many draws as clips with all speakers
      equally often ('speaker').
    min_offset: least distance in frames between a window and its negative or
      reference. None is 3 for SyncNet, since clips may be out of sync by 2, and
      5 for the generator, so that target and reference share no frame. Differs
      from Wav2Lip: 1 there, so the reference could hold four of the five target
      frames (spec 9.1).
    max_offset: greatest such distance; None for no limit.
    cross_clip_probability: share of negatives or references that come from
      another clip.
    lead: seconds, see `audio.CENTERED_LEAD`.
    pad_audio: also take windows whose sound is padded with silence.
    keep: False for clips to leave out, by speaker or confidence for example.

  Raises:
    WindowError: no clip is long enough, or an argument is unknown.
  """
  if min_offset is None:
    min_offset = 5 if spec.has_reference else 3
  _check_arguments(sampling, min_offset, max_offset)
  num_windows = frames - FRAMES_PER_WINDOW + 1
  first, num_starts = _starts_inside(
    num_windows, mel_columns, spec, lead, pad_audio
  )
  # Every window needs a partner at least `min_offset` away on one side.
  room = 2 * min_offset
  if spec.is_contrastive:
    room = (spec.windows_per_clip - 1) * min_offset + 1
    usable = num_starts >= room
  else:
    usable = (num_starts > 0) & (num_windows >= max(room, 1))
  if keep is not None:
    usable &= keep
  clips = np.flatnonzero(usable)
  if not clips.size:
    raise WindowError(
      f'expected clips with at least {room + FRAMES_PER_WINDOW - 1} frames and '
      f'their sound, found {len(frames)} clips, the longest of '
      f'{max(frames, default=0)} frames; build longer clips or lower '
      '--config.data.min_offset'
    )
  names = np.array(speakers)[clips]
  rows = tuple(np.flatnonzero(names == name) for name in np.unique(names))
  return WindowIndex(
    spec=spec,
    sampling=sampling,
    clips=clips,
    first_frame=first,
    num_starts=num_starts[clips],
    num_windows=num_windows[clips],
    speaker_rows=rows,
    min_offset=min_offset,
    max_offset=max_offset,
    cross_clip_probability=cross_clip_probability,
  )


def _check_arguments(
  sampling: str, min_offset: int, max_offset: int | None
) -> None:
  if sampling not in SAMPLING_ORDERS:
    raise WindowError(
      f'expected a sampling order of {SAMPLING_ORDERS}, found {sampling!r}; '
      'set --config.data.sampling'
    )
  if min_offset < 1 or (max_offset is not None and max_offset < min_offset):
    raise WindowError(
      f'expected 1 <= min_offset <= max_offset, found {min_offset} and '
      f'{max_offset} frames; set --config.data.max_offset'
    )


def _starts_inside(
  num_windows: Int[np.ndarray, 'n'],
  mel_columns: Int[np.ndarray, 'n'],
  spec: WindowSpec,
  lead: Fraction,
  pad_audio: bool,
) -> tuple[int, Int[np.ndarray, 'n']]:
  """First start frame, and the number of starts of each clip.

  Unless `pad_audio`, these mel windows lie inside the sound: the one that the
  five frames share, and with references those of the first and last frame.
  """
  first, ends = 0, num_windows
  if not pad_audio:
    ends = np.minimum(ends, _last_frame_inside(mel_columns, Fraction(0)) + 1)
  if not pad_audio and spec.has_reference:
    first = max(0, -int(-FPS * lead // 1))
    last = _last_frame_inside(mel_columns, lead)
    ends = np.minimum(ends, last + 2 - FRAMES_PER_WINDOW)
  return first, np.maximum(ends - first, 0)


def _last_frame_inside(
  mel_columns: Int[np.ndarray, 'n'], lead: Fraction
) -> Int[np.ndarray, 'n']:
  """The last frame whose mel window ends within the sound."""
  # floor(80 (f / 25 - lead)) <= columns - 16, solved for f.
  p, q, rate = lead.numerator, lead.denominator, audio.COLUMNS_PER_SECOND
  over = FPS * ((mel_columns - audio.WINDOW_COLUMNS + 1) * q + rate * p)
  return -(-over // (rate * q)) - 1


def sample_windows(
  items: Int[np.ndarray, 'b'], rng: np.random.Generator, index: WindowIndex
) -> WindowSample:
  """Draw the windows of a batch of examples.

  All rows are drawn at once: row by row in Python, a batch of 160 took 30 to
  50 ms, longer than a training step on an H200.

  Returns:
    clip, frame: int32 `[b]`, the clip in its data set and the window's first
      frame; frames are `[b, k]` for contrastive examples and
      `[b, PAIR_CANDIDATES, 2]` for pairs.
    other_clip, other_frame: int32, clip `[b]` and first frame of the negative
      (or, with label 1, the same) window, or of the reference. Absent for
      contrastive examples; for pairs the frames are `[b, PAIR_CANDIDATES, 2]`.
    label: float32 `[b]`, 1 in sync and 0 out of sync, if `spec.has_label`.
    uniforms: float32 `[b, 14]` in [0, 1), which the augmentation uses.
    seed: int32 `[b]`, of the noise that the augmentation adds.
  """
  count, spec = len(items), index.spec
  row, frame = _sample_positions(index, items, rng)
  sample = {
    'clip': index.clips[row],
    'uniforms': rng.random((count, NUM_UNIFORMS), np.float32),
    'seed': rng.integers(2**31, size=count),
  }
  if spec.is_contrastive:
    sample['frame'] = _sample_spread(index, index.num_starts[row], rng)
  elif spec.is_pair:
    sample |= _sample_pairs(index, row, rng)
  else:
    sample |= {'frame': frame} | _sample_negatives(index, row, frame, rng)
  return {
    name: np.asarray(x, None if name in ('uniforms', 'label') else np.int32)
    for name, x in sample.items()
  }


def select_most_different(sample: dict, opening, xnp: ModuleType = np) -> dict:
  """Keep the frame pair whose two mouths differ most.

  Neighboring frames mostly look alike; these pairs show what the sound does.
  The lip opening is measured beforehand, so that only the selected pictures
  are decoded.

  Args:
    sample: of a pair spec, one row or a batch.
    opening: lip opening at every `frame`, [..., PAIR_CANDIDATES, 2].

  Returns:
    The sample with `frame` and `other_frame` `[..., 2]`.
  """
  difference = xnp.abs(opening[..., 0] - opening[..., 1])
  best = difference.argmax(-1)[..., None, None]
  return sample | {
    name: xnp.take_along_axis(sample[name], best, -2)[..., 0, :]
    for name in ('frame', 'other_frame')
  }


def _sample_positions(
  index: WindowIndex, items: Rows, rng
) -> tuple[Rows, Rows]:
  """Rows of `index.clips`, and the first frames of windows."""
  if index.sampling == 'window':
    row = np.searchsorted(index.ends, items, side='right')
    start = index.ends[row] - index.num_starts[row]
    return row, index.first_frame + items - start
  row = items
  if index.sampling == 'speaker':
    counts = np.array([len(rows) for rows in index.speaker_rows])
    speaker = items % len(counts)
    first = np.cumsum(counts)[speaker] - counts[speaker]
    nth = first + rng.integers(counts[speaker])
    row = np.concatenate(index.speaker_rows)[nth]
  return row, index.first_frame + rng.integers(index.num_starts[row])


def _sample_pairs(index: WindowIndex, row: Rows, rng) -> WindowSample:
  """Candidate frame pairs, and a reference for each frame."""
  starts, windows = (
    x[row][:, None, None] for x in (index.num_starts, index.num_windows)
  )
  shape = len(row), PAIR_CANDIDATES, 2
  frame = index.first_frame + rng.integers(starts, size=shape)
  # Beyond the clip's end the reference continues at its beginning, at least
  # `min_offset` away on either side.
  room = windows - 2 * index.min_offset + 1
  offset = index.min_offset + rng.integers(room, size=shape)
  return {
    'frame': frame,
    'other_clip': index.clips[row],
    'other_frame': (frame + offset) % windows,
  }


def _sample_negatives(
  index: WindowIndex, row: Rows, frame: Rows, rng
) -> WindowSample:
  """Negative windows of SyncNet with labels, or reference windows."""
  other, start = row, _sample_distant(index, frame, index.num_windows[row], rng)
  if index.cross_clip_probability and len(index.clips) > 1:
    step = rng.integers(1, len(index.clips), size=len(row))
    far = (row + step) % len(index.clips)
    moves = rng.random(len(row)) < index.cross_clip_probability
    other = np.where(moves, far, row)
    start = np.where(moves, rng.integers(index.num_windows[far]), start)
  if not index.spec.has_label:
    return {'other_clip': index.clips[other], 'other_frame': start}
  label = rng.integers(2, size=len(row))
  return {
    'other_clip': index.clips[np.where(label, row, other)],
    'other_frame': np.where(label, frame, start),
    'label': label.astype(np.float32),
  }


def _sample_distant(
  index: WindowIndex, frame: Rows, num_windows: Rows, rng
) -> Rows:
  """Windows of the same clips, uniform among those far enough away."""
  near = index.min_offset
  far = index.max_offset
  far = np.full_like(num_windows, far) if far else num_windows
  low = np.maximum(frame - far, 0)  # the first before, then the first after
  high = np.minimum(frame + near, num_windows)
  before = np.maximum(frame - near + 1 - low, 0)
  after = np.maximum(np.minimum(frame + far + 1, num_windows) - high, 0)
  nth = rng.integers(before + after)
  return np.where(nth < before, low + nth, high + nth - before)


def _sample_spread(
  index: WindowIndex, num_starts: Rows, rng
) -> Int[np.ndarray, 'b k']:
  """Windows of one clip at least `min_offset` from one another, shuffled."""
  count, gap = index.spec.windows_per_clip, index.min_offset
  slack = num_starts - (count - 1) * (gap - 1)
  drawn = np.empty((len(num_starts), 0), np.int64)
  for k in range(count):  # the n-th of those that are left
    new = rng.integers(slack - k)
    for before in np.sort(drawn, 1).T:
      new = new + (new >= before)
    drawn = np.concatenate([drawn, new[:, None]], 1)
  rank = drawn.argsort(1).argsort(1)
  return index.first_frame + drawn + rank * (gap - 1)
