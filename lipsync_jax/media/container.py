"""Media files opened for reading, and the decoding of one of their streams.

`video_reader` and `audio_reader` are built on this module. All of them fail
with `MediaError` and nothing else.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from fractions import Fraction

from lipsync_jax.common.errors import (
  LipSyncError,
  as_one_line,
  printable,
  reason_of,
)

log = logging.getLogger(__name__)

MAX_PIXELS = 120_000_000  # a larger picture is refused before it is decoded
MAX_GAP_SECONDS = 60  # beyond the file's length; a larger step is damage
ATTACHED_PICTURE, DEPENDENT = 0x400, 0x80000  # AV_DISPOSITION_...
STOPPED = 'reading stopped'
OUT_OF_MEMORY = 'it needs more memory than there is; make it smaller first'

Heartbeat = Callable[[], None]  # called before every packet is read


class MediaError(LipSyncError):
  """A file cannot be read or written; one line says why and what to do."""


def no_heartbeat() -> None:
  """The default heartbeat, which does nothing."""


def as_media_error(
  path: str | os.PathLike, what: str
) -> contextlib.AbstractContextManager[None]:
  """Turn any failure within into one line: the path, `what`, the reason.

  For damaged files PyAV raises more than its own errors: IndexError,
  PermissionError, UnicodeDecodeError and others have been seen.
  """

  def message(error: Exception) -> str:
    no_room = isinstance(error, MemoryError)
    return f'{what}: {OUT_OF_MEMORY if no_room else reason_of(error)}'

  return as_one_line(MediaError, path, message)


@contextlib.contextmanager
def open_media(path: str | os.PathLike) -> Iterator:
  """Open a regular file for reading, as a PyAV container.

  PyAV gets an open file instead of a name and may open no other. Thus no
  name, playlist or session description leads to a device, host or other file.
  """
  import av

  if not os.path.exists(path):
    raise MediaError(f'{printable(path)}: no such file')
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise MediaError(f'{printable(path)}: a media file is needed, not a folder')
  with open(path, 'rb') as file:
    options = {'max_pixels': str(MAX_PIXELS), 'protocol_whitelist': 'none'}
    with av.open(file, options=options, metadata_errors='ignore') as container:
      yield container


def stream_duration(container, stream) -> Fraction:
  """Length in seconds by the header, 0 if the header has none."""
  length = to_seconds(stream.duration, stream.time_base)
  if length is None and container.duration:
    length = Fraction(container.duration, 1_000_000)
  return max(length or Fraction(0), Fraction(0))


def decode_stream(
  path: str | os.PathLike,
  container,
  stream,
  heartbeat: Heartbeat = no_heartbeat,
) -> Iterator:
  """Decode a stream, with its alpha.

  Damaged packets are skipped and counted in a warning.

  Args:
    path: named in the warning.
    container: PyAV's container.
    stream: PyAV's stream in it.
    heartbeat: called before every packet.
  """
  import av

  damaged = 0
  context = alpha_decoder(stream)
  decode = context.decode if context else stream.decode
  packets = container.demux(stream)
  while True:
    heartbeat()
    try:
      packet = next(packets, None)
      if packet is None:
        break
      frames = decode(packet)
    except av.error.MemoryError:
      raise  # the file is whole, but too big for us
    except av.error.FFmpegError:
      damaged += 1
      frames = []
    yield from frames
  with contextlib.suppress(av.error.FFmpegError):  # EOF, unless it broke off
    yield from decode(None)
  if damaged:
    log.warning('%s: %d damaged packets skipped', printable(path), damaged)


def alpha_decoder(stream):
  """A codec context for VP8 and VP9 with alpha; None for other streams.

  FFmpeg's own decoders ignore the alpha of these codecs.
  """
  import av

  name = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}.get(stream.codec_context.name)
  tagged = stream.metadata.get('alpha_mode') == '1'
  if not (name and tagged and name in av.codecs_available):
    return None
  context = av.CodecContext.create(name, 'r')
  context.thread_count = os.cpu_count() or 1
  return context


def to_seconds(stamp: int | None, unit: Fraction | None) -> Fraction | None:
  """A time stamp in seconds; None if the stamp or its unit is unknown."""
  return None if stamp is None or not unit else stamp * unit
