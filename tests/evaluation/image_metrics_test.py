"""quality.py: every known fault moves its own measure, and the right way."""

import cv2
import numpy as np
import pytest

from lipsync_jax.evaluation import image_metrics
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import crop_from_row, extract_crop, face_crops
from lipsync_jax.faces.landmarks import OUTER_LIPS
from lipsync_jax.rendering import compositing
from tests.helpers import synthetic_face

SIZE = 256


@pytest.fixture(scope='module')
def face():
  """(landmarks in the picture, crop, a picture with fine texture)."""
  points = synthetic_face.face(cx=128, cy=128, width=150, gape=0.1)
  crop = crop_from_row(face_crops(points[None])[0])
  rng = np.random.default_rng(0)
  rough = rng.integers(60, 200, (64, 64, 3)).astype(np.uint8)
  picture = cv2.resize(rough, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
  return points, crop, picture


def row(crop):
  return np.array([[crop.cx, crop.cy, crop.w, crop.h, crop.roll]])


def talking(count=40, shift=None, scale=1.0):
  """Landmarks of a mouth that opens and closes."""
  gapes = scale * (0.06 + 0.06 * np.sin(np.arange(count)))
  points = np.stack([synthetic_face.face(gape=g) for g in gapes])
  if shift is not None:
    moving = [
      *range(OUTER_LIPS.start, landmarks.INNER_LIPS.stop),
      landmarks.CHIN,
    ]
    points[:, moving] += shift[:, None]
  return points, np.full(count, 100.0)


def test_equal_pictures_are_as_good_as_can_be(face):
  _, _, picture = face
  pictures = picture[None]
  assert image_metrics.psnr(pictures, pictures)[0] == image_metrics.MAX_PSNR
  assert image_metrics.ssim(pictures, pictures)[0] == pytest.approx(1)
  assert image_metrics.seam_step(pictures, pictures) == 0


def test_psnr_and_ssim_against_their_definitions(face):
  metrics = pytest.importorskip('scipy.ndimage')
  _, _, picture = face
  rng = np.random.default_rng(1)
  noisy = np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255)
  noisy = noisy.astype(np.uint8)
  error = np.square(noisy.astype(float) - picture).mean()
  expected = 20 * np.log10(255) - 10 * np.log10(error)
  found = image_metrics.psnr(noisy[None], picture[None])[0]
  assert found == pytest.approx(expected, abs=1e-4)

  def blur(x):  # truncated where OpenCV's 11 pixels end
    return metrics.gaussian_filter(x, 1.5, truncate=3.4, mode='reflect')

  x, y = (p @ np.array([0.299, 0.587, 0.114]) for p in (noisy, picture))
  mx, my = blur(x), blur(y)
  vx, vy, c = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
  top = (2 * mx * my + 2.55**2) * (2 * c + 7.65**2)
  whole = top / ((mx**2 + my**2 + 2.55**2) * (vx + vy + 7.65**2))
  found = image_metrics.ssim(noisy[None], picture[None])[0]
  assert found == pytest.approx(whole.mean(), abs=1e-3)


def test_blurred_mouth_is_less_sharp(face):
  points, _, picture = face
  boxes = image_metrics.mouth_boxes(
    points[None], np.array([[128, 128, 256, 256, 0.0]]), SIZE
  )
  x0, y0, x1, y1 = boxes[0]
  lips = points[OUTER_LIPS]
  assert (lips > [x0, y0]).all() and (lips < [x1, y1]).all()
  values = []
  for sigma in (0.0, 1.0, 2.0, 4.0):
    made = picture.copy()
    if sigma:
      made[y0:y1, x0:x1] = cv2.GaussianBlur(picture, (0, 0), sigma)[
        y0:y1, x0:x1
      ]
    values.append(image_metrics.sharpness(made[None], picture[None], boxes))
  assert values[0] == 1 and values == sorted(values, reverse=True)
  assert values[-1] < 0.3


def test_another_mouth_is_further_off_than_the_same():
  true, width = talking()
  noise = np.random.default_rng(0).normal(0, 0.2, true.shape)
  other, _ = talking(scale=2.0)
  other[:, OUTER_LIPS, 0] = 300 + 1.4 * (
    other[:, OUTER_LIPS, 0] - 300
  )  # a wider one
  near = image_metrics.lip_distance(true + noise, true, width).mean()
  far = image_metrics.lip_distance(other, true, width).mean()
  assert near < 0.5 < 2 * far and far > 4 * near
  gaps = [image_metrics.lip_opening(p, width) for p in (true, other)]
  assert np.abs(gaps[1] - gaps[0]).mean() > 2


def test_a_closed_mouth_does_not_move():
  true, width = talking()
  still, _ = talking(scale=0.0)
  assert image_metrics.mouth_motion(still, width) < 1e-9
  assert image_metrics.mouth_motion(true, width) == pytest.approx(
    np.std(6 * np.sin(np.arange(40))), rel=0.05
  )


