"""Boxes of faces, (x0, y0, x1, y1) in pixels, half-open."""

import numpy as np
from jaxtyping import Float

from lipsync_jax.faces import landmarks

# YuNet's box relative to the landmarks: medians over 250 faces of 30 clips. Its
# width is 0.983 of the oval's (p10 0.943, p90 1.042), its top is 0.126 of the
# face's height above the oval, its bottom 0.003 above the chin.
BOX_WIDTH = 0.98
BOX_TOP = 0.126


def bounding_boxes(
  points: Float[np.ndarray, '*t n 2'],
) -> Float[np.ndarray, '*t 4']:
  """The smallest upright boxes of landmarks."""
  return np.concatenate([points.min(-2), points.max(-2)], axis=-1)


def detector_boxes(
  points: Float[np.ndarray, 't n 2'],
) -> Float[np.ndarray, 't 4']:
  """Upright boxes like YuNet's, from landmarks."""
  box = bounding_boxes(points[:, landmarks.OVAL])
  box[:, 1] -= BOX_TOP * (box[:, 3] - box[:, 1])
  return box


def iou_matrix(
  a: Float[np.ndarray, 'a 4'], b: Float[np.ndarray, 'b 4']
) -> Float[np.ndarray, 'a b']:
  """Intersection over union of every box of `a` with every box of `b`."""
  low = np.maximum(a[:, None, :2], b[None, :, :2])
  high = np.minimum(a[:, None, 2:], b[None, :, 2:])
  common = np.prod(np.maximum(high - low, 0), -1)  # [a b]
  area_a, area_b = (np.prod(v[:, 2:] - v[:, :2], -1) for v in (a, b))
  union = area_a[:, None] + area_b[None] - common
  return common / np.maximum(union, 1e-9)
