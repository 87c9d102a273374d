"""Which cells of a face crop show an object, such as a hand or microphone.

Shapes: g cells of the network's answer, s pixels of a crop, n landmarks.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from lipsync_jax.faces import crop as crops
from lipsync_jax.faces import landmarks
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.models import occlusion
from lipsync_jax.rendering.visibility import smooth_step

CERTAIN = (0.3, 0.7)  # probability at which source pixels begin, are all
FOUND = 0.4  # probability of a cell of an object
MIN_CELLS = 10  # of an object
MIN_OUTSIDE = 4  # cells of an object beside the lips: teeth have none
NEW_LOOK = 0.08  # difference of an object from the usual face, relative
# A photo has no usual face to compare with, so that more is asked there.
PHOTO_FOUND = 0.5  # probability of a cell of an object
PHOTO_CERTAIN = 0.7  # mean probability of an object
PHOTO_CELLS = 40  # of an object
PHOTO_OUTSIDE = 20  # cells of an object outside the oval of the face
PHOTO_EDGE = 3  # cells of an object at the edge of the crop
PHOTO_LIPS = 0.05  # share of the lips that an object covers
LOWER_FACE = 20  # row of the grid from where an object matters
LIGHT_SHARE = 1.5  # of the upper face's change, which an object exceeds
UPPER_FACE = np.s_[6:20, 12:36]
LIPS = np.s_[32:43, 15:34]  # cells around the lips

Face = UInt8[np.ndarray, 's s 3']
Grid = Float32[np.ndarray, 'g g']


def even_look(face: Face) -> Float32[np.ndarray, 'g g 3']:
  """The crop on the grid, blurred, divided by the color of its middle."""
  import cv2

  x = cv2.GaussianBlur(face.astype(np.float32), (0, 0), 1.5)
  x = cv2.resize(x, (occlusion.GRID,) * 2, interpolation=cv2.INTER_AREA)
  return x / (np.median(x[10:44, 10:38].reshape(-1, 3), 0) + 8)


@dataclasses.dataclass(frozen=True)
class UsualFace:
  """What a speaker's face looks like in most frames.

  The network takes some beards and shadows of noses for objects. They stay
  where they are; a hand does not.

  Attributes:
    probability: of an object, median over the frames.
    look: `even_look`, median over the frames.
  """

  probability: Grid
  look: Float32[np.ndarray, 'g g 3']

  @classmethod
  def of(cls, faces: Sequence[Face], covered: Callable) -> 'UsualFace':
    """The usual face of some frames."""
    import cv2

    probability = np.median([covered(face) for face in faces], 0)
    look = np.median([even_look(face) for face in faces], 0)
    probability = cv2.dilate(probability, np.ones((3, 3), np.uint8))
    return cls(probability.astype(np.float32), look.astype(np.float32))

  def object_mask(self, face: Face, probability: Grid) -> Grid | None:
    """Cells of a face crop to keep from the source, 0 to 1; None: none."""
    import cv2

    probability = np.clip(probability - self.probability, 0, 1)
    probability[:LOWER_FACE] = 0
    cells = (probability > FOUND).astype(np.uint8)
    if cells.sum() < MIN_CELLS:
      return None
    change = np.abs(even_look(face) - self.look).mean(-1)
    change = cv2.GaussianBlur(change, (0, 0), 1)
    # Another light changes the upper face as well, an object does not.
    usual = LIGHT_SHARE * float(np.median(change[UPPER_FACE]))
    least = max(NEW_LOOK, usual)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(cells)
    kept = np.zeros(cells.shape, np.uint8)
    for part in range(1, count):
      inside = parts == part
      outside = inside.sum() - inside[LIPS].sum()
      large = stats[part, cv2.CC_STAT_AREA] >= MIN_CELLS
      if large and outside >= MIN_OUTSIDE:
        kept[inside] = np.quantile(change[inside], 0.7) > least
    if not kept.any():
      return None
    return _soft_mask(probability, kept)


def photo_mask(
  probability: Grid,
  points: Float[np.ndarray, 'n 2'],
  crop: crops.Crop,
) -> Grid | None:
  """Cells of a photo's face crop that an object before the lips covers.

  An object is large, comes from outside the face, and reaches the lips: beards,
  noses and shadows, which the network takes for objects, do not.

  Args:
    probability: of an object.
    points: landmarks, pixels.
    crop: of the face.
  """
  import cv2

  probability = probability.copy()
  probability[:LOWER_FACE] = 0
  oval = _inside(points[landmarks.OVAL], crop, len(probability))
  lips = _inside(points[landmarks.OUTER_LIPS], crop, len(probability))
  cells = (probability > PHOTO_FOUND).astype(np.uint8)
  count, parts = cv2.connectedComponents(cells)
  kept = np.zeros(cells.shape, np.uint8)
  for part in range(1, count):
    inside = parts == part
    edge = inside[-1].sum() + inside[:, 0].sum() + inside[:, -1].sum()
    kept[inside] = (
      inside.sum() >= PHOTO_CELLS
      and (inside & ~oval).sum() >= PHOTO_OUTSIDE
      and edge >= PHOTO_EDGE
      and probability[inside].mean() >= PHOTO_CERTAIN
      and (inside & lips).sum() >= PHOTO_LIPS * max(lips.sum(), 1)
    )
  return _soft_mask(probability, kept) if kept.any() else None


def _soft_mask(probability: Grid, kept: UInt8[np.ndarray, 'g g']) -> Grid:
  """The cells of objects with soft edges."""
  import cv2

  kernel = np.ones((3, 3), np.uint8)
  mask = smooth_step(probability, CERTAIN) * cv2.dilate(kept, kernel)
  # Warped pixels come from beside the object.
  mask = cv2.dilate(mask.astype(np.float32), kernel)
  return cv2.GaussianBlur(mask, (0, 0), 0.8)


def _inside(
  points: Float[np.ndarray, 'k 2'], crop: crops.Crop, size: int
) -> Bool[np.ndarray, 'g g']:
  """Cells of a crop's grid in the convex hull of some points."""
  import cv2

  grid = crops.transform_points(crops.crop_matrix(crop, size), points)
  hull = cv2.convexHull(np.rint(grid).astype(np.int32))
  inside = np.zeros((size, size), np.uint8)
  cv2.fillConvexPoly(inside, hull, 1)
  return inside > 0


