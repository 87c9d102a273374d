"""The crop of the mouth that the refiner repaints.

Its size, place and roll come from the person's neutral shape and the pose of
the head, so that it does not move with the lips. Training and inference both
use `mouth_crop`.

Shapes: p mesh points.
"""

import math

import numpy as np
from jaxtyping import Float

from lipsync_jax.faces import mesh
from lipsync_jax.faces.crop import Crop

SIDE = 1.6  # widths of the neutral mouth
BELOW = 0.1  # widths, from the corners of the mouth to the middle of the crop
CORNER_IDS = (mesh.OUTER_UPPER_IDS[0], mesh.OUTER_UPPER_IDS[-1])


def mouth_crop(
  neutral: Float[np.ndarray, 'p 3'],
  axes: Float[np.ndarray, '2 3'],
  origin: Float[np.ndarray, '2'],
) -> Crop:
  """The square crop of the mouth in a frame.

  Args:
    neutral: canonical shape of the person with closed lips.
    axes, origin: of the pose; the frame position of a canonical point c is
      axes @ c + origin, pixels.
  """
  left, right = neutral[list(CORNER_IDS)]
  width = float(np.hypot(*(right - left)[:2]))
  middle = (left + right) / 2 + np.array([0, BELOW * width, 0])
  cx, cy = axes @ middle + origin
  side = SIDE * width * pixels_per_unit(axes)
  roll = math.atan2(axes[1, 0], axes[0, 0])
  return Crop(float(cx), float(cy), side, side, roll)


def pixels_per_unit(axes: Float[np.ndarray, '2 3']) -> float:
  """Pixels of a canonical unit, whatever way the head turns.

  Each row of a scaled rotation has the scale as its length.
  """
  return float(np.linalg.norm(axes, axis=1).mean())
