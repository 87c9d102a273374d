"""timeline: lengths to the frame, order without jumps, exact time stamps."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax import audio
from lipsync_jax.rendering import timeline

RATES = [Fraction(24000, 1001), 25, Fraction(30000, 1001), 50, 60, Fraction(22)]


def steady(count, rate):
  return [i / Fraction(rate) for i in range(count)]


@pytest.mark.parametrize('rate', RATES)
@pytest.mark.parametrize('mode', ['bounce', 'loop', 'hold'])
def test_length_is_the_sounds(rate, mode):
  duration = Fraction(7019, 1000)
  got = list(
    timeline.schedule_frames(steady(40, rate), Fraction(rate), duration, mode)
  )
  assert len(got) == round(duration * Fraction(rate))
  assert [s.time for s in got] == steady(len(got), rate)


def test_cut_ends_with_the_video():
  times = steady(40, 25)
  got = list(timeline.schedule_frames(times, Fraction(25), Fraction(9), 'cut'))
  assert [s.index for s in got] == list(range(40))


def test_keep_plays_the_rest_unspoken():
  times = steady(40, 25)
  got = list(
    timeline.schedule_frames(times, Fraction(25), Fraction(1), 'bounce', 'keep')
  )
  assert [s.index for s in got] == list(range(40))
  assert [s.spoken for s in got] == [True] * 25 + [False] * 15


def test_keep_does_not_go_on_for_ever_when_sound_is_longer():
  times = steady(10, 25)
  got = list(
    timeline.schedule_frames(times, Fraction(25), Fraction(2), 'loop', 'keep')
  )
  assert len(got) == 50


def test_bounce_never_jumps_and_never_doubles():
  indices = list(itertools.islice(timeline.play_order(5, 'bounce'), 20))
  assert indices[:12] == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3]
  assert all(abs(a - b) == 1 for a, b in itertools.pairwise(indices))


def test_two_frames_and_one_frame_bounce():
  assert (
    list(itertools.islice(timeline.play_order(2, 'bounce'), 6)) == [0, 1] * 3
  )
  assert list(itertools.islice(timeline.play_order(1, 'bounce'), 4)) == [0] * 4


def test_variable_rate_keeps_its_stamps_and_bounces_in_step():
  times = [Fraction(0), Fraction(1, 10), Fraction(1, 2)]
  got = list(timeline.schedule_frames(times, Fraction(10), Fraction(13, 10)))
  assert [s.index for s in got] == [0, 1, 2, 1, 0, 1]
  assert [s.time for s in got] == [
    Fraction(t, 10) for t in (0, 1, 5, 6, 10, 11)
  ]
  assert got[1].length == got[3].length == Fraction(4, 10)


def test_a_click_still_gets_a_frame():
  got = list(
    timeline.schedule_frames(steady(9, 25), Fraction(25), Fraction(1, 1000))
  )
  assert len(got) == 1


def test_no_frames_is_an_error():
  with pytest.raises(timeline.TimelineError, match='found none'):
    list(timeline.schedule_frames([], Fraction(25), Fraction(1)))


@settings(deadline=None)
@given(
  st.lists(st.integers(100, 5000), min_size=1, max_size=20),
  st.sampled_from([1000, 12800, 30000, 90000]),
  st.sampled_from(RATES),
  st.integers(1, 30000),
  st.sampled_from(['bounce', 'loop', 'hold', 'cut']),
)
def test_packed_reads_like_the_list(gaps, ticks, rate, length, mode):
  rate = Fraction(rate)
  times = [Fraction(t, ticks) for t in itertools.accumulate(gaps, initial=0)]
  given = times, rate, Fraction(length, 90000), mode, 'keep'
  whole = list(timeline.schedule_frames(*given))
  got = timeline.pack_schedule(timeline.schedule_frames(*given), times, rate)
  assert isinstance(got, timeline.PackedSchedule) and list(got) == whole
  assert len(got) == len(whole) and got[-1] == whole[-1]
  assert list(got[1:3]) == whole[1:3] and list(got[2:][:1]) == whole[2:3]
  short = timeline.pack_times(times)
  assert isinstance(short, timeline.PackedTimes) and list(short) == times
  assert list(short[:2]) == times[:2] and short[-1] == times[-1]
  assert list(timeline.schedule_frames(short, *given[1:])) == whole


def test_times_without_a_common_unit_stay_exact():
  odd = [Fraction(0), Fraction(1, 2**31 - 1), Fraction(1, 10**4)]
  assert timeline.pack_times(odd) is odd
  whole = list(timeline.schedule_frames(odd, Fraction(25), Fraction(1, 20)))
  assert timeline.pack_schedule(iter(whole), odd, Fraction(25)) == whole


@settings(deadline=None)
@given(
  st.integers(1, 30),
  st.integers(1, 120),
  st.sampled_from(['bounce', 'loop', 'hold']),
)
def test_runs_cover_the_order_exactly(count, total, mode):
  indices = list(itertools.islice(timeline.play_order(count, mode), total))
  rebuilt = []
  for start, length, step in timeline.playback_runs(indices):
    assert start == len(rebuilt)
    first = indices[start]
    rebuilt += [first + step * i for i in range(length)]
  assert rebuilt == indices


RATES = [Fraction(24000, 1001), 25, Fraction(30000, 1001), 50]
RATES += [Fraction(60000, 1001), 'variable']


@pytest.mark.parametrize('rate', RATES, ids=str)
def test_ten_minutes_do_not_drift(rate):
  """Every output frame's mel window is centered on it, within a column."""
  seconds = 600
  if rate == 'variable':
    gaps = itertools.cycle([Fraction(n, 90_000) for n in (3000, 3600, 4503)])
    times = [Fraction(0)]
    while times[-1] < seconds:
      times.append(times[-1] + next(gaps))
    rate = Fraction(25)
  else:
    times = [i / Fraction(rate) for i in range(int(seconds * rate))]
  frames = list(
    timeline.schedule_frames(
      times, Fraction(rate), Fraction(seconds), 'hold', 'cut'
    )
  )
  starts = audio.window_starts(frame.time for frame in frames)
  # Window columns 0..15 lie on 12.5 ms; with lead, the frame is the third.
  leads = [
    frame.time - Fraction(int(start), 80)
    for frame, start in zip(frames, starts, strict=True)
  ]
  assert min(leads) >= audio.CENTERED_LEAD
  assert max(leads) < audio.CENTERED_LEAD + Fraction(1, 80)
  end = frames[-1].time + frames[-1].length
  assert abs(end - seconds) <= 2 / Fraction(rate)
  for before, after in itertools.pairwise(frames):
    assert before.time + before.length == after.time


