"""The face mesh: MediaPipe's 478 points in 3-D, and their canonical space.

A similarity (scale, rotation, translation), fitted to points that do not move
in speech, maps a frame to the canonical space. There x points right,
y down and z away from the viewer, and the distance of the outer eye corners of
the reference face is 1. What remains between frames is the motion of the face,
and the shape of the person.

Shapes: n frames, p 478 points, t triangles.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int, Int16

from lipsync_jax.common.assets import asset_path
from lipsync_jax.common.disk_array import RowFile

NUM_POINTS = 478
# Eye corners, nose, temples, forehead.
RIGID_IDS = (
  33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 19,
  94, 2, 98, 327, 127, 356, 234, 454, 8, 9, 10, 151,
)  # fmt: skip
EYE_CORNERS = (33, 263)  # outer ones
# Inner lips from the corner on the picture's left to the other one.
UPPER_LIP_IDS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_LIP_IDS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
# The outer edges of the lips, in the same order.
OUTER_UPPER_IDS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOWER_IDS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
SUBNASALE, UPPER_LIP_MIDDLE, CHIN = 2, 13, 152
# The outline of the face, clockwise in the picture from the forehead.
OVAL_IDS = (
  10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288,
  397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136,
  172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
NEUTRAL_SHARE = 0.1  # of the frames, those with the least lip opening
CLOSED_OPENING = 0.012  # canonical units; lips with a smaller opening touch
BLOCK = 512  # frames at once, for constant memory

PACK_SCALE = 16384  # steps of a packed mesh in the unit of its coordinates

Points = Float[np.ndarray, 'n p 3']
Shape = Float[np.ndarray, 'p 3']


@dataclasses.dataclass(frozen=True)
class Similarity:
  """Maps x to scale * rotation @ x + translation, one for each frame."""

  scale: Float[np.ndarray, 'n']
  rotation: Float[np.ndarray, 'n 3 3']
  translation: Float[np.ndarray, 'n 3']

  def apply(self, points: Points) -> Points:
    """The points mapped from the frame to the canonical space."""
    rotated = np.einsum('nij,npj->npi', self.rotation, points)
    return self.scale[:, None, None] * rotated + self.translation[:, None]

  def invert(self, points: Points) -> Points:
    """The points mapped from the canonical space to the frame."""
    moved = points - self.translation[:, None]
    back = np.einsum('nji,npj->npi', self.rotation, moved)
    return back / self.scale[:, None, None]


@functools.cache
def _asset() -> dict[str, np.ndarray]:
  with np.load(asset_path('face_mesh.npz'), allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def triangles() -> Int[np.ndarray, 't 3']:
  """Vertices of MediaPipe's tessellation, 468 of the points."""
  return _asset()['triangles'].astype(np.int64)


def reference_shape() -> Shape:
  """The mean face, in canonical units."""
  return _asset()['reference'].astype(np.float64)


def align(points: Points, reference: Shape) -> Similarity:
  """Least-squares similarity from each frame to the reference.

  Args:
    points: of the frames, in pixels; z in the same unit.
    reference: in canonical units.

  Source: Umeyama 1991, over RIGID_IDS.
  """
  source = points[:, RIGID_IDS].astype(np.float64)
  target = reference[list(RIGID_IDS)].astype(np.float64)
  source_mean, target_mean = source.mean(1, keepdims=True), target.mean(0)
  centered = source - source_mean
  covariance = np.einsum('kj,nki->nji', target - target_mean, centered)
  left, values, right = np.linalg.svd(covariance)
  signs = np.ones_like(values)
  signs[:, 2] = np.sign(np.linalg.det(left @ right))  # no reflection
  rotation = np.einsum('nij,nj,njk->nik', left, signs, right)
  scale = (values * signs).sum(-1) / np.square(centered).sum((1, 2))
  moved = np.einsum('nij,nj->ni', rotation, source_mean[:, 0])
  return Similarity(scale, rotation, target_mean - scale[:, None] * moved)


def pack(points: Points) -> Int16[np.ndarray, 'n p 3']:
  """Coordinates within ±2 as 16-bit numbers."""
  limit = 2 * PACK_SCALE - 1
  return np.clip(np.rint(points * PACK_SCALE), -limit, limit).astype(np.int16)


def unpack(packed: Int16[np.ndarray, 'n p 3']) -> Points:
  """The inverse of `pack`, float64."""
  return packed / float(PACK_SCALE)


