"""Whole builds: caches, workers, interruptions, damage."""

import ast
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from jaxtyping import install_import_hook

from lipsync_jax.data import tfrecord, windows
from lipsync_jax.data.clip import ClipDataset, check_clip, decode_clip
from lipsync_jax.faces import landmarks, mesh
from lipsync_jax.faces.crop import crop_from_row, extract_crop
from lipsync_jax.media import video_reader, yuv
from tests.helpers.test_clips import write_video, write_wav
from tests.helpers.training_videos import (
  decoded,
  mux,
  pictures,
)

with install_import_hook('data_prep', 'tests.helpers.typecheck.typechecked'):
  from data_prep import av_offset, extract, layouts, process

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = extract.Settings()
ANCHORS = ('6100000000000000005', '6100000000000000024', '6100000000000000027')


class Told(process.Worker):
  """A worker that may not look for faces, with an expert that is sure."""

  verdicts: tuple = ()

  @property
  def detector(self):
    raise AssertionError('the faces are known')

  @property
  def estimator(self):
    if not self.verdicts:
      raise AssertionError('the offset is known')
    return self

  sha256 = 'told'

  def offset(self, clip):
    return self.verdicts[clip.key[-1] == '2']


def test_an_expert_filters_without_detecting(built, monkeypatch):
  folder, out, _ = built
  jobs = layouts.find_jobs('lrs2', folder / 'mvlrs_v1', folder)
  jobs = [job for job in jobs if job.key[:2] == '61']
  limits = av_offset.Limits(6, 0.1)
  task = process.Task(str(out / 'cache'), SETTINGS, 'w', limits)
  monkeypatch.setattr(Told, 'verdicts', ((3, 0.5), (-9, 0.5)))
  rows = [row for job in jobs for row in Told(task).rows(job)]
  reasons = {row['key'][-1]: row['reason'] for row in rows}
  assert len(rows) == 6 and reasons == {'1': '', '2': extract.OFFSET}
  kept = next(row for row in rows if not row['reason'])
  _, data, facts = process.shard_record(kept)
  assert facts.offset == 3 and facts.frames == kept['frames'] - 3
  assert decode_clip(data, kept['key']).confidence == 0.5


