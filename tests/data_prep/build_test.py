"""data_prep: layouts, splits, clips, offsets, and whole builds."""

import ast
import dataclasses
import functools
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

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import install_import_hook

from tests.helpers import synthetic_face
from tests.helpers.test_clips import write_video, write_wav

with install_import_hook('data_prep', 'tests.helpers.typecheck.typechecked'):
  from data_prep import av_offset, extract, layouts, process, wav2lip_cache

from lipsync_jax.audio import log_mel
from lipsync_jax.data import tfrecord, windows
from lipsync_jax.data.clip import Clip, ClipDataset, check_clip, decode_clip
from lipsync_jax.faces import tracks
from lipsync_jax.faces.boxes import bounding_boxes, detector_boxes
from lipsync_jax.faces.crop import crop_corners, crop_from_row, extract_crop
from lipsync_jax.media import video_reader, yuv
from lipsync_jax.media.types import Frame

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = extract.Settings()
ANCHORS = ('6100000000000000005', '6100000000000000024', '6100000000000000027')


# Layouts and splits


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
  jobs = {job.key: job for job in layouts.find('lrs2', root, tmp_path)}
  splits = {key: job.split for key, job in jobs.items()}
  assert splits == {
    **dict.fromkeys(('a/00000', 'a/00001'), 'train'),
    **dict.fromkeys(('b/00000', 'b/00001', 'b/00007'), 'test'),
    **dict.fromkeys(('c/00000', 'c/00001'), layouts.UNLISTED),
  }
  assert jobs['b/00007'].path == '' and all(job.single for job in jobs.values())
  again = layouts.find('lrs2', root / 'main', tmp_path)
  assert list(jobs.values()) == again == sorted(again)
  (tmp_path / 'pretrain.txt').write_text('a/00009\n')
  found = layouts.find('lrs2', root, tmp_path)
  assert [job.key for job in found if job.split == 'pretrain'] == ['a/00009']


def test_lists_that_contradict(tmp_path):
  (tmp_path / 'train.txt').write_text('a/1\n')
  (tmp_path / 'val.txt').write_text('a/1 x\n')
  with pytest.raises(layouts.LayoutError, match=r'train.txt and in val.txt'):
    layouts.read_lists(tmp_path)
  with pytest.raises(layouts.LayoutError, match='found none'):
    layouts.find('lrs3', tmp_path)


def test_lrs3_and_videos(tmp_path):
  root = tree(tmp_path / 'l', ['trainval/x/1.mp4', 'test/y/2.mp4'])
  found = {job.key: job.split for job in layouts.find('lrs3', root)}
  assert found == {'x/1': 'train', 'y/2': 'test'}
  root = tree(tmp_path / 'v', ['ann/a b.mp4', 'ann/c/d.MKV', 'e.avi', 'f.txt'])
  keys = [job.key for job in layouts.find('videos', root)]
  assert keys == ['ann%2Fa%20b.mp4/face', 'ann%2Fc%2Fd.MKV/face', 'e.avi/face']
  jobs = layouts.find('videos', root, by='speaker')
  assert [job.speaker for job in jobs] == ['ann', 'ann', 'e.avi']
  assert not any(job.single for job in jobs)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text('abcdefgh', min_size=1), min_size=3, max_size=60))
def test_no_speaker_straddles(names):
  keys = {f'{name}/{i}': None for name in names for i in range(3)}
  splits = layouts.by_hash(keys, (0.1, 0.2))
  jobs = [layouts.Job(key, '', split, True) for key, split in splits.items()]
  assert not layouts.straddling(jobs)
  assert set(splits.values()) == {'train', 'val', 'test'}
  assert splits == layouts.by_hash(dict(reversed(keys.items())), (0.1, 0.2))


def test_shares_of_ten_thousand_speakers():
  keys = {f'{i:019d}/00001': None for i in range(10_000)}
  splits = list(layouts.by_hash(keys, (0.02, 0.05)).values())
  assert splits.count('val') == pytest.approx(200, abs=45)
  assert splits.count('test') == pytest.approx(500, abs=70)
  more = layouts.by_hash(keys | {'new/1': None}, (0.02, 0.05))
  assert splits == [more[key] for key in keys]


# Clips


