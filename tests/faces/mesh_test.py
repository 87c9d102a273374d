"""The face mesh: canonical space, neutral shape, packing, trajectories."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lipsync_jax.common.disk_array import RowFile
from lipsync_jax.faces import mesh, mesh_trajectory, trajectory
from lipsync_jax.faces.identity import Person
from lipsync_jax.faces.tracks import Analysis, Track


def posed(shapes, angles, scale, shift):
  """Canonical shapes in frame pixels."""
  rotation = Rotation.from_euler('xyz', angles).as_matrix()
  return scale * shapes @ rotation.T + shift


def opened(gap):
  """The reference face with closed lips, opened by `gap`."""
  shape = mesh.reference_shape()
  middle = (
    shape[list(mesh.UPPER_LIP_IDS)] + shape[list(mesh.LOWER_LIP_IDS)]
  ) / 2
  shape[list(mesh.UPPER_LIP_IDS)] = middle
  shape[list(mesh.LOWER_LIP_IDS)] = middle
  shape[list(mesh.UPPER_LIP_IDS[1:-1]), 1] -= gap / 2
  shape[list(mesh.LOWER_LIP_IDS[1:-1]), 1] += gap / 2
  return shape


@settings(max_examples=25, deadline=None)
@given(
  st.tuples(*[st.floats(-0.6, 0.6)] * 3),
  st.floats(20, 900),
  st.tuples(*[st.floats(-500, 2000)] * 3),
)
def test_alignment_inverts_any_pose(angles, scale, shift):
  shape = mesh.reference_shape()
  points = posed(shape, angles, scale, np.array(shift))[None]
  similarity = mesh.align(points, mesh.reference_shape())
  np.testing.assert_allclose(similarity.apply(points)[0], shape, atol=1e-9)
  back = similarity.invert(similarity.apply(points))
  np.testing.assert_allclose(back, points, rtol=1e-9, atol=1e-6)
  assert similarity.scale[0] == pytest.approx(1 / scale)


def test_alignment_is_no_reflection_and_ignores_the_lips():
  points = posed(opened(0.3), (0.2, -0.1, 0.3), 100, np.zeros(3))[None]
  similarity = mesh.align(points, mesh.reference_shape())
  assert np.linalg.det(similarity.rotation[0]) == pytest.approx(1)
  expected = pytest.approx(0.3 * 9 / 11, abs=1e-9)
  assert mesh.lip_opening(similarity.apply(points))[0] == expected


def test_topology_and_reference():
  faces = mesh.triangles()
  assert faces.shape == (852, 3) and faces.max() == 467 and faces.min() == 0
  assert len({tuple(sorted(t)) for t in faces.tolist()}) == 852
  shape = mesh.reference_shape()
  left, right = shape[list(mesh.EYE_CORNERS)]
  assert np.hypot(*(right - left)[:2]) == pytest.approx(1, abs=1e-6)
  assert shape[mesh.CHIN, 1] > shape[mesh.SUBNASALE, 1] > shape[10, 1]


def test_weights_are_zero_above_the_nose_and_one_at_the_lips():
  weights = mesh.displacement_weights()
  assert weights.min() == 0 and weights.max() == 1
  assert (weights[list(mesh.RIGID_IDS)] == 0).sum() >= 18
  assert (weights[list(mesh.LOWER_LIP_IDS)] == 1).all()
  assert weights[mesh.CHIN] == 1 and (weights[468:] == 0).all()


def test_neutral_is_the_mean_of_the_closed_tenth():
  shapes = np.stack([opened(gap) for gap in np.linspace(0, 0.2, 40)])
  known = np.ones(40, bool)
  known[:2] = False
  neutral = mesh.neutral_shape(shapes, known)
  np.testing.assert_allclose(neutral, shapes[2:6].mean(0), atol=1e-12)


def test_crossed_lips_touch_and_others_stay():
  crossed, apart = opened(-0.1), opened(0.1)
  found = mesh.uncross_lips(np.stack([crossed, apart]))
  assert np.abs(mesh.lip_gaps(found[:1])).max() < 1e-12
  np.testing.assert_array_equal(found[1], apart)
  middle = lambda x: x[[13, 14]].mean(0)  # noqa: E731
  np.testing.assert_allclose(middle(found[0]), middle(crossed))


def test_displacement_of_zero_at_the_neutral_is_the_source():
  neutral = opened(0.0)
  target = mesh.displace(neutral[None], neutral, np.zeros((1, 478, 3)))
  np.testing.assert_allclose(target[0], neutral, atol=1e-15)


def test_strength_scales_the_motion_from_the_source():
  neutral, shape = opened(0.0), opened(0.1)
  move = opened(0.2) - neutral
  wanted = {0.0: shape, 1.0: opened(0.2), 1.5: opened(0.3)}
  wanted[0.5] = (shape + opened(0.2)) / 2
  for strength, goal in wanted.items():
    found = mesh.displace(shape[None], neutral, move[None], strength)[0]
    np.testing.assert_allclose(found[14], goal[14], atol=1e-12)
    np.testing.assert_array_equal(found[10], shape[10])


def test_packing_keeps_a_hundredth_of_a_pixel():
  box = np.array([[300.0, 200, 700, 720]], np.float32)
  points = posed(opened(0.1), (0.1, 0.2, 0), 230, np.array([500, 450, 0]))[None]
  packed = mesh.pack(mesh.in_box(points, box))
  assert packed.dtype == np.int16
  found = mesh.from_box(mesh.unpack(packed), box)
  assert np.abs(found - points).max() < 0.0125


# --- trajectories


def analysis_of(gaps, poses, missing=(), cut=()):
  """An analysis of one face with these lip gaps and poses."""
  count = len(gaps)
  rows = RowFile((mesh.NUM_POINTS, 3), np.int16)
  frames = np.array([i for i in range(count) if i not in missing])
  points = np.stack([posed(opened(gaps[i]), *poses[i]) for i in frames])
  low, high = points[..., :2].min(1), points[..., :2].max(1)
  boxes = np.concatenate([low, high], 1).astype(np.float32)
  rows.append(mesh.pack(mesh.in_box(points, boxes)))
  from lipsync_jax.faces.landmarks import LANDMARK_IDS

  track = Track(
    frames,
    boxes,
    np.ones(len(frames), np.float32),
    points[:, list(LANDMARK_IDS), :2].astype(np.float32),
    np.zeros(620, np.float32),
    np.arange(len(frames)),
  )
  return Analysis(
    np.arange(count) / 25, (720, 1280), np.array(cut, np.int64), (track,), rows
  )


def trajectory_of(analysis):
  person = Person(analysis.tracks, 1.0)
  face = trajectory.build_trajectory(analysis, person)
  return mesh_trajectory.build_mesh_trajectory(analysis, person, face)


def steady(count, shift=0.0):
  return [
    ((0.0, 0.1, 0.05), 160.0, np.array([600 + shift * i, 350, 0]))
    for i in range(count)
  ]


def test_trajectory_gives_back_shapes_and_poses():
  gaps = 0.05 + 0.05 * np.sin(np.arange(60) / 4)
  found = trajectory_of(analysis_of(gaps, steady(60, 1.5)))
  assert found.present.all() and len(found.shapes) == 60
  # The light smoothing takes at most a twentieth of the motion.
  wanted = gaps * 9 / 11
  assert np.abs(found.opening - wanted).max() < 0.05 * np.ptp(wanted)
  points = posed(opened(gaps[30]), *steady(60, 1.5)[30])
  source = found.source_points(30, found.shape(30))
  assert np.abs(source - points[:, :2]).max() < 0.6
  assert mesh.lip_opening(found.neutral[None])[0] < 0.005


def test_strength_zero_is_the_source_and_one_the_displacement():
  gaps = np.full(40, 0.08)
  gaps[:8] = 0
  found = trajectory_of(analysis_of(gaps, steady(40)))
  shape = found.shape(20)
  opening = opened(0.2) - opened(0.0)
  source = found.source_points(20, shape)
  still = found.target_points(20, shape, opening, 0.0)
  np.testing.assert_array_equal(still, source)
  moved = found.target_points(20, shape, opening, 1.0)
  gap = np.hypot(*(moved[14] - moved[13])) / 160
  assert gap == pytest.approx(0.2 * np.cos(0.0), rel=0.05)
  upper = mesh.displacement_weights() == 0
  np.testing.assert_allclose(moved[upper], source[upper], atol=1e-9)


def test_gaps_are_filled_and_absent_frames_are_not():
  missing = {20, 21, 22}
  found = trajectory_of(analysis_of(np.zeros(60), steady(60, 2.0), missing))
  assert found.present.all()
  middle = found.source_points(21, found.shape(21)).mean(0)
  ends = [found.source_points(i, found.shape(i)).mean(0) for i in (19, 23)]
  np.testing.assert_allclose(middle, np.mean(ends, 0), atol=0.3)
  away = set(range(25, 60))
  found = trajectory_of(analysis_of(np.zeros(60), steady(60), away))
  assert found.present[:25].all() and not found.present[25:].any()
  assert np.isnan(found.opening[25:]).all()


def test_smoothing_does_not_cross_a_cut():
  gaps = np.r_[np.zeros(30), np.full(30, 0.2)]
  found = trajectory_of(analysis_of(gaps, steady(60), cut=[30]))
  np.testing.assert_allclose(found.opening[:30], 0, atol=2e-4)
  np.testing.assert_allclose(found.opening[30:], 0.2 * 9 / 11, atol=2e-4)


def test_open_neutral_is_closed_by_the_basis():
  found = trajectory_of(analysis_of(np.full(30, 0.1), steady(30)))
  basis = np.stack([opened(0.1) - opened(0.0), opened(0.0) * 0])
  closed = found.with_closed_lips(basis)
  assert mesh.lip_opening(found.neutral[None])[0] > 0.07
  assert abs(mesh.lip_opening(closed.neutral[None])[0]) < 0.01
  same = dataclasses.replace(found, neutral=opened(0.0))
  assert same.with_closed_lips(basis) is same


def test_analysis_without_meshes_has_no_trajectory():
  analysis = analysis_of(np.zeros(10), steady(10))
  assert trajectory_of(dataclasses.replace(analysis, meshes=None)) is None
