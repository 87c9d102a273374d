"""Landmarks of eval clips, and the lip opening in canonical units.

Every picture is analyzed without its neighbors, so that generated and real
pictures are measured alike.

Shapes: n frames.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.evaluation.clip import EvalClip
from lipsync_jax.faces import landmarks, mesh
from lipsync_jax.faces.crop import crop_bounds, crop_from_row
from lipsync_jax.faces.detector import FaceDetector

MARGIN = 1.6  # input of the landmarker, relative to the crop's longer side


@dataclasses.dataclass(frozen=True)
class LipReading:
  """The landmarks of a clip; NaN where no face is found."""

  points: Float[np.ndarray, 'n 89 2']  # pixels, `faces.landmarks.LANDMARK_IDS`
  opening: Float[np.ndarray, 'n']  # canonical units, `mesh.lip_opening`

  def part(self, frames: slice) -> 'LipReading':
    """The reading of some frames."""
    return LipReading(self.points[frames], self.opening[frames])


def read_lips(clip: EvalClip, detector: FaceDetector) -> LipReading:
  """Landmarks and lip opening of every frame."""

  def one(i: int):
    return _mesh(clip.pictures[i], clip.crops[i], detector)

  found = detector.map(one, list(range(len(clip))))
  meshes: Float32[np.ndarray, 'n p 3'] = np.stack(found)
  points = meshes[:, list(landmarks.LANDMARK_IDS), :2].astype(np.float64)
  known = np.isfinite(points).all((1, 2))
  opening = np.full(len(meshes), np.nan)
  if known.any():
    similarity = mesh.align(meshes[known], mesh.reference_shape())
    opening[known] = mesh.lip_opening(similarity.apply(meshes[known]))
  return LipReading(points, opening)


def read_landmarks(
  clip: EvalClip, detector: FaceDetector
) -> Float[np.ndarray, 'n 89 2']:
  """Landmarks in pixels of the pictures; NaN where none are found.

  Their order is that of `faces.landmarks.LANDMARK_IDS`.
  """
  return read_lips(clip, detector).points


def _mesh(picture, row, detector: FaceDetector) -> Float32[np.ndarray, 'p 3']:
  """The mesh of one picture in its pixels; NaN without a face."""
  crop = crop_from_row(row)
  side = MARGIN * max(crop.w, crop.h)
  square = dataclasses.replace(crop, w=side, h=side, roll=0.0)
  h, w = picture.shape[:2]
  x0, y0, x1, y1 = (int(v) for v in crop_bounds(square, (h, w), 0.0))
  found = detector.landmarks(
    np.ascontiguousarray(picture[y0:y1, x0:x1]), (x0, y0)
  )
  absent = np.full((mesh.NUM_POINTS, 3), np.nan, np.float32)
  if found is None:
    return absent
  points = found[list(landmarks.LANDMARK_IDS), :2].astype(np.float64)
  # A face elsewhere in the picture is another person.
  inside = np.hypot(*(points.mean(0) - [crop.cx, crop.cy])) < crop.w / 2
  return found if inside else absent