def covered_lips(
  mask: Float32[np.ndarray, 'g g'],
  points: Float[np.ndarray, 'n 2'],
  crop: crops.Crop,
) -> float:
  """Share of the outer lips that a mask covers, 0 to 1."""
  inside = _inside(points[landmarks.OUTER_LIPS], crop, len(mask))
  return float(mask[inside].mean()) if inside.any() else 0.0


def face_crop(video: Video, frame: Frame, crop: crops.Crop) -> Face | None:
  """The network's view of a face; None if the crop is outside the frame."""
  import cv2

  try:
    box = crops.crop_bounds(crop, (video.height, video.width))
  except landmarks.FaceError:
    return None
  x0, y0, x1, y1 = (int(v) for v in box)
  # `crop.extract_crop` of the whole picture, with planes that are averaged
  # before they become RGB: a fourth of the time on a large face.
  shrink = max(int(min(crop.w, crop.h) / occlusion.SIZE), 1)
  size = (max((x1 - x0) // shrink, 1), max((y1 - y0) // shrink, 1))
  rgb = yuv.to_rgb(video, frame, (x0, y0, x1, y1), size)
  pixel = (x1 - x0) / size[0], (y1 - y0) / size[1]
  matrix = crops.crop_matrix(crop, occlusion.SIZE)
  return cv2.warpAffine(
    rgb,
    crops.opencv_affine(matrix, (x0, y0, *pixel)),
    (occlusion.SIZE, occlusion.SIZE),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )
