"""Conversion of decoded pictures to the planes of `Frame`: 4:2:0, upright.

Shapes: h w rows and columns of Y.
"""

from collections.abc import Callable

import numpy as np

from lipsync_jax.media.types import UNSPECIFIED, Video, View
from lipsync_jax.media.yuv import orient_plane, to_yuv

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]


def frame_converter(
  video: Video,
) -> Callable[..., tuple[Planes, np.ndarray | None]]:
  """Function from a decoded picture to the planes and alpha of `video`.

  It keeps one scaler, whose set-up costs more than scaling a picture.
  """
  from av.video.reformatter import VideoReformatter

  scaler = VideoReformatter()
  kind = np.uint8 if video.color.depth == 8 else np.uint16
  turns = [video.turn] + [(True, False, True)] * video.view.rotate
  transposed = sum(turn[0] for turn in turns) % 2
  width, height = video.stored
  box = crop_box(video.view, *video.stored[:: -1 if transposed else 1])
  background = video.view.background
  color = None if background is None else color_values(video, background)

  def deliver(plane, step: int) -> np.ndarray:
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
    return rows

  def planes(picture) -> tuple[Planes, np.ndarray | None]:
    layered = (video.alpha or color is not None) and has_alpha(picture)
    picture = _as_420(video, scaler, picture, layered)
    step = 1 if picture.format.name.startswith('yuva444') else 2
    colors = zip(picture.planes, (1, step, step), strict=False)
    delivered = tuple(deliver(plane, step) for plane, step in colors)
    if layered:
      alpha = deliver(picture.planes[3], 1)
      if step == 1:
        delivered = halve_visible(delivered, alpha)
      if color is not None:
        return flatten(delivered, alpha, color), None
      return delivered, alpha
    if video.alpha:  # a picture without alpha among others
      opaque = np.full_like(delivered[0], 2**video.color.depth - 1)
      return delivered, opaque
    return delivered, None

  return planes


def halve_visible(planes: Planes, alpha: np.ndarray) -> Planes:
  """Halve U and V of full size; hidden pixels do not tint visible ones.

  Args:
    planes: Y, U and V, all [h w].
    alpha: [h w], 0 to the largest code value.
  """
  import cv2

  luma, *chroma = planes
  size = (luma.shape[1] // 2, luma.shape[0] // 2)
  # Where everything is hidden, this little weight makes it a plain mean.
  weight = alpha.astype(np.float32) + 1e-3
  total = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
  halves = []
  for plane in chroma:
    half = cv2.resize(weight * plane, size, interpolation=cv2.INTER_AREA)
    half = np.rint(half / total).astype(plane.dtype)
    half.flags.writeable = False
    halves.append(half)
  return luma, *halves


def color_values(
  video: Video, rgb: tuple[int, int, int]
) -> tuple[float, float, float]:
  """Y, U and V code values of a color in 0..255."""
  patch = np.full((1, 1, 3), rgb, np.float32)
  return tuple(float(plane[0, 0]) for plane in to_yuv(video, patch))


def flatten(
  planes: Planes, alpha: np.ndarray, color: tuple[float, float, float]
) -> Planes:
  """Lay planes over one color.

  Args:
    planes: Y [h w], U and V [h/2 w/2].
    alpha: [h w], 0 to the largest code value.
    color: Y, U and V code values.
  """
  import cv2

  most = 255 if alpha.dtype == np.uint8 else 1023
  weight = alpha.astype(np.float32) / most
  half = cv2.resize(weight, planes[1].shape[::-1], interpolation=cv2.INTER_AREA)
  mixed = []
  for plane, share, under in zip(
    planes, (weight, half, half), color, strict=True
  ):
    value = under + share * (plane - np.float32(under))
    value = np.rint(value).astype(plane.dtype)
    value.flags.writeable = False
    mixed.append(value)
  return tuple(mixed)


def _as_420(video: Video, scaler, picture, alpha: bool):
  """Scale and convert a picture to planar 4:2:0 where necessary.

  With alpha the result is 4:4:4, unless the picture is 4:2:0 already.

  Args:
    video: describes the result.
    scaler: PyAV's, used for all pictures.
    picture: PyAV's frame.
    alpha: keep the alpha plane, as the fourth one.
  """
  even = (picture.width // 2 * 2, picture.height // 2 * 2)
  fits = even == video.stored
  names = (video.pix_fmt, 'yuvj420p') if video.color.depth == 8 else ()
  target = video.pix_fmt
  if alpha:
    target = target.replace('yuv420p', 'yuva420p')
    names = ()
    if picture.format.name != target:
      target = target.replace('420', '444')
  native = picture.format.name in (target, *names)
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
  return scaler.reformat(picture, *size, target, interpolation=how, **options)


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


def has_alpha(picture) -> bool:
  """Whether a picture has an alpha channel, or a palette that may have one."""
  form = picture.format
  return form.has_palette or any(part.is_alpha for part in form.components)
