"""The frames of a clip in the space of the mouth crop.

A canvas is a square picture around the mouth crop, at the scale of the
refiner's input. The mesh warp moves the pixels of a canvas, so that a source
frame is resampled once before it.

Shapes: n frames, p mesh points, h w rows and columns of a canvas.
"""

import dataclasses
import functools
from fractions import Fraction

import numpy as np
from jaxtyping import Float, UInt8

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data.clip import Clip
from lipsync_jax.faces import crop as crops
from lipsync_jax.faces import landmarks, mesh, mouth_crop
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Color, Frame, Video

CANVAS = 2  # sides of the mouth crop
JPEG_COLOR = Color(matrix=6, range=2)
MAX_RESIDUAL = 0.03  # of the side of the mouth crop, of a pose that fits


class RefinementError(LipSyncError):
  """Clips that no refiner can be trained on."""


@dataclasses.dataclass(frozen=True)
class Canvas:
  """A frame around its mouth crop.

  Attributes:
    rgb: pixels.
    points: the mesh, pixels of the canvas.
    unit: pixels of a canonical unit.
  """

  rgb: UInt8[np.ndarray, 'h w 3']
  points: Float[np.ndarray, 'p 2']
  unit: float

  def frame(self) -> Frame:
    """The canvas as a video frame, chroma of half the size."""
    rgb = self.rgb.astype(np.float32)
    luma, *chroma = yuv.to_yuv(canvas_video(len(rgb)), rgb)
    planes = (luma, *map(yuv.halve_plane, chroma))
    codes = (np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in planes)
    return Frame(0, Fraction(0), tuple(codes))


@functools.cache
def canvas_video(side: int) -> Video:
  """The color encoding of canvases, as the mesh renderer takes it."""
  return Video(
    path='',
    width=side,
    height=side,
    rate=Fraction(25),
    duration=Fraction(0),
    start=Fraction(0),
    pix_fmt='yuv420p',
    color=JPEG_COLOR,
  )


@dataclasses.dataclass(frozen=True)
class FaceClip:
  """A clip with the poses of its frames.

  Attributes:
    clip: as stored.
    shapes: canonical.
    axes, origin: the pose of each frame; the position of a canonical point c
      in the JPEG is axes @ c + origin, pixels.
    neutral: the mean of the frames with the least lip opening.
    size: pixels of the mouth crop.
  """

  clip: Clip
  shapes: Float[np.ndarray, 'n p 3']
  axes: Float[np.ndarray, 'n 2 3']
  origin: Float[np.ndarray, 'n 2']
  neutral: Float[np.ndarray, 'p 3']
  size: int

  def __len__(self) -> int:
    return len(self.shapes)

  def mouth(self, number: int) -> crops.Crop:
    """The mouth crop of a frame, pixels of the JPEG."""
    pose = self.axes[number], self.origin[number]
    return mouth_crop.mouth_crop(self.neutral, *pose)

  def canvas(self, number: int) -> Canvas:
    """A frame around its mouth crop."""
    import cv2

    jpeg = np.frombuffer(self.clip.frames[number], np.uint8)
    rgb = cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)
    mouth = self.mouth(number)
    wide = dataclasses.replace(mouth, w=CANVAS * mouth.w, h=CANVAS * mouth.h)
    side = CANVAS * self.size
    matrix = crops.crop_matrix(wide, side)
    shape = self.shapes[number]
    points = shape @ self.axes[number].T + self.origin[number]
    if wide.w > side:
      pixels = crops.extract_crop(rgb, wide, side)
    else:  # cubic: linear interpolation blurs an enlargement
      pixels = cv2.warpAffine(
        rgb,
        crops.opencv_affine(matrix),
        (side, side),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
      )
    unit = mouth_crop.pixels_per_unit(self.axes[number]) * side / wide.w
    return Canvas(pixels, crops.transform_points(matrix, points), unit)


def fit_poses(
  shapes: Float[np.ndarray, 'n p 3'], points: Float[np.ndarray, 'n l 2']
) -> tuple[
  Float[np.ndarray, 'n 2 3'],
  Float[np.ndarray, 'n 2'],
  Float[np.ndarray, 'n'],
]:
  """The affine maps from canonical shapes to the landmarks of their frames.

  Returns:
    Axes, origin, and the largest distance from a landmark, pixels.
  """
  ids = list(landmarks.LANDMARK_IDS)
  axes, origin, worst = [], [], []
  for shape, seen in zip(shapes[:, ids], points, strict=True):
    known = np.concatenate([shape, np.ones((len(ids), 1))], 1)
    fit, *_ = np.linalg.lstsq(known, seen.astype(np.float64), rcond=None)
    axes.append(fit[:3].T)
    origin.append(fit[3])
    worst.append(np.hypot(*(known @ fit - seen).T).max())
  return np.stack(axes), np.stack(origin), np.array(worst)


def read_face_clip(clip: Clip, size: int) -> FaceClip | None:
  """A clip with its poses; None where the mesh does not fit the landmarks.

  Args:
    clip: of the shards.
    size: pixels of the mouth crop.

  Raises:
    RefinementError: the clip has no mesh.
  """
  if not len(clip.mesh):
    raise RefinementError(
      f'{clip.key}: expected a clip with a mesh, found one without; build the '
      'shards with data_prep/build_tfrecords.py from videos'
    )
  shapes = mesh.unpack(clip.mesh)
  axes, origin, worst = fit_poses(shapes, clip.points)
  neutral = mesh.neutral_shape(shapes, np.ones(len(shapes), bool))
  face = FaceClip(clip, shapes, axes, origin, neutral, size)
  widths = np.array([face.mouth(k).w for k in range(len(face))])
  if not np.isfinite(worst).all() or (worst > MAX_RESIDUAL * widths).any():
    return None
  return face
