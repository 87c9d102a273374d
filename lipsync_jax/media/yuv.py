"""Frames as Y, U and V planes: color conversion, orientation, blending.

Frames are edited in the planes of the source and never converted to RGB as a
whole, so every pixel outside a blended patch keeps its exact value. All
functions are pure; `video_reader` reads planes and `video_writer` writes them.

Shapes: h w rows and columns of a picture or patch, y x rows and columns of
a plane, c channels (RGB). Planes are 4:2:0: U and V have half the rows and
columns of Y. Code values are those of the file: 0..255, or 0..1023 in 10 bit.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Integer, Shaped, UInt8

from lipsync_jax.media.types import Color, Frame, Video

Plane = Integer[np.ndarray, '_ _']


def yuv_to_rgb_matrix(color: Color) -> Float[np.ndarray, '3 4']:
  """Affine map from (Y, U, V, 1) in code values to RGB in 0..255."""
  kr, kb = color.weights
  kg = 1 - kr - kb
  if color.full:
    gain = 255 / (2**color.depth - 1)
    luma, black, chroma = gain, 0, gain
  else:
    unit = 2 ** (color.depth - 8)
    luma, black, chroma = 255 / (219 * unit), 16 * unit, 255 / (224 * unit)
  blue, red = 2 * (1 - kb) * chroma, 2 * (1 - kr) * chroma
  linear = np.array(
    [
      [luma, 0, red],
      [luma, -blue * kb / kg, -red * kr / kg],
      [luma, blue, 0],
    ]
  )
  zero = np.array([black, 2 ** (color.depth - 1), 2 ** (color.depth - 1)])
  return np.concatenate([linear, -(linear @ zero)[:, None]], axis=1)  # [3 4]


def to_rgb(
  video: Video,
  frame: Frame,
  box: tuple[int, int, int, int] | None = None,
  size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, 'h w 3']:
  """Convert a rectangle of a frame, or all of it, to RGB.

  Args:
    video: color encoding of the frame.
    frame: the frame.
    box: (x0, y0, x1, y1) pixels, half-open, clipped to the frame.
    size: (w, h) to scale to, by averaging if smaller. Planes are scaled before
      the conversion, so a small picture of a large frame costs little.
  """
  import cv2

  height, width = frame.planes[0].shape
  x0, y0, x1, y1 = clip_box(box or (0, 0, width, height), width, height)
  left, top, right, bottom = _even_box(x0, y0, x1, y1)
  y, u, v = (
    plane[top // s : bottom // s, left // s : right // s]
    for plane, s in zip(frame.planes, (1, 2, 2), strict=True)
  )
  y = y[y0 - top : y1 - top, x0 - left : x1 - left]
  if y.size == 0:
    return np.zeros((*(size or (0, 0))[::-1], 3), np.uint8)
  if size is None:
    # Chroma is repeated, not interpolated. `blend_patch` averages 2 x 2
    # pixels, so an unchanged patch returns to its former code values.
    u, v = (np.repeat(np.repeat(p, 2, 0), 2, 1) for p in (u, v))
    u, v = (
      p[y0 - top : y1 - top, x0 - left : x1 - left] for p in (u, v)
    )  # [h w]
  else:
    y, u, v = (_resize_plane(plane, size) for plane in (y, u, v))
  matrix = yuv_to_rgb_matrix(video.color).astype(np.float32)
  if y.dtype == np.uint8:
    return cv2.transform(cv2.merge((y, u, v)), matrix)
  image = cv2.merge([p.astype(np.float32) for p in (y, u, v)])
  image = cv2.transform(image, matrix)
  return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def to_yuv(
  video: Video, patch: Float[np.ndarray, 'h w 3']
) -> tuple[
  Float32[np.ndarray, 'h w'],
  Float32[np.ndarray, 'h w'],
  Float32[np.ndarray, 'h w'],
]:
  """Convert RGB in 0..255 to unrounded Y, U, V code values of the video."""
  import cv2

  matrix = yuv_to_rgb_matrix(video.color)
  inverse = np.linalg.inv(matrix[:, :3])
  inverse = np.concatenate([inverse, -inverse @ matrix[:, 3:]], axis=1)
  image = cv2.transform(patch.astype(np.float32), inverse)
  return cv2.split(image)


def blend_patch(
  video: Video,
  frame: Frame,
  patch: Float[np.ndarray, 'h w 3'],
  alpha: Float[np.ndarray, 'h w'],
  corner: tuple[int, int],
) -> Frame:
  """Blend a patch into a copy of a frame, in the frame's own planes.

  Code values change only where alpha > 0 (chroma: where any of its 2 x 2
  pixels has alpha > 0); everywhere else the planes stay bit-identical.

  Args:
    video: color encoding of the frame.
    frame: the frame, which is not changed.
    patch: RGB in 0..255.
    alpha: weight of the patch, 0..1.
    corner: (x, y) of the patch's top left pixel; parts of the patch outside
      the frame are ignored.
  """
  height, width = frame.planes[0].shape
  x, y = corner
  box = (x, y, x + patch.shape[1], y + patch.shape[0])
  x0, y0, x1, y1 = clip_box(box, width, height)
  if x0 >= x1 or y0 >= y1:
    return frame
  part = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
  left, top, right, bottom = _even_box(x0, y0, x1, y1)
  # Pixels of alpha 0 extend the rectangle to the even grid.
  margin = (y0 - top, bottom - y1, x0 - left, right - x1)
  alpha = _pad_plane(alpha[part].astype(np.float32), margin)
  planes = []
  sources = zip(
    frame.planes, to_yuv(video, patch[part]), (1, 2, 2), strict=True
  )
  for plane, new, step in sources:
    where = np.s_[top // step : bottom // step, left // step : right // step]
    old = plane[where].astype(np.float32)
    new = _pad_plane(new, margin)
    if step == 1:
      change = alpha * (new - old)
    else:
      # Mean over 2 x 2 pixels of alpha * (new - old), old being constant.
      change = halve_plane(alpha * new) - halve_plane(alpha) * old
    plane = plane.copy()
    change += old
    np.rint(change, out=change)
    plane[where] = np.clip(change, 0, 2**video.color.depth - 1)
    planes.append(plane)
  return dataclasses.replace(frame, planes=tuple(planes))


def orient_plane(plane: Plane, turn: tuple[bool, bool, bool]) -> Plane:
  """Transpose and mirror a plane: `turn` is (transpose, flip_y, flip_x)."""
  transpose, flip_y, flip_x = turn
  plane = plane.T if transpose else plane
  return plane[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def parse_display_matrix(
  matrix: Integer[np.ndarray, '9'],
) -> tuple[bool, bool, bool]:
  """Read a display matrix (ISO 14496-12, 6.2.2) as transpose and mirrors.

  Angles are rounded to the nearest multiple of 90 degrees.
  """
  a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
  if abs(b) + abs(c) > abs(a) + abs(d):  # x' = c y, y' = b x
    return True, b < 0, c < 0
  return False, d < 0, a < 0


def clip_box(
  box: tuple[int, int, int, int], width: int, height: int
) -> tuple[int, int, int, int]:
  """Clip a half-open box (x0, y0, x1, y1) to a picture; it may be empty."""
  x0, x1 = (min(max(int(x), 0), width) for x in (box[0], box[2]))
  y0, y1 = (min(max(int(y), 0), height) for y in (box[1], box[3]))
  return x0, y0, x1, y1


def _even_box(x0: int, y0: int, x1: int, y1: int) -> tuple[int, int, int, int]:
  """Extend a box to the grid of chroma samples."""
  return x0 // 2 * 2, y0 // 2 * 2, (x1 + 1) // 2 * 2, (y1 + 1) // 2 * 2


def _pad_plane(
  plane: Float32[np.ndarray, 'y x'], margin: tuple[int, int, int, int]
) -> Float32[np.ndarray, '_ _']:
  """Add rows and columns of zeros: (above, below, left, right)."""
  above, below, left, right = margin
  if not any(margin):
    return plane
  return np.pad(plane, ((above, below), (left, right)))


def halve_plane(
  plane: Shaped[np.ndarray, 'y x *c'],
) -> Shaped[np.ndarray, 'y//2 x//2 *c']:
  """The means of 2 x 2 pixels: values of luma on the grid of chroma."""
  import cv2

  size = (plane.shape[1] // 2, plane.shape[0] // 2)
  return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


def _resize_plane(plane: Plane, size: tuple[int, int]) -> Plane:
  """Scale a plane to (w, h): average when halving, else interpolate."""
  import cv2

  if plane.shape == size[::-1]:
    return plane
  # Below a factor of 2, linear interpolation skips no pixel and is faster.
  halves = plane.shape[1] >= 2 * size[0] and plane.shape[0] >= 2 * size[1]
  how = cv2.INTER_AREA if halves else cv2.INTER_LINEAR
  return cv2.resize(plane, size, interpolation=how)
