"""Pictures in: probe and stream the frames of any video or photo.

This room, `audio_reader.py` and `video_writer.py` are the only ones that open media; the
program reaches the first two by way of `decoder.py`, which runs them in
another process. All is read by time stamps and streamed: nothing here holds
more than a few frames, except `read_backwards`, which holds `FRAME_BUDGET` bytes.

A file counts its time from anywhere; frames count from the first frame of
the video, which is `Video.start` in file time.
"""

import contextlib
import fractions
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lipsync_jax.common.errors import printable
from lipsync_jax.media.container import (
  ATTACHED_PICTURE,
  DEPENDENT,
  MAX_GAP_SECONDS,
  MAX_PIXELS,
  STOPPED,
  MediaError,
  as_media_error,
  decode_stream,
  open_media,
  stream_duration,
  to_seconds,
)
from lipsync_jax.media.types import UNSPECIFIED, Color, Frame, Video, View
from lipsync_jax.media.yuv import orient_plane, parse_display_matrix

Fraction = fractions.Fraction

FRAME_BUDGET = 256 * 2**20  # bytes of frames held by read_backwards
SCANNED_PACKETS = 240  # packets read for the frame rate: about 8 s of video
RATE_BOUNDS = (1, 240)  # frames/s; a rate outside is a lie of the header
STEP_BACK = 1  # s; a smaller step back is a doubled frame, a larger one a cut
# (transpose, flip_y, flip_x) for 0 to 3 quarter turns counter-clockwise
ROTATIONS = (
  (False, False, False),
  (True, True, False),
  (False, True, True),
  (True, False, True),
)


def probe_video(path: str | os.PathLike, view: View | None = None) -> Video:
  """Look at a video or photo without reading more than its beginning.

  The content decides what a file is, never the suffix of its name. A file
  in which only one picture can be decoded is a still.

  Raises:
    MediaError: not media, no picture in it, or the view leaves nothing.
  """
  view = view or View()
  wanted = f'a video or photo of at most {MAX_PIXELS // 10**6} Mpixel is needed'
  with as_media_error(path, wanted), open_media(path) as container:
    stream = _picture_stream(path, container)
    stream.codec_context.options = {'max_pixels': str(MAX_PIXELS)}
    pictures, stamps = _probe_stream(container, stream)
    if not pictures:
      raise MediaError(
        f'{printable(path)}: {wanted}: no picture could be decoded'
      )
    return _video(os.fspath(path), view, container, stream, pictures, stamps)


def read_frames(video: Video, start: int = 0) -> Iterator[Frame]:
  """Stream frames in presentation order, from index `start`.

  Damaged packets are skipped and counted in a warning. Planes are read-only.

  Raises:
    MediaError: the file cannot be read any more.
  """
  # Frame threads are 1.4 times as fast as slices (1080p H.264, two cores).
  # They are known to hang beside PyTorch; inference never imports that.
  with as_media_error(video.path, STOPPED), open_media(video.path) as file:
    stream = file.streams[video.stream]
    stream.thread_type = 'AUTO'
    yield from _number_frames(
      video, decode_stream(video.path, file, stream), start
    )