def in_box(points: Points, boxes: Float[np.ndarray, 'n 4']) -> Points:
  """Frame pixels as positions relative to the box center, in box widths."""
  center, width = _center_and_width(boxes)
  return (points - center[:, None]) / width[:, None, None]


def from_box(points: Points, boxes: Float[np.ndarray, 'n 4']) -> Points:
  """The inverse of `in_box`."""
  center, width = _center_and_width(boxes)
  return points * width[:, None, None] + center[:, None]


def _center_and_width(boxes: Float[np.ndarray, 'n 4']):
  boxes = boxes.astype(np.float64)
  width = np.maximum(boxes[:, 2] - boxes[:, 0], 1e-3)
  middle = (boxes[:, :2] + boxes[:, 2:]) / 2
  return np.concatenate([middle, 0 * middle[:, :1]], -1), width


def lip_gaps(shapes: Points) -> Float[np.ndarray, 'n 11']:
  """Vertical gaps of the inner lip pairs, canonical units; negative: crossed.

  The first and last pair are the corners, with a gap of 0.
  """
  return shapes[:, LOWER_LIP_IDS, 1] - shapes[:, UPPER_LIP_IDS, 1]


def lip_opening(shapes: Points) -> Float[np.ndarray, 'n']:
  """Mean gap of the inner lips, canonical units."""
  return lip_gaps(shapes).mean(1)


def least_open(opening: Float[np.ndarray, 'n']) -> Bool[np.ndarray, 'n']:
  """The NEUTRAL_SHARE of frames with the least lip opening, at least one."""
  return opening <= np.quantile(opening, NEUTRAL_SHARE)


def mean_shape(packed: RowFile, frames: Int[np.ndarray, 'k']) -> Shape:
  """The mean of some rows of packed shapes, in bounded memory.

  Args:
    packed: of `pack`.
    frames: their rows; at least one.
  """
  total = np.zeros((NUM_POINTS, 3))
  for first in range(0, len(frames), BLOCK):
    part = frames[first : first + BLOCK]
    total += unpack(packed.take(part)).sum(0)
  return total / len(frames)


def neutral_shape(shapes: Points, known: Bool[np.ndarray, 'n']) -> Shape:
  """The person's face with closed lips.

  It is the mean of the frames of `least_open`.

  Args:
    shapes: canonical.
    known: frames with measured points; at least one.
  """
  found = shapes[known]
  return found[least_open(lip_opening(found))].mean(0)


@functools.cache
def displacement_weights() -> Float[np.ndarray, 'p']:
  """Share of speech motion at each point: 0 above the nose base, 1 at the lips.

  The transition is smooth, and the irises have 0.
  """
  y = reference_shape()[:, 1]
  low, high = y[SUBNASALE], y[UPPER_LIP_MIDDLE]
  x = np.clip(1.6 * (y - low) / (high - low), 0, 1)
  weights = x * x * (3 - 2 * x)
  weights[468:] = 0
  return weights


def displace(
  shapes: Points, neutral: Shape, displacement: Points, strength: float = 1.0
) -> Points:
  """Target shapes: the source's upper face with the displaced lower face.

  Args:
    shapes: canonical shapes of the source frames.
    neutral: of the person.
    displacement: from the neutral, zero where `displacement_weights` is.
    strength: of the displacement; below 1 also the share of the neutral.
  """
  share = displacement_weights()[:, None] * min(strength, 1.0)
  target = shapes + share * (neutral - shapes) + strength * displacement
  return uncross_lips(target)


def close_lips(shapes: Points) -> Points:
  """The shapes with the inner lips moved to touch at their middle."""
  return _narrow_lips(shapes, lip_gaps(shapes))


def uncross_lips(shapes: Points) -> Points:
  """The shapes with crossed inner lips moved to touch at their middle."""
  return _narrow_lips(shapes, np.minimum(lip_gaps(shapes), 0))


def _narrow_lips(shapes: Points, change: Float[np.ndarray, 'n 11']) -> Points:
  """The shapes with gaps that are smaller by `change`, half by each lip."""
  half = change[:, 1:-1] / 2
  out = shapes.copy()
  out[:, LOWER_LIP_IDS[1:-1], 1] -= half
  out[:, UPPER_LIP_IDS[1:-1], 1] += half
  return out
