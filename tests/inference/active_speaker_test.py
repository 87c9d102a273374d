"""Whose lips go with the sound, on made-up faces."""

from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.faces import identity
from lipsync_jax.inference import active_speaker
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.media.types import Color, Video
from tests.helpers.synthetic_face import face
from tests.helpers.track_fixtures import analysis, track

COUNT = 150
TIMES = np.arange(COUNT) / 25
VIDEO = Video(
  'talk.mp4', 640, 480, Fraction(25), Fraction(6), Fraction(0), 'yuv420p',
  Color(),
)  # fmt: skip


def syllables(seed):
  """Lip openings of speech, 0 to 1: four syllables a second, uneven."""
  rng = np.random.default_rng(seed)
  steps = np.cumsum(rng.uniform(0.15, 0.4, 60))
  heights = rng.uniform(0, 1, 60)
  heights[::2] *= 0.1
  return np.interp(TIMES, steps, heights)


def person_at(x, width, openings, frames=range(COUNT)):
  """Measured with noise, while the pose drifts."""
  noise = np.random.default_rng(x).normal(0, 0.004, COUNT)
  drift = 0.03 * (1 + np.sin(TIMES))
  gapes = np.clip(0.1 * openings + noise + drift, 0, None)
  return track(frames, [face(x, 200, width, gape=gapes[f]) for f in frames])


def choose(monkeypatch, *tracks, sound=None):
  heard = syllables(1) if sound is None else sound
  monkeypatch.setattr(
    active_speaker, 'predicted_openings', lambda *_: 0.05 * heard
  )
  found = analysis(TIMES, [], *tracks)
  people = identity.group_people(found)
  person, note = active_speaker.default_person(
    VIDEO, found, people, NetworkCache()
  )
  return float(np.mean(person.tracks[0].points[:, :, 0])), note


@pytest.mark.parametrize('lead', [-2, 0, 2])
def test_the_smaller_one_who_speaks(monkeypatch, lead):
  speech = np.roll(syllables(1), lead)
  place, note = choose(
    monkeypatch,
    person_at(150, 120, 0 * TIMES),
    person_at(450, 80, speech),
  )
  assert abs(place - 450) < 20
  assert 'person 1 speaks' in note and '--person' in note


def test_the_largest_where_it_is_not_clear(monkeypatch):
  silent = person_at(150, 120, 0 * TIMES), person_at(450, 80, 0 * TIMES)
  both = person_at(150, 120, syllables(1)), person_at(450, 80, syllables(1))
  other = person_at(150, 120, syllables(2)), person_at(450, 80, syllables(3))
  short = (
    person_at(150, 120, 0 * TIMES),
    person_at(450, 110, syllables(1), range(30)),
  )
  for pair in (silent, both, other, short):
    place, note = choose(monkeypatch, *pair)
    assert abs(place - 150) < 20 and 'person 0 speaks, the largest' in note


def test_one_person_needs_no_sound_and_no_note(monkeypatch):
  def refuse(*_):
    raise AssertionError('the sound was read')

  monkeypatch.setattr(active_speaker, 'predicted_openings', refuse)
  tiny = person_at(500, 20, syllables(1))
  found = analysis(TIMES, [], person_at(150, 120, 0 * TIMES), tiny)
  people = identity.group_people(found)
  person, note = active_speaker.default_person(
    VIDEO, found, people, NetworkCache()
  )
  assert person is people[0] and note is None


def test_a_video_without_sound_takes_the_largest(monkeypatch):
  def silent(*_):
    raise LipSyncError('no sound')

  monkeypatch.setattr(active_speaker, 'predicted_openings', silent)
  found = analysis(
    TIMES, [], person_at(150, 120, 0 * TIMES), person_at(450, 90, syllables(1))
  )
  people = identity.group_people(found)
  person, note = active_speaker.default_person(
    VIDEO, found, people, NetworkCache()
  )
  assert person is people[0] and 'no sound' in note