def read_backwards(
  video: Video, last: int, times: Sequence[Fraction]
) -> Iterator[Frame]:
  """Stream frames last, last - 1, ..., 0 in bounded memory.

  Args:
    last: index of the first frame delivered.
    times: `Frame.time` of frames 0..last as `read_frames` gave them.

  Raises:
    MediaError: the file cannot be read any more, or has fewer frames.
  """
  bytes_per_pixel = 1.5 if video.color.depth == 8 else 3
  frame_size = int(video.stored[0] * video.stored[1] * bytes_per_pixel)
  chunk = max(1, FRAME_BUDGET // max(1, frame_size))
  seekable = True
  for end in range(last + 1, 0, -chunk):
    begin = max(0, end - chunk)
    frames = (
      _seek_frames(video, begin, end, times) if seekable and begin else None
    )
    if frames is None:
      seekable = False  # from now on every chunk is decoded from the start
      frames = _count_frames(video, begin, end)
    while frames:
      yield frames.pop()


def _picture_stream(path, container):
  """Choose the video stream; cover art is no video."""
  # A picture that others depend on is a tile of a HEIC photo.
  ignored = ATTACHED_PICTURE | DEPENDENT
  streams = [
    stream
    for stream in container.streams.video
    if stream.codec_context and not stream.disposition.value & ignored
  ]
  if not streams:
    found = 'only cover art' if container.streams.video else 'no video stream'
    raise MediaError(
      f'{printable(path)}: a video or photo is needed, this file has {found}'
    )
  return min(streams, key=lambda s: not s.disposition.value & 1)


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


def _video(path, view, container, stream, pictures, stamps) -> Video:
  """Work out what the reader will deliver, from the first pictures."""
  first, still = pictures[0], len(pictures) == 1
  factor = max(1, view.resize_factor)
  stored = tuple(s // factor // 2 * 2 for s in (first.width, first.height))
  turn = _orientation(first)
  width, height = stored[::-1] if turn[0] ^ view.rotate else stored
  left, top, right, bottom = _crop_box(view, width, height)
  if right <= left or bottom <= top:
    raise MediaError(
      f'{printable(path)}: nothing is left of a {first.width}x{first.height} '
      f'picture after resize_factor {view.resize_factor}, crop {view.crop}'
    )
  sar = stream.sample_aspect_ratio or Fraction(1)
  sar = sar if Fraction(1, 20) < sar < 20 else Fraction(1)
  depth, color = _color_of(first, still, stored[1])
  return Video(
    path=path,
    width=right - left,
    height=bottom - top,
    rate=Fraction(25) if still else _frame_rate(stream, stamps),
    duration=Fraction(0) if still else stream_duration(container, stream),
    start=to_seconds(first.pts, first.time_base) or Fraction(0),
    pix_fmt='yuv420p' if depth == 8 else 'yuv420p10le',
    color=color,
    sar=1 / sar if turn[0] ^ view.rotate else sar,
    still=still,
    tick=stream.time_base or Fraction(1, 90000),
    view=view,
    stored=stored,
    turn=turn,
    stream=stream.index,
  )


def _orientation(picture) -> tuple[bool, bool, bool]:
  """Find how to show a picture upright (phones and EXIF)."""
  try:
    matrix = picture.side_data.get('DISPLAYMATRIX')
  except ValueError:  # PyAV 18 knows no EXIF data, but has read its angle
    quarters = round(picture.rotation / 90) % 4  # counter-clockwise
    return ROTATIONS[quarters]
  if matrix is None:
    return ROTATIONS[0]
  return parse_display_matrix(np.frombuffer(bytes(matrix), np.int32)[:9])


def _crop_box(view: View, width: int, height: int) -> tuple[int, int, int, int]:
  """Turn Wav2Lip's crop into an even box (x0, y0, x1, y1)."""
  top, bottom, left, right = view.crop
  right = width if right == -1 else min(right, width)
  bottom = height if bottom == -1 else min(bottom, height)
  left, top = max(left, 0) // 2 * 2, max(top, 0) // 2 * 2
  return (
    left,
    top,
    left + (right - left) // 2 * 2,
    top + (bottom - top) // 2 * 2,
  )


def _is_yuv(picture) -> bool:
  """Whether a picture has luma and chroma, and so a matrix of its own."""
  form = picture.format
  return len(form.components) >= 3 and not (form.is_rgb or form.has_palette)


def _color_of(picture, still: bool, height: int) -> tuple[int, Color]:
  """Find depth and color of what `_planes` will deliver."""
  bits = max(c.bits for c in picture.format.components)
  depth = 8 if bits <= 8 or still else 10
  if still or not _is_yuv(picture):
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
  """Settle the nominal frame rate: the header's, unless the stamps disagree."""
  named, seen = stream.average_rate, None
  if len(stamps) > 1 and stream.time_base:
    seen = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * stream.time_base)
  if named and RATE_BOUNDS[0] <= named <= RATE_BOUNDS[1]:
    # A sample table counts all frames; other headers are checked.
    counted = stream.frames > SCANNED_PACKETS
    if counted or seen is None or abs(named / seen - 1) < 0.03:
      return Fraction(named)
  if seen and RATE_BOUNDS[0] <= seen <= RATE_BOUNDS[1]:
    return Fraction(seen).limit_denominator(1001)
  return Fraction(25)


def _number_frames(
  video: Video, pictures: Iterable, start: int
) -> Iterator[Frame]:
  """Give pictures index and time; times strictly increase from 0."""
  planes = _converter(video)
  step, last, shift, index = 1 / video.rate, None, Fraction(0), 0
  for picture in pictures:
    time = to_seconds(picture.pts, picture.time_base)
    time = (last or 0) + step if time is None else time - video.start + shift
    if last is None:
      time = Fraction(0)
    elif time <= last and last - time < STEP_BACK:
      continue  # no player shows two pictures at one time
    elif time <= last or time - last > video.duration + MAX_GAP_SECONDS:
      shift += last + step - time  # time stamps start anew, as in a cut TS
      time = last + step
    if index >= start:
      yield Frame(index, time, planes(picture))
    last, index = time, index + 1
  if last is None:
    raise MediaError(f'{printable(video.path)}: no picture could be decoded')


def _seek_frames(
  video: Video, begin: int, end: int, times: Sequence[Fraction]
) -> list[Frame] | None:
  """Decode frames begin..end-1 from the key frame before; None if it fails."""
  import av

  planes, frames = _converter(video), []
  wanted = {times[i]: i for i in range(begin, end)}
  with as_media_error(video.path, STOPPED), open_media(video.path) as file:
    stream = file.streams[video.stream]
    stream.thread_type = 'AUTO'
    with contextlib.suppress(av.error.FFmpegError):
      unit = stream.time_base
      file.seek(int((times[begin] + video.start) / unit), stream=stream)
      for picture in decode_stream(video.path, file, stream):
        time = to_seconds(picture.pts, picture.time_base)
        time = None if time is None else time - video.start
        if time is None or (not frames and time > times[begin]):
          return None
        if wanted.get(time) == begin + len(frames):
          frames.append(Frame(begin + len(frames), time, planes(picture)))
        if time >= times[end - 1]:
          break
  return frames if len(frames) == end - begin else None


def _count_frames(video: Video, begin: int, end: int) -> list[Frame]:
  """Decode frames begin..end-1 by counting from the start."""
  frames = list(itertools.islice(read_frames(video, begin), end - begin))
  if len(frames) < end - begin:
    raise MediaError(
      f'{printable(video.path)}: {STOPPED}: frame {end - 1} was there before and '
      'is gone; do not change the file meanwhile'
    )
  return frames


def _converter(video: Video):
  """Make the function from a decoded picture to the planes `video` promises.

  It owns the scaler, whose set-up costs more than scaling a picture.
  """
  from av.video.reformatter import VideoReformatter

  scaler = VideoReformatter()
  kind = np.uint8 if video.color.depth == 8 else np.uint16
  turns = [video.turn] + [(True, False, True)] * video.view.rotate
  transposed = sum(turn[0] for turn in turns) % 2
  width, height = video.stored
  box = _crop_box(video.view, *video.stored[:: -1 if transposed else 1])

  def planes(picture) -> tuple[np.ndarray, ...]:
    picture = _as_420(video, scaler, picture)
    out = []
    for plane, step in zip(picture.planes, (1, 2, 2), strict=False):
      rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1).view(kind)
      rows = rows[::-1] if plane.line_size < 0 else rows  # stored bottom up
      rows = rows[: height // step, : width // step]
      for turn in turns:
        rows = orient_plane(rows, turn)
      left, top, right, bottom = (side // step for side in box)
      rows = rows[top:bottom, left:right]
      if rows.strides[1] != rows.itemsize:
        rows = np.ascontiguousarray(rows)
      rows.flags.writeable = False  # the decoder may still refer to it
      out.append(rows)
    return tuple(out)

  return planes


def _as_420(video: Video, scaler, picture):
  """Scale and convert a picture to planar 4:2:0, unless it is just that."""
  even = (picture.width // 2 * 2, picture.height // 2 * 2)
  fits = even == video.stored
  names = (video.pix_fmt, 'yuvj420p') if video.color.depth == 8 else ()
  native = picture.format.name in (video.pix_fmt, *names)
  yuv = _is_yuv(picture)
  if native and fits and not video.still:
    return picture
  size = (picture.width, picture.height) if fits else video.stored
  full = picture.color_range == 2 or picture.format.name.startswith('yuvj')
  options = {}
  if video.still or not yuv:
    options['dst_colorspace'] = 1  # BT.709
    options['dst_color_range'] = 1
    if yuv and picture.colorspace == UNSPECIFIED:
      options['src_colorspace'] = 5  # BT.601
    if not picture.format.is_rgb:
      options['src_color_range'] = 2 if full or not yuv else 1
  elif full:
    options['src_color_range'] = options['dst_color_range'] = 2
  # Bilinear, accurate rounding, chroma of RGB taken from all its columns.
  how = 2 | 0x40000 | 0x4000
  return scaler.reformat(
    picture, *size, video.pix_fmt, interpolation=how, **options
  )
