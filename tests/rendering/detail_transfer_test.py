"""Detail: fine texture follows the face, and stays away where it has none."""

import cv2
import numpy as np
import pytest

from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import (
  Crop,
  crop_bounds,
  crop_from_row,
  crop_matrix,
  extract_crop,
  face_crops,
  transform_points,
)
from lipsync_jax.rendering import compositing, detail_transfer
from tests.helpers.synthetic_face import face

FRAME = (400, 640)


def skin(seed=0, coarse=12.0) -> np.ndarray:
  """A frame of blotches with fine texture over them."""
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=(*FRAME, 1)).astype(np.float32)
  broad = cv2.GaussianBlur(noise, (0, 0), coarse)[..., None]
  fine = cv2.GaussianBlur(noise, (0, 0), 1.2)[..., None]
  gray = 128 + 20 * broad / broad.std() + 8 * fine / fine.std()
  return np.clip(np.repeat(gray, 3, -1), 0, 255).astype(np.uint8)


def setting(roll=0.0):
  points = face(300, 200, 160.0, roll, 0.1)
  return points, crop_from_row(face_crops(points[None])[0])


def energy(light) -> float:
  """Of the gradient."""
  return float(sum((np.diff(light, axis=a) ** 2).mean() for a in (0, 1)))


def laid(frame, generated, source, roll=0.0, **given):
  """(what is pasted, alpha, what the frame has there), all brightness."""
  points, crop = setting(roll)
  patch, alpha, (x, y) = compositing.paste_patch(
    generated, source, crop, points, FRAME, **given
  )
  h, w = alpha.shape
  old = frame[y : y + h, x : x + w].astype(np.float32) @ detail_transfer.LUMA
  return patch @ detail_transfer.LUMA, alpha, old


@pytest.mark.parametrize('roll', [0.0, 0.4])
def test_a_soft_copy_of_the_source_becomes_sharp_again(roll):
  frame = skin()
  source = extract_crop(frame, setting(roll)[1], 96)
  soft = cv2.GaussianBlur(source.astype(np.float32), (0, 0), 2.5)
  before, alpha, old = laid(frame, soft, source, roll)
  after, _, _ = laid(frame, soft, source, roll, picture=frame)
  whole = alpha > 0.9
  far = [np.abs(x - old)[whole].mean() for x in (before, after)]
  assert far[1] < 0.55 * far[0]
  assert energy(before) < 0.2 * energy(old) < 0.9 * energy(after)


def test_detail_goes_where_the_face_goes():
  """The generated face is the source four pixels lower, and soft."""
  frame, (_, crop) = skin(), setting()
  source = extract_crop(frame, crop, 96)
  down = np.roll(frame, 4, 0)
  moved = extract_crop(down, crop, 96).astype(np.float32)
  soft = cv2.GaussianBlur(moved, (0, 0), 2.0)
  after, alpha, _ = laid(down, soft, source, picture=frame)
  _, _, wanted = laid(down, soft, source)
  _, _, still = laid(frame, soft, source)
  deep = alpha > 0.9
  fine = [
    detail_transfer.high_pass(x.astype(np.float32), 3.0)[deep]
    for x in (after, wanted, still)
  ]
  assert np.corrcoef(fine[0], fine[1])[0, 1] > 0.8
  assert np.corrcoef(fine[0], fine[2])[0, 1] < 0.4


def test_where_the_two_differ_the_network_is_left_alone():
  """A dark mouth over bright skin: no texture of skin in it."""
  frame, (points, crop) = skin(), setting()
  source = extract_crop(frame, crop, 96)
  mouth = cv2.GaussianBlur(source.astype(np.float32), (0, 0), 2.5)
  lips = transform_points(crop_matrix(crop, 96), points[landmarks.OUTER_LIPS])
  middle = tuple(int(v) for v in lips.mean(0))
  mouth = cv2.ellipse(mouth, middle, (16, 10), 0, 0, 360, (10, 10, 10), -1)
  led = detail_transfer.flow_and_confidence(mouth, source.astype(np.float32))
  x, y = middle
  assert led[y - 3 : y + 4, x - 6 : x + 7, 2].max() < 0.05
  assert np.median(led[60:66, 20:30, 2]) > 0.8  # skin beside it


def test_a_part_of_the_frame_serves_as_well_as_the_whole():
  frame, (_, crop) = skin(), setting(0.3)
  source = extract_crop(frame, crop, 96)
  soft = cv2.GaussianBlur(source.astype(np.float32), (0, 0), 2.5)
  whole, _, _ = laid(frame, soft, source, 0.3, picture=frame)
  x0, y0, x1, y1 = (int(v) for v in crop_bounds(crop, FRAME))
  part, alpha, _ = laid(
    frame, soft, source, 0.3, picture=frame[y0:y1, x0:x1], at=(x0, y0)
  )
  np.testing.assert_allclose(part[alpha > 0], whole[alpha > 0], atol=1.0)


def test_brightness_alone_changes_and_a_tiny_face_not_at_all():
  frame, (_, crop) = skin(), setting()
  source = extract_crop(frame, crop, 96)
  tint = cv2.GaussianBlur(source.astype(np.float32), (0, 0), 2.5)
  led = detail_transfer.flow_and_confidence(tint, source.astype(np.float32))
  patch = np.full((50, 60, 3), 99, np.float32)
  out = detail_transfer.transfer_detail(
    patch, (280, 230), led, crop, frame, (0, 0)
  )
  np.testing.assert_allclose(np.ptp(out, -1), 0, atol=1e-3)
  assert np.abs(out - patch).max() > 1
  tiny = Crop(300, 200, 20, 26, 0.0)
  kept = detail_transfer.transfer_detail(
    patch, (280, 230), led, tiny, frame, (0, 0)
  )
  np.testing.assert_array_equal(kept, patch)


@pytest.mark.parametrize('sigma', [7.9, 8.0, 13.0, 40.0])
def test_a_broad_blur_is_that_of_the_whole_picture(sigma):
  light = skin().astype(np.float32) @ detail_transfer.LUMA
  light = np.ascontiguousarray(light[:301, :503])
  exact = light - cv2.GaussianBlur(light, (0, 0), sigma)
  error = np.abs(detail_transfer.high_pass(light, sigma) - exact)
  assert error.max() < 1.5 and error.mean() < 0.03 * np.abs(exact).mean()
