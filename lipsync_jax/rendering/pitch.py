"""Lifted heads for a generator network: the nose where the network expects it.

A generator fills in the lower half of a crop. Where the chin is lifted, the
whole nose lies in the upper half, and a network that saw few such heads paints
a second nose below it. The rows of such a crop are moved, so that the base of
the nose has its usual row; those of the generated face are moved back.

Shapes: s side of the network's square crop in pixels, n landmarks.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped

from lipsync_jax.faces import crop as crops
from lipsync_jax.faces import landmarks

# Row of the base of the nose, relative to the height of the crop. 90 % of the
# frames of ten speakers lie between 0.57 and 0.645.
LOWEST_NOSE_ROW = 0.585
MIN_SHIFT = 0.002  # of the height; smaller shifts leave the crop as it is
MIN_ROOM = 0.05  # of the height, between eyes, nose and chin


@dataclasses.dataclass(frozen=True)
class RowShift:
  """Rows of a crop and of the same crop with a level head, ascending.

  Rows between them are interpolated linearly. Units are heights of the crop.
  """

  crop: Float[np.ndarray, 'k']
  level: Float[np.ndarray, 'k']

  def to_level(
    self, face: Shaped[np.ndarray, 's s 3']
  ) -> Shaped[np.ndarray, 's s 3']:
    """The crop with the base of the nose at its usual row."""
    return _move_rows(face, self.level, self.crop)

  def from_level(
    self, face: Shaped[np.ndarray, 's s 3']
  ) -> Shaped[np.ndarray, 's s 3']:
    """The inverse of `to_level`."""
    return _move_rows(face, self.crop, self.level)


def _move_rows(face, to, source):
  """The picture whose row `to` shows the row `source`."""
  import cv2

  size = len(face)
  rows = np.interp((np.arange(size) + 0.5) / size, to, source) * size - 0.5
  x, y = np.meshgrid(np.arange(size, dtype=np.float32), rows)
  return cv2.remap(
    face,
    x,
    y.astype(np.float32),
    cv2.INTER_CUBIC,
    borderMode=cv2.BORDER_REPLICATE,
  )


def row_shift(
  points: Float[np.ndarray, 'n 2'], crop: crops.Crop
) -> RowShift | None:
  """How the rows of a crop move; None for a head that is not lifted.

  Eyes and chin keep their rows.

  Args:
    points: landmarks, pixels of the frame; NaN if unknown.
    crop: of the face.
  """
  if not np.isfinite(points).all():
    return None
  where = crops.transform_points(
    crops.crop_matrix(crop, 1), points.astype(np.float64)
  )[:, 1]
  eyes, chin = where[landmarks.EYES].mean(), min(where[landmarks.CHIN], 1.0)
  nose = float(where[landmarks.SUBNASALE])
  level = min(max(nose, LOWEST_NOSE_ROW), chin - MIN_ROOM)
  fits = eyes > 0 and eyes + MIN_ROOM < nose
  if not fits or level - nose < MIN_SHIFT:
    return None
  return RowShift(
    np.array([0, eyes, nose, chin, 1.0]), np.array([0, eyes, level, chin, 1.0])
  )
