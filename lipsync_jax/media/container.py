"""A media file opened for reading, whatever is in it.

The rooms above it (`video_reader.py` for pictures, `audio_reader.py`) decode streams of
what is opened here; all of them fail with `MediaError` and nothing else.
"""

import contextlib
import fractions
import logging
import os
import stat
from collections.abc import Iterator

from lipsync_jax.common.errors import LipSyncError, printable

Fraction = fractions.Fraction
log = logging.getLogger(__name__)

MAX_PIXELS = 120_000_000  # a larger picture is refused before it is decoded
MAX_GAP_SECONDS = (
  60  # s beyond the file's length; a larger step ahead is damage
)
ATTACHED_PICTURE, DEPENDENT = 0x400, 0x80000  # AV_DISPOSITION_...
STOPPED = 'reading stopped'


def alive() -> None:
  """Called for every packet; the decoder process puts its own here."""


class MediaError(LipSyncError):
  """A file cannot be read or written; one line says why and what to do."""


@contextlib.contextmanager
def as_media_error(path: str | os.PathLike, what: str) -> Iterator[None]:
  """Turn any failure within into one line about `path`.

  Damaged files make PyAV raise more than its own errors: IndexError,
  PermissionError, UnicodeDecodeError and others have been seen.
  """
  try:
    yield
  except MediaError:
    raise
  except MemoryError as error:
    raise MediaError(
      f'{printable(path)}: {what}: it needs more memory than there is; make it '
      'smaller first'
    ) from error
  except Exception as error:
    reason = getattr(error, 'strerror', None) or str(error) or repr(error)
    raise MediaError(
      f'{printable(path)}: {what}: {printable(reason)}'
    ) from error


@contextlib.contextmanager
def open_media(path: str | os.PathLike) -> Iterator:
  """Open a regular file for reading, as a PyAV container.

  PyAV gets an open file and not a name, and may open nothing further: no
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
  """Length in seconds by the header, 0 if it does not say."""
  length = to_seconds(stream.duration, stream.time_base)
  if length is None and container.duration:
    length = Fraction(container.duration, 1_000_000)
  return max(length or Fraction(0), Fraction(0))


def decode_stream(path, container, stream) -> Iterator:
  """Decode a stream; count what is damaged and go on behind it."""
  import av

  damaged = 0
  packets = container.demux(stream)
  while True:
    alive()
    try:
      packet = next(packets, None)
      if packet is None:
        break
      frames = packet.decode()
    except av.error.MemoryError:
      raise  # the file is whole, but too big for us
    except av.error.FFmpegError:
      damaged += 1
      frames = []
    yield from frames
  with contextlib.suppress(av.error.FFmpegError):  # EOF, unless it broke off
    yield from stream.decode(None)
  if damaged:
    log.warning('%s: %d damaged packets skipped', printable(path), damaged)


def to_seconds(stamp: int | None, unit: Fraction | None) -> Fraction | None:
  return None if stamp is None or not unit else stamp * unit
