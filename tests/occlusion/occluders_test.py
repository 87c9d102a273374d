"""occlusion/occluders.py: objects before faces, and masks that fit them."""

import numpy as np
import pytest

from lipsync_jax.models import occlusion
from lipsync_jax.occlusion import occluders


def pictures() -> tuple[np.ndarray, np.ndarray]:
  """Two even pictures: only an object makes an edge."""
  size = (occluders.CROP, occluders.CROP, 3)
  skin = np.full(size, (0.8, 0.6, 0.5), np.float32)
  return skin, np.full(size, (0.4, 0.3, 0.2), np.float32)


@pytest.mark.parametrize(
  'draw',
  [
    occluders.draw_hand,
    occluders.draw_microphone,
    occluders.draw_cup,
    occluders.draw_cloth,
    occluders.draw_rod,
    occluders.draw_blob,
  ],
)
def test_objects_have_a_color_and_stand_on_the_picture(draw):
  seen = 0
  for seed in range(20):
    rng = np.random.default_rng(seed)
    side = occluders.CROP * occluders.OVERSAMPLING
    color, mask = draw(*pictures(), side, rng)
    color = np.broadcast_to(color, (side, side, 3))
    assert mask.shape == (side, side) and np.isfinite(color).all()
    assert set(np.unique(mask)) <= {0.0, 1.0}
    seen += mask.any()
  assert seen >= 15  # the others stand outside


def test_a_picture_changes_where_its_mask_is():
  picture, other = pictures()
  covered = 0
  for seed in range(40):
    out, mask = occluders.cover(picture, other, np.random.default_rng(seed))
    assert out.shape == picture.shape and mask.min() >= 0 and mask.max() < 1.01
    if not mask.any():
      continue
    covered += 1
    change = np.abs(out - picture).mean(-1)
    if (mask > 0.95).sum() > 100:
      assert change[mask > 0.95].mean() > 0.02
  assert 10 < covered < 34


def test_a_beard_is_no_object():
  picture, _ = pictures()
  bearded = occluders.grow_beard(picture, np.random.default_rng(0))
  assert np.abs(bearded - picture).max() > 0.1
  assert (
    bearded[: occluders.CROP // 4] == picture[: occluders.CROP // 4]
  ).all()


def test_training_pairs_are_the_seeds():
  made = [
    occluders.training_pair(*pictures(), np.random.default_rng(seed))
    for seed in (1, 1, 2)
  ]
  (a, mask), (b, _), (c, _) = made
  assert a.shape == (occlusion.SIZE, occlusion.SIZE, 3) and a.dtype == np.uint8
  assert mask.shape == (occlusion.GRID, occlusion.GRID)
  assert (a == b).all() and (a != c).any()
