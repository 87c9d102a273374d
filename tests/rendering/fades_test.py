"""When the new mouth comes and goes, and in how many frames."""

import numpy as np
import pytest

from lipsync_jax.rendering import fades


def joined(count, *cuts):
  out = np.ones(count, bool)
  out[[0, *cuts]] = False
  return out


def test_a_fade_takes_no_more_than_four_frames():
  rng = np.random.default_rng(0)
  for _ in range(200):
    lengths = rng.integers(1, 12, 9)
    shown = np.repeat(np.arange(9) % 2 == rng.integers(2), lengths)
    linked = joined(len(shown), *rng.integers(1, len(shown), 2))
    share = fades.fade(shown, linked)
    np.testing.assert_array_equal(share > 0, shown)
    for values, links in ((share, linked[1:]), (share[::-1], linked[:0:-1])):
      rising = 0
      for before, value, link in zip(values, values[1:], links, strict=False):
        rising = rising + 1 if link and before < value else 0
        assert rising <= 4  # the fourth step ends at 1
        assert rising < 4 or value == 1


def test_a_fade_is_smooth_and_jumps_at_a_cut():
  shown = np.ones(20, bool)
  shown[:4] = shown[15:] = False
  share = fades.fade(shown, joined(20))
  rise = share[3:8]
  assert rise[0] == 0 and rise[-1] == 1 and (np.diff(rise) > 0).all()
  np.testing.assert_allclose(share[::-1][4:9], rise)
  cut = fades.fade(shown, joined(20, 4, 15))
  np.testing.assert_array_equal(cut, shown)


def test_the_mouth_stays_as_long_as_it_may_be_seen():
  certainty = np.array([1, 0.6, 0.1, 0, 0, 0.3, 0.9, 1, 0.4, 1])
  shown = fades.shown_frames(certainty, joined(10))
  np.testing.assert_array_equal(shown, certainty > 0)


def test_glimpses_between_hidden_frames_do_not_flicker():
  certainty = np.array([1, 0, 0.6, 0, 0.2, 0.5, 0, 1, 0, 1])
  shown = fades.shown_frames(certainty, joined(10))
  np.testing.assert_array_equal(shown, certainty == 1)
  at_cut = fades.shown_frames(certainty, joined(10, 3))
  assert at_cut[2] and not at_cut[1]


@pytest.mark.parametrize('seed', range(20))
def test_a_painted_mouth_changes_where_the_mouths_are_alike(seed):
  rng = np.random.default_rng(seed)
  certainty = np.repeat([1.0, 0, 1, 0, 1], [20, 5, 20, 5, 20])
  apart = rng.uniform(0.2, 1, len(certainty))
  apart[[17, 28, 42, 53]] = 0  # closures beside each of the four changes
  shown = fades.shown_frames(
    certainty, joined(len(certainty)), lambda frames: apart[frames]
  )
  changes = np.flatnonzero(np.diff(shown)) + 1
  np.testing.assert_array_equal(changes, [17, 28, 42, 53])
  assert not shown[certainty == 0].any()


def test_short_runs_do_not_vanish_or_pass_a_cut():
  certainty = np.array([0.0, 0, 1, 1, 1, 0, 0, 1, 1, 0])
  plain = fades.shown_frames(certainty, joined(10, 7))
  closed = fades.shown_frames(
    certainty, joined(10, 7), lambda frames: -np.abs(frames - 3.0)
  )
  assert plain[2:5].all() and closed[2:5].any()
  assert not (closed & ~plain).any()
  assert closed[7]  # the shot begins with it
