"""The output's schedule: which source frame is shown when.

Pure. Times are exact seconds (`Fraction`) from the first frame. The output
keeps the source's time stamps, also at a variable rate. Its length is that of
the sound to within half a frame.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int, Int64

from lipsync_jax import audio
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.media.types import Video

# Modes for a sound longer than the video, and for a longer video.
AUDIO_LONGER = ('bounce', 'loop', 'hold', 'cut', 'remap')
VIDEO_LONGER = ('cut', 'keep', 'remap')
MAX_TIME_BASE = 2**40  # units a second; 64 bits then count for three months


class TimelineError(LipSyncError):
  """A schedule without frames."""


@dataclasses.dataclass(frozen=True, slots=True)
class OutputFrame:
  """One frame of the output."""

  time: Fraction  # seconds
  length: Fraction  # seconds
  index: int  # of the source frame
  spoken: bool = True  # False after the end of the sound


@dataclasses.dataclass(frozen=True, eq=False)
class PackedTimes(Sequence):
  """Exact seconds in 8 bytes each; a sequence of `Fraction`.

  As objects, the times of an hour of video take some 10 MB.
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
  """A schedule in 25 bytes a frame; a sequence of `OutputFrame`."""

  times: PackedTimes
  lengths: PackedTimes
  indices: Int[np.ndarray, 'n']
  spoken: Bool[np.ndarray, 'n']

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, at):
    columns = (self.times, self.lengths, self.indices, self.spoken)
    values = (column[at] for column in columns)
    if isinstance(at, slice):
      return PackedSchedule(*values)
    time, length, index, spoken = values
    return OutputFrame(time, length, int(index), bool(spoken))


def pack_times(times: Sequence[Fraction]) -> Sequence[Fraction]:
  """The same times as `PackedTimes`; unchanged without a common unit."""
  unit = _common_unit(times)
  if unit is None:
    return times
  counts = np.fromiter((int(t / unit) for t in times), np.int64, len(times))
  return PackedTimes(counts, unit)


def pack_schedule(
  frames: Iterable[OutputFrame], times: Sequence[Fraction], rate: Fraction
) -> Sequence[OutputFrame]:
  """The schedule as `PackedSchedule`; a list without a common unit of time.

  Args:
    frames: of the output.
    times: of the source frames; with `rate`, they give the unit.
    rate: frames/s.
  """
  unit = _common_unit(itertools.chain(times, [1 / rate]))
  if unit is None:
    return list(frames)
  kinds = [('time', 'i8'), ('length', 'i8'), ('index', 'i8'), ('spoken', '?')]
  # Row by row, so that few objects exist at a time.
  rows = np.fromiter(
    (
      (int(f.time / unit), int(f.length / unit), f.index, f.spoken)
      for f in frames
    ),
    kinds,
  )
  time, length, index, spoken = (rows[name].copy() for name, _ in kinds)
  return PackedSchedule(
    PackedTimes(time, unit), PackedTimes(length, unit), index, spoken
  )


def _common_unit(times: Iterable[Fraction]) -> Fraction | None:
  """The longest unit that divides all times; None if it is too short."""
  parts = math.lcm(*{time.denominator for time in times})
  return Fraction(1, parts) if parts <= MAX_TIME_BASE else None


def frame_durations(
  times: Sequence[Fraction], rate: Fraction
) -> list[Fraction]:
  """Seconds of each frame; 1 / `rate` for the last one."""
  gaps = [b - a for a, b in itertools.pairwise(times)]
  return [*gaps, 1 / rate]


def play_order(count: int, mode: str) -> Iterator[int]:
  """Source frame indices in the order of a sound without end.

  Args:
    count: of source frames.
    mode: of AUDIO_LONGER. `bounce` plays backwards and forwards without
      doubling the end frames, so that the picture never jumps. `loop` jumps
      to the start, as Wav2Lip does. `cut` and `remap` add no frame.
  """
  yield from range(count)
  if mode in ('cut', 'remap'):
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

  The last frame ends at the frame boundary nearest to the end of the sound: a
  constant rate gives round(duration * rate) frames.
  """
  assert audio_longer in AUDIO_LONGER, audio_longer
  assert video_longer in VIDEO_LONGER, video_longer
  if not times:
    raise TimelineError('expected video frames, found none: check the file')
  lengths, time = frame_durations(times, rate), Fraction(0)
  total = times[-1] + lengths[-1]
  mode = audio_longer if duration > total else video_longer
  if mode == 'remap' and abs(duration - total) * rate > Fraction(1, 2):
    yield from remapped_frames(times, rate, total, duration)
    return
  for position, index in enumerate(play_order(len(times), audio_longer)):
    length = lengths[index]
    spoken = time + length / 2 <= duration
    # A sound shorter than half a frame gets one frame.
    over = video_longer == 'cut' or position >= len(times)
    if over and not spoken and position:
      return
    yield OutputFrame(time, length, index, spoken or not position)
    time += length


def remapped_frames(
  times: Sequence[Fraction], rate: Fraction, total: Fraction, duration: Fraction
) -> Iterator[OutputFrame]:
  """All source frames, slower or faster, in `duration` seconds.

  The output has the constant `rate`, so that lips of a slow video still move
  at it: source frames are repeated or left out.

  Args:
    times: of the source frames.
    rate: frames/s of the output.
    total: seconds of the source.
    duration: seconds of the output, to the nearest frame.
  """
  count, index = max(round(duration * rate), 1), 0
  for position in range(count):
    middle = total * (2 * position + 1) / (2 * count)  # in the source
    while index + 1 < len(times) and times[index + 1] <= middle:
      index += 1
    yield OutputFrame(position / rate, 1 / rate, index)


def playback_runs(
  indices: Sequence[int] | Int[np.ndarray, 'f'],
) -> Iterator[tuple[int, int, int]]:
  """Split the play order into runs that a reader can stream.

  Yields:
    (first position, length, step). `step` is 1 (forwards), -1 (backwards) or
    0 (one frame repeated).
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


def wav2lip_schedule(
  video: Video, times: Sequence[Fraction], columns: int
) -> tuple[Sequence[OutputFrame], Int[np.ndarray, 'f']]:
  """Wav2Lip's time line: constant rate, hard loop, no lead (spec 1.6, 7.2)."""
  starts = audio.wav2lip_starts(columns, float(video.rate))
  frames = (
    OutputFrame(i / video.rate, 1 / video.rate, i % len(times))
    for i in range(len(starts))
  )
  return pack_schedule(frames, (), video.rate), starts


def output_end(
  frames: Sequence[OutputFrame], duration: Fraction, rate: Fraction
) -> Fraction:
  """When the output's sound ends: with the sound, or with the last frame."""
  end = frames[-1].time + frames[-1].length
  return duration if abs(end - duration) <= 1 / rate else end
