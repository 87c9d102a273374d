"""Known faults, made on a real clip of GRID, and the measures that see them.

Landmarks are read from the faulty pictures, as an evaluation does.
"""

import dataclasses

import cv2
import numpy as np
import pytest

from lipsync_jax.evaluation import (
  image_metrics,
  metrics,
  ridge_scorer,
  video_clip,
)
from lipsync_jax.evaluation.clip import with_delay
from lipsync_jax.evaluation.landmarks import read_landmarks, read_lips
from lipsync_jax.faces import detector, landmarks
from lipsync_jax.inference.report import progress_bar

pytestmark = pytest.mark.slow


def hidden(what, total):
  return progress_bar(True, what, total)


@pytest.fixture(scope='module')
def finder():
  with detector.FaceDetector() as found:
    yield found


def clip(shared, finder, name):
  path = str(shared / f'media/clips/{name}')
  take = video_clip.load_video_clip(
    path, video_clip.locate_face(path, 2.4, hidden)
  )
  return take, read_landmarks(take, finder)


@pytest.fixture(scope='module')
def man(shared, finder):
  return clip(shared, finder, 'grid_bbaf2n.mpg')


def changed(take, function):
  pictures = tuple(function(i, p.copy()) for i, p in enumerate(take.pictures))
  return dataclasses.replace(take, pictures=pictures)


def mouths(points):
  """Whole-pixel boxes about the lower face."""
  lips = points[:, landmarks.OUTER_LIPS]
  low, high = lips.min(1), lips.max(1)
  grow = 0.4 * (high - low)
  return np.concatenate([low - grow, high + grow], 1).round().astype(int)


def measured(made, take, points, finder):
  found = read_landmarks(made, finder)
  values = metrics.compare_to_truth(made, take, found, points)
  width = take.crops[:, 2]
  return values | {'jitter': image_metrics.landmark_jitter(found, width)}


def test_faults_of_the_picture(man, shared, finder):
  take, points = man
  boxes = mouths(points)
  other, others = clip(shared, finder, 'grid_swiz3n.mpg')
  theirs = mouths(others)
  rng = np.random.default_rng(0)

  def blurred(i, picture):
    x0, y0, x1, y1 = boxes[i]
    part = cv2.GaussianBlur(picture, (0, 0), 3)[y0:y1, x0:x1]
    picture[y0:y1, x0:x1] = part
    return picture

  def swapped(i, picture):
    (x0, y0, x1, y1), (a, b, c, d) = boxes[i], theirs[min(i, len(theirs) - 1)]
    part = other.pictures[min(i, len(other) - 1)][b:d, a:c]
    picture[y0:y1, x0:x1] = cv2.resize(part, (x1 - x0, y1 - y0))
    return picture

  def pasted(i, picture):
    x0, y0, x1, y1 = boxes[i]
    part = picture[y0:y1, x0:x1].astype(int) + 20
    picture[y0:y1, x0:x1] = part.clip(0, 255)
    return picture

  def shaken(i, picture):
    x0, y0, x1, y1 = boxes[i]
    x, y = rng.integers(-4, 5, 2)
    part = picture[y0:y1, x0:x1].copy()
    picture[y0 + y : y1 + y, x0 + x : x1 + x] = part
    return picture

  same = measured(take, take, points, finder)
  rows = {
    f.__name__: measured(changed(take, f), take, points, finder)
    for f in (blurred, swapped, pasted, shaken)
  }
  assert same['sharpness'] == 1 and same['border'] == 0 and same['lips'] < 0.1
  assert rows['blurred']['sharpness'] < 0.5
  assert rows['swapped']['lips'] > 1
  assert rows['swapped']['lips'] > 1.3 * rows['blurred']['lips']
  assert rows['pasted']['border'] > 10
  assert rows['shaken']['jitter'] > 2 * same['jitter']


def test_faults_of_the_colors(man, finder):
  take, points = man
  source = metrics.read_source(take, finder)

  def filled(picture, outline, change):
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    part = picture[mask > 0].astype(float)
    picture[mask > 0] = change(part).clip(0, 255).astype(np.uint8)
    return picture

  def pale(i, picture):
    outline = points[i, landmarks.OUTER_LIPS]
    return filled(picture, outline, lambda x: 0.5 * x + 90)

  def flickering(i, picture):
    outline = points[i, landmarks.INNER_LIPS]
    return filled(picture, outline, lambda x: x + 40 * (i % 2))

  def values(function):
    made = changed(take, function)
    return metrics.color_metrics(made, read_lips(made, finder), source)

  same = values(lambda i, p: p)
  assert same['lip_color'] == 0 and same['flicker_ratio'] == 1
  assert values(pale)['lip_color'] > 8 > 4 * values(pale)['skin_color']
  assert values(flickering)['flicker_ratio'] > 2


def test_a_frozen_mouth_neither_moves_nor_agrees(man, finder):
  take, points = man
  frozen = changed(take, lambda i, p: take.pictures[0].copy())
  still = read_landmarks(frozen, finder)
  width = take.crops[:, 2]
  assert image_metrics.mouth_motion(
    still, width
  ) < 0.1 * image_metrics.mouth_motion(points, width)


def test_ridge_hears_who_speaks_and_when(man):
  take, points = man
  shipped = ridge_scorer.load_ridge()
  gap = image_metrics.lip_opening(points, take.crops[:, 2])
  own = ridge_scorer.score_clip(take, gap, shipped)
  assert (
    own[ridge_scorer.MAX_SHIFT] > 0.4
    and abs(ridge_scorer.best_offset(own)) <= 2
  )
  for late in (-8, 6):
    made = with_delay(take, late)
    part = gap[max(late, 0) : len(gap) - max(-late, 0)]
    found = ridge_scorer.score_clip(made, part, shipped)
    # Short clips have other peaks too, so the known two are compared.
    assert (
      found[ridge_scorer.MAX_SHIFT + late] > found[ridge_scorer.MAX_SHIFT] + 0.1
    )
