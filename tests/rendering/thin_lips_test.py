"""Pressed lips are not stretched to full ones."""

from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.faces import mesh
from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import mesh_warp, thin_lips
from tests.rendering.mesh_warp_test import SIZE, opened, points_of

ROWS = (
  (mesh.UPPER_LIP_IDS[1:-1], thin_lips.UPPER_ROWS),
  (mesh.LOWER_LIP_IDS[1:-1], thin_lips.LOWER_ROWS),
)


def pressed(points, share):
  """The mesh with lips of `share` of their thickness."""
  out = points.copy()
  for inner, rows in ROWS:
    for row in rows:
      away = points[list(row)] - points[list(inner)]
      out[list(row)] = points[list(inner)] + share * away
  return out


def thickness(points):
  return np.concatenate(
    [
      np.hypot(*(points[list(rows[0])] - points[list(inner)]).T)
      for inner, rows in ROWS
    ]
  )


@pytest.mark.parametrize('gap', [0.0, 0.1])
def test_pressed_lips_stay_thin(gap):
  target = points_of(opened(gap))
  source = pressed(points_of(opened(0.0)), 0.3)
  found = thin_lips.limit_stretch(source, target)
  limit = thin_lips.MAX_STRETCH * thickness(source)
  assert (thickness(target) > 1.5 * limit).any()
  # Smoothing over neighbors adds to the thinnest columns.
  assert (thickness(found) <= limit * 1.2 + 1e-6).all()
  inner = [i for ids, _ in ROWS for i in ids]
  np.testing.assert_array_equal(found[inner], target[inner])
  # Rows between the edges keep their order.
  for ids, rows in ROWS:
    apart = [
      np.hypot(*(found[list(row)] - found[list(ids)]).T)[2:-2] for row in rows
    ]
    assert (apart[0] > apart[1]).all() and (apart[1] > apart[2]).all()


@pytest.mark.parametrize('share', [0.8, 1.0, 1.5])
def test_other_lips_keep_their_exact_places(share):
  target = points_of(opened(0.1))
  source = pressed(points_of(opened(0.0)), share)
  found = thin_lips.limit_stretch(source, target)
  np.testing.assert_array_equal(found, target)


@pytest.mark.parametrize('depth', [8, 10])
def test_the_line_between_pressed_lips_is_no_smear(depth):
  """A dark line in thin lips covers few rows of the warped mouth."""
  full = points_of(opened(0.0))
  source = pressed(full, 0.3)
  y = np.arange(SIZE[0])[:, None]
  line = np.interp(np.arange(SIZE[1]), *source[list(mesh.UPPER_LIP_IDS)].T)
  dark, light = 30 << (depth - 8), 150 << (depth - 8)
  kind = np.uint8 if depth == 8 else np.uint16
  luma = np.where(np.abs(y - line) < 3, dark, light).astype(kind)
  half = np.full((SIZE[0] // 2, SIZE[1] // 2), 1 << (depth - 1), kind)
  frame = Frame(0, Fraction(0), (luma, half, half))

  def rows_of(target):
    field = mesh_warp.warp_field(source, target, SIZE)
    if field is None:
      return int((luma[:, int(source[13, 0])] < (dark + light) / 2).sum())
    planes = mesh_warp.warp_frame(frame, field)
    x = int(source[13, 0]) - field.box[0]
    return int((planes[0][:, x] < (dark + light) / 2).sum())

  thin = rows_of(thin_lips.limit_stretch(source, full))
  assert 0 < thin <= 10 and rows_of(full) > 1.5 * thin
