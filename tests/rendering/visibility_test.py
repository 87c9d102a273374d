"""What fades, what passes untouched, and what the report says of it."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.faces import landmarks
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.rendering import timeline, visibility
from tests.helpers import synthetic_face


def turned(share: float) -> np.ndarray:
  """A face whose nose is moved aside by `share` of half its width."""
  points = synthetic_face.face()
  sides = points[list(landmarks.OVAL_SIDES)]
  points[landmarks.NOSE] = sides.mean(0) + share * (sides[1] - sides[0]) / 2
  return points


def path_of(points, present=None, filled=None) -> FaceTrajectory:
  count = len(points)
  present = np.ones(count, bool) if present is None else np.array(present)
  filled = np.zeros(count, bool) if filled is None else np.array(filled)
  points = np.array(points, np.float32)
  points[~present] = np.nan
  crops = np.tile([300.0, 200, 100, 130, 0], (count, 1))
  crops[~present] = np.nan
  spans = np.array([[0, count]])
  return FaceTrajectory(present, filled, crops, points, spans)


def shown(count: int, seconds: float | None = None):
  times = [Fraction(i, 25) for i in range(count)]
  length = Fraction(count, 25) if seconds is None else Fraction(seconds)
  return times, list(
    timeline.schedule_frames(times, Fraction(25), length, video_longer='keep')
  )


@pytest.mark.parametrize('roll', [-0.6, 0.0, 0.9])
@pytest.mark.parametrize('share', [-1.1, -0.5, 0.0, 0.8])
def test_turn_does_not_depend_on_the_lean_or_the_size(share, roll):
  c, s = np.cos(roll), np.sin(roll)
  points = 3 * turned(share) @ np.array([[c, s], [-s, c]])
  found = visibility.nose_offset(points[None].astype(np.float32))
  np.testing.assert_allclose(found, share, atol=1e-4)


def test_a_turning_head_fades_and_comes_back():
  swing = 1.2 * np.sin(np.linspace(0, np.pi, 50))
  path = path_of([turned(share) for share in swing])
  times, shows = shown(50)
  share, why = visibility.mouth_opacity(path, times, shows)
  assert (share[np.abs(swing) < 0.74] == 1).all()
  assert (share[np.abs(swing) > 0.96] == 0).all()
  partly = (share > 0) & (share < 1)
  assert partly.any() and (why[partly] == 4).all()
  half = share[:25]
  assert (np.diff(half) <= 0).all() and np.abs(np.diff(share)).max() < 0.7
  (found,) = visibility.skipped_ranges(shows, why)
  assert found['why'] == 'head turned away'
  first, last = np.flatnonzero(share < 1)[[0, -1]]
  assert (found['from'], found['to']) == (first / 25, (last + 1) / 25)


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
  path = dataclasses.replace(path, others=others)
  times, shows = shown(10)
  share, why = visibility.mouth_opacity(path, times, shows)
  assert (share == [1] * 4 + [0] * 6).all()
  told = [part['why'] for part in visibility.skipped_ranges(shows, why)]
  assert told == ['no face', 'another person']
