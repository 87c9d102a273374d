"""The line between the lips of a warped frame."""

from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.media.types import Color, Frame
from lipsync_jax.rendering import (
  lip_edges,
  lip_seam,
  mesh_warp,
  mouth_interior,
)
from tests.rendering.mesh_warp_test import POSE, SIZE, jaw, points_of


def two_lips(depth=8):
  """A frame with a colored hole, and its open and closed meshes."""
  source, target = points_of(jaw(0.15)), points_of(jaw(0.0))
  unit = 2 ** (depth - 8)
  kind = np.uint8 if depth == 8 else np.uint16
  planes = []
  for step, lips, hole in ((1, 90, 230), (2, 120, 100), (2, 160, 110)):
    box = (0, 0, SIZE[1], SIZE[0])
    mask = mouth_interior.hole_mask(source, box)[::step, ::step] > 0.3
    planes.append((unit * np.where(mask, hole, lips)).astype(kind))
  return Frame(0, Fraction(0), tuple(planes)), source, target


@pytest.mark.parametrize('depth', [8, 10])
def test_closed_lips_have_the_colors_of_lips(depth):
  """A mean of both lips' maps would read the hole's chroma."""
  frame, source, target = two_lips(depth)
  edges = lip_edges.inner_edges(frame, source, depth)
  field = mesh_warp.warp_field(source, target, SIZE, edges)
  planes = mesh_warp.warp_frame(frame, field)
  # The synthetic jaw tears the skin below the corners.
  line = lip_seam.lip_line(target)[3:-3] - field.box[:2]
  unit = 2 ** (depth - 8)
  for plane, step, lips in zip(planes, (1, 2, 2), (90, 120, 160), strict=True):
    x, y = (line / step).astype(int).T
    for dy in (-1, 0, 1):
      assert np.abs(plane[y + dy, x] / unit - lips).max() < 12


def test_the_seam_is_soft():
  """Two lips of different brightness meet over more than one pixel."""
  source, target = points_of(jaw(0.15)), points_of(jaw(0.0))
  line = lip_seam.lip_line(source)
  middle = np.interp(np.arange(SIZE[1]), line[:, 0], line[:, 1])
  luma = np.where(np.arange(SIZE[0])[:, None] < middle, 60, 200)
  half = np.full((SIZE[0] // 2, SIZE[1] // 2), 128, np.uint8)
  frame = Frame(0, Fraction(0), (luma.astype(np.uint8), half, half))
  field = mesh_warp.warp_field(source, target, SIZE)
  warped = mesh_warp.warp_frame(frame, field)[0].astype(int)
  x, y = (target[13] - field.box[:2]).astype(int)
  column = warped[y - 6 : y + 7, x]
  assert column[0] == 60 and column[-1] == 200
  assert np.diff(column).max() < 125
  assert ((column > 65) & (column < 195)).any()


def shaded(gap, wide=0.2, depth=8):
  source, target = points_of(jaw(wide)), points_of(jaw(gap))
  box, unit = (100, 100, 400, 340), 2 ** (depth - 8)
  kind = np.uint8 if depth == 8 else np.uint16
  planes = tuple(
    np.full((240 // s, 300 // s), value * unit, kind)
    for s, value in ((1, 120), (2, 110), (2, 160))
  )
  color = Color(depth=depth)
  lip_seam.shade_line(planes, box, source, target, POSE[1], color)
  x, y = (lip_seam.lip_line(target)[5] - box[:2]).astype(int)
  return planes, x, y, unit


@pytest.mark.parametrize('depth', [8, 10])
def test_closing_lips_are_shaded_at_their_line_only(depth):
  planes, x, y, unit = shaded(0.0, depth=depth)
  assert 60 * unit < planes[0][y, x] < 95 * unit
  assert planes[0][y - 12, x] == planes[0][y + 12, x] == 120 * unit
  assert planes[0][y, 20] == 120 * unit
  # Colors fade a little towards gray, and never past it.
  assert 128 * unit < planes[2][y // 2, x // 2] < 160 * unit


@pytest.mark.parametrize('gap, wide', [(0.0, 0.0), (0.2, 0.2), (0.1, 0.2)])
def test_lips_that_stay_or_are_open_have_no_shade(gap, wide):
  planes, x, y, _ = shaded(gap, wide)
  assert planes[0][y, x] == 120


def test_the_mask_at_the_line_is_half():
  target = points_of(jaw(0.0))
  down = np.array([0.0, 1])
  box = (0, 0, SIZE[1], SIZE[0])
  below = lip_seam.below_lips(target, box, down, POSE[1])
  x, y = lip_seam.lip_line(target)[5]
  column = below[:, int(x)]
  assert column[int(y) - 8] == 0 and column[int(y) + 8] == 255
  assert abs(int(column[int(np.floor(y))]) - 128) < 100
