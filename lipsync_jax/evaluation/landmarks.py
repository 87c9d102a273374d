"""Landmarks of eval clips.

Every picture is analyzed without its neighbors, so that generated and real
pictures are measured alike.

Shapes: n frames.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from lipsync_jax.evaluation.clip import EvalClip
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import crop_bounds, crop_from_row
from lipsync_jax.faces.detector import FaceDetector

MARGIN = 1.6  # input of the landmarker, relative to the crop's longer side


def read_landmarks(
  clip: EvalClip, detector: FaceDetector
) -> Float[np.ndarray, 'n 89 2']:
  """Landmarks in pixels of the pictures; NaN where none are found.

  Their order is that of `faces.landmarks.LANDMARK_IDS`.
  """

  def one(i: int):
    return _points(clip.pictures[i], clip.crops[i], detector)

  points = detector.map(one, list(range(len(clip))))
  return np.stack(points).astype(np.float64)


def _points(picture, row, detector: FaceDetector) -> Float[np.ndarray, '89 2']:
  crop = crop_from_row(row)
  side = MARGIN * max(crop.w, crop.h)
  square = dataclasses.replace(crop, w=side, h=side, roll=0.0)
  h, w = picture.shape[:2]
  x0, y0, x1, y1 = (int(v) for v in crop_bounds(square, (h, w), 0.0))
  mesh = detector.landmarks(
    np.ascontiguousarray(picture[y0:y1, x0:x1]), (x0, y0)
  )
  if mesh is None:
    return np.full((len(landmarks.LANDMARK_IDS), 2), np.nan)
  points = mesh[list(landmarks.LANDMARK_IDS), :2].astype(np.float64)
  # A face elsewhere in the picture is another person.
  inside = np.hypot(*(points.mean(0) - [crop.cx, crop.cy])) < crop.w / 2
  return points if inside else np.full_like(points, np.nan)