@pytest.mark.parametrize('rate', RATES[:-1])  # the last is variable
@pytest.mark.parametrize('ratio', [0.1, 0.37, 0.98, 1.02, 2, 7.3])
def test_remap_shows_the_whole_video_at_an_even_speed(rate, ratio):
  rate, count = Fraction(rate), 60
  times = steady(count, rate)
  duration = Fraction(ratio).limit_denominator(100) * count / rate
  frames = list(
    timeline.schedule_frames(times, rate, duration, 'remap', 'remap')
  )
  assert len(frames) == round(duration * rate)
  assert [f.time for f in frames] == [k / rate for k in range(len(frames))]
  assert {f.length for f in frames} == {1 / rate}
  assert all(f.spoken for f in frames)
  # Where an even speed would be, to one source frame.
  for number, frame in enumerate(frames):
    assert abs(frame.index - (number + 0.5) * count / len(frames)) <= 1
  step = count / len(frames)
  assert frames[0].index <= step and frames[-1].index >= count - 1 - step


def test_remap_in_one_direction_only():
  times = steady(50, 25)
  short, long = Fraction(1), Fraction(4)

  def indices(duration, *modes):
    frames = timeline.schedule_frames(times, Fraction(25), duration, *modes)
    return [frame.index for frame in frames]

  assert indices(short, 'remap', 'cut') == [*range(25)]
  assert indices(short, 'loop', 'remap') == [*range(1, 50, 2)]
  assert indices(long, 'loop', 'remap') == [*range(50)] * 2
  assert indices(long, 'remap', 'cut') == [i // 2 for i in range(100)]
  # The same length to half a frame: nothing is changed.
  near = Fraction(2) + Fraction(1, 60)
  assert indices(near, 'remap', 'remap') == [*range(50)]


def test_remap_of_a_variable_rate_follows_the_time():
  gaps = [Fraction(1, 50)] * 50 + [Fraction(1, 10)] * 10
  times = list(itertools.accumulate(gaps, initial=Fraction(0)))[:-1]
  frames = list(
    timeline.schedule_frames(times, Fraction(50), Fraction(4), 'remap', 'remap')
  )
  assert len(frames) == 200
  total = times[-1] + Fraction(1, 50)
  for frame in frames:
    middle = (frame.time + frame.length / 2) * total / 4
    assert times[frame.index] <= middle
    assert frame.index == 59 or middle < times[frame.index + 1]
