"""Mouth crops and canvases: where the lips are, whatever they do."""

import dataclasses

import cv2
import numpy as np
import pytest

from lipsync_jax.faces import crop as crops
from lipsync_jax.faces import landmarks, mesh, mouth_crop
from lipsync_jax.refinement import face_frames
from tests.helpers import mesh_clips

SIZE = 64


@pytest.fixture(scope='module')
def face():
  return face_frames.read_face_clip(mesh_clips.clip('ann/0'), SIZE)


def test_poses_map_shapes_to_landmarks(face):
  ids = list(landmarks.LANDMARK_IDS)
  for k in (0, 7, 23):
    seen = face.shapes[k][ids] @ face.axes[k].T + face.origin[k]
    np.testing.assert_allclose(seen, face.clip.points[k], atol=0.01)
  units = [mouth_crop.pixels_per_unit(a) for a in face.axes]
  np.testing.assert_allclose(units, mesh_clips.SCALE, rtol=0.2)


def test_the_mouth_fills_its_share_of_the_crop(face):
  mouth = face.mouth(0)
  matrix = crops.crop_matrix(mouth, 100)
  corners = face.neutral[list(mouth_crop.CORNER_IDS)]
  placed = crops.transform_points(
    matrix, corners @ face.axes[0].T + face.origin[0]
  )
  middle = 50 - 100 * mouth_crop.BELOW / mouth_crop.SIDE
  half = 50 / mouth_crop.SIDE
  np.testing.assert_allclose(placed[:, 0], [50 - half, 50 + half], atol=0.5)
  np.testing.assert_allclose(placed[:, 1], middle, atol=0.5)


def test_the_crop_does_not_move_with_the_lips(face):
  """Known-bad: a crop of the lips themselves would."""
  opening = mesh.lip_opening(face.shapes)
  rows = np.array([dataclasses.astuple(face.mouth(k)) for k in range(24)])
  assert np.ptp(opening) > 0.08
  # The head drifts by whole pixels; size and roll stay.
  assert np.ptp(rows[:, 2]) < 0.01 * rows[:, 2].mean()
  assert np.ptp(rows[:, 4]) < 0.01
  lips = face.shapes[:, list(mesh.OUTER_LOWER_IDS), 1].mean(1)
  assert np.ptp(lips) * mesh_clips.SCALE > 3  # pixels


def test_a_canvas_shows_the_lips_at_its_mesh(face):
  k = int(mesh.lip_opening(face.shapes).argmax())
  canvas = face.canvas(k)
  side = face_frames.CANVAS * SIZE
  assert canvas.rgb.shape == (side, side, 3)
  upper, lower = canvas.points[13], canvas.points[14]
  x, y = ((upper + lower) / 2 + [0, 0.25 * (lower[1] - upper[1])]).astype(int)
  assert canvas.rgb[y, x].mean() < 70  # the cavity below the teeth
  chin = canvas.points[199].astype(int)
  assert canvas.rgb[chin[1], chin[0]].mean() > 100  # skin
  frame = canvas.frame()
  assert [p.shape for p in frame.planes] == [(side, side), *[(SIZE, SIZE)] * 2]


@pytest.mark.parametrize('size', [16, 64])
def test_enlarged_and_reduced_canvases_show_the_same(size):
  """The mesh and the mean color do not depend on the way of resampling."""
  clip = mesh_clips.clip('ann/0', 8)
  face = face_frames.read_face_clip(clip, size)
  big = face_frames.read_face_clip(clip, 128).canvas(4)
  small = face.canvas(4)
  scale = 128 / size
  np.testing.assert_allclose(small.points * scale, big.points, atol=1e-6)
  side = (2 * size, 2 * size)
  reduced = cv2.resize(big.rgb, side, interpolation=cv2.INTER_AREA)
  assert np.abs(reduced.astype(int) - small.rgb).mean() < 4


def test_a_mesh_that_does_not_fit_its_landmarks_is_left_out():
  clip = mesh_clips.clip('ann/1')
  moved = clip.points.copy()
  moved[3, 40] += 9
  bad = dataclasses.replace(clip, points=moved)
  assert face_frames.read_face_clip(bad, SIZE) is None
  assert face_frames.read_face_clip(clip, SIZE) is not None


def test_a_clip_without_a_mesh_is_one_line():
  clip = mesh_clips.clip('ann/2', 6)
  bare = dataclasses.replace(clip, mesh=clip.mesh[:0])
  with pytest.raises(face_frames.RefinementError, match=r'ann/2.*mesh'):
    face_frames.read_face_clip(bare, SIZE)
