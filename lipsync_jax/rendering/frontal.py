"""Lifted and turned heads for a generator network: the face it expects.

A generator fills in the lower half of a crop. Where the chin is lifted, the
whole nose lies in the upper half, and a network that saw few such heads paints
a second nose below it. Where the head is turned, it paints a mouth in the
middle of the crop. The rows and columns of such a crop are moved, so that the
base of the nose and the lips have usual places; those of the generated face are
moved back, which foreshortens the mouth as the head's turn does.

Shapes: s side of the network's square crop in pixels, n landmarks.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped

from lipsync_jax.faces import crop as crops
from lipsync_jax.faces import landmarks

# Row of the base of the nose by the height of the crop; it is less where the
# chin is lifted. Chosen by eye.
MIN_NOSE_ROW = 0.585
# Distance of the lips from the middle by the width of the crop, at most.
MAX_LIPS_ASIDE = 0.08
MIN_SHIFT = 0.002  # of the side; smaller shifts leave the crop as it is
MIN_ROOM = 0.05  # of the side, between points that keep their order
LIPS = [landmarks.UPPER_LIP, landmarks.LOWER_LIP]  # their middle

Knots = tuple[Float[np.ndarray, '_'], Float[np.ndarray, '_']]


@dataclasses.dataclass(frozen=True)
class CropShift:
  """Positions in a crop, and in the same crop of a head seen from the front.

  Positions are ascending, in sides of the crop; between them they are linear.
  """

  rows: Knots
  columns: Knots

  def to_front(
    self, face: Shaped[np.ndarray, 's s 3']
  ) -> Shaped[np.ndarray, 's s 3']:
    """The crop with nose and lips at usual places."""
    return _move(face, self.rows[::-1], self.columns[::-1])

  def from_front(
    self, face: Shaped[np.ndarray, 's s 3']
  ) -> Shaped[np.ndarray, 's s 3']:
    """The inverse of `to_front`."""
    return _move(face, self.rows, self.columns)


def _move(
  face: Shaped[np.ndarray, 's s 3'], rows: Knots, columns: Knots
) -> Shaped[np.ndarray, 's s 3']:
  """The picture that shows, at the first positions, what is at the second."""
  import cv2

  size = len(face)
  centers = (np.arange(size) + 0.5) / size
  x, y = np.meshgrid(
    np.interp(centers, *columns) * size - 0.5,
    np.interp(centers, *rows) * size - 0.5,
  )
  return cv2.remap(
    face,
    x.astype(np.float32),
    y.astype(np.float32),
    cv2.INTER_CUBIC,
    borderMode=cv2.BORDER_REPLICATE,
  )


def crop_shift(
  points: Float[np.ndarray, 'n 2'], crop: crops.Crop
) -> CropShift | None:
  """How a crop is moved; None for a head that is neither lifted nor turned.

  Eyes and chin keep their rows, the edges of the crop their columns.

  Args:
    points: landmarks, pixels of the frame; NaN if unknown.
    crop: of the face.
  """
  if not np.isfinite(points).all():
    return None
  where = crops.transform_points(
    crops.crop_matrix(crop, 1), points.astype(np.float64)
  )
  eyes, chin = where[landmarks.EYES, 1].mean(), where[landmarks.CHIN, 1]
  nose, lips = where[landmarks.SUBNASALE, 1], where[LIPS, 0].mean()
  level = min(max(nose, MIN_NOSE_ROW), min(chin, 1.0) - MIN_ROOM)
  middle = float(np.clip(lips, 0.5 - MAX_LIPS_ASIDE, 0.5 + MAX_LIPS_ASIDE))
  rows = columns = np.array([0.0, 1.0]), np.array([0.0, 1.0])
  if eyes > 0 and eyes + MIN_ROOM < nose < level - MIN_SHIFT:
    rows = (
      np.array([0, eyes, nose, min(chin, 1.0), 1.01]),
      np.array([0, eyes, level, min(chin, 1.0), 1.01]),
    )
  if MIN_ROOM < lips < 1 - MIN_ROOM and abs(middle - lips) > MIN_SHIFT:
    columns = np.array([0, lips, 1.0]), np.array([0, middle, 1.0])
  if len(rows[0]) == len(columns[0]) == 2:
    return None
  return CropShift(rows, columns)
