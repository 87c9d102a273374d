"""Tracks: cuts and no flashes, persons, and the choice of one."""

import dataclasses

import numpy as np
import pytest

from lipsync_jax.faces import identity, shots, tracks
from lipsync_jax.faces.landmarks import FaceError
from tests.helpers.synthetic_face import face
from tests.helpers.track_fixtures import analysis, track


def picture(seed, shift=0, light=1.0):
  """A random scene of large patches, moved sideways."""
  rng = np.random.default_rng(seed)
  scene = np.kron(rng.integers(20, 220, (9, 16, 3)), np.ones((40, 40, 1)))
  return np.clip(np.roll(scene, shift, 1) * light, 0, 255).astype(np.uint8)


def cuts(pictures):
  signs = [shots.frame_signature(p) for p in pictures]
  steps = np.zeros((len(signs), 3))
  for i in range(len(signs)):
    for back in range(1, min(i, 3) + 1):
      steps[i, back - 1] = shots.signature_distance(signs[i], signs[i - back])
  return shots.find_cuts(steps).tolist()


def test_cuts_are_found_and_motion_is_none():
  shot = [picture(0, 3 * i) for i in range(8)]
  assert cuts(shot) == []
  assert cuts(shot + [picture(1, 3 * i) for i in range(8)]) == [8]
  assert cuts([picture(0), picture(1)]) == [1]


@pytest.mark.parametrize('length', [1, 2])
@pytest.mark.parametrize('at', [1, 5, 8])
def test_a_flash_is_no_cut(length, at):
  white = np.full((360, 640, 3), 250, np.uint8)
  shot = [picture(0, i) for i in range(12)]
  shot[at : at + length] = [white] * length
  assert cuts(shot) == []


def test_changing_light_is_no_cut():
  assert cuts([picture(0, 0, 1 - i / 12) for i in range(10)]) == []


def person_at(x, frames, width=100.0, look=None):
  one = track(frames, [face(x, 200, width)] * len(frames))
  rng = np.random.default_rng(int(x) if look is None else look)
  vector = rng.normal(size=620).astype(np.float32)
  vector[:512] /= np.linalg.norm(vector[:512])
  return dataclasses.replace(one, appearance=vector)


@pytest.fixture
def cast():
  """Left, small and always there; right, large; middle, later and tiny."""
  return analysis(
    np.arange(100) / 25,
    [50],
    person_at(100, range(100), 90),
    person_at(500, range(80), 120),
    person_at(300, range(40, 80), 20),
  )


def test_choice(cast):
  found = identity.group_people(cast)

  def place(spec):
    points = identity.choose_person(found, spec).tracks[0].points
    return round(float(points[0, :, 0].mean()), -2)

  assert [place(s) for s in ('largest', 'left', 'right')] == [500, 100, 500]
  assert [place(s) for s in ('0', '1', '2')] == [500, 100, 300]
  assert place('310,205') == 300 and place('20,200') == 100
  for unknown in ('3', '-1', 'middle', '300,900', 'nan,nan', '1,2,3', ''):
    with pytest.raises(FaceError, match='0: 120x156 px at 500') as error:
      identity.choose_person(found, unknown)
    assert '\n' not in str(error.value)
  with pytest.raises(FaceError, match='no face'):
    identity.choose_person([], 'largest')


def test_persons_are_joined_over_cuts_by_look():
  back = person_at(300, range(60, 90), look=7)
  there = person_at(100, range(30), look=7)
  other = person_at(500, range(30, 60), look=8)
  found = identity.group_people(
    analysis(np.arange(90) / 25, [30, 60], there, other, back)
  )
  assert sorted(len(p.tracks) for p in found) == [1, 2]
  assert [t.frames[0] for t in found[0].tracks] == [0, 60]


def test_two_faces_of_one_frame_are_two_persons():
  twins = [person_at(x, range(10), look=3) for x in (100, 400)]
  assert (
    len(identity.group_people(analysis(np.arange(10) / 25, [], *twins))) == 2
  )


def test_a_track_goes_on_where_it_was_lost():
  first = person_at(100, range(10), look=1)
  again = person_at(105, range(30, 40), look=2)
  times = np.arange(40) / 25
  assert len(identity.group_people(analysis(times, [], first, again))) == 1
  assert len(identity.group_people(analysis(times, [20], first, again))) == 2


def test_prefix(cast):
  part = tracks.first_frames(cast, 1.0)
  assert len(part.times) == 26 and not len(part.cuts)
  assert [len(t.frames) for t in part.tracks] == [26, 26]
  assert tracks.first_frames(cast, np.inf) is cast
  assert len(tracks.first_frames(cast, -1.0).times) == 1


def test_split_keeps_every_frame(cast):
  pieces = tracks.split_at_cuts(cast.tracks[0], np.array([0, 50, 70]))
  assert [len(p.frames) for p in pieces] == [50, 20, 30]
  np.testing.assert_array_equal(
    np.concatenate([p.frames for p in pieces]), range(100)
  )
