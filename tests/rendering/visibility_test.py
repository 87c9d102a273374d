"""What fades, what passes untouched, and what the report says of it."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.faces import landmarks, mesh
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.rendering import fades, timeline, visibility
from tests.faces import mesh_test
from tests.helpers import synthetic_face


def rotated(yaw: float, pitch: float = 0.0, gape: float = 0.0) -> np.ndarray:
  """The mean face [p 3] in canonical units after a turn, degrees."""
  y, p = np.radians(yaw), np.radians(pitch)
  turn = np.array(
    [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
  )
  nod = np.array(
    [[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]]
  )
  return mesh_test.opened(gape) @ (turn @ nod).T


def turned(yaw: float, pitch: float = 0.0, gape: float = 0.0) -> np.ndarray:
  """Landmarks of a turned head, 100 pixels between the eyes."""
  points = rotated(yaw, pitch, gape)[list(landmarks.LANDMARK_IDS), :2]
  return 100 * points + np.array([300.0, 200])


def corner_is_seen(shape: np.ndarray, corner: int) -> bool:
  """Whether no triangle of the mesh lies before a corner of the mouth."""
  faces = mesh.triangles()
  faces = faces[~(faces == corner).any(1)]
  a, b, c = np.moveaxis(shape[faces], 1, 0)
  place = shape[corner]

  def cross(u, v):
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

  area = cross(b - a, c - a)
  area = np.where(np.abs(area) < 1e-9, np.inf, area)
  u, v = cross(place - a, c - a) / area, cross(b - a, place - a) / area
  depth = a[:, 2] + u * (b - a)[:, 2] + v * (c - a)[:, 2]
  before = (u >= 0) & (v >= 0) & (u + v <= 1) & (depth < place[2] - 0.01)
  return not before.any()


def path_of(points, present=None, filled=None) -> FaceTrajectory:
  count = len(points)
  present = np.ones(count, bool) if present is None else np.array(present)
  filled = np.zeros(count, bool) if filled is None else np.array(filled)
  points = np.array(points, np.float32)
  points[~present] = np.nan
  crops = np.tile([300.0, 200, 100, 130, 0], (count, 1))
  crops[~present] = np.nan
  spans = np.array([[0, count]])
  shots = np.zeros(count, np.int64)
  return FaceTrajectory(present, filled, crops, points, spans, shots=shots)


def shown(count: int, seconds: float | None = None):
  times = [Fraction(i, 25) for i in range(count)]
  length = Fraction(count, 25) if seconds is None else Fraction(seconds)
  return times, list(
    timeline.schedule_frames(times, Fraction(25), length, video_longer='keep')
  )


@pytest.mark.parametrize('roll', [-0.6, 0.0, 0.9])
@pytest.mark.parametrize('yaw', [-50, -20, 0, 35])
def test_turn_does_not_depend_on_the_lean_or_the_size(yaw, roll):
  c, s = np.cos(roll), np.sin(roll)
  points = turned(yaw)
  leaning = 3 * points @ np.array([[c, s], [-s, c]])
  shares = visibility.far_corner_share(np.stack([points, leaning]))
  np.testing.assert_allclose(shares[1], shares[0], atol=1e-4)
  assert yaw or shares[0] > 0.95


@pytest.mark.parametrize('gape', [0.0, 0.15])
@pytest.mark.parametrize('pitch', [-15, 0, 15])
@pytest.mark.parametrize('side', [-1, 1])
def test_a_head_speaks_as_long_as_both_corners_are_seen(side, pitch, gape):
  yaws = side * np.arange(0, 90, 2.5)
  seen = [
    all(corner_is_seen(rotated(yaw, pitch, gape), k) for k in (61, 291))
    for yaw in yaws
  ]
  hidden = seen.index(False)  # the far corner goes first
  path = path_of([turned(yaw, pitch, gape) for yaw in yaws])
  path = dataclasses.replace(path, shots=None)
  share, why = visibility.mouth_opacity(path, *shown(len(yaws)))
  assert (share[:hidden] == 1).all()
  assert (share[np.abs(yaws) >= 60] == 0).all()
  assert set(why) == {0, visibility.SkipReason.HEAD_TURNED}


def test_a_turning_head_fades_and_comes_back():
  yaws = 70 * np.sin(np.linspace(0, np.pi, 50))
  path = path_of([turned(yaw) for yaw in yaws])
  times, shows = shown(50)
  share, why = visibility.mouth_opacity(path, times, shows)
  assert (share[yaws < 38] == 1).all() and (share[yaws > 55] == 0).all()
  partly = (share > 0) & (share < 1)
  assert partly.sum() == 2 * fades.FADE_FRAMES and not why[partly].any()
  half = share[:25]
  assert (np.diff(half) <= 0).all() and np.abs(np.diff(share)).max() < 0.7
  (found,) = visibility.skipped_ranges(shows, why)
  assert found['why'] == 'head turned away'
  first, last = np.flatnonzero(share == 0)[[0, -1]]
  assert (found['from'], found['to']) == (first / 25, (last + 1) / 25)


def test_a_painted_mouth_is_cut_while_both_mouths_are_closed():
  yaws = 70 * np.sin(np.linspace(0, np.pi, 50))
  gapes = np.full(50, 0.15)
  path = path_of(
    [turned(*face) for face in zip(yaws, 0 * yaws, gapes, strict=True)]
  )
  usual, _ = visibility.mouth_opacity(path, *shown(50))
  gone = int(np.flatnonzero(usual == 0)[0])
  gapes[[gone - 4, gone - 2]] = 0
  path = path_of(
    [turned(*face) for face in zip(yaws, 0 * yaws, gapes, strict=True)]
  )

  def loudness(frames):
    return np.where(frames == gone - 2, 0.9, 0.1)

  share, _ = visibility.mouth_opacity(path, *shown(50), loudness=loudness)
  assert set(share) == {0, 1}
  assert np.flatnonzero(share == 0)[0] == gone - 4


def test_a_long_gap_in_the_landmarks_fades_a_blink_does_not():
  filled = np.zeros(40, bool)
  filled[5] = filled[15:27] = True
  path = path_of([synthetic_face.face()] * 40, filled=filled)
  times, shows = shown(40)
  share, why = visibility.mouth_opacity(path, times, shows)
  assert share[5] == 1 and share[20] == 0
  assert set(np.flatnonzero(why)) <= set(range(15, 27))
  (found,) = visibility.skipped_ranges(shows, why)
  assert found['why'] == 'mouth not seen'


def test_segments_absence_and_the_end_of_the_sound():
  present = np.arange(50) % 50 >= 10
  path = path_of([synthetic_face.face()] * 50, present)
  times, shows = shown(50, 1.6)
  share, why = visibility.mouth_opacity(
    path, times, shows, since=0.6, until=1.2
  )
  np.testing.assert_array_equal(np.flatnonzero(share), np.arange(15, 30))
  found = [
    (r['from'], r['to'], r['why'])
    for r in visibility.skipped_ranges(shows, why)
  ]
  assert found == [
    (0.0, 0.6, 'outside --from and --to'),
    (1.2, 1.6, 'outside --from and --to'),
    (1.6, 2.0, 'no sound'),
  ]


def test_a_box_given_by_hand_is_always_spoken():
  path = path_of([synthetic_face.face()] * 10)
  path.points[:] = np.nan
  times, shows = shown(10)
  share, why = visibility.mouth_opacity(path, times, shows)
  assert (share == 1).all() and not why.any()
  assert visibility.skipped_ranges(shows, why) == []


def test_another_person_is_not_no_face():
  present = np.array([True] * 4 + [False] * 6)
  others = np.array([False] * 6 + [True] * 4)
  path = path_of([turned(0.0)] * 10, present)
  shots = np.repeat([0, 1], [4, 6])
  path = dataclasses.replace(path, others=others, shots=shots)
  times, shows = shown(10)
  share, why = visibility.mouth_opacity(path, times, shows)
  assert (share == [1] * 4 + [0] * 6).all()
  told = [part['why'] for part in visibility.skipped_ranges(shows, why)]
  assert told == ['no face', 'another person']
