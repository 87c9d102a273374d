"""On the way between two mouths the picture shows one."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.common import disk_array
from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import mesh_renderer, mouth_patches, renderer
from lipsync_jax.rendering.timeline import OutputFrame
from tests.faces import mesh_test
from tests.rendering import mesh_warp_test

OPENING = 0.15
CHIN = 200  # a point of the mesh below the lips


def lined_picture():
  """A gray frame with a dark line on the chin."""
  rows, columns = mesh_warp_test.SIZE
  luma = np.full((rows, columns), 150, np.uint8)
  y = round(float(mesh_warp_test.points_of(mesh_warp_test.jaw(0.0))[CHIN, 1]))
  luma[y : y + 3] = 40
  gray = np.full((rows // 2, columns // 2), 128, np.uint8)
  return Frame(0, Fraction(0), (luma, gray, gray.copy())), y + 1


def rendered(share, uncovered=None):
  """The frame with a jaw that opens, on the way to it."""
  shape = mesh_warp_test.jaw(0.0)
  face = mesh_test.trajectory_of(
    mesh_test.analysis_of([0.0], [mesh_warp_test.POSE])
  )
  basis = (mesh_warp_test.jaw(OPENING) - shape)[None]
  none = np.zeros(1, np.int64)
  speaker = mesh_renderer.MeshSpeaker(
    face, np.ones((1, 1), np.float32), (), none, none, np.zeros(1, np.float32)
  )
  drawing = mesh_renderer.MeshRenderer((speaker,), basis)
  rows = disk_array.to_disk(np.zeros((1, 80), np.float32))
  track = renderer.SpeakerTrack(
    np.zeros((1, 5)), rows, rows, none, np.array([share]), np.array([[0, 1]])
  )
  video = mesh_warp_test.video_of()
  shown = OutputFrame(Fraction(0), Fraction(1, 25), 0)
  plan = renderer.RenderPlan(video, (), (shown,), (track,))
  frame, _ = lined_picture()
  job = renderer.FrameJob(0, frame, {0: True})
  if uncovered is not None:
    job.uncovered[0] = uncovered
  job.outputs[0] = drawing.render(plan, [(job, 0)])[0]
  return drawing.composite(plan, job, 0, frame)


def dark_rows(frame, below):
  """Rows of the dark line in the column of the lips' middle."""
  shape = mesh_warp_test.points_of(mesh_warp_test.jaw(0.0))
  column = frame.planes[0][below:, round(float(shape[CHIN, 0]))].astype(int)
  return below + np.flatnonzero(column < 95), column


@pytest.mark.parametrize('share', [0.25, 0.5, 0.75])
def test_the_lips_are_on_the_way_and_no_second_edge_is_seen(share):
  frame, line = lined_picture()
  whole, _ = dark_rows(rendered(1.0), line - 4)
  half, column = dark_rows(rendered(share), line - 4)
  travel = whole.mean() - line
  assert travel > 8
  assert abs(half.mean() - line - share * travel) < 1.5
  assert np.ptp(half) < 7 and column.min() < 60  # one line at full contrast
  # A dissolve of the two pictures has both lines, at part of the contrast.
  old, new = frame.planes[0], rendered(1.0).planes[0]
  mixed = np.rint(old + share * (new.astype(float) - old)).astype(np.uint8)
  ghost = dataclasses.replace(frame, planes=(mixed, *frame.planes[1:]))
  _, faint = dark_rows(ghost, line - 4)
  at = [line - (line - 4), round(whole.mean()) - (line - 4)]
  assert (faint[at] < 135).all() and (share != 0.5 or faint.min() > 80)


def test_a_mouth_that_is_half_covered_is_on_the_way_too():
  _, line = lined_picture()
  for share in (0.25, 0.75):
    a, _ = dark_rows(rendered(share), line - 4)
    b, _ = dark_rows(rendered(1.0, uncovered=share), line - 4)
    np.testing.assert_array_equal(a, b)


def test_the_interior_of_the_source_is_mixed_in_between_the_lips():
  frame = mesh_warp_test.picture()
  source = mesh_warp_test.points_of(mesh_test.opened(0.2))
  box = (200, 180, 280, 230)
  h, w = box[3] - box[1], box[2] - box[0]
  new = tuple(np.full((h // s, w // s), 90, np.float32) for s in (1, 2, 2))
  new = (*new, np.ones((h, w), np.float32))

  def mixed(share, points=source):
    video = mesh_warp_test.video_of()
    mouth = mouth_patches.Mouth(video, frame, points, points, 110.0)
    inside = mouth_patches.Patch(box, new)
    return mouth_patches.toward_source(mouth, inside, share).planes

  from lipsync_jax.rendering import mouth_interior

  inside = mouth_interior.hole_mask(source, box) > 0.99
  old = frame.planes[0][box[1] : box[3], box[0] : box[2]]
  assert inside.any()
  assert np.abs(mixed(0.0)[0] - old)[inside].max() < 1.5
  np.testing.assert_allclose(mixed(1.0)[0], new[0])
  half = (mixed(0.0)[0] + new[0]) / 2
  np.testing.assert_allclose(mixed(0.5)[0], half, atol=1e-3)
  closed = mesh_warp_test.points_of(mesh_test.opened(0.0))
  np.testing.assert_allclose(mixed(0.5, closed)[0], new[0])
  assert mixed(0.5)[3] is new[3]
