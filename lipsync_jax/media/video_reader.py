"""Frames of videos and photos: probe a file, stream its frames.

The rest of the package calls these functions through `decoder`, which runs
them in another process. Frames are read by time stamps and streamed. At most
a few are in memory, except in `read_backwards`, which holds `FRAME_BUDGET`
bytes of them.

File time may start at any value. `Frame.time` counts from the first frame of
the video, which is at `Video.start` in file time.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from lipsync_jax.common.errors import printable
from lipsync_jax.media import pillow_reader
from lipsync_jax.media.container import (
  ATTACHED_PICTURE,
  DEPENDENT,
  MAX_GAP_SECONDS,
  MAX_PIXELS,
  STOPPED,
  Heartbeat,
  MediaError,
  as_media_error,
  decode_stream,
  no_heartbeat,
  open_media,
  stream_duration,
  to_seconds,
)
from lipsync_jax.media.frame_converter import crop_box, frame_converter, is_yuv
from lipsync_jax.media.types import UNSPECIFIED, Color, Frame, Video, View
from lipsync_jax.media.yuv import parse_display_matrix

FRAME_BUDGET = 256 * 2**20  # bytes of frames that read_backwards holds
SCANNED_PACKETS = 240  # packets read for the frame rate: about 8 s of video
RATE_BOUNDS = (1, 240)  # frames/s; a rate outside is an error in the header
# s; a smaller step back is a repeated frame, a larger one a cut
STEP_BACK = 1
# (transpose, flip_y, flip_x) for 0 to 3 quarter turns counter-clockwise
ROTATIONS = (
  (False, False, False),
  (True, True, False),
  (False, True, True),
  (True, False, True),
)


def probe_video(path: str | os.PathLike, view: View | None = None) -> Video:
  """Describe a video or photo; only its beginning is read.

  The content decides the type of a file, never the suffix of its name. A
  file with only one picture that can be decoded is a still.

  Args:
    path: the file.
    view: resize, rotation and crop of every frame.

  Raises:
    MediaError: not media, no picture in it, or the view leaves no pixel.
  """
  view = view or View()
  need = f'a video or photo of at most {MAX_PIXELS // 10**6} Mpixel is needed'
  with as_media_error(path, need), open_media(path) as container:
    if _needs_pillow(path, container):
      return _pillow_video(os.fspath(path), view)
    stream = _picture_stream(path, container)
    stream.codec_context.options = {'max_pixels': str(MAX_PIXELS)}
    pictures, stamps = _probe_stream(container, stream)
    if not pictures:
      raise MediaError(
        f'{printable(path)}: {need}: no picture could be decoded'
      )
    facts = _stream_facts(container, stream, pictures, stamps)
    return _describe(os.fspath(path), view, pictures[0], facts)


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


def _picture_stream(path, container):
  """Choose the video stream; cover art is no video."""
  # A dependent picture is a tile of a HEIC photo.
  ignored = ATTACHED_PICTURE | DEPENDENT
  streams = [
    stream
    for stream in container.streams.video
    if stream.codec_context and not stream.disposition.value & ignored
  ]
  if not streams:
    content = 'only cover art' if container.streams.video else 'no video stream'
    raise MediaError(
      f'{printable(path)}: a video or photo is needed, this file has {content}'
    )
  # The stream of an AVIF's cover has no length, that of its sequence has.
  return min(
    streams, key=lambda s: (not s.disposition.value & 1, not s.duration)
  )


def _needs_pillow(path, container) -> bool:
  """Whether a file is an animated WebP, or a photo in tiles."""
  if container.format.name == 'webp_pipe':
    return bool(pillow_reader.webp_durations(path))
  return any(s.disposition.value & DEPENDENT for s in container.streams.video)


def _probe_stream(container, stream):
  """Decode up to two pictures and read the first packets' time stamps."""
  import av

  pictures, stamps = [], []
  with contextlib.suppress(av.error.FFmpegError):  # damage ends the scan
    for packet in container.demux(stream):
      if packet.pts is not None:
        stamps.append(packet.pts)
      if len(pictures) < 2:
        with contextlib.suppress(av.error.FFmpegError):
          pictures += packet.decode()
      elif len(stamps) >= SCANNED_PACKETS:
        break
  if len(pictures) < 2:
    with contextlib.suppress(av.error.FFmpegError):
      pictures += stream.decode(None)
  return pictures, sorted(set(stamps))


def _stream_facts(container, stream, pictures, stamps) -> dict:
  """Fields of `Video` that a stream's header and time stamps tell."""
  still = len(pictures) == 1
  sar = stream.sample_aspect_ratio or Fraction(1)
  return {
    'rate': Fraction(25) if still else _frame_rate(stream, stamps),
    'duration': Fraction(0) if still else stream_duration(container, stream),
    'sar': sar if Fraction(1, 20) < sar < 20 else Fraction(1),
    'still': still,
    'tick': stream.time_base or Fraction(1, 90000),
    'stream': stream.index,
  }


