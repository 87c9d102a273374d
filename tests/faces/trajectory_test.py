"""Paths: zero lag, nothing over a cut, and the original's smoothing."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax.faces import trajectory
from lipsync_jax.faces.identity import Person
from tests.helpers.synthetic_face import face
from tests.helpers.track_fixtures import analysis, track


def follow(times, cuts, frames, points, **options):
  one = track(frames, points)
  return trajectory.build_trajectory(
    analysis(times, cuts, one), Person((one,), 1.0), **options
  )


@pytest.fixture
def golden(shared):
  text = (shared / 'reference' / 'golden.json').read_text()
  return json.loads(text)['box_smoothing']


def test_original_smoothing_is_exact(golden):
  cases = [golden, *golden['short'].values()]
  assert len(cases) == 6
  for case in cases:
    boxes = np.array(case['inp'])
    out = trajectory.smooth_like_wav2lip(boxes)
    np.testing.assert_array_equal(out, case['out'])
    np.testing.assert_array_equal(boxes, case['inp'])  # not in place


@pytest.mark.parametrize('count', [1, 2, 3, 31, 32, 33, 100])
def test_smoothing_in_place_and_in_blocks_is_the_same(monkeypatch, count):
  rng = np.random.default_rng(count)
  times = np.cumsum(rng.uniform(0.01, 0.05, count))
  values = rng.normal(0, 3, (count, 4)).astype(np.float32).cumsum(0)
  width = np.full(count, 20.0)
  before = values.copy()
  want = trajectory.smooth_span(values, times, width)
  np.testing.assert_array_equal(values, before)
  for block in (5, 16, 32):  # less than the reach, and more
    monkeypatch.setattr(trajectory, 'BLOCK', block)
    own = values.copy()
    assert trajectory.smooth_span(own, times, width, out=own) is own
    np.testing.assert_allclose(own, want, atol=1e-5)


@given(
  st.lists(st.floats(0.005, 0.08), min_size=3, max_size=60),
  st.floats(-300, 300),
)
@settings(max_examples=40, deadline=None)
def test_lines_come_back_at_any_frame_rate(steps, speed):
  times = np.cumsum(steps)
  values = np.stack([np.full(len(times), 7.25), 100 + speed * times], 1)
  out = trajectory.smooth_span(values, times, np.full(len(times), 90.0))
  np.testing.assert_array_equal(out[:, 0], values[:, 0])
  np.testing.assert_allclose(out[:, 1], values[:, 1], atol=1e-6)


def test_noise_goes_and_motion_stays():
  rng = np.random.default_rng(0)
  times, width = np.arange(200) / 25, np.full(200, 100.0)
  noise = rng.normal(0, 0.3, (200, 4))
  calm = trajectory.smooth_span(50 + noise, times, width)
  assert calm[10:-10].std() < 0.55 * noise.std()
  # A nod: 12 % of the face's width up and down twice a second.
  nod = 12 * np.sin(2 * np.pi * 2 * times)[:, None]
  kept = trajectory.smooth_span(nod, times, width)
  assert np.abs(kept - nod)[10:-10].max() < 2
  lag = np.argmax(np.correlate(kept[:, 0], nod[:, 0], 'full')) - 199
  assert lag == 0


def test_blocks_do_not_show(monkeypatch):
  rng = np.random.default_rng(1)
  times, values = np.arange(300) / 30, rng.normal(0, 2, (300, 2))
  whole = trajectory.smooth_span(values, times, np.full(300, 80.0))
  monkeypatch.setattr(trajectory, 'BLOCK', 64)
  parts = trajectory.smooth_span(values, times, np.full(300, 80.0))
  np.testing.assert_allclose(parts, whole, atol=1e-9)


def test_nothing_leaks_over_a_cut():
  points = [face(100)] * 10 + [face(400)] * 10
  path = follow(np.arange(20) / 25, [10], range(20), points)
  np.testing.assert_array_equal(path.spans, [[0, 10], [10, 20]])
  assert np.ptp(path.crops[:10, 0]) == 0 and np.ptp(path.crops[10:, 0]) == 0
  np.testing.assert_allclose(path.points, points, atol=1e-3)


def test_an_unnoticed_cut_breaks_the_motion_too():
  points = [face(100)] * 10 + [face(400)] * 10
  path = follow(np.arange(20) / 25, [], range(20), points)
  np.testing.assert_array_equal(path.spans, [[0, 10], [10, 20]])


def test_short_gaps_are_filled_and_long_ones_are_not():
  times, frames = (
    np.arange(60) / 25,
    [*range(10), *range(15, 25), *range(50, 60)],
  )
  points = [face(100 + f) for f in frames]
  path = follow(times, [], frames, points, smoothing=False)
  np.testing.assert_array_equal(np.flatnonzero(path.filled), range(10, 15))
  assert not path.present[25:50].any()
  np.testing.assert_allclose(path.points[12], face(112), atol=1e-3)
  np.testing.assert_allclose(
    path.crops[12, 0], path.crops[11, 0] + 1, atol=1e-3
  )
  assert np.isnan(path.crops[30]).all()


def test_gaps_over_a_cut_are_not_filled():
  frames = [*range(5), *range(8, 13)]
  points = [face()] * 10
  assert follow(np.arange(13) / 25, [], frames, points).filled.sum() == 3
  assert follow(np.arange(13) / 25, [6], frames, points).filled.sum() == 0


def test_one_photo():
  path = follow([0.0], [], [0], [face()])
  assert path.present.all() and np.isfinite(path.crops).all()
