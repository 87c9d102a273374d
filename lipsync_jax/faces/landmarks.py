"""The 89 landmarks of a face, and measures of them.

Coordinates are continuous pixels of the full frame, x right and y down: the
center of the first pixel is (0.5, 0.5). Angles are radians in the image plane,
positive if the eye on the right side of the picture is lower.

Shapes: t frames, n the 89 landmarks.
"""

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.common.errors import LipSyncError


class FaceError(LipSyncError):
  """No usable face."""


# MediaPipe's face mesh has 478 points. Masks, crops and mouth measures need
# these 89, 712 bytes a face and frame.
# The oval starts at the top of the forehead, along the picture's right side.
_OVAL = (
  10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288,
  397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136,
  172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# Lips start at the corner on the picture's left, along the upper lip.
_OUTER_LIPS = (
  61, 185, 40, 39, 37, 0, 267, 269, 270, 409,
  291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
)  # fmt: skip
_INNER_LIPS = (
  78, 191, 80, 81, 82, 13, 312, 311, 310, 415,
  308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
)  # fmt: skip
_EYES = (33, 133, 362, 263)  # corners, left to right in the picture
_IRISES = (468, 473)
_WINGS = (129, 358)  # of the nose
_CHEEKS = (205, 425)
_NOSE = (1, 2, 168)  # tip, base (subnasale), bridge
LANDMARK_IDS = (
  _OVAL + _OUTER_LIPS + _INNER_LIPS + _EYES + _IRISES + _WINGS + _CHEEKS + _NOSE
)

OVAL, OUTER_LIPS, INNER_LIPS = slice(0, 36), slice(36, 56), slice(56, 76)
EYES, IRISES = slice(76, 80), slice(80, 82)
WINGS, CHEEKS = slice(82, 84), slice(84, 86)
NOSE, SUBNASALE, BRIDGE = 86, 87, 88
CHIN = 18
UPPER_LIP, LOWER_LIP = 56 + 5, 56 + 15  # of the inner lips, at the middle
MOUTH_CORNERS = (36, 46)  # of the outer lips, left and right
# The oval without the jaw: fixed when the mouth opens.
UPPER_OVAL = (*range(10), *range(27, 36))
RIGID_POINTS = (*UPPER_OVAL, 76, 77, 78, 79, BRIDGE)
OVAL_SIDES = (28, 8)  # widest points of the oval, left and right


def level_eyes(
  points: Float[np.ndarray, 't n 2'],
) -> tuple[Float[np.ndarray, 't n 2'], Float[np.ndarray, 't']]:
  """Landmarks rotated about the frame's corner until the eyes are level."""
  eyes = points[:, EYES]
  line = eyes[:, 2:].mean(1) - eyes[:, :2].mean(1)  # [t 2]
  roll = np.arctan2(line[:, 1], line[:, 0])
  c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
  x, y = points[..., 0], points[..., 1]
  return np.stack([c * x + s * y, c * y - s * x], -1), roll


def lip_openings(
  points: Float[np.ndarray, 't n 2'], rows: Float[np.ndarray, 't 5']
) -> Float32[np.ndarray, 't']:
  """Lip opening of each frame, relative to the height of its crop."""
  gap = points[:, LOWER_LIP] - points[:, UPPER_LIP]  # [t 2]
  gap, roll = gap.astype(np.float64), rows[:, 4].astype(np.float64)
  down = gap[:, 1] * np.cos(roll) - gap[:, 0] * np.sin(roll)
  return (down / rows[:, 3]).astype(np.float32)


def head_yaw(points: Float[np.ndarray, 't n 2']) -> Float[np.ndarray, 't']:
  """Yaw of the head in degrees, positive towards the picture's right.

  It is computed from the offset of the nose between the oval's sides. Its error
  is some 10 degrees up to a yaw of 40, where the far side becomes hidden.
  """
  turned, _ = level_eyes(points.astype(np.float64))
  left, right = (turned[:, side, 0] for side in OVAL_SIDES)
  half = np.maximum((right - left) / 2, 1e-6)
  # The nose tip is about half a face width in front of the axis.
  lever = (turned[:, NOSE, 0] - (left + right) / 2) / half
  return np.degrees(np.arctan(lever))