def _pillow_video(path: str, view: View) -> Video:
  """Describe a file that Pillow reads."""
  first = next(pillow_reader.read_pictures(path))
  lengths = pillow_reader.webp_durations(path)
  still = len(lengths) < 2
  seconds = sum(lengths) * pillow_reader.TICK
  rate = Fraction(25) if still else len(lengths) / seconds
  facts = {
    'rate': min(max(rate, Fraction(1)), Fraction(240)).limit_denominator(1001),
    'duration': Fraction(0) if still else seconds,
    'still': still,
    'tick': pillow_reader.TICK,
    'by_pillow': True,
    'turn': pillow_reader.exif_turn(path) or ROTATIONS[0],
  }
  return _describe(path, view, first, facts)


def _describe(path: str, view: View, first, facts: dict) -> Video:
  """Describe the frames that the reader will deliver.

  Args:
    path: the file.
    view: resize, rotation and crop.
    first: the first picture.
    facts: the fields of `Video` that the picture does not tell.
  """
  facts = {'turn': None, 'sar': Fraction(1)} | facts
  factor = max(1, view.resize_factor)
  stored = tuple(s // factor // 2 * 2 for s in (first.width, first.height))
  turn = facts['turn'] or _orientation(path, first)
  width, height = stored[::-1] if turn[0] ^ view.rotate else stored
  left, top, right, bottom = crop_box(view, width, height)
  if right <= left or bottom <= top:
    raise MediaError(
      f'{printable(path)}: nothing is left of a {first.width}x{first.height} '
      f'picture after resize_factor {view.resize_factor}, crop {view.crop}'
    )
  depth, color = _color_of(first, facts['still'], stored[1])
  if turn[0] ^ view.rotate:
    facts['sar'] = 1 / facts['sar']
  return Video(
    path=path,
    width=right - left,
    height=bottom - top,
    start=to_seconds(first.pts, first.time_base) or Fraction(0),
    pix_fmt='yuv420p' if depth == 8 else 'yuv420p10le',
    color=color,
    view=view,
    stored=stored,
    **{**facts, 'turn': turn},
  )


def _orientation(path, picture) -> tuple[bool, bool, bool]:
  """Find how to show a picture upright (phones and EXIF)."""
  try:
    matrix = picture.side_data.get('DISPLAYMATRIX')
  except ValueError:  # PyAV 18 has no EXIF side data, only its angle
    turned = ROTATIONS[round(picture.rotation / 90) % 4]  # counter-clockwise
    mirrored = pillow_reader.exif_turn(path)
    # HEIC has its angle outside EXIF; then the two differ in it.
    same = mirrored and _quarters(mirrored) == _quarters(turned)
    return mirrored if same else turned
  if matrix is None:
    return ROTATIONS[0]
  return parse_display_matrix(np.frombuffer(bytes(matrix), np.int32)[:9])


def _quarters(turn: tuple[bool, bool, bool]) -> int:
  """FFmpeg's angle of a turn, in quarters counter-clockwise."""
  transpose, flip_y, flip_x = turn
  return (1 if flip_y else 3) if transpose else 2 * flip_x


def _color_of(picture, still: bool, height: int) -> tuple[int, Color]:
  """Find depth and color of the planes that will be delivered."""
  bits = max(c.bits for c in picture.format.components)
  depth = 8 if bits <= 8 or still else 10
  if still or not is_yuv(picture):
    return depth, Color(1, 1, 1, 1, depth)
  full = picture.color_range == 2 or picture.format.name.startswith('yuvj')
  # Players take untagged video for BT.601 below 720 lines. The tag stays
  # unspecified in the output, unless its new height would change the guess.
  assumed = 6 if picture.height < 720 else 1
  matrix = picture.colorspace
  if matrix == UNSPECIFIED and (height < 720) != (picture.height < 720):
    matrix = assumed
  return depth, Color(
    matrix=matrix,
    range=2 if full else picture.color_range,
    primaries=picture.color_primaries,
    transfer=picture.color_trc,
    depth=depth,
    assumed=assumed,
  )


def _frame_rate(stream, stamps: Sequence[int]) -> Fraction:
  """Nominal frame rate: the header's, unless the time stamps disagree."""
  header, measured = stream.average_rate, None
  if len(stamps) > 1 and stream.time_base:
    measured = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * stream.time_base)
  if header and RATE_BOUNDS[0] <= header <= RATE_BOUNDS[1]:
    # A sample table counts all frames; other headers are compared.
    counted = stream.frames > SCANNED_PACKETS
    if counted or measured is None or abs(header / measured - 1) < 0.03:
      return Fraction(header)
  if measured and RATE_BOUNDS[0] <= measured <= RATE_BOUNDS[1]:
    return Fraction(measured).limit_denominator(1001)
  return Fraction(25)


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
      yield Frame(index, time, planes(picture))
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
  import av

  planes, frames = frame_converter(video), []
  indices = {times[i]: i for i in range(begin, end)}
  with as_media_error(video.path, STOPPED), open_media(video.path) as file:
    stream = file.streams[video.stream]
    stream.thread_type = 'AUTO'
    with contextlib.suppress(av.error.FFmpegError):
      unit = stream.time_base
      file.seek(int((times[begin] + video.start) / unit), stream=stream)
      for picture in decode_stream(video.path, file, stream, heartbeat):
        time = to_seconds(picture.pts, picture.time_base)
        time = None if time is None else time - video.start
        if time is None or (not frames and time > times[begin]):
          return None
        if indices.get(time) == begin + len(frames):
          frames.append(Frame(begin + len(frames), time, planes(picture)))
        if time >= times[end - 1]:
          break
  return frames if len(frames) == end - begin else None


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
