"""The inside of a mouth that a reference lends, on synthetic frames."""

import numpy as np
import pytest

from lipsync_jax.faces import mesh
from lipsync_jax.rendering import mouth_interior, mouth_patches
from tests.faces.mesh_test import opened
from tests.rendering.mesh_warp_test import (
  POSE,
  SIZE,
  picture,
  points_of,
  video_of,
)

DARK, TOOTH = 40, 200


def striped(points):
  """A gray frame whose upper half between the lips is bright, as teeth are."""
  frame = picture()
  for plane, value in zip(frame.planes, (120, 128, 128), strict=True):
    plane[:] = value
  x0, _, x1, _ = mouth_interior.mouth_box(points, SIZE, 0.0)
  middle = round(float(points[[13, 14], 1].mean()))
  frame.planes[0][round(points[13, 1]) : middle, x0:x1] = TOOTH
  frame.planes[0][middle : round(points[14, 1]), x0:x1] = DARK
  return frame


def middle_column(gap, reference_gap):
  """Luma of a lent inside from the upper to the lower lip."""
  lips, target = points_of(opened(reference_gap)), points_of(opened(gap))
  frame = striped(lips)
  lent = mouth_interior.read_reference(frame, lips)
  mouth = mouth_patches.Mouth(video_of(), frame, lips, target, POSE[1])
  box = mouth_interior.mouth_box(target, SIZE, 0.05)
  luma = mouth_patches.lent_planes(mouth, lent, box)[0]
  top, bottom = (round(target[k, 1]) - box[1] for k in (13, 14))
  return luma[top:bottom, round(target[13, 0]) - box[0]]


@pytest.mark.parametrize('gap', [0.12, 0.2, 0.35])
def test_teeth_keep_their_height_in_wider_mouths(gap):
  height = (middle_column(0.1, 0.1) > 130).sum()
  shown = middle_column(gap, 0.1)
  teeth = shown > 130
  limit = mouth_interior.MAX_STRETCH
  assert height - 1 <= teeth.sum() <= limit * height + 2
  # They hang from the upper lip; all below them is dark.
  assert teeth[1 : teeth.sum()].all() and (shown[-3:] < 100).all()


def test_narrower_mouths_show_the_whole_reference():
  shown = middle_column(0.1, 0.2) > 130
  assert shown.any() and abs(shown.mean() - 0.5) < 0.15


def test_excess_is_relative_to_the_head():
  closed, wide = points_of(opened(0.1)), points_of(opened(0.39))
  excess = mouth_interior.excess_stretch(wide, closed)
  assert excess == pytest.approx(3.9 / mouth_interior.MAX_STRETCH, rel=0.01)
  near = mouth_interior.excess_stretch(wide, 3 * closed + 50)
  assert near == pytest.approx(excess, rel=1e-6)
  assert mouth_interior.excess_stretch(closed, wide) == 1


def test_no_jump_where_the_stretch_begins():
  """The share that is drawn grows from 0 with the opening."""
  depth = np.linspace(0, 1.2, 50, dtype=np.float32)[:, None]
  totals = [
    mouth_interior.missing_share(depth * excess, excess)[depth <= 1].sum()
    for excess in (1.0001, 1.05, 1.2, 1.5, 2.0)
  ]
  assert totals == sorted(totals) and totals[0] <= 1 < totals[-1]


def test_a_mixture_is_between_its_parts():
  points = points_of(opened(0.2))
  frame = striped(points)
  bright = mouth_interior.read_reference(frame, points)
  frame.planes[0][:] = 60
  dark = mouth_interior.read_reference(frame, points)
  mouth = mouth_patches.Mouth(video_of(), frame, points, points, POSE[1])

  def luma(*mixture):
    return mouth_patches.interior_patch(mouth, mixture).planes[0]

  first, second = luma((bright, 1.0)), luma((dark, 1.0))
  mixed = luma((bright, 0.7), (dark, 0.3))
  np.testing.assert_allclose(mixed, 0.7 * first + 0.3 * second, atol=1e-3)
  assert np.abs(first - second).max() > 20


def test_lips_that_do_not_move_have_no_warp():
  points = points_of(opened(0.1))
  mouth = mouth_patches.Mouth(video_of(), picture(), points, points, POSE[1])
  assert mouth_patches.warped_patch(mouth) is None
  same = mouth_patches.fit_target(points, points, drawn=True)
  np.testing.assert_array_equal(same, points)
  assert mesh.lip_opening(opened(0.1)[None])[0] > 0
