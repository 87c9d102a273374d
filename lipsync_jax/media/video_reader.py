"""Frames of videos and photos, streamed.

The rest of the package calls these functions through `decoder`, which runs
them in another process. Frames are read by time stamps and streamed. At most
a few are in memory, except in `read_backwards`, which holds `FRAME_BUDGET`
bytes of them.

File time may start at any value. `Frame.time` counts from the first frame of
the video, which is at `Video.start` in file time.
"""

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from lipsync_jax.common.errors import printable
from lipsync_jax.media import pillow_reader
from lipsync_jax.media.container import (
  MAX_GAP_SECONDS,
  STOPPED,
  Heartbeat,
  MediaError,
  as_media_error,
  decode_stream,
  no_heartbeat,
  open_media,
  to_seconds,
)
from lipsync_jax.media.frame_converter import frame_converter
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.media.video_probe import probe_video

__all__ = [
  'MediaError',
  'probe_video',
  'read_backwards',
  'read_chosen',
  'read_frames',
]

FRAME_BUDGET = 256 * 2**20  # bytes of frames that read_backwards holds
# s; a smaller step back is a repeated frame, a larger one a cut
STEP_BACK = 1


def read_frames(
  video: Video, start: int = 0, heartbeat: Heartbeat = no_heartbeat
) -> Iterator[Frame]:
  """Stream frames in presentation order, from index `start`.

  Damaged packets are skipped and counted in a warning. Planes are read-only.

  Args:
    video: of `probe_video`.
    start: index of the first frame delivered.
    heartbeat: called before every packet.

  Raises:
    MediaError: the file can no longer be read.
  """
  # Frame threads are 1.4 times as fast as slices (1080p H.264, two cores).
  # They can hang in a process with PyTorch, which inference never imports.
  with as_media_error(video.path, STOPPED), open_media(video.path) as file:
    if video.by_pillow:
      pictures = pillow_reader.read_pictures(video.path, heartbeat)
    else:
      stream = file.streams[video.stream]
      stream.thread_type = 'AUTO'
      pictures = decode_stream(video.path, file, stream, heartbeat)
    yield from _number_frames(video, pictures, start)


def read_backwards(
  video: Video,
  last: int,
  times: Sequence[Fraction],
  heartbeat: Heartbeat = no_heartbeat,
) -> Iterator[Frame]:
  """Stream frames last, last - 1, ..., 0 in bounded memory.

  Args:
    video: of `probe_video`.
    last: index of the first frame delivered.
    times: `Frame.time` of frames 0..last, from `read_frames`.
    heartbeat: called before every packet.

  Raises:
    MediaError: the file can no longer be read, or has fewer frames.
  """
  bytes_per_pixel = 1.5 if video.color.depth == 8 else 3
  frame_size = int(video.stored[0] * video.stored[1] * bytes_per_pixel)
  chunk = max(1, FRAME_BUDGET // max(1, frame_size))
  seekable = not video.by_pillow
  for end in range(last + 1, 0, -chunk):
    begin = max(0, end - chunk)
    frames = None
    if seekable and begin:
      frames = _seek_frames(video, begin, end, times, heartbeat)
    if frames is None:
      seekable = False  # from now on every chunk is decoded from the start
      frames = _count_frames(video, begin, end, heartbeat)
    while frames:
      yield frames.pop()


def read_chosen(
  video: Video,
  chosen: Sequence[int],
  times: Sequence[Fraction],
  skip: int,
  heartbeat: Heartbeat = no_heartbeat,
) -> Iterator[Frame]:
  """Stream single frames; fewer if the file is shorter.

  Args:
    video: of `probe_video`.
    chosen: ascending frame indices.
    times: `Frame.time` of these frames, from `read_frames`.
    skip: frames that are decoded, not sought, between two chosen ones.
    heartbeat: called before every packet.

  Raises:
    MediaError: the file can no longer be read.
  """
  left = collections.deque(zip(chosen, times, strict=True))
  seekable = not video.by_pillow
  while left:
    if seekable and left[0][0] > skip:
      count = len(left)
      yield from _sought_frames(video, left, skip, heartbeat)
      # Without a frame the file has other times than the first pass saw.
      seekable = len(left) < count and seekable
      continue
    limit = skip if seekable else None
    with contextlib.closing(read_frames(video, 0, heartbeat)) as source:
      yield from _counted_frames(source, left, limit)


def _counted_frames(
  source: Iterator[Frame],
  left: collections.deque[tuple[int, Fraction]],
  skip: int | None,
) -> Iterator[Frame]:
  """Take the frames of `left` out of all, up to a gap of more than `skip`."""
  for frame in source:
    if frame.index == left[0][0]:
      left.popleft()
      yield frame
      if not left or (skip is not None and left[0][0] > frame.index + skip):
        return
  left.clear()  # the file has become shorter


def _sought_frames(
  video: Video,
  left: collections.deque[tuple[int, Fraction]],
  skip: int,
  heartbeat: Heartbeat,
) -> Iterator[Frame]:
  """Take frames out of `left` from a key frame on, up to a gap.

  It ends early where a frame is not at its time.
  """
  import av

  planes = frame_converter(video)
  with as_media_error(video.path, STOPPED), open_media(video.path) as file:
    stream = file.streams[video.stream]
    stream.thread_type = 'AUTO'
    with contextlib.suppress(av.error.FFmpegError):
      unit = stream.time_base
      file.seek(int((left[0][1] + video.start) / unit), stream=stream)
      for picture in decode_stream(video.path, file, stream, heartbeat):
        time = to_seconds(picture.pts, picture.time_base)
        index, wanted = left[0]
        if time is None or time - video.start > wanted:
          return
        if time - video.start == wanted:
          left.popleft()
          yield Frame(index, wanted, *planes(picture))
          if not left or left[0][0] > index + skip:
            return


def _number_frames(
  video: Video, pictures: Iterable, start: int
) -> Iterator[Frame]:
  """Give pictures index and time; times strictly increase from 0."""
  planes = frame_converter(video)
  step, last, shift, index = 1 / video.rate, None, Fraction(0), 0
  for picture in pictures:
    time = to_seconds(picture.pts, picture.time_base)
    time = (last or 0) + step if time is None else time - video.start + shift
    if last is None:
      time = Fraction(0)
    elif time <= last and last - time < STEP_BACK:
      continue  # players show one picture at a time
    elif time <= last or time - last > video.duration + MAX_GAP_SECONDS:
      shift += last + step - time  # time stamps restart, as in a cut TS
      time = last + step
    if index >= start:
      yield Frame(index, time, *planes(picture))
    last, index = time, index + 1
  if last is None:
    raise MediaError(f'{printable(video.path)}: no picture could be decoded')


def _seek_frames(
  video: Video,
  begin: int,
  end: int,
  times: Sequence[Fraction],
  heartbeat: Heartbeat,
) -> list[Frame] | None:
  """Decode frames begin..end-1 from the key frame before; None if it fails."""
  left = collections.deque((i, times[i]) for i in range(begin, end))
  frames = list(_sought_frames(video, left, 1, heartbeat))
  return None if left else frames


def _count_frames(
  video: Video, begin: int, end: int, heartbeat: Heartbeat
) -> list[Frame]:
  """Decode frames begin..end-1 by counting from the start."""
  source = read_frames(video, begin, heartbeat)
  frames = list(itertools.islice(source, end - begin))
  if len(frames) < end - begin:
    raise MediaError(
      f'{printable(video.path)}: {STOPPED}: frame {end - 1} was there before '
      'and is gone; do not change the file meanwhile'
    )
  return frames