def frame(i, t):
  pixel = np.zeros((1, 1), np.uint8)
  return Frame(i, Fraction(t), (pixel, pixel, pixel))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_nearest_frame_is_shown(gaps):
  times = [Fraction(v, 1000) for v in np.cumsum([0, *gaps]).tolist()]
  shown = list(
    extract.at_rate((frame(i, t) for i, t in enumerate(times)), Fraction(1, 25))
  )
  assert [k for k, _ in shown] == list(range(len(shown)))
  for k, f in shown:
    assert abs(f.time - Fraction(k, 25)) == min(
      abs(t - Fraction(k, 25)) for t in times
    )
  assert abs(len(shown) / 25 - times[-1] - 0.04) < 0.061


@pytest.mark.parametrize('rate', [25, 30, 50, 60, Fraction(30000, 1001), 12])
def test_rates(rate):
  step = 1 / Fraction(rate)
  shown = list(extract.at_rate((frame(i, i * step) for i in range(120)), step))
  assert abs(len(shown) - 120 * step * 25) <= 1
  if rate == 25:
    assert [f.index for _, f in shown] == list(range(120))


@given(st.integers(0, 50), st.integers(1, 3000), st.integers(1, 400))
def test_split_covers(first, length, longest):
  parts = extract.split(first, first + length, longest)
  assert [a for part in parts for a in range(*part)] == list(
    range(first, first + length)
  )
  sizes = [b - a for a, b in parts]
  assert max(sizes) <= longest and max(sizes) - min(sizes) <= 1


def test_boxes_hold_the_crops():
  rng = np.random.default_rng(1)
  crops = np.stack(
    [
      *rng.uniform(150, 300, (2, 40)),
      *rng.uniform(60, 90, (2, 40)),
      rng.uniform(-0.4, 0.4, 40),
    ],
    -1,
  )
  boxes = extract.boxes(crops, (480, 640), 0.15)
  assert (boxes % 2 == 0).all() and (boxes >= 0).all()
  sides = boxes[:, 2:] - boxes[:, :2]
  assert (sides == sides[0]).all()
  for row, box in zip(crops, boxes, strict=True):
    low, high = np.split(bounding_boxes(crop_corners(crop_from_row(row))), 2)
    assert (low - box[:2] > 0.14 * row[2:4].min()).all()
    assert (box[2:] - high > 0.14 * row[2:4].min()).all()
  edge = extract.boxes(crops, (260, 256), 0.15)
  assert (edge[:, 2] <= 256).all() and (edge[:, 3] <= 260).all()


def film(path, count=60, size=(320, 240), rate=25):
  """A face-colored ellipse that moves; see `mux`."""
  import cv2

  images = []
  for i in range(count):
    image = np.full((size[1], size[0], 3), 60, np.uint8)
    middle = (round(place(i)[0]), round(place(i)[1]))
    mouth = (middle[0], middle[1] + 30)
    cv2.ellipse(image, middle, (50, 65), 0, 0, 360, (220, 170, 140), -1)
    cv2.circle(image, mouth, 4 + i % 9, (150, 20, 30), -1)
    images.append(image)
  return mux(path, images, rate)


