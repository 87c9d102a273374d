"""takes.py, pairs.py, casting.py: who is evaluated, and on what."""

import numpy as np
import pytest

from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.evaluation import cases, cli
from lipsync_jax.evaluation.clip import (
  EvalClipError,
  clip_groups,
  content_hash,
  join_clips,
  piece_ranges,
  valid_windows,
  with_delay,
  with_silence,
)
from tests.helpers import synthetic_speech


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('shards')
  synthetic_speech.build(
    folder, {'ann': 5, 'bob': 3, 'cid': 1}, split='test', frames=20
  )
  return ClipDataset(folder, 'test')


def test_clips_are_joined_by_speaker_until_long_enough(source):
  found = clip_groups(source, 1.5)  # 38 frames of clips of 20 to 22
  names = [[source.keys[i] for i in group] for group in found]
  assert names == [
    ['ann/00000', 'ann/00001'],
    ['ann/00002', 'ann/00003', 'ann/00004'],
    ['bob/00000', 'bob/00001', 'bob/00002'],
  ]
  with pytest.raises(EvalClipError, match='lower --min-seconds'):
    clip_groups(source, 100)


def test_joined_take_keeps_pictures_and_sound_together(source):
  take = join_clips([source[0], source[1]])
  first = len(source[0].frames)
  assert take.joints == (first,)
  assert len(take.wave) == 640 * len(take) == 640 * len(take.crops)
  np.testing.assert_array_equal(take.wave[: 640 * first], source[0].wave)
  np.testing.assert_array_equal(take.wave[640 * first :], source[1].wave)
  good = valid_windows(take)
  assert len(good) == len(take) - 4 and (~good).sum() == 4
  assert not good[first - 4 : first].any()
  assert [(p.start, p.stop) for p in piece_ranges(take)] == [
    (0, first), (first, len(take)),
  ]  # fmt: skip


@pytest.mark.parametrize('late', [-10, -1, 0, 4, 10])
def test_delayed_sound_is_that_of_other_frames(source, late):
  take = join_clips([source[0], source[1]])
  made = with_delay(take, late)
  assert len(made) == len(take) - abs(late) == len(made.wave) // 640
  at = 12  # frame of the new take: its picture and its sound in the old one
  was = next(i for i, p in enumerate(take.pictures) if p is made.pictures[at])
  sound = take.wave[640 * (was - late) :][:640]
  np.testing.assert_array_equal(made.wave[640 * at :][:640], sound)
  assert all(0 < j < len(made) for j in made.joints)
  with pytest.raises(EvalClipError, match='join more clips'):
    with_delay(take, 99)


def test_content_tells_takes_apart(source):
  take = join_clips([source[0]])
  assert content_hash(take) == content_hash(join_clips([source[0]]))
  others = [
    with_silence(take),
    with_delay(take, 1),
    join_clips([source[1]]),
  ]
  assert len({content_hash(t) for t in [take, *others]}) == 4


def test_published_lists_are_read_as_they_are(tmp_path):
  file = tmp_path / 'list.txt'
  file.write_text('6330/00011 5535/00022\n\n1/2 3/4\n')
  assert cases.read_pairs(file) == [
    ('5535/00022', '6330/00011'),
    ('3/4', '1/2'),
  ]
  file.write_text('video1.mp4 audio1.wav\n')
  assert cases.read_pairs(file) == [('video1.mp4', 'audio1.wav')]
  for text, words in (
    ('a b c\n', 'line 1: expected two names'),
    ('a.mp4 b\n', 'endings on both'),
    ('\n', 'found none'),
  ):
    file.write_text(text)
    with pytest.raises(cases.PairError, match=words):
      cases.read_pairs(file)


def test_drawn_partners_are_other_people():
  names, people = [f'{i}' for i in range(7)], list('aaabbbb')
  found = cases.draw_partners(names, people)
  assert [v for v, _ in found] == names
  assert all(people[int(v)] != people[int(a)] for v, a in found)
  assert cases.draw_partners(['x', 'y'], ['a', 'a']) == [
    ('x', 'y'),
    ('y', 'x'),
  ]
  assert cases.draw_partners(['x'], ['a']) == []


def test_cases_of_every_protocol(source):
  subjects = cases.subjects_from_shards(source, 1.5, None)
  found = cases.build_cases(cli.PROTOCOLS, subjects)
  assert [c.protocol for c in found].count('cross') == len(subjects)
  crossed = [c for c in found if c.protocol == 'cross']
  assert all(c.partner.speaker != c.subject.speaker for c in crossed)
  assert len(cases.subjects_from_shards(source, 1.5, 2)) == 2
  np.testing.assert_array_equal(
    subjects[0].load_audio(), subjects[0].load().wave
  )


def test_list_of_keys_names_clips_of_the_shards(source, tmp_path):
  file = tmp_path / 'list.txt'
  file.write_text('bob/00001 ann/00000\n')
  ((video, sound),) = cases.subjects_from_list(file, '', source, 10.0, print)
  assert (video.name, sound.name) == ('ann/00000', 'bob/00001')
  file.write_text('bob/00001 eve/00000\n')
  with pytest.raises(cases.CaseError, match='found neither'):
    cases.subjects_from_list(file, '', source, 10.0, print)


def test_outputs_of_others_are_found_by_line_or_name(tmp_path, source):
  subjects = cases.subjects_from_shards(source, 1.5, None)
  case = cases.build_cases(['cross'], (), [(subjects[0], subjects[1])])[0]
  assert cases.baseline_output(str(tmp_path), case) is None
  (tmp_path / '0.mp4').touch()
  assert cases.baseline_output(str(tmp_path), case) == str(tmp_path / '0.mp4')
  one = str(tmp_path / '0.mp4')
  assert cases.baseline_output(one, case) == one
