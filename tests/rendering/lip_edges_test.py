"""Pressed lips stay thin, and closing lips leave the teeth behind."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.faces import mesh
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import lip_edges, mesh_warp, mouth_interior
from tests.rendering.mesh_warp_test import POSE, SIZE, jaw, opened, points_of

ROWS = (
  (mesh.UPPER_LIP_IDS[1:-1], lip_edges.UPPER_ROWS),
  (mesh.LOWER_LIP_IDS[1:-1], lip_edges.LOWER_ROWS),
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
  found = lip_edges.limit_stretch(source, target)
  limit = lip_edges.MAX_STRETCH * thickness(source)
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
  found = lip_edges.limit_stretch(source, target)
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

  thin = rows_of(lip_edges.limit_stretch(source, full))
  assert 0 < thin <= 10 and rows_of(full) > 1.5 * thin


DOWN = np.array([0.0, 1.0])
# Y, Cb, Cr of lips, and of what lies between them.
LIPS = {'pale': (110, 120, 150), 'dark': (60, 118, 150), 'gray': (90, 128, 128)}
HOLES = {'teeth': (215, 124, 130), 'cavity': (24, 127, 131)}


def painted(points, lips, hole, depth=8):
  """A frame with lips and a hole of these colors, of soft edges."""
  box = (0, 0, SIZE[1], SIZE[0])
  share = mouth_interior.hole_mask(points, box)
  kind = np.uint8 if depth == 8 else np.uint16
  planes = []
  for step, a, b in zip((1, 2, 2), lips, hole, strict=True):
    part = share if step == 1 else yuv.halve_plane(share)
    planes.append(((a + part * (b - a)) * 2 ** (depth - 8)).astype(kind))
  return Frame(0, Fraction(0), tuple(planes))


def inside(points, pixels):
  """The mesh whose inner landmarks lie inside the open mouth."""
  out = points.copy()
  out[list(mesh.UPPER_LIP_IDS[1:-1])] += pixels * DOWN
  out[list(mesh.LOWER_LIP_IDS[1:-1])] -= pixels * DOWN
  return out


@pytest.mark.parametrize('depth', [8, 10])
@pytest.mark.parametrize('hole', HOLES)
@pytest.mark.parametrize('lips', LIPS)
def test_the_true_edge_is_found_by_color(lips, hole, depth):
  truth = points_of(jaw(0.2))
  frame = painted(truth, LIPS[lips], HOLES[hole], depth)
  points = inside(truth, 4.0)
  found = lip_edges.inner_edges(frame, points, depth)
  for edge, (inner, outer, _) in zip(found, lip_edges.LIPS, strict=True):
    thick = np.hypot(*(points[list(outer)] - points[list(inner)]).T)
    # In the middle, where the synthetic lips run across.
    np.testing.assert_allclose((edge * thick)[4:7], 4.0, atol=1.6)


@pytest.mark.parametrize('lips', LIPS)
def test_landmarks_on_the_lips_stay(lips):
  points = points_of(opened(0.0))
  frame = painted(points, LIPS[lips], HOLES['teeth'])
  luma = frame.planes[0].copy()
  # A highlight on the lower lip.
  x, y = points[16].astype(int)
  luma[y - 2 : y + 3, x - 12 : x + 12] += 40
  shiny = dataclasses.replace(frame, planes=(luma, *frame.planes[1:]))
  for picture in (frame, shiny):
    assert lip_edges.inner_edges(picture, points, 8)[:, 3:-3].max() < 0.12


def test_faces_at_the_border_of_the_frame_are_read():
  points = points_of(jaw(0.2))
  frame = painted(points, LIPS['pale'], HOLES['teeth'])
  for shift in ((-1000.0, 0.0), (0.0, 700.0), (250.0, 180.0)):
    found = lip_edges.inner_edges(frame, points + shift, 8)
    assert found.shape == (2, 11) and (found >= 0).all() and (found <= 1).all()


@pytest.mark.parametrize('hole', HOLES)
def test_closing_lips_show_neither_teeth_nor_cavity(hole):
  truth, closed = points_of(jaw(0.2)), points_of(jaw(0.0))
  frame = painted(truth, LIPS['pale'], HOLES[hole])
  points = inside(truth, 4.0)
  edges = lip_edges.inner_edges(frame, points, 8)

  def others(edges):
    field = mesh_warp.warp_field(points, closed, SIZE, edges)
    luma = mesh_warp.warp_frame(frame, field)[0].astype(int)
    # The synthetic jaw tears the skin below the corners.
    x = closed[[81, 311], 0].astype(int) - field.box[0]
    return (abs(luma[:, x[0] : x[1]] - LIPS['pale'][0]) > 20).sum()

  assert others(edges) < 0.1 * others(None)


def test_lips_that_do_not_close_keep_their_exact_places():
  source, wider = points_of(jaw(0.1)), points_of(jaw(0.15))
  edges = np.full((2, 11), 0.5)
  for target in (source, wider):
    found = lip_edges.without_teeth(source, target, POSE[1], DOWN, edges)
    np.testing.assert_array_equal(found, source)


@pytest.mark.parametrize('edge', [0.0, 0.5, 1.0])
def test_lips_do_not_fold(edge):
  """Rows of the lip keep their order, for any edge and any thickness."""
  source, target = points_of(jaw(0.2)), points_of(jaw(0.0))
  for share in (0.05, 1.0):
    thin = pressed(source, share)
    edges = np.full((2, 11), edge)
    found = lip_edges.without_teeth(thin, target, POSE[1], DOWN, edges)
    for inner, outer, rows in lip_edges.LIPS:
      ids = (inner[1:-1], *rows[:0:-1])
      ends = found[list(outer[1:-1])]
      away = [np.hypot(*(ends - found[list(row)]).T) for row in ids]
      assert (np.diff(away, axis=0) <= 1e-9).all()
      assert (away[0] > 0).all()