def mux(path, images, rate=25):
  """Pictures with one click a second over a hum, nearly lossless."""
  with av.open(str(path), 'w') as file:
    video = file.add_stream('libx264', rate=rate, options={'crf': '4'})
    video.width, video.height = images[0].shape[1::-1]
    video.pix_fmt = 'yuv420p'
    sound = file.add_stream('pcm_s16le', rate=16000, layout='mono')
    for image in images:
      file.mux(video.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
    file.mux(video.encode(None))
    wave = np.zeros(len(images) * 16000 // rate, np.int16)
    wave[::16000] = 20000
    wave += (np.arange(len(wave)) % 50 * 40).astype(np.int16)
    block = av.AudioFrame.from_ndarray(wave[None], 's16', 'mono')
    block.sample_rate, block.pts = 16000, 0
    file.mux(sound.encode(block))
    file.mux(sound.encode(None))
  return path


def place(i, shift=0.0):
  return 160 + 0.5 * i + shift, 120 + 4 * np.sin(i / 10)


def analysis(count, people=((0, None, 0.0),), size=(240, 320), cuts=()):
  """What detection would say: (first, end, shift) of every person."""
  found = []
  for n, (first, end, shift) in enumerate(people):
    frames = np.arange(first, end or count)
    points = np.stack(
      [synthetic_face.face(*place(i, shift), 98.0) for i in frames]
    )
    points = points.astype(np.float32)
    look = np.zeros(620, np.float32)
    look[n] = 1
    boxes = detector_boxes(points).astype(np.float32)
    scores = np.ones(len(frames), np.float32)
    found.append(tracks.Track(frames, boxes, scores, points, look))
  times = np.arange(count) / 25
  return tracks.Analysis(times, size, np.array(cuts, np.int64), tuple(found))


def results(path, seen, single=True, **values):
  job = layouts.Job('ann/one', str(path), 'train', single)
  return list(extract.from_video(job, seen, extract.Settings(**values)))


def decoded(clip, i):
  return wav2lip_cache.decoded(clip.frames[i])


def test_clip_shows_what_inference_sees(tmp_path):
  path = film(tmp_path / 'a.mkv')
  (clip,) = results(path, analysis(60), quality=100)
  assert (clip.key, clip.speaker, len(clip.frames)) == ('ann/one', 'ann', 60)
  video = video_reader.probe_video(path)
  shape = {decoded(clip, i).shape for i in (0, 30, 59)}
  assert len(shape) == 1
  for shown in video_reader.read_frames(video):
    i = shown.index
    jpeg, crop = decoded(clip, i), crop_from_row(clip.crops[i])
    x, y = clip.boxes[i, :2]
    source = dataclasses.replace(
      crop, cx=crop.cx + float(x), cy=crop.cy + float(y)
    )
    ours = extract_crop(jpeg, crop, 96).astype(float)
    theirs = extract_crop(yuv.to_rgb(video, shown), source, 96)
    assert np.abs(ours - theirs).mean() < 1.5
    away = (
      clip.points[i] + clip.boxes[i, :2] - synthetic_face.face(*place(i), 98.0)
    )
    assert np.abs(away).max() < 1.5
  assert len(clip.wave) == 60 * 640 and np.isnan(clip.offset)
  assert np.flatnonzero(clip.wave > 15000).tolist() == [0, 16000, 32000]


def test_large_faces_are_stored_smaller(tmp_path):
  path = film(tmp_path / 'a.mkv', 20)
  (clip,) = results(path, analysis(20), largest=80)
  (whole,) = results(path, analysis(20))
  assert max(decoded(clip, 0).shape) == 80 < max(decoded(whole, 0).shape)
  a, b = (
    extract_crop(decoded(c, 9), crop_from_row(c.crops[9]), 64).astype(float)
    for c in (clip, whole)
  )
  assert np.abs(a - b).mean() < 4


def test_several_people_and_cuts(tmp_path):
  path = film(tmp_path / 'a.mkv')
  two = analysis(60, ((0, None, -70.0), (0, 40, 70.0)), cuts=(30,))
  (drop,) = results(path, two)
  assert drop.reason == extract.SEVERAL
  made = results(path, two, single=False)
  keys = [(c.key, len(c.frames)) for c in made if isinstance(c, Clip)]
  assert sorted(keys) == [
    ('ann/one#0', 30), ('ann/one#1', 30), ('ann/one#2', 30),
  ]  # fmt: skip
  (short,) = [c for c in made if isinstance(c, extract.Rejection)]
  assert (short.key, short.reason) == ('ann/one#3', extract.SHORT)
  second = next(c for c in made if c.key == 'ann/one#2')
  assert np.flatnonzero(second.wave > 15000).tolist() == [12800]


def test_long_runs_are_cut_in_pieces(tmp_path):
  made = results(film(tmp_path / 'a.mkv'), analysis(60), longest=25)
  assert [(c.key, len(c.frames)) for c in made] == [
    ('ann/one#0', 20), ('ann/one#1', 20), ('ann/one#2', 20),
  ]  # fmt: skip


def test_a_hole_in_time_parts_a_clip(tmp_path):
  seen = analysis(60)
  times = seen.times.copy()
  times[20:35] = times[20]  # the picture stood still
  pieces, _ = extract.plan(
    dataclasses.replace(seen, times=times), False, SETTINGS
  )
  assert [(p.first, len(p.crops)) for p in pieces] == [(0, 23), (35, 25)]


@pytest.mark.parametrize(
  'reason, seen, values',
  [
    (extract.NO_FACE, analysis(30, ()), {}),
    (extract.SHORT, analysis(30, ((2, 12, 0.0),)), {}),
    (extract.SMALL_FACE, analysis(30), {'smallest': 150.0}),
    (extract.SILENT, analysis(30), {'silence': -1.0}),
  ],
)
def test_one_reason_for_each_drop(tmp_path, reason, seen, values):
  (drop,) = results(film(tmp_path / 'a.mkv', 30), seen, **values)
  assert drop.reason == reason and drop.key == 'ann/one'


def test_no_sound_is_silent(tmp_path):
  path = write_video(
    tmp_path / 'a.mp4', [Fraction(i, 25) for i in range(30)], (320, 240)
  )
  (drop,) = results(path, analysis(30))
  assert drop.reason == extract.SILENT and 'no audio stream' in drop.detail


# Offset


def vectors(count, late, noise=0.5, seed=0):
  """Faces and sound of which every moment has its own direction."""
  rng = np.random.default_rng(seed)
  truth = rng.normal(size=(count + 60, 64))
  face = truth[30 : 30 + count] + noise * rng.normal(size=(count, 64))
  heard = truth[30 - late : 30 - late + count]
  heard = heard + noise * rng.normal(size=(count, 64))
  return tuple(
    (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
    for v in (face, heard)
  )


@pytest.mark.parametrize('late', range(-15, 16))
def test_offset_is_found(late):
  for count in (40, 120):
    found, sure = av_offset.search(*vectors(count, late))
    assert found == late and sure > 0.2


def test_short_and_foreign_sound():
  assert av_offset.search(*vectors(26, 5))[0] == 5
  assert av_offset.search(*vectors(26, -5))[0] == -5
  assert av_offset.search(*vectors(5, 0)) == (0, 0.0)
  face, _ = vectors(100, 0)
  _, other = vectors(100, 0, seed=1)
  assert av_offset.search(face, other)[1] < 0.1


def test_verdicts():
  limits = av_offset.Limits(6, 0.3)

  def reason(*values):
    return av_offset.verdict(*values, limits, 14)[0]

  nan = float('nan')
  assert reason(14, nan, nan) == '' == reason(30, 6, 0.3) == reason(30, -6, 1.0)
  assert reason(30, 0, 0.29) == extract.UNSURE == reason(30, 0, nan)
  assert reason(60, 7, 0.5) == extract.OFFSET == reason(60, -7, 0.5)
  assert reason(18, 5, 0.5) == extract.SHORT


def test_corrected_sound_is_in_step(tmp_path):
  (clip,) = results(film(tmp_path / 'a.mkv'), analysis(60))
  assert np.flatnonzero(clip.wave > 15000).tolist() == [0, 16000, 32000]
  late = check_clip(av_offset.corrected(clip, 4, 0.5))
  early = check_clip(av_offset.corrected(clip, -4, 0.5))
  # A click heard at frame 25 belongs to frame 21, or to frame 29.
  assert late.frames == clip.frames[:56] and early.frames == clip.frames[4:]
  assert np.flatnonzero(late.wave > 15000).tolist() == [21 * 640, 46 * 640]
  assert np.flatnonzero(early.wave > 15000).tolist() == [0, 16000, 32000]
  assert (late.offset, early.offset) == (4.0, -4.0)
  still = av_offset.corrected(clip, 0, 0.5)
  assert still.frames == clip.frames and still.offset == 0.0


@pytest.fixture(scope='module')
def expert_file(tmp_path_factory):
  """A SyncNet of random weights: it knows nothing of offsets."""
  import jax

  from lipsync_jax import models
  from lipsync_jax.weights import convert

  net = models.build_model('syncnet', 96, 0.125)
  init = functools.partial(net.init, train=False)
  shapes = jax.eval_shape(
    init, jax.random.key(0), *models.dummy_inputs('syncnet')
  )
  rng = np.random.default_rng(0)
  tensors = jax.tree.map(
    lambda x: np.abs(rng.normal(0.02, 0.1, x.shape)).astype(np.float32), shapes
  )
  path = tmp_path_factory.mktemp('expert') / 'w.safetensors'
  convert.save(
    path, convert.Weights('syncnet', 96, 0.125, dict(tensors), 'test')
  )
  return str(path)


def test_expert_reads_every_window(tmp_path, expert_file):
  (clip,) = results(film(tmp_path / 'a.mkv', 20), analysis(20))
  expert = av_offset.Expert(expert_file)
  face, heard = expert.vectors(clip)
  assert len(face) == len(heard) == 16
  np.testing.assert_allclose(np.linalg.norm(face, axis=1), 1, atol=1e-4)
  first = av_offset.half(clip.frames[3], clip.crops[3], 96)
  assert first.shape == (48, 96, 3)
  same, _ = expert.vectors(av_offset.corrected(clip, -3, 0.0))
  np.testing.assert_allclose(same, face[3:], atol=1e-4)


class Told(process.Worker):
  """A worker that may not look for faces, with an expert that is sure."""

  verdicts: tuple = ()

  @property
  def finder(self):
    raise AssertionError('the faces are known')

  @property
  def expert(self):
    if not self.verdicts:
      raise AssertionError('the offset is known')
    return self

  sha256 = 'told'

  def offset(self, clip):
    return self.verdicts[clip.key[-1] == '2']


def test_an_expert_filters_without_detecting(built, monkeypatch):
  folder, out, _ = built
  jobs = layouts.find('lrs2', folder / 'mvlrs_v1', folder)
  jobs = [job for job in jobs if job.key[:2] == '61']
  limits = av_offset.Limits(6, 0.1)
  task = process.Task(str(out / 'cache'), SETTINGS, 'w', limits)
  monkeypatch.setattr(Told, 'verdicts', ((3, 0.5), (-9, 0.5)))
  rows = [row for job in jobs for row in Told(task).rows(job)]
  reasons = {row['key'][-1]: row['reason'] for row in rows}
  assert len(rows) == 6 and reasons == {'1': '', '2': extract.OFFSET}
  kept = next(row for row in rows if not row['reason'])
  _, data, facts = process.record(kept)
  assert facts.offset == 3 and facts.frames == kept['frames'] - 3
  assert decode_clip(data, kept['key']).confidence == 0.5


# Whole builds


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


def pictures(source, count):
  """The first frames of a video, RGB, even sides."""
  with av.open(str(source)) as file:
    images = [
      f.to_ndarray(format='rgb24')
      for f, _ in zip(file.decode(video=0), range(count), strict=False)
    ]
  height, width = (side // 2 * 2 for side in images[0].shape[:2])
  return [np.ascontiguousarray(image[:height, :width]) for image in images]


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
  for k, shown in extract.read(video):
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
  plan = pipeline.layout(rows, '/out', 5000)
  assert plan == pipeline.layout(rows[::-1], '/out', 5000)
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
    process.packed(str(copy), 0)


def test_a_moved_build_does_nothing(built, tmp_path):
  """Neither the folder's name nor the data's place is in what is kept."""
  folder, out, _ = built
  shutil.copytree(out, tmp_path / 'out')
  shutil.copytree(folder / 'mvlrs_v1', tmp_path / 'mvlrs_v1')
  for path in folder.glob('*.txt'):
    shutil.copy(path, tmp_path)
  jobs = layouts.find('lrs2', tmp_path / 'mvlrs_v1', tmp_path)
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
    *(root, out, '--workers=2', '--val=0', '--test=0'),
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
  assert max(frames.values()) <= SETTINGS.longest


EXPERT = ROOT / 'lipsync_jax/assets/expert.safetensors'


def clip_of(path):
  """The longest clip of a video."""
  from lipsync_jax.faces import detector

  with detector.FaceDetector(workers=1) as finder:
    seen = extract.analyze(video_reader.probe_video(path), finder)
  made = [
    found
    for found in results(path, seen, single=False)
    if isinstance(found, Clip)
  ]
  return max(made, key=lambda found: len(found.frames))


def delayed(clip, seconds):
  """The clip with its sound later by so much."""
  count = round(abs(seconds) * 16000)
  wave = np.pad(clip.wave, (count, count))
  wave = wave[2 * count :] if seconds < 0 else wave[: -2 * count]
  wave = wave[: len(clip.wave)]
  mel = log_mel(wave / np.float32(32768))
  return dataclasses.replace(clip, wave=wave, mel=mel)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['grid_pwij3p.mpg', 'retalking3.mp4', 'hd_1080p30.mp4']
)
def test_our_expert_finds_200_ms(shared, name):
  expert = av_offset.Expert(str(EXPERT))
  clip = clip_of(shared / 'media/clips' / name)
  before, _ = expert.offset(clip)
  for seconds in (-0.2, 0.2):
    after, _ = expert.offset(delayed(clip, seconds))
    assert abs(after - before - 25 * seconds) <= 1


@pytest.mark.slow
def test_our_expert_tells_published_offsets_apart(shared):
  """The sound of these three is later by 0, 5 and 12 frames."""
  expert = av_offset.Expert(str(EXPERT))
  found = [
    expert.offset(
      clip_of(shared / f'media/clips/syncnet_test_offset_{late}.avi')
    )[0]
    for late in (0, 5, 12)
  ]
  assert [late - found[0] for late in found] == [0, 5, 12]
