"""Conversion of decoded pictures to the planes of `Frame`: 4:2:0, upright.

Shapes: h w rows and columns of Y.
"""

from collections.abc import Callable

import numpy as np

from lipsync_jax.media.types import UNSPECIFIED, Video, View
from lipsync_jax.media.yuv import orient_plane


def frame_converter(video: Video) -> Callable[..., tuple[np.ndarray, ...]]:
  """Function that converts a decoded picture to the planes of `video`.

  It keeps one scaler, whose set-up costs more than scaling a picture.
  """
  from av.video.reformatter import VideoReformatter

  scaler = VideoReformatter()
  kind = np.uint8 if video.color.depth == 8 else np.uint16
  turns = [video.turn] + [(True, False, True)] * video.view.rotate
  transposed = sum(turn[0] for turn in turns) % 2
  width, height = video.stored
  box = crop_box(video.view, *video.stored[:: -1 if transposed else 1])

  def planes(picture) -> tuple[np.ndarray, ...]:
    picture = _as_420(video, scaler, picture)
    delivered = []
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
      rows.flags.writeable = False  # the decoder may still use the memory
      delivered.append(rows)
    return tuple(delivered)

  return planes


def _as_420(video: Video, scaler, picture):
  """Scale and convert a picture to planar 4:2:0 where necessary."""
  even = (picture.width // 2 * 2, picture.height // 2 * 2)
  fits = even == video.stored
  names = (video.pix_fmt, 'yuvj420p') if video.color.depth == 8 else ()
  native = picture.format.name in (video.pix_fmt, *names)
  yuv = is_yuv(picture)
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


def crop_box(view: View, width: int, height: int) -> tuple[int, int, int, int]:
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


def is_yuv(picture) -> bool:
  """Whether a picture has luma and chroma, and so a color matrix."""
  form = picture.format
  return len(form.components) >= 3 and not (form.is_rgb or form.has_palette)
