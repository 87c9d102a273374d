"""Pictures that PyAV cannot read, read by Pillow.

These are animated WebP, photos in tiles (HEIC of phones, with the package
pillow-heif), and the mirrors among the EXIF orientations.
"""

import os
import struct
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from lipsync_jax.common.errors import printable
from lipsync_jax.media.container import (
  MAX_PIXELS,
  Heartbeat,
  MediaError,
  no_heartbeat,
)

TICK = Fraction(1, 1000)  # s, the time base of WebP
# ms; browsers show a picture of 10 ms or less for 100 ms
SHORTEST, REPLACEMENT = 10, 100
ORIENTATION = 0x0112  # EXIF tag
# EXIF orientation -> (transpose, flip_y, flip_x) that shows it upright
TURNS = {
  1: (False, False, False),
  2: (False, False, True),
  3: (False, True, True),
  4: (False, True, False),
  5: (True, False, False),
  6: (True, False, True),
  7: (True, True, True),
  8: (True, True, False),
}


def exif_turn(
  path: str | os.PathLike,
) -> tuple[bool, bool, bool] | None:
  """(transpose, flip_y, flip_x) by a photo's EXIF; None if unknown."""
  from PIL import Image

  try:
    with Image.open(path) as image:
      return TURNS.get(image.getexif().get(ORIENTATION))
  except Exception:  # damaged, or of a type that Pillow does not read
    return None


def webp_durations(path: str | os.PathLike) -> list[int]:
  """Milliseconds of every picture of an animated WebP; [] for other files.

  Only the heads of the file's chunks are read.
  """
  durations = []
  with open(path, 'rb') as file:
    if file.read(4) != b'RIFF' or file.read(8)[4:] != b'WEBP':
      return []
    while len(head := file.read(8)) == 8:
      name, size = head[:4], struct.unpack('<I', head[4:])[0]
      end = file.tell() + size + size % 2
      if name == b'ANMF':
        length = int.from_bytes(file.read(15)[12:], 'little')
        durations.append(length if length > SHORTEST else REPLACEMENT)
      file.seek(end)
  return durations


def read_pictures(
  path: str | os.PathLike, heartbeat: Heartbeat = no_heartbeat
) -> Iterator:
  """Stream pictures as PyAV frames in RGB or RGBA, one in memory at a time.

  Args:
    path: the file.
    heartbeat: called before every picture.

  Raises:
    MediaError: the picture is too large, or needs a package that is missing.
  """
  import av

  durations = webp_durations(path) or [0]
  time = 0
  with _open_image(path) as image:
    if image.width * image.height > MAX_PIXELS:
      raise MediaError(
        f'{printable(path)}: a picture of at most {MAX_PIXELS // 10**6} '
        f'Mpixel is needed, found {image.width}x{image.height}'
      )
    for number, duration in enumerate(durations):
      heartbeat()
      try:
        image.seek(number)
      except EOFError:
        break  # the file ends before its last picture
      mode = 'RGBA' if image.has_transparency_data else 'RGB'
      pixels = np.asarray(image.convert(mode))
      form = 'rgba' if mode == 'RGBA' else 'rgb24'
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), form)
      frame.pts, frame.time_base = time, TICK
      yield frame
      time += duration


def reads_heic() -> bool:
  """Whether Pillow reads HEIC, which needs a package of its own."""
  try:
    import pillow_heif
  except ImportError:
    return False
  pillow_heif.register_heif_opener()
  return True


def _open_image(path):
  from PIL import Image, UnidentifiedImageError

  heic = reads_heic()
  try:
    return Image.open(path)
  except UnidentifiedImageError:
    if heic:
      raise
    raise MediaError(
      f'{printable(path)}: a photo in tiles (HEIC) needs the package '
      'pillow-heif: pip install pillow-heif, or save the photo as JPEG'
    ) from None
