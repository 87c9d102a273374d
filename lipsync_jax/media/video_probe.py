"""Describe a video or photo from the beginning of its file."""

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from lipsync_jax.common.errors import printable
from lipsync_jax.media import hdr, pillow_reader
from lipsync_jax.media.container import (
  ATTACHED_PICTURE,
  DEPENDENT,
  MAX_PIXELS,
  MediaError,
  alpha_decoder,
  as_media_error,
  open_media,
  stream_duration,
  to_seconds,
)
from lipsync_jax.media.frame_converter import crop_box, has_alpha, is_yuv
from lipsync_jax.media.types import UNSPECIFIED, Color, Video, View
from lipsync_jax.media.yuv import parse_display_matrix

SCANNED_PACKETS = 240  # packets read for the frame rate: about 8 s of video
RATE_BOUNDS = (1, 240)  # frames/s; a rate outside is an error in the header
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
    return _describe(os.fspath(path), view, pictures, facts)


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
  """Whether a file is an animated WebP, or a photo in tiles or with alpha."""
  if container.format.name == 'webp_pipe':
    return bool(pillow_reader.webp_durations(path))
  streams = container.streams.video
  if any(s.disposition.value & DEPENDENT for s in streams):
    return True
  # AVIF and HEIC keep alpha as another picture.
  brand = container.metadata.get('major_brand')
  readable = brand == 'avif' or (brand == 'heic' and pillow_reader.reads_heic())
  pictures = [s for s in streams if s.codec_context and not s.duration]
  return readable and len(pictures) == len(streams) == 2


def _probe_stream(container, stream):
  """Decode up to two pictures and read the first packets' time stamps."""
  import av

  pictures, stamps, context = [], [], alpha_decoder(stream)
  decode = context.decode if context else stream.decode
  with contextlib.suppress(av.error.FFmpegError):  # damage ends the scan
    for packet in container.demux(stream):
      if packet.pts is not None:
        stamps.append(packet.pts)
      if len(pictures) < 2:
        with contextlib.suppress(av.error.FFmpegError):
          pictures += decode(packet)
      elif len(stamps) >= SCANNED_PACKETS:
        break
  if len(pictures) < 2:
    with contextlib.suppress(av.error.FFmpegError):
      pictures += decode(None)
  return pictures, sorted(set(stamps))


def _stream_facts(container, stream, pictures, stamps) -> dict:
  """Fields of `Video` that a stream's header and time stamps tell."""
  still = len(pictures) == 1
  animated = container.format.name in ('gif', 'apng')
  sar = stream.sample_aspect_ratio or Fraction(1)
  return {
    'rate': Fraction(25) if still else _frame_rate(stream, stamps),
    'duration': Fraction(0) if still else stream_duration(container, stream),
    'sar': sar if Fraction(1, 20) < sar < 20 else Fraction(1),
    'still': still,
    'tick': stream.time_base or Fraction(1, 90000),
    'stream': stream.index,
    'alpha': _is_transparent(pictures, not still and not animated),
    'unread_alpha': _has_alpha_stream(container, stream),
  }


def _has_alpha_stream(container, stream) -> bool:
  """Whether an animated AVIF has its alpha in a second, gray sequence."""
  if container.metadata.get('major_brand') != 'avis':
    return False
  others = [s for s in container.streams.video if s.index != stream.index]
  return any(
    s.duration
    and s.codec_context
    and (s.codec_context.pix_fmt or '')[:4] == 'gray'
    for s in others
  )


def _pillow_video(path: str, view: View) -> Video:
  """Describe a file that Pillow reads."""
  pictures = list(itertools.islice(pillow_reader.read_pictures(path), 2))
  lengths = pillow_reader.webp_durations(path)
  still = len(lengths) < 2
  seconds = sum(lengths) * pillow_reader.TICK
  rate = Fraction(25) if still else len(lengths) / seconds
  facts = {
    'rate': Fraction(
      min(max(rate, RATE_BOUNDS[0]), RATE_BOUNDS[1])
    ).limit_denominator(1001),
    'duration': Fraction(0) if still else seconds,
    'still': still,
    'tick': pillow_reader.TICK,
    'by_pillow': True,
    'alpha': _is_transparent(pictures, certain=False),
    'turn': pillow_reader.exif_turn(path) or ROTATIONS[0],
  }
  return _describe(path, view, pictures, facts)


def _describe(path: str, view: View, pictures: list, facts: dict) -> Video:
  """Describe the frames that the reader will deliver.

  Args:
    path: the file.
    view: resize, rotation and crop.
    pictures: the first one or two.
    facts: the fields of `Video` that the pictures do not tell.
  """
  facts, first = {'turn': None, 'sar': Fraction(1)} | facts, pictures[0]
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
    mastering=_hdr(first, 'MASTERING_DISPLAY_METADATA', hdr.mastering_display),
    light=_hdr(first, 'CONTENT_LIGHT_LEVEL', hdr.content_light),
    view=view,
    stored=stored,
    **{
      **facts,
      'turn': turn,
      'alpha': facts['alpha'] and view.background is None,
    },
  )


def _is_transparent(pictures: list, certain: bool) -> bool:
  """Whether the alpha of a file is to be kept.

  Args:
    pictures: the first one or two.
    certain: the codec has an alpha channel only on demand. Others, such as
      GIF and PNG, often have one that is opaque all over.
  """
  if not has_alpha(pictures[0]) or certain:
    return has_alpha(pictures[0])
  planes = (p.reformat(format='yuva420p').planes[3] for p in pictures)
  # The rows of a plane may end in padding, which is no part of the picture.
  return any(
    np.frombuffer(plane, np.uint8)
    .reshape(plane.height, -1)[:, : plane.width]
    .min()
    < 255
    for plane in planes
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


def _hdr(picture, name: str, parse: Callable[[bytes], str]) -> str:
  """HDR metadata of a picture; '' if it has none."""
  try:
    data = picture.side_data.get(name)
  except ValueError:  # PyAV 18 has no EXIF side data
    return ''
  return '' if data is None else parse(bytes(data))


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
