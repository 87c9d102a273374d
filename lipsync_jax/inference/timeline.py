"""Which source frame is shown when: the time line of the output.

Pure. Times are exact seconds (`Fraction`) from the first frame. The
output keeps the source's own time stamps, variable rate included, and is
as long as the sound to within half a frame.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int, Int64

from lipsync_jax.common.errors import LipSyncError

# What to do when the sound outlasts the video, and the other way round.
AUDIO_LONGER = ('bounce', 'loop', 'hold', 'cut')
VIDEO_LONGER = ('cut', 'keep')
MAX_TIME_BASE = 2**40  # units a second; 64 bits then count for three months


class TimelineError(LipSyncError):
  """Nothing to show; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class OutputFrame:
  """Source frame `index` is shown from `time` for `length` seconds.

  `spoken` is false where the sound has ended and the source goes on.
  """

  time: Fraction
  length: Fraction
  index: int
  spoken: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class PackedTimes(Sequence):
  """Exact seconds in 8 bytes each; reads like a list of `Fraction`.

  As objects the times of an hour of video are some 10 MB.
  """

  counts: Int64[np.ndarray, 'n']
  unit: Fraction  # seconds

  def __len__(self) -> int:
    return len(self.counts)

  def __getitem__(self, at):
    if isinstance(at, slice):
      return PackedTimes(self.counts[at], self.unit)
    return int(self.counts[at]) * self.unit


@dataclasses.dataclass(frozen=True, eq=False)
class PackedSchedule(Sequence):
  """A time line in 25 bytes a frame; reads like a list of `OutputFrame`."""

  times: PackedTimes
  lengths: PackedTimes
  indices: Int[np.ndarray, 'n']
  spoken: Bool[np.ndarray, 'n']

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, at):
    columns = (self.times, self.lengths, self.indices, self.spoken)
    found = (column[at] for column in columns)
    if isinstance(at, slice):
      return PackedSchedule(*found)
    time, length, index, spoken = found
    return OutputFrame(time, length, int(index), bool(spoken))


def pack_times(times: Sequence[Fraction]) -> Sequence[Fraction]:
  """The same times as `PackedTimes`, or as they are where no unit fits."""
  unit = _common_unit(times)
  if unit is None:
    return times
  counts = np.fromiter((int(t / unit) for t in times), np.int64, len(times))
  return PackedTimes(counts, unit)


def pack_schedule(
  shows: Iterable[OutputFrame], times: Sequence[Fraction], rate: Fraction
) -> Sequence[OutputFrame]:
  """The time line as `PackedSchedule`, or as a list where no unit of time fits.

  Args:
    shows: made of frames at `times` and at `rate`.
  """
  unit = _common_unit(itertools.chain(times, [1 / rate]))
  if unit is None:
    return list(shows)
  kinds = [('time', 'i8'), ('length', 'i8'), ('index', 'i8'), ('spoken', '?')]
  # Row by row, so that the objects never exist all at once.
  rows = np.fromiter(
    (
      (int(s.time / unit), int(s.length / unit), s.index, s.spoken)
      for s in shows
    ),
    kinds,
  )
  time, length, index, spoken = (rows[name].copy() for name, _ in kinds)
  return PackedSchedule(
    PackedTimes(time, unit), PackedTimes(length, unit), index, spoken
  )


def _common_unit(times: Iterable[Fraction]) -> Fraction | None:
  """The longest that all times are whole numbers of; None if too short."""
  parts = math.lcm(*{time.denominator for time in times})
  return Fraction(1, parts) if parts <= MAX_TIME_BASE else None


def frame_durations(
  times: Sequence[Fraction], rate: Fraction
) -> list[Fraction]:
  """How long each frame is shown; the last one as long as `rate` says."""
  gaps = [b - a for a, b in itertools.pairwise(times)]
  return [*gaps, 1 / rate]


def play_order(count: int, mode: str) -> Iterator[int]:
  """Frame indices in the order played once the sound is that long.

  `bounce` walks back and forth without doubling the end frames, so that
  nothing jumps; `loop` jumps back to the start, as Wav2Lip does.
  """
  yield from range(count)
  if mode == 'cut':
    return
  if mode == 'hold' or count == 1:
    yield from itertools.repeat(count - 1)
  there_and_back = [*range(count - 2, 0, -1), *range(count)]
  yield from itertools.cycle(range(count) if mode == 'loop' else there_and_back)


def schedule_frames(
  times: Sequence[Fraction],
  rate: Fraction,
  duration: Fraction,
  audio_longer: str = 'bounce',
  video_longer: str = 'cut',
) -> Iterator[OutputFrame]:
  """The output's frames for `duration` seconds of sound.

  Ends at the frame boundary nearest to the end of the sound: at a constant
  rate that is round(duration * rate) frames.
  """
  assert audio_longer in AUDIO_LONGER, audio_longer
  assert video_longer in VIDEO_LONGER, video_longer
  if not times:
    raise TimelineError('expected video frames, found none: check the file')
  lasting, time = frame_durations(times, rate), Fraction(0)
  for position, index in enumerate(play_order(len(times), audio_longer)):
    length = lasting[index]
    spoken = time + length / 2 <= duration
    # A sound shorter than half a frame still gets its one frame.
    over = video_longer == 'cut' or position >= len(times)
    if over and not spoken and position:
      return
    yield OutputFrame(time, length, index, spoken or not position)
    time += length


def playback_runs(
  indices: Sequence[int] | Int[np.ndarray, 'f'],
) -> Iterator[tuple[int, int, int]]:
  """Split play order into (first position, length, step) of steady runs.

  `step` is 1 (forwards), -1 (backwards) or 0 (one frame held), so that the
  reader can stream each run.
  """
  start = 0
  while start < len(indices):
    end, step = start + 1, None
    while end < len(indices):
      move = int(indices[end]) - int(indices[end - 1])
      if move not in (-1, 0, 1) or step not in (None, move):
        break
      step, end = move, end + 1
    yield start, end - start, 1 if step is None else step
    start = end
