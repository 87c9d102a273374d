"""Lifted and turned heads, as a generator network sees them."""

import numpy as np
import pytest

from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import (
  Crop,
  crop_matrix,
  extract_crop,
  transform_points,
)
from lipsync_jax.rendering import frontal
from tests.helpers.synthetic_face import face

SIZE = 192


def head(lift=0.0, aside=0.0):
  """Landmarks and crop of a head with a higher nose and lips aside."""
  points, crop = face(gape=0.05), Crop(300, 205, 100, 130, 0.0)
  lower = [*range(36, 76), *range(82, 88)]
  points[lower, 0] += aside * crop.w
  points[lower, 1] -= lift * crop.h
  return points, crop


def nose_picture(points, crop):
  """A crop with two dark nostrils at the base of the nose and a dark mouth."""
  import cv2

  rgb = np.full((400, 640, 3), 180, np.uint8)
  x, y = points[landmarks.SUBNASALE]
  for side in (-1, 1):
    spot = round((x + side * 6) * 8), round(y * 8)
    cv2.circle(rgb, spot, 16, (40, 30, 30), -1, cv2.LINE_AA, 3)
  lips = points[[landmarks.UPPER_LIP, landmarks.LOWER_LIP]].mean(0)
  spot = tuple(np.rint(lips * 8).astype(int).tolist())
  cv2.circle(rgb, spot, 24, (120, 40, 50), -1, cv2.LINE_AA, 3)
  return extract_crop(rgb, crop, SIZE)


def test_a_usual_head_stays():
  points, crop = head()
  assert frontal.crop_shift(points, crop) is None
  points[0] = np.nan
  assert frontal.crop_shift(points, crop) is None


@pytest.mark.parametrize('lift', [0.04, 0.08, 0.12])
def test_the_nose_of_a_lifted_head_comes_to_its_usual_row(lift):
  points, crop = head(lift)
  shift = frontal.crop_shift(points, crop)
  shown = shift.to_front(nose_picture(points, crop))
  where = transform_points(crop_matrix(crop, 1), points)
  nose = where[landmarks.SUBNASALE]
  assert nose[1] < frontal.MIN_NOSE_ROW
  column = 180 - shown[:, round((nose[0] + 0.06) * SIZE), 1].astype(float)
  column[column < 60] = 0
  row = (column * (np.arange(SIZE) + 0.5)).sum() / column.sum() / SIZE
  assert abs(row - frontal.MIN_NOSE_ROW) < 0.01


@pytest.mark.parametrize('aside', [-0.25, -0.12, 0.12, 0.25])
def test_the_lips_of_a_turned_head_come_near_the_middle(aside):
  points, crop = head(aside=aside)
  shift = frontal.crop_shift(points, crop)
  where = transform_points(crop_matrix(crop, SIZE), points)
  lips = where[[landmarks.UPPER_LIP, landmarks.LOWER_LIP], 0].mean()
  rgb = np.full((SIZE, SIZE, 3), 180, np.uint8)
  rgb[:, round(lips) - 1 : round(lips) + 1] = 20
  dark = 180.0 - shift.to_front(rgb)[..., 1].mean(0)
  column = (dark * (np.arange(SIZE) + 0.5)).sum() / dark.sum() / SIZE
  wanted = 0.5 + np.sign(aside) * frontal.MAX_LIPS_ASIDE
  assert abs(column - wanted) < 0.01


@pytest.mark.parametrize('lift, aside', [(0.1, 0), (0, 0.2), (0.08, -0.15)])
def test_what_is_generated_comes_back_to_its_place(lift, aside):
  points, crop = head(lift, aside)
  shift = frontal.crop_shift(points, crop)
  y, x = np.mgrid[:SIZE, :SIZE]
  waves = [127 + 90 * np.sin(x / 19 + k) * np.cos(y / 23) for k in range(3)]
  picture = np.stack(waves, -1).astype(np.uint8)
  back = shift.from_front(shift.to_front(picture)).astype(int)
  inner = np.s_[6:-6, 6:-6]
  assert np.abs(back - picture)[inner].max() <= 6


def test_shifts_grow_from_nothing():
  """A head that lifts slowly does not make the picture jump."""
  last = None
  for lift in np.linspace(0, 0.1, 101):
    shift = frontal.crop_shift(*head(lift))
    moved = 0.0
    if shift:
      moved = float(np.abs(shift.rows[0] - shift.rows[1]).max())
    assert last is None or abs(moved - last) < 0.004
    last = moved
  assert last > 0.05