def test_jittered_boxes_jitter():
  rng = np.random.default_rng(0)
  values = []
  for level in (0.0, 0.5, 1.0, 2.0):
    made, width = talking(shift=rng.normal(0, level, (40, 2)), scale=0.0)
    values.append(image_metrics.landmark_jitter(made, width))
  assert values[0] < 1e-9 and values == sorted(values)
  drift = np.cumsum(np.full((40, 2), 0.5), 0)  # a steady motion is no jitter
  made, width = talking(shift=drift, scale=0.0)
  assert image_metrics.landmark_jitter(made, width) < 1e-9


def test_missing_landmarks_are_left_out():
  true, width = talking()
  true[5] = np.nan
  assert np.isfinite(image_metrics.mouth_motion(true, width))
  assert np.isfinite(image_metrics.landmark_jitter(true, width))
  assert np.isnan(image_metrics.mouth_motion(np.full_like(true, np.nan), width))


def test_pasted_rectangle_has_a_border_and_a_soft_patch_none(face):
  points, crop, picture = face
  picture = cv2.GaussianBlur(picture, (0, 0), 3)
  source = extract_crop(picture, crop, 96)
  made = np.clip(source.astype(float) + 25, 0, 255).astype(np.uint8)
  steps = {}
  hard = compositing.whole_box_patch(made, crop, picture.shape[:2])
  soft = compositing.paste_patch(made, source, crop, points, picture.shape[:2])
  no_match = compositing.resample_mask(
    compositing.face_mask(points, crop), crop, (0, 0, SIZE, SIZE)
  )
  feathered = picture + 25 * no_match[..., None]
  for name, (patch, alpha, (x, y)) in (('hard', hard), ('soft', soft)):
    out = picture.astype(np.float32)
    h, w = alpha.shape
    part = out[y : y + h, x : x + w]
    out[y : y + h, x : x + w] = part + alpha[..., None] * (patch - part)
    steps[name] = image_metrics.seam_step(
      np.rint(out).astype(np.uint8)[None], picture[None]
    )
  feathered = np.clip(np.rint(feathered), 0, 255).astype(np.uint8)
  steps['feathered'] = image_metrics.seam_step(feathered[None], picture[None])
  assert steps['hard'] > 15
  assert steps['feathered'] < steps['hard'] / 1.5
  assert steps['soft'] < 3


LIPS, SKIN, INSIDE = (170, 80, 80), (205, 160, 135), (60, 25, 25)


def painted(lips=LIPS, skin=SKIN, insides=(INSIDE,), gape=0.12):
  """Faces with even colors; `insides` has the mouth's color of each frame."""
  points = synthetic_face.face(cx=128, cy=128, width=150, gape=gape)
  pictures = []
  for inside in insides:
    picture = np.full((SIZE, SIZE, 3), skin, np.uint8)
    for part, color in (
      (points[OUTER_LIPS], lips),
      (points[landmarks.INNER_LIPS], inside),
    ):
      cv2.fillPoly(picture, [np.rint(part).astype(np.int32)], color)
    pictures.append(picture)
  count = len(pictures)
  return image_metrics.mouth_colors(
    pictures, np.tile(points, (count, 1, 1)), np.full(count, 150.0)
  )


def test_pale_lips_and_tanned_skin_are_seen():
  true = painted()
  assert np.abs(true.interior[0] - painted().interior[0]).max() == 0

  def distances(other):
    return [
      image_metrics.color_distance(a, b)
      for a, b in ((other.lips, true.lips), (other.skin, true.skin))
    ]

  assert distances(painted()) == [0, 0]
  lips, skin = distances(painted(lips=(200, 140, 130)))
  assert lips > 15 and skin == 0
  lips, skin = distances(painted(skin=(170, 120, 100)))
  assert lips < 1 and skin > 10
  missing = np.full((1, 3), np.nan)
  assert np.isnan(image_metrics.color_distance(missing, true.lips))


def test_mouth_that_changes_color_flickers():
  even = painted(insides=[INSIDE] * 12)
  assert image_metrics.color_flicker(even.interior) == 0
  ramp = painted(insides=[(60 + 4 * i, 25, 25) for i in range(12)])
  jumps = painted(insides=[(60 + 80 * (i % 2), 25, 25) for i in range(12)])
  slow = image_metrics.color_flicker(ramp.interior)
  assert slow < 1 and image_metrics.color_flicker(jumps.interior) > 20 * slow
  # A jump between two pieces of a joined clip is no flicker.
  cut = np.concatenate([even.interior, jumps.interior[1::2]])
  assert image_metrics.color_flicker(cut) > 1
  pieces = [slice(0, 12), slice(12, 18)]
  assert image_metrics.color_flicker(cut, pieces) == 0


def test_closed_mouth_has_no_interior():
  closed = painted(insides=[INSIDE] * 12, gape=0.0)
  assert np.isnan(closed.interior).all() and np.isfinite(closed.lips).all()
  assert np.isnan(image_metrics.color_flicker(closed.interior))
