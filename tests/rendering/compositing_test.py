"""Compose: the edge is soft and inside, colors meet, nothing else moves."""

import numpy as np
import pytest

from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import (
  Crop,
  crop_from_box,
  crop_from_row,
  crop_matrix,
  extract_crop,
  face_crops,
  transform_points,
)
from lipsync_jax.rendering import compositing
from tests.helpers.synthetic_face import face

FRAME = (400, 640)


def setting(width=100.0, roll=0.0, gape=0.1):
  points = face(300, 200, width, roll, gape)
  return points, crop_from_row(face_crops(points[None])[0])


def whole_mask(points, crop):
  mask = compositing.face_mask(points, crop)
  return compositing.resample_mask(mask, crop, (0, 0, FRAME[1], FRAME[0]))


def inside(polygon, grow=0.0):
  """Pixels whose center is in a convex polygon moved out by `grow`."""
  y, x = np.mgrid[0 : FRAME[0], 0 : FRAME[1]] + 0.5
  deep = np.full(FRAME, np.inf)
  for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
    cross = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
    deep = np.minimum(deep, cross / np.hypot(bx - ax, by - ay))
  return deep > -grow


@pytest.mark.parametrize('width', [30.0, 100.0, 220.0])
@pytest.mark.parametrize('roll', [0.0, 0.5])
def test_mask_is_zero_outside_the_oval_and_one_on_the_lips(width, roll):
  points, crop = setting(width, roll)
  mask = whole_mask(points, crop)
  assert (mask[~inside(points[landmarks.OVAL], grow=0.5)] == 0).all()
  assert (mask[inside(points[landmarks.OUTER_LIPS])] > 0.999).all()
  upright = transform_points(
    crop_matrix(crop, 1), np.array([points[landmarks.BRIDGE]])
  )
  assert upright[0, 1] < 0.5
  x, y = np.rint(points[landmarks.EYES].mean(0)).astype(int)
  assert mask[y, x] == 0


def test_mask_is_soft():
  points, crop = setting(200.0)
  mask = whole_mask(points, crop)
  steps = np.maximum(
    np.abs(np.diff(mask, axis=0))[:, 1:], np.abs(np.diff(mask, axis=1))[1:]
  )
  # From 0 to 1 over 6 % of 200 pixels; a smooth step is 1.5 times as steep.
  assert steps.max() < 1.5 / 12 * 1.5
  assert 0.999 < mask.max() <= 1


def test_mask_moves_with_the_face_by_parts_of_a_pixel():
  points, crop = setting()
  there = whole_mask(points, crop)
  for shift in (0.25, 0.5, 1.0):
    moved = points + np.array([shift, 0])
    here = whole_mask(moved, crop_from_row(face_crops(moved[None])[0]))
    x = np.arange(FRAME[1])
    center = [(m.sum(0) * x).sum() / m.sum() for m in (there, here)]
    np.testing.assert_allclose(center[1] - center[0], shift, atol=0.02)


def test_mask_without_landmarks_covers_the_mouth():
  points, crop = setting()
  blind = compositing.face_mask(np.full((89, 2), np.nan), crop)
  known = compositing.face_mask(points, crop)
  mouth = known == 1
  assert blind[: 256 // 2].max() == 0
  assert (blind[mouth] > 0.5).mean() > 0.9


def source_face(size=96):
  y, x = np.mgrid[0:size, 0:size] / size
  rgb = np.stack([120 + 60 * x, 90 + 40 * y, 80 + 20 * x * y], -1)
  return rgb.astype(np.float32)


def test_equal_colors_stay():
  points, crop = setting()
  alpha = compositing.resample_mask(
    compositing.face_mask(points, crop),
    Crop(48, 48, 96, 96, 0.0),
    (0, 0, 96, 96),
  )
  face_ = source_face()
  np.testing.assert_allclose(
    compositing.match_color(face_, face_, alpha), face_, atol=1e-4
  )


def test_a_shift_of_color_is_undone_and_a_mouth_is_kept():
  points, crop = setting()
  alpha = compositing.resample_mask(
    compositing.face_mask(points, crop),
    Crop(48, 48, 96, 96, 0.0),
    (0, 0, 96, 96),
  )
  face_, shift = source_face(), np.array([30, -12, 5], np.float32)
  mouth = np.zeros((96, 96, 1), np.float32)
  mouth[66:72, 40:56] = -70  # dark between the lips
  out = compositing.match_color(face_ + shift + mouth, face_, alpha)
  edge = (alpha > 0.1) & (alpha < 0.9)
  assert np.abs(out - face_)[edge].max() < 0.5
  np.testing.assert_allclose(out - face_, mouth + 0 * out, atol=1)


def test_a_tilt_of_color_is_undone_at_the_edge():
  points, crop = setting()
  alpha = compositing.resample_mask(
    compositing.face_mask(points, crop),
    Crop(48, 48, 96, 96, 0.0),
    (0, 0, 96, 96),
  )
  face_ = source_face()
  tilt = np.linspace(-12, 12, 96, dtype=np.float32)[None, :, None]
  edge = (alpha > 0.1) & (alpha < 0.9)
  before = np.abs(tilt + 0 * face_)[edge].mean()
  after = np.abs(compositing.match_color(face_ + tilt, face_, alpha) - face_)
  assert after[edge].mean() < 0.35 * before


@pytest.mark.parametrize('size', [96, 384])
@pytest.mark.parametrize('roll', [0.0, -0.4])
def test_cut_and_paste_gives_the_frame_back(size, roll):
  y, x = np.mgrid[0 : FRAME[0], 0 : FRAME[1]]
  waves = [127 + 100 * np.sin(x / 23 + k) * np.cos(y / 31) for k in range(3)]
  frame = np.stack(waves, -1).astype(np.uint8)
  points, crop = setting(120.0, roll)
  cut = extract_crop(frame, crop, size)
  patch, alpha, (left, top) = compositing.paste_patch(
    cut, cut, crop, points, FRAME
  )
  h, w = alpha.shape
  old = frame[top : top + h, left : left + w].astype(float)
  change = alpha[..., None] * (patch - old)
  assert np.abs(change).max() < 4 and alpha.max() > 0.99
  # The patch is cut close: every side of it is touched.
  assert all(
    side.any() for side in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
  )


def test_a_face_at_the_edge_of_the_frame():
  points = face(10, 380, 120)
  crop = crop_from_row(face_crops(points[None])[0])
  gray = np.full((96, 96, 3), 99, np.uint8)
  patch, alpha, (left, top) = compositing.paste_patch(
    gray, gray, crop, points, FRAME
  )
  assert left >= 0 and top + alpha.shape[0] <= FRAME[0]
  assert patch.shape == (*alpha.shape, 3)


def test_the_whole_box_is_pasted_as_the_original_does():
  import cv2

  rng = np.random.default_rng(0)
  generated = rng.uniform(0, 255.99, (96, 96, 3)).astype(np.float32)
  crop = crop_from_box((100, 50, 221, 199))
  patch, alpha, corner = compositing.whole_box_patch(generated, crop, FRAME)
  expected = cv2.resize(generated.astype(np.uint8), (121, 149))
  np.testing.assert_array_equal(patch, expected)
  assert (alpha == 1).all() and corner == (100, 50)
  outside = compositing.whole_box_patch(
    generated, crop_from_box((-20, 300, 81, 451)), FRAME
  )
  assert outside[0].shape == (100, 81, 3) and outside[2] == (0, 300)


def test_lower_half():
  mask = compositing.lower_half_mask(96)
  assert mask[:48].max() == 0 and mask[48:].min() == 1
