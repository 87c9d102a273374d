"""Warped mouths against the truth, and against the mesh renderer."""

from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.common.disk_array import to_disk
from lipsync_jax.faces import mesh
from lipsync_jax.faces.mesh_trajectory import MeshTrajectory
from lipsync_jax.refinement import face_frames, warped_mouths
from lipsync_jax.rendering import mesh_renderer, mouth_patches
from lipsync_jax.rendering.renderer import FrameJob, RenderPlan
from lipsync_jax.rendering.timeline import OutputFrame
from tests.helpers import mesh_clips

SIZE = 64


@pytest.fixture(scope='module')
def face():
  return face_frames.read_face_clip(mesh_clips.clip('ann/0'), SIZE)


def ranked(face) -> list[int]:
  """Frames, the most closed one first."""
  return np.argsort(mesh.lip_opening(face.shapes)).tolist()


def inside(x: np.ndarray) -> np.ndarray:
  return x[SIZE // 2 : -SIZE // 2, SIZE // 2 : -SIZE // 2].astype(float)


@pytest.mark.parametrize('rank', [0, 12, -1])
def test_a_frame_warped_to_itself_is_the_frame(face, rank):
  """i == j: the warp alone is the target, up to the color of chroma."""
  canvas = face.canvas(ranked(face)[rank])
  target = warped_mouths.target_mesh(canvas.points, canvas.points, False)
  np.testing.assert_array_equal(target, canvas.points)
  reference = warped_mouths.read_reference(canvas)
  rgb, hole = warped_mouths.warp_mouth(canvas, target, reference)
  assert np.abs(inside(rgb) - inside(canvas.rgb)).mean() < 3
  again, _ = warped_mouths.warp_mouth(canvas, target, reference)
  assert (again == rgb).all() and hole.min() >= 0 and hole.max() <= 1


def test_a_warp_is_nearer_to_the_target_than_its_source(face):
  order = ranked(face)
  source, goal = face.canvas(order[0]), face.canvas(order[-1])
  lent = warped_mouths.read_reference(face.canvas(order[-2]))
  target = warped_mouths.target_mesh(source.points, goal.points, False)
  rgb, hole = warped_mouths.warp_mouth(source, target, lent)
  before = np.abs(inside(source.rgb) - inside(goal.rgb)).mean()
  after = np.abs(inside(rgb) - inside(goal.rgb)).mean()
  assert after < 0.5 * before
  assert inside(hole).sum() > 50  # pixels


def test_lips_that_close_have_no_hole(face):
  order = ranked(face)
  source, goal = face.canvas(order[-1]), face.canvas(order[0])
  target = warped_mouths.target_mesh(source.points, goal.points, False)
  _, hole = warped_mouths.warp_mouth(source, target, None)
  assert hole.max() < 0.05


def test_the_upper_face_stays(face):
  order = ranked(face)
  source, goal = face.canvas(order[0]), face.canvas(order[-1])
  target = warped_mouths.target_mesh(source.points, goal.points, True)
  eyes = list(mesh.EYE_CORNERS)
  np.testing.assert_array_equal(target[eyes], source.points[eyes])
  gap = (target[14] - target[13])[1]
  assert gap > 0.8 * (goal.points[14] - goal.points[13])[1]


@pytest.mark.parametrize('drawn', [True, False])
def test_mouths_are_those_of_the_mesh_renderer(face, drawn):
  """Oracle: `MeshRenderer.render_mouth` on the same canvas."""
  order = ranked(face)
  source, goal = face.canvas(order[0]), face.canvas(order[-1])
  lent = warped_mouths.read_reference(face.canvas(order[-2]))
  target = warped_mouths.target_mesh(source.points, goal.points, drawn)
  rgb, hole = warped_mouths.warp_mouth(source, target, None if drawn else lent)
  frame, video = source.frame(), face_frames.canvas_video(2 * SIZE)
  speaker = rendered_speaker(source, goal.points, () if drawn else (lent,))
  renderer = mesh_renderer.MeshRenderer((speaker,), np.zeros((1, 478, 3)))
  output = OutputFrame(Fraction(0), Fraction(1, 25), 0)
  plan = RenderPlan(video, (Fraction(0),), (output,), ())
  job = FrameJob(0, frame)
  planes = [plane.copy() for plane in frame.planes]
  for patch in renderer.render_mouth(plan, job, 0, 1.0):
    mouth_patches.blend(planes, patch, 255)
  shown = warped_mouths.to_picture(planes)
  # The pose is packed to 16 bits: some points move by 0.01 pixels.
  assert np.abs(inside(shown) - inside(rgb)).mean() < 0.3
  assert inside(hole).sum() > 50


def rendered_speaker(source, goal, references):
  """A speaker whose only frame is a canvas, and whose lips are the goal's."""
  scale = 1 / source.unit
  shapes = [
    np.concatenate([(p - SIZE) * scale, np.zeros((478, 1))], 1)
    for p in (source.points, goal)
  ]
  axes = source.unit * np.eye(3, dtype=np.float32)[None]
  origin = np.array([[SIZE, SIZE, 0]], np.float32)
  face = MeshTrajectory(
    present=np.ones(1, bool),
    shapes=to_disk(mesh.pack(shapes[0][None])),
    axes=axes,
    origin=origin,
    smooth_axes=axes,
    smooth_origin=origin,
    # All points of weight 1 are the neutral's; the others the source's.
    neutral=shapes[1],
    opening=np.zeros(1, np.float32),
  )
  none = np.zeros(1, np.int64)
  return mesh_renderer.MeshSpeaker(
    face,
    np.zeros((1, 1), np.float32),
    references,
    none,
    none,
    np.zeros(1, np.float32),
  )
