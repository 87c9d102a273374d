"""windows.py: alignment, distances, what counts as a window."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax import audio
from lipsync_jax.audio import frame_columns
from lipsync_jax.data import sampler, windows
from tests.helpers import synthetic_speech

SPECS = windows.WINDOW_SPECS


def columns_of(frames):
  """Mel columns of sound exactly as long as the video."""
  return 1 + np.asarray(frames) * 640 // 200


def planned(frames, kind, speakers=None, **values):
  frames = np.asarray(frames)
  speakers = speakers or [f's{i}' for i in range(len(frames))]
  spec = SPECS[kind]
  if group := values.pop('group', None):
    spec = dataclasses.replace(spec, windows_per_clip=group)
  return windows.index_windows(
    frames, columns_of(frames), speakers, spec, **values
  )


def many(plan, count=300, seed=0):
  rng = np.random.default_rng(seed)
  return [
    synthetic_speech.pick(int(rng.integers(len(plan))), rng, plan)
    for _ in range(count)
  ]


@given(st.integers(0, 5000), st.sampled_from([0, 1, 2]))
def test_columns_are_the_published_formula(frame, frames_before):
  lead = Fraction(frames_before, 25)
  want = (16 * (frame - frames_before)) // 5  # floor(3.2 (f - lead))
  assert frame_columns(frame, lead) == want
  assert audio.window_starts([Fraction(frame, 25)], lead)[0] == want


def test_centerd_and_shared_windows():
  assert Fraction(2, 25) == audio.CENTERED_LEAD
  frames = np.arange(200)
  centerd = frame_columns(frames)
  np.testing.assert_array_equal(centerd, np.floor(3.2 * (frames - 2) + 1e-9))
  shared = frame_columns(frames, Fraction(0))
  np.testing.assert_array_equal(shared, np.floor(3.2 * frames + 1e-9))
  # The third frame's own window is the one that all five share.
  np.testing.assert_array_equal(shared[:-2], centerd[2:])


@pytest.mark.parametrize('kind', SPECS)
@pytest.mark.parametrize(
  'lead',
  [Fraction(0), audio.WAV2LIP_TRAINING_LEAD, audio.CENTERED_LEAD],
)
def test_windows_lie_within_frames_and_sound(kind, lead):
  """Oracle: every window the slow way."""
  for frames in (18, 22, 31):
    plan = planned([frames], kind, sampling='window', lead=lead)
    total = columns_of(frames)

    def whole(f, frames=frames, total=total):
      starts = [frame_columns(f, Fraction(0))]
      if kind in ('generator', 'pair'):
        starts += [frame_columns(f + k, lead) for k in range(5)]
      fits = all(s >= 0 and s + 16 <= total for s in starts)
      return fits and f + 5 <= frames

    want = [f for f in range(frames) if whole(f)]
    got = range(plan.first_frame, plan.first_frame + int(plan.num_starts[0]))
    assert [*got] == want
    edged = planned([frames], kind, lead=lead, pad_audio=True)
    assert edged.first_frame == 0 and edged.num_starts[0] == frames - 4


@settings(max_examples=60, deadline=None)
@given(
  st.sampled_from(['syncnet', 'generator']),
  st.integers(1, 9),
  st.one_of(st.none(), st.integers(0, 4)),
  st.integers(0, 2**32),
)
def test_other_windows_are_far_enough(kind, apart, more, seed):
  most = None if more is None else apart + more
  plan = planned([40, 2 * apart + 14], kind, min_offset=apart, max_offset=most)
  for row in many(plan, 40, seed):
    frames = [40, 2 * apart + 14][row['clip']]
    assert row['other_clip'] == row['clip']
    assert 0 <= row['other_frame'] <= frames - 5
    assert plan.first_frame <= row['frame'] < frames - 4
    away = abs(int(row['other_frame']) - int(row['frame']))
    if kind == 'syncnet' and row['label'] == 1:
      assert away == 0
    else:
      assert apart <= away <= (most or 99)


def test_pairs_keep_away_from_their_references():
  for row in many(planned([18, 40], 'pair'), 40):
    frames = [18, 40][row['clip']]
    assert (
      row['frame'].shape
      == row['other_frame'].shape
      == (windows.PAIR_CANDIDATES, 2)
    )
    assert np.abs(row['frame'] - row['other_frame']).min() >= 5
    assert (
      row['other_frame'].min() >= 0 and row['other_frame'].max() < frames - 4
    )


def test_of_pairs_the_most_different_is_chosen():
  pick = {
    'frame': np.arange(12).reshape(2, 3, 2),
    'other_frame': -np.ones((2, 3, 2)),
  }
  opening = np.array([[0, 1], [5, 2], [0, 0]] * 2).reshape(2, 3, 2)
  got = windows.select_most_different(pick, opening)
  np.testing.assert_array_equal(got['frame'], [[2, 3], [8, 9]])
  assert got['other_frame'].shape == (2, 2)


def test_defaults_share_no_answer():
  """Reference and target have no frame in common."""
  away = [
    abs(r['other_frame'] - r['frame']) for r in many(planned([60], 'generator'))
  ]
  assert min(away) == 5 and max(away) > 30


def test_labels_are_even_and_wrong_ones_reach_other_clips():
  rows = many(planned([40] * 5, 'syncnet', cross_clip_probability=0.5), 2000)
  labels = np.array([r['label'] for r in rows])
  assert abs(labels.mean() - 0.5) < 0.04
  wrong = [r for r in rows if r['label'] == 0]
  share = np.mean([r['other_clip'] != r['clip'] for r in wrong])
  assert abs(share - 0.5) < 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 2**32))
def test_contrastive_windows_keep_apart(group, apart, seed):
  least = (group - 1) * apart + 5
  plan = planned([least + 1], 'contrastive', group=group, min_offset=apart)
  seen = set()
  for row in many(plan, 30, seed):
    frames = np.sort(row['frame'])
    assert len(frames) == group and np.diff(frames).min() >= apart
    assert frames[0] >= 0 and frames[-1] <= least + 1 - 5
    seen |= {*frames}
  assert max(seen) == least - 4


@pytest.mark.parametrize('kind', ['contrastive', 'generator'])
def test_all_that_is_allowed_is_drawn_equally_often(kind):
  """Oracle: every choice there is, counted."""
  values = (
    {'group': 3, 'min_offset': 2}
    if kind == 'contrastive'
    else {'min_offset': 3}
  )
  plan = planned([11, 99], kind, pad_audio=True, **values)
  drawn = windows.sample_windows(
    np.zeros(20_000, int), np.random.default_rng(0), plan
  )
  frames = drawn['frame'].reshape(20_000, -1)
  if kind == 'contrastive':
    found, wanted = frames, itertools.permutations(range(7), 3)
    wanted = [w for w in wanted if np.diff(sorted(w)).min() >= 2]
  else:
    found = np.column_stack([frames, drawn['other_frame']])
    pairs = itertools.product(range(7), repeat=2)
    wanted = [(f, s) for f, s in pairs if abs(f - s) >= 3]
  rows, counts = np.unique(found, axis=0, return_counts=True)
  assert sorted(map(tuple, rows.tolist())) == sorted(wanted)
  if kind == 'generator':  # every frame, then each of its references
    counts = counts * np.array([np.sum(rows[:, 0] == r[0]) for r in rows])
  mean = counts.mean()
  assert np.abs(counts - mean).max() < 6 * np.sqrt(counts.max())
  assert len(wanted) > 15 and mean > 300


def test_orders_cover_what_they_promise():
  frames = [40, 60, 20, 10, 45]
  plan = planned(frames, 'generator')
  assert [*plan.clips] == [0, 1, 2, 4]  # 10 frames have no reference
  rng = np.random.default_rng(0)
  got = [
    int(synthetic_speech.pick(i, rng, plan)['clip']) for i in range(len(plan))
  ]
  assert got == [0, 1, 2, 4]
  plan = planned(frames, 'syncnet', sampling='window')
  rows = [synthetic_speech.pick(i, rng, plan) for i in range(len(plan))]
  pairs = [(int(r['clip']), int(r['frame'])) for r in rows]
  assert len(set(pairs)) == len(pairs) == sum(f - 4 for f in frames)
  speakers = ['a'] * 98 + ['b', 'b']
  plan = planned([40] * 100, 'syncnet', speakers, sampling='speaker')
  rows = [synthetic_speech.pick(i, rng, plan) for i in range(100)]
  assert sum(r['clip'] >= 98 for r in rows) == 50


def test_nothing_to_train_on_is_one_line():
  with pytest.raises(windows.WindowError, match='at least 14 frames'):
    planned([5, 9], 'generator')
  with pytest.raises(windows.WindowError, match='min_offset <= max_offset'):
    planned([50], 'syncnet', min_offset=5, max_offset=3)
  with pytest.raises(windows.WindowError, match='sampling order'):
    planned([50], 'syncnet', sampling='sync')
  with pytest.raises(windows.WindowError):
    planned([50], 'syncnet', keep=np.array([False]))


def test_parts_share_no_speaker_and_lose_none():
  speakers = [f'speaker{i // 3}' for i in range(120)]
  parts = [sampler.speaker_fold_mask(speakers, i, 3) for i in range(3)]
  assert (np.sum(parts, 0) == 1).all()
  named = [{speakers[i] for i in np.flatnonzero(keep)} for keep in parts]
  assert not named[0] & named[1] and not named[1] & named[2]
  assert all(5 < len(names) < 25 for names in named)
  assert sampler.speaker_fold_mask(speakers, 0, 1).all()
  with pytest.raises(
    windows.WindowError, match='speaker_fold < num_speaker_folds'
  ):
    sampler.speaker_fold_mask(speakers, 2, 2)
