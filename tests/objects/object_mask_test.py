"""Which cells of a face crop are an object before the mouth."""

import numpy as np

from lipsync_jax.faces import crop as crops
from lipsync_jax.models import occlusion
from lipsync_jax.objects import object_mask
from tests.helpers import synthetic_face

GRID = occlusion.GRID


def face(*bars) -> np.ndarray:
  """A skin-colored crop with bars (rows, columns, color) of grid cells."""
  picture = np.full((occlusion.SIZE, occlusion.SIZE, 3), (200, 150, 120), 'u1')
  for rows, columns, color in bars:
    y, x = (slice(2 * s.start, 2 * s.stop) for s in (rows, columns))
    picture[y, x] = color
  return picture


def blue(picture: np.ndarray) -> np.ndarray:
  """A network that takes everything blue for an object."""
  cells = picture[::2, ::2].astype(int)
  return (cells[..., 2] > cells[..., 0]).astype(np.float32)


HAND = slice(28, 46), slice(10, 20), (60, 80, 220)
BEARD = slice(36, 46), slice(12, 36), (40, 40, 60)
TEETH = slice(34, 40), slice(18, 30), (200, 210, 255)


def test_what_comes_and_goes_is_an_object():
  usual = object_mask.UsualFace.of([face()] * 5, blue)
  picture = face(HAND)
  mask = usual.object_mask(picture, blue(picture))
  assert mask[30:44, 12:18].min() > 0.95
  assert (
    mask[:, 24:].max() < 0.05 and mask[: object_mask.LOWER_FACE - 3].max() == 0
  )


def test_what_always_stays_is_none():
  usual = object_mask.UsualFace.of([face(BEARD)] * 5, blue)
  assert usual.object_mask(face(BEARD), blue(face(BEARD))) is None
  both = face(BEARD, HAND)
  mask = usual.object_mask(both, blue(both))
  assert mask[29:34, 12:18].min() > 0.9 and mask[38:44, 26:34].max() < 0.1


def test_teeth_are_no_object():
  usual = object_mask.UsualFace.of([face()] * 5, blue)
  assert blue(face(TEETH)).sum() > object_mask.MIN_CELLS
  assert usual.object_mask(face(TEETH), blue(face(TEETH))) is None


def test_a_new_light_is_none():
  """The network errs everywhere, but the face looks as ever."""
  usual = object_mask.UsualFace.of([face()] * 5, blue)
  dim = (face() * 0.5).astype('u1')
  assert usual.object_mask(dim, np.ones((GRID, GRID), np.float32)) is None


def test_a_colored_light_is_none():
  """Green light changes the colors of the whole face, with noise."""
  rng = np.random.default_rng(0)
  shade = rng.uniform(0.5, 1, (occlusion.SIZE, occlusion.SIZE, 1))
  plain = (face() * shade).astype('u1')
  usual = object_mask.UsualFace.of([plain] * 5, blue)
  green = (plain * np.array([0.25, 1, 0.35])).astype('u1')
  wrong = np.zeros((GRID, GRID), np.float32)
  wrong[24:46, 8:40] = 1
  look = np.abs(object_mask.even_look(green) - usual.look).mean(-1)
  assert np.quantile(look[24:46, 8:40], 0.7) > object_mask.NEW_LOOK
  assert usual.object_mask(green, wrong) is None
  found = usual.object_mask(face(HAND), blue(face(HAND)))
  assert found is not None and found[30:44, 12:18].min() > 0.95


def test_share_of_the_lips():
  points = synthetic_face.face(cx=48, cy=48, width=60)
  crop = crops.crop_from_box((0, 0, 96, 96))
  none, full = np.zeros((GRID, GRID), 'f4'), np.ones((GRID, GRID), 'f4')
  assert object_mask.covered_lips(none, points, crop) == 0
  assert object_mask.covered_lips(full, points, crop) == 1
  half = full.copy()
  half[:, GRID // 2 :] = 0
  assert 0.3 < object_mask.covered_lips(half, points, crop) < 0.7
