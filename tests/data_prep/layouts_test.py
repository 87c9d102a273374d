"""Layouts of data sets, and their splits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import install_import_hook

with install_import_hook('data_prep', 'tests.helpers.typecheck.typechecked'):
  from data_prep import build_tfrecords, extract, layouts


def tree(folder, names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
  return folder


def test_lrs2_by_lists(tmp_path):
  root = tree(
    tmp_path / 'mvlrs_v1',
    [f'main/{s}/0000{i}.mp4' for s in 'abc' for i in range(2)]
    + ['main/a/00000.txt', 'pretrain/a/00009.mp4'],
  )
  (tmp_path / 'train.txt').write_text('a/00000\na/00001\n\n')
  (tmp_path / 'test.txt').write_text('b/00000 NF\nb/00001 MV\nb/00007 NF\n')
  (tmp_path / 'notes.txt').write_text('some other text\n')
  jobs = {job.key: job for job in layouts.find_jobs('lrs2', root, tmp_path)}
  splits = {key: job.split for key, job in jobs.items()}
  assert splits == {
    **dict.fromkeys(('a/00000', 'a/00001'), 'train'),
    **dict.fromkeys(('b/00000', 'b/00001', 'b/00007'), 'test'),
    **dict.fromkeys(('c/00000', 'c/00001'), layouts.UNLISTED),
  }
  assert jobs['b/00007'].path == '' and all(job.single for job in jobs.values())
  again = layouts.find_jobs('lrs2', root / 'main', tmp_path)
  assert list(jobs.values()) == again == sorted(again)
  (tmp_path / 'pretrain.txt').write_text('a/00009\n')
  found = layouts.find_jobs('lrs2', root, tmp_path)
  assert [job.key for job in found if job.split == 'pretrain'] == ['a/00009']


def test_lists_that_contradict(tmp_path):
  (tmp_path / 'train.txt').write_text('a/1\n')
  (tmp_path / 'val.txt').write_text('a/1 x\n')
  with pytest.raises(layouts.LayoutError, match=r'train.txt and in val.txt'):
    layouts.read_lists(tmp_path)
  with pytest.raises(layouts.LayoutError, match='found none'):
    layouts.find_jobs('lrs3', tmp_path)


def test_lrs3_and_videos(tmp_path):
  root = tree(tmp_path / 'l', ['trainval/x/1.mp4', 'test/y/2.mp4'])
  found = {job.key: job.split for job in layouts.find_jobs('lrs3', root)}
  assert found == {'x/1': 'train', 'y/2': 'test'}
  root = tree(tmp_path / 'v', ['ann/a b.mp4', 'ann/c/d.MKV', 'e.avi', 'f.txt'])
  keys = [job.key for job in layouts.find_jobs('videos', root)]
  assert keys == ['ann%2Fa%20b.mp4/face', 'ann%2Fc%2Fd.MKV/face', 'e.avi/face']
  jobs = layouts.find_jobs('videos', root, by='speaker')
  assert [job.speaker for job in jobs] == ['ann', 'ann', 'e.avi']
  assert not any(job.single for job in jobs)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text('abcdefgh', min_size=1), min_size=3, max_size=60))
def test_no_speaker_straddles(names):
  keys = {f'{name}/{i}': None for name in names for i in range(3)}
  splits = layouts.splits_by_hash(keys, (0.1, 0.2))
  jobs = [layouts.Job(key, '', split, True) for key, split in splits.items()]
  assert not layouts.speakers_in_several_splits(jobs)
  assert set(splits.values()) == {'train', 'val', 'test'}
  assert splits == layouts.splits_by_hash(
    dict(reversed(keys.items())), (0.1, 0.2)
  )


def test_shares_of_ten_thousand_speakers():
  keys = {f'{i:019d}/00001': None for i in range(10_000)}
  splits = list(layouts.splits_by_hash(keys, (0.02, 0.05)).values())
  assert splits.count('val') == pytest.approx(200, abs=45)
  assert splits.count('test') == pytest.approx(500, abs=70)
  more = layouts.splits_by_hash(keys | {'new/1': None}, (0.02, 0.05))
  assert splits == [more[key] for key in keys]


@pytest.mark.parametrize('old, new', build_tfrecords.RENAMED.items())
def test_renamed_flags_are_understood(old, new, capsys):
  words = build_tfrecords.with_new_names([f'{old}=1', old, '1'])
  assert words == [f'{new}=1', new, '1']
  assert new.removeprefix('--') in vars(
    build_tfrecords.build_parser().parse_args(
      ['--data_root=a', '--out=b', *words]
    )
  )
  assert capsys.readouterr().err == 2 * f'note: {old} is now {new}\n'


def test_settings_keep_their_cache_keys():
  key = extract.Settings(min_frames=9).cache_key
  assert key == (
    'Settings(margin=0.15, quality=95, largest=512, shortest=9, longest=250, '
    'smallest=40.0, silence=-50.0, beside=(0.1, 0.25))'
  )
