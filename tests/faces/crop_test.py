"""Crops: steady, exact, the same from any window of the frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax.faces import boxes, landmarks
from lipsync_jax.faces.crop import (
  Crop,
  crop_bounds,
  crop_corners,
  crop_from_box,
  crop_from_row,
  crop_matrix,
  extract_crop,
  face_crops,
  transform_points,
)
from tests.helpers.synthetic_face import face


def rows(*faces_, pads=None):
  return face_crops(np.stack(faces_), pads)


def test_landmarks_are_kept_once():
  assert len(landmarks.LANDMARK_IDS) == len(set(landmarks.LANDMARK_IDS)) == 89
  assert (
    landmarks.LANDMARK_IDS[landmarks.CHIN] == 152
    and landmarks.LANDMARK_IDS[landmarks.NOSE] == 1
  )
  assert landmarks.LANDMARK_IDS[landmarks.UPPER_LIP] == 13
  assert landmarks.LANDMARK_IDS[landmarks.LOWER_LIP] == 14
  assert [landmarks.LANDMARK_IDS[i] for i in landmarks.OVAL_SIDES] == [234, 454]


def test_crop_frames_the_face_like_a_detector():
  row = rows(face(), pads=(0, 0, 0, 0))[0]
  x0, x1 = row[0] - row[2] / 2, row[0] + row[2] / 2
  y0, y1 = row[1] - row[3] / 2, row[1] + row[3] / 2
  np.testing.assert_allclose([x0, x1], [251, 349], atol=0.5)
  # The chin is at 265, the forehead's top at 135.
  np.testing.assert_allclose(y0, 135 - 0.126 * 1.03 * 130, atol=1)
  np.testing.assert_allclose(y1, 135 + 1.03 * 130, atol=1)


def test_speech_does_not_move_the_crop():
  still = rows(*[face()] * 8)
  talk = rows(*[face(gape=g) for g in (0, 0.1, 0.2, 0, 0.15, 0, 0.05, 0)])
  np.testing.assert_allclose(talk[:, [0, 2, 4]], still[:, [0, 2, 4]], atol=1e-6)
  assert np.ptp(talk[:, 1]) < 1e-6 and np.ptp(talk[:, 3]) < 1e-6


@given(
  st.floats(-0.7, 0.7), st.floats(20, 600), st.floats(-50, 900), st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_crop_moves_with_the_head(roll, width, cx, padded):
  pads = (0.0, 0.0, 0.0, 0.0) if padded else None
  base = crop_from_row(rows(face(0, 0, 100), pads=pads)[0])
  moved = crop_from_row(rows(face(cx, 80, width, roll), pads=pads)[0])
  scale = width / 100
  c, s = np.cos(roll), np.sin(roll)
  x, y = scale * base.cx, scale * base.cy
  np.testing.assert_allclose(
    [moved.cx, moved.cy, moved.w, moved.h, moved.roll],
    [
      cx + c * x - s * y,
      80 + s * x + c * y,
      *(scale * v for v in (base.w, base.h)),
      roll,
    ],
    atol=1e-6 * width,
  )


def test_mouth_and_chin_lie_in_the_lower_half():
  for gape in (0.0, 0.2):
    points = face(roll=0.3, gape=gape)
    crop = crop_from_row(rows(points)[0])
    inside = transform_points(crop_matrix(crop, 96), points)
    assert inside[landmarks.OUTER_LIPS, 1].min() > 48
    assert inside[landmarks.SUBNASALE, 1] > 48
    assert inside[landmarks.CHIN, 1] < 96 + 96 * gape


def test_pads_are_pixels_of_the_frame():
  plain, padded = (
    rows(face(), pads=(0, 0, 0, 0)),
    rows(face(), pads=(4, 10, 2, 6)),
  )
  np.testing.assert_allclose((padded - plain)[0], [2, 3, 8, 14, 0], atol=1e-9)


def test_absent_frames_stay_absent():
  points = np.stack([face(), np.full((89, 2), np.nan), face()])
  found = face_crops(points)
  assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()


@given(st.floats(-0.5, 0.5), st.floats(40, 300), st.integers(16, 200))
@settings(max_examples=30, deadline=None)
def test_matrix_maps_corners_to_corners(roll, width, size):
  crop = Crop(211.3, 99.7, width, width * 1.4, roll)
  corners = transform_points(crop_matrix(crop, size), crop_corners(crop))
  expected = size * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
  np.testing.assert_allclose(corners, expected, atol=1e-9 * size)


def ramp(height, width):
  """A picture whose red is x and green is y, at pixel centers."""
  y, x = np.mgrid[0:height, 0:width]
  return np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)


@pytest.mark.parametrize('side', [60, 150, 230])
def test_take_is_in_place_at_any_size(side):
  """A ramp stays the same ramp, whether grown, shrunk or shrunk a lot."""
  crop, size = Crop(125.0, 126.0, side, side, 0.0), 48
  out = extract_crop(ramp(256, 256), crop, size).astype(float)
  grid = (np.arange(size) + 0.5) * side / size - side / 2
  np.testing.assert_allclose(
    out[..., 0], (grid + 124.5)[None] + 0 * out[..., 0], atol=1
  )
  np.testing.assert_allclose(
    out[..., 1], (grid + 125.5)[:, None] + 0 * out[..., 1], atol=1
  )


def test_take_turns_with_the_head():
  crop = Crop(120.0, 130.0, 80, 80, 0.4)
  out = extract_crop(ramp(256, 256), crop, 96)
  for column, row in ((10, 80), (48, 48), (90, 15)):
    back = np.linalg.inv(np.vstack([crop_matrix(crop, 96), [0, 0, 1]]))
    x, y, _ = back @ [column + 0.5, row + 0.5, 1]
    np.testing.assert_allclose(out[row, column, :2], [x - 0.5, y - 0.5], atol=1)


def test_take_from_the_roi_equals_take_from_the_frame():
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 256, (300, 400, 3), np.uint8)
  crop = Crop(201.2, 140.4, 70, 90, 0.2)
  x0, y0, x1, y1 = crop_bounds(crop, (300, 400))
  part = extract_crop(frame[y0:y1, x0:x1], crop, 96, (int(x0), int(y0)))
  # One level: the position of a sample is a 32-bit float.
  whole = extract_crop(frame, crop, 96).astype(int)
  assert np.abs(part - whole).max() <= 1


def test_shrinking_averages():
  """Stripes of one pixel become gray, where bilinear sampling would alias."""
  stripes = np.zeros((400, 400, 3), np.uint8)
  stripes[:, ::2] = 255
  out = extract_crop(stripes, Crop(200, 200, 384, 384, 0.0), 96)
  assert np.ptp(out) <= 2 and abs(out.mean() - 127.5) < 2


def test_roi_stays_in_the_frame_and_says_when_it_cannot():
  assert crop_bounds(Crop(0, 0, 50, 50, 0.0), (90, 160)).min() == 0
  with pytest.raises(landmarks.FaceError, match='outside the 160x90 frame'):
    crop_bounds(Crop(900, 40, 50, 50, 0.0), (90, 160))
  with pytest.raises(landmarks.FaceError, match='width and height'):
    crop_from_box((10, 10, 10, 50))
  assert crop_from_box((10, 20, 30, 60)) == Crop(20, 40, 20, 40, 0.0)


def test_overlaps():
  a = np.array([[0, 0, 2, 2], [5, 5, 6, 6.0]])
  b = np.array([[1, 0, 3, 2], [0, 0, 2, 2.0]])
  np.testing.assert_allclose(boxes.iou_matrix(a, b), [[1 / 3, 1], [0, 0]])


def test_yaw_follows_the_nose():
  points = np.stack([face()] * 3)
  points[1, landmarks.NOSE, 0] += 20
  points[2, landmarks.NOSE, 0] -= 40
  left, right = landmarks.head_yaw(points)[1:]
  assert abs(landmarks.head_yaw(points)[0]) < 1e-6
  assert 15 < left < 30 and -50 < right < -30