def corpus(shared, folder, each=2):
  """A tree of a few clips of the corpus, and of some that must be dropped."""
  source, root = shared / 'corpus/mvlrs_v1/main', folder / 'mvlrs_v1/main'
  lists = {}
  for speaker, split in zip(ANCHORS, ('train', 'val', 'test'), strict=True):
    (root / speaker).mkdir(parents=True)
    for path in sorted((source / speaker).glob('*.mp4'))[:each]:
      shutil.copy(path, root / speaker)
      lists.setdefault(split, []).append(f'{speaker}/{path.stem}')
  bad = root / 'bad'
  bad.mkdir()
  good = (root / lists['train'][0]).with_suffix('.mp4').read_bytes()
  (bad / 'torn.mp4').write_bytes(good[: len(good) // 3])
  (bad / 'text.mp4').write_bytes(b'no video at all')
  gray = [Fraction(i, 25) for i in range(20)]
  write_video(bad / 'gray.mp4', gray, (160, 160))
  (bad / 'unlisted.mp4').write_bytes(good)
  lists['train'] += ['bad/torn', 'bad/text', 'bad/gray', 'bad/gone NF']
  two = shared / 'media/clips/two_people_interview.mp4'
  mux(bad / 'two.mkv', pictures(two, 24))
  (bad / 'two.mkv').rename(bad / 'two.mp4')  # the content decides
  lists['train'].append('bad/two')
  for split, keys in lists.items():
    (folder / f'{split}.txt').write_text('\n'.join(keys) + '\n')
  return folder


BAD = {
  'bad/torn': extract.BROKEN,
  'bad/text': extract.BROKEN,
  'bad/gray': extract.NO_FACE,
  'bad/gone': extract.MISSING,
  'bad/two': extract.SEVERAL,
  'bad/unlisted': extract.UNLISTED,
}


def command(root, out, *more, layout='lrs2', lists=True):
  return [
    *(sys.executable, str(ROOT / 'data_prep/build_tfrecords.py')),
    f'--layout={layout}',
    f'--data_root={root}',
    f'--out={out}',
    *([f'--filelists={root.parent}'] if lists else []),
    *(more or ('--workers=1',)),
  ]


def build(*values, **more):
  """Run a build; what it said."""
  line = command(*values, **more)
  done = subprocess.run(line, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


def hashes(out):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(out.iterdir())
    if path.is_file()
  }


@pytest.fixture(scope='module')
def built(shared, tmp_path_factory):
  pytest.importorskip('apache_beam')
  pytest.importorskip('tensorflow_datasets')
  folder = corpus(shared, tmp_path_factory.mktemp('corpus'))
  out = folder / 'out'
  said = build(folder / 'mvlrs_v1', out)
  return folder, out, said


def test_every_clip_is_accounted_for(built):
  folder, out, said = built
  lines = [json.loads(v) for v in (out / 'rejected.jsonl').open()]
  assert {v['key']: v['reason'] for v in lines} == BAD
  assert len(lines) == len(BAD)
  sources = {s: ClipDataset(out, s) for s in ('train', 'val', 'test')}
  keys = [key for source in sources.values() for key in source.keys]
  found = list((folder / 'mvlrs_v1').rglob('*.mp4'))
  assert len(set(keys)) == len(keys) == 6
  assert len(keys) + len(lines) == len(found) + 1  # and the one that is gone
  for split, source in sources.items():
    lists = (folder / f'{split}.txt').read_text()
    assert all(key in lists for key in source.keys)
    for i in range(len(source)):
      check_clip(source[i])
  assert 'train: 7 found, 2 kept' in said
  assert '1 several faces' in said and 'val: 2 found, 2 kept' in said
  page = (out / 'stats.html').read_text()
  assert '6 clips of 12 found' in page and 'data:image/jpeg;base64,' in page
  assert 'http' not in page
  assert 'Lip opening in eye distances, median' in page


def test_tfds_opens_it(built):
  import tensorflow_datasets as tfds

  _, out, _ = built
  info = tfds.builder_from_directory(out).info
  assert {k: v.num_examples for k, v in info.splits.items()} == {
    'train': 2, 'val': 2, 'test': 2,
  }  # fmt: skip


def test_a_finished_build_does_nothing(built):
  folder, out, _ = built
  before = {p: p.stat().st_mtime_ns for p in out.glob('*.tfrecord-*')}
  kept = hashes(out)
  build(folder / 'mvlrs_v1', out)
  assert hashes(out) == kept
  assert before == {p: p.stat().st_mtime_ns for p in before}


def test_clips_have_the_mesh_of_their_frames(built):
  """Oracle: lip openings of the 2-D landmarks, which need no fit."""
  _, out, _ = built
  clips = ClipDataset(out, 'train')
  for number in range(len(clips)):
    clip = clips[number]
    assert clip.mesh.shape == (len(clip.frames), mesh.NUM_POINTS, 3)
    shapes = mesh.unpack(clip.mesh)
    eyes = np.linalg.norm(np.diff(shapes[:, mesh.EYE_CORNERS], axis=1), axis=-1)
    np.testing.assert_allclose(eyes, 1, atol=0.15)
    upper = clip.points[:, landmarks.UPPER_LIP]
    opening = np.linalg.norm(
      clip.points[:, landmarks.LOWER_LIP] - upper, axis=1
    )
    ours = mesh.lip_gaps(shapes)[:, 5]  # the middle pair
    if opening.std() > 0.5:  # pixels; a still mouth has no correlation
      assert np.corrcoef(opening, ours)[0, 1] > 0.7


def test_preprocessed_gives_the_same_windows(built, tmp_path):
  """The seed's cache of the same clips: same keys, sound and pictures."""
  folder, out, _ = built
  root = tmp_path / 'cache'
  train = ClipDataset(out, 'train')
  for i, key in enumerate(train.keys):
    dump(train[i], folder / 'mvlrs_v1/main' / f'{key}.mp4', root / key)
  (tmp_path / 'train.txt').write_text('\n'.join(train.keys))
  build(root, tmp_path / 'out', layout='lrs2_preprocessed')
  theirs = ClipDataset(tmp_path / 'out', 'train')
  assert theirs.keys == train.keys
  plans = [
    windows.index_windows(
      s.frames, s.columns, s.speakers, windows.WINDOW_SPECS['generator']
    )
    for s in (train, theirs)
  ]
  for name in ('clips', 'num_starts', 'num_windows', 'first_frame'):
    np.testing.assert_array_equal(*(getattr(p, name) for p in plans))
  for i in range(len(train)):
    a, b = train[i], theirs[i]
    np.testing.assert_array_equal(a.wave, b.wave)
    np.testing.assert_array_equal(a.mel, b.mel)
    assert len(b.mesh) == len(b.frames)
    change = mesh.unpack(a.mesh) - mesh.unpack(b.mesh)
    assert np.abs(change).mean() < 0.03  # canonical units
    for j in range(len(a.frames)):
      # Boxes cannot lean, so neither may ours.
      one, two = (
        extract_crop(decoded(c, j), crop_from_row(row), 96).astype(float)
        for c, row in ((a, a.crops[j] * [1, 1, 1, 1, 0]), (b, b.crops[j]))
      )
      assert np.abs(one - two).mean() < 4


def dump(clip, path, folder):
  """A clip as Wav2Lip's preprocessing leaves it: upright boxes, `k.jpg`."""
  import cv2

  folder.mkdir(parents=True)
  video = video_reader.probe_video(path)
  for k, shown in extract.read_at_rate(video):
    if k >= len(clip.frames):
      break
    crop = clip.crops[k].astype(float)
    crop[:2] += clip.boxes[k, :2]
    low, high = crop[:2] - crop[2:4] / 2, crop[:2] + crop[2:4] / 2
    box = np.round([*low, *high]).astype(int).tolist()
    image = yuv.to_rgb(video, shown, tuple(box))[..., ::-1]
    cv2.imwrite(str(folder / f'{k}.jpg'), image)
  write_wav(folder / 'audio.wav', clip.wave / 32767)


def test_shards_do_not_depend_on_order():
  pytest.importorskip('apache_beam')
  from data_prep import pipeline

  rows = [
    {'key': f's/{i}', 'split': 'train', 'reason': '', 'bytes': 100 + i % 7}
    for i in range(500)
  ]
  plan = pipeline.assign_shards(rows, '/out', 5000)
  assert plan == pipeline.assign_shards(rows[::-1], '/out', 5000)
  assert 9 <= len(plan) <= 11
  assert sum(len(part) for part in plan.values()) == 500
  rows[3]['reason'] = 'silent'
  table = pipeline.counts(rows)
  assert table == {'train': {'found': 500, 'kept': 499, 'silent': 1}}


def test_damage_in_the_cache_is_seen(built, tmp_path):
  _, out, _ = built
  pack = next((out / 'cache/clips').rglob('*.tfrecord'))
  while not tfrecord.read_index(pack).keys:
    pack.unlink()
    pack = next((out / 'cache/clips').rglob('*.tfrecord'))
  copy = tmp_path / pack.name
  data = bytearray(pack.read_bytes())
  data[len(data) // 2] ^= 1
  copy.write_bytes(data)
  shutil.copy(tfrecord.index_name(str(pack)), tmp_path)
  with pytest.raises(tfrecord.ShardError, match='record 0 is damaged'):
    process.read_record(str(copy), 0)


def test_a_moved_build_does_nothing(built, tmp_path):
  """Neither the folder's name nor the data's place is in what is kept."""
  folder, out, _ = built
  shutil.copytree(out, tmp_path / 'out')
  shutil.copytree(folder / 'mvlrs_v1', tmp_path / 'mvlrs_v1')
  for path in folder.glob('*.txt'):
    shutil.copy(path, tmp_path)
  jobs = layouts.find_jobs('lrs2', tmp_path / 'mvlrs_v1', tmp_path)
  worker = Told(process.Task(str(tmp_path / 'out/cache'), SETTINGS))
  kept = [row for job in jobs for row in worker.rows(job) if not row['reason']]
  assert len(kept) == 6
  assert all(row['pack'].startswith(str(tmp_path)) for row in kept)


def test_imports_only_what_it_may():
  """Rooms of the data path, and nothing of training or TensorFlow."""
  allowed = {'audio', 'common', 'data', 'faces', 'media', 'models', 'weights'}
  for path in (ROOT / 'data_prep').glob('*.py'):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      if isinstance(node, ast.ImportFrom):
        names |= {f'{node.module}.{alias.name}' for alias in node.names}
    rooms = {n.split('.')[1] for n in names if n.startswith('lipsync_jax.')}
    assert rooms <= allowed, path.name
    tops = {n.split('.')[0] for n in names}
    assert not tops & {'tensorflow', 'torch', 'optax', 'grain', 'subprocess'}
    beam = {'pipeline.py'} if 'apache_beam' in tops else set()
    assert path.name in beam or 'apache_beam' not in tops


@pytest.mark.slow
def test_workers_do_not_matter(built):
  folder, out, _ = built
  build(folder / 'mvlrs_v1', folder / 'two', '--workers=2')
  assert hashes(folder / 'two') == hashes(out)


@pytest.mark.slow
def test_killed_builds_come_to_the_same_end(built):
  """kill -9 at random points of the build, then once more."""
  folder, out, _ = built
  rng = np.random.default_rng(7)
  other = folder / 'killed'
  for i in range(10):
    line = command(folder / 'mvlrs_v1', other, f'--workers={1 + i % 2}')
    running = subprocess.Popen(
      line, start_new_session=True, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(float(rng.uniform(1.5, 12)))
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    for path in other.glob('*.tfrecord-?????-of-?????'):
      tfrecord.read_index(path)
      assert all(data for _, data in tfrecord.scan_records(path))
  build(folder / 'mvlrs_v1', other)
  assert hashes(other) == hashes(out)


@pytest.mark.slow
def test_folder_of_videos(shared, tmp_path):
  """Two people, another rate, a cut: tracks, and none across the cut."""
  import cv2

  pytest.importorskip('apache_beam')
  media_clips, root = shared / 'media/clips', tmp_path / 'videos'
  root.mkdir()
  names = 'two_people_interview.mp4', 'retalking1_22fps.mp4'
  for name in names:
    shutil.copy(media_clips / name, root)
  first = pictures(media_clips / 'retalking3.mp4', 30)
  second = pictures(media_clips / 'WDA_KatieHill_000.mp4', 40)
  second = [cv2.resize(image, first[0].shape[1::-1]) for image in second]
  mux(root / 'cut.mkv', first + second)
  out = tmp_path / 'out'
  said = build(
    *(root, out, '--workers=2', '--val_fraction=0', '--test_fraction=0'),
    layout='videos',
    lists=False,
  )
  source = ClipDataset(out, 'train')
  frames = dict(zip(source.keys, source.frames.tolist(), strict=True))
  assert {key.split('/')[0] for key in frames} == {*names, 'cut.mkv'}
  parts = [n for key, n in frames.items() if key.startswith('cut')]
  assert sorted(parts) == [30, 40], said
  assert len([key for key in frames if key.startswith('two')]) == 4
  assert frames['retalking1_22fps.mp4/face'] == 152  # 6.1 s
  assert max(frames.values()) <= SETTINGS.max_frames
