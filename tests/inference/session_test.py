"""Session: many jobs in one process, cancelled jobs, frames in memory."""

import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

import lipsync_jax
from lipsync_jax.common import cancellation, threads
from lipsync_jax.common.memory import release_free_memory
from lipsync_jax.inference import report as report_module
from lipsync_jax.inference import session as session_module
from lipsync_jax.media import memory
from tests.helpers import test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO, SPEECH = ROOT / 'examples/mona.jpg', ROOT / 'examples/jfk.flac'
EXAMPLE = re.compile(r'^```python\n(.*?)^```', re.M | re.S)


@pytest.fixture(scope='module')
def session():
  with lipsync_jax.Session() as opened:
    yield opened


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  return small_jobs(tmp_path_factory.mktemp('small'))


def small_jobs(folder: pathlib.Path) -> list[tuple]:
  """Three small jobs: (face, audio, options)."""
  import cv2

  whole = cv2.imread(str(PHOTO))
  jobs = []
  for side in (256, 288, 320):
    path = folder / f'{side}.png'
    cv2.imwrite(str(path), cv2.resize(whole, (side, side)))
    jobs.append((path, {'preview': 0.4 + side / 1000, 'strength': side / 256}))
  return [(face, SPEECH, options) for face, options in jobs]


def picture() -> np.ndarray:
  import cv2

  return np.ascontiguousarray(cv2.imread(str(PHOTO))[..., ::-1])


def tone(seconds: float, rate: int = 16_000) -> np.ndarray:
  """Bursts of a buzz, which moves the lips."""
  t = np.arange(round(seconds * rate)) / rate
  loud = np.sin(2 * np.pi * 3 * t) > 0
  buzz = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
  return (0.2 * loud * buzz).astype(np.float32)


def run_all(session, jobs, folder, threads: int) -> list[bytes]:
  folder.mkdir()

  def work(number):
    face, audio, options = jobs[number]
    out = folder / f'{number}.mp4'
    session.sync(face, audio, out, **options)
    return out.read_bytes()

  with ThreadPoolExecutor(threads) as pool:
    return list(pool.map(work, range(len(jobs))))


def resident() -> int:
  """Bytes of memory that this process holds now, without freed blocks."""
  gc.collect()
  release_free_memory()
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


def check_many(session, small, tmp_path, count: int) -> tuple[int, int]:
  """Same bytes from four threads as one by one; returns memory in bytes."""
  jobs = [small[i % len(small)] for i in range(count)]
  alone = run_all(session, small, tmp_path / 'alone', 1)
  run_all(session, jobs[:12], tmp_path / 'warm', 4)
  before = resident()
  many = run_all(session, jobs, tmp_path / 'many', 4)
  after = resident()
  for i, content in enumerate(many):
    assert content == alone[i % len(small)], i
  assert len(set(alone)) == len(small)
  return before, after


def test_four_threads_give_the_bytes_of_one(session, small, tmp_path):
  check_many(session, small, tmp_path, 8)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='Linux')
def test_hundred_jobs_take_no_more_memory(tmp_path):
  """In a process without the tests' checks of types, which keep memory."""
  code = (
    'import pathlib, sys\n'
    'import lipsync_jax\n'
    'from tests.inference import session_test as here\n'
    'folder = pathlib.Path(sys.argv[1])\n'
    'with lipsync_jax.Session() as session:\n'
    '  small = here.small_jobs(folder)\n'
    '  print(*here.check_many(session, small, folder, 100))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  before, after = map(int, done.stdout.split())
  print(f'\n{before / 2**20:.0f} MB before, {after / 2**20:.0f} MB after')
  assert after < 1.05 * before, (before, after)


def test_report_has_typed_fields_and_is_the_dict_of_sync(session, tmp_path):
  out = tmp_path / 'out.mp4'
  found = session.sync(
    PHOTO, SPEECH, out, preview=1, since=0.4, report=tmp_path / 'r.json'
  )
  assert isinstance(found, lipsync_jax.SyncReport)
  assert found.rate == 25 and found.frames == 25
  (speaker,) = found.speakers
  assert speaker.frames_spoken == 15
  assert speaker.skipped[0].until == pytest.approx(0.4)
  assert 'from 0 to 0.4 s' in found.warnings[0]
  facts = found.to_dict()
  assert lipsync_jax.SyncReport.from_dict(facts) == found
  import json

  assert json.loads((tmp_path / 'r.json').read_text()) == facts
  plain = lipsync_jax.sync_video(
    PHOTO, SPEECH, tmp_path / 'plain.mp4', preview=1, since=0.4, quiet=True
  )
  changing = {'outfile', 'seconds', 'peak_memory_mb', 'decoder_memory_mb'}
  assert facts.keys() == plain.keys()
  for name in facts.keys() - changing:
    assert facts[name] == plain[name], name
  assert out.read_bytes() == (tmp_path / 'plain.mp4').read_bytes()


def test_progress_counts_every_stage_to_its_end(session, tmp_path):
  seen: list[lipsync_jax.Progress] = []
  session.sync(
    PHOTO, SPEECH, tmp_path / 'o.mp4', preview=1, progress=seen.append
  )
  render = [p for p in seen if p.stage == 'rendering']
  assert (render[0].done, render[-1].done) == (0, 25)
  assert all(p.total == 25 for p in render)
  assert render[0].remaining is None and render[-1].remaining == 0
  done = [p.done for p in render]
  assert done == sorted(done)


def test_progress_estimates_by_the_share():
  half = lipsync_jax.Progress('rendering', 50, 100, 4.0)
  assert half.share == 0.5 and half.remaining == 4.0
  unknown = lipsync_jax.Progress('rendering', 50, None, 4.0)
  assert unknown.share is None and unknown.remaining is None


def test_an_error_of_the_callback_ends_the_job(session, tmp_path):
  def breaks(progress):
    if progress.done:
      raise RuntimeError('a bug of the caller')

  with pytest.raises(RuntimeError, match='a bug of the caller'):
    session.sync(PHOTO, SPEECH, tmp_path / 'o.mp4', progress=breaks)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('stage', ['before', 'finding faces', 'rendering'])
def test_a_cancelled_job_leaves_nothing(session, tmp_path, stage, monkeypatch):
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', str(tmp_path / 'cache'))
  folder = tmp_path / 'out'
  folder.mkdir()
  (folder / 'o.mp4').write_bytes(b'older')
  stop, frames = threading.Event(), []
  if stage == 'before':
    stop.set()

  def watch(progress):
    if progress.stage == stage and progress.total == progress.total:
      stop.set()
    frames.append(progress.done)

  with pytest.raises(lipsync_jax.Cancelled, match='cancelled'):
    session.sync(
      PHOTO, SPEECH, folder / 'o.mp4', progress=watch, cancelled=stop
    )
  assert [p.name for p in folder.iterdir()] == ['o.mp4']
  assert (folder / 'o.mp4').read_bytes() == b'older'
  assert max(frames, default=0) < 20  # of 275


@pytest.mark.slow
@pytest.mark.full
def test_ten_cancels_end_within_two_seconds(session, tmp_path):
  """Seconds of the processor, so that other programs do not count."""
  rng, slowest, waited = np.random.default_rng(0), 0.0, 0.0
  session.sync(PHOTO, SPEECH, tmp_path / 'o.mp4')  # has nothing to load later
  (tmp_path / 'o.mp4').unlink()
  for number in range(10):
    stop, at = threading.Event(), []
    # Two at the first news, the others at any part of the rendering.
    share = rng.uniform(0, 0.8) if number > 1 else None

    def cancel(news, stop=stop, at=at, share=share):
      there = news.stage == 'rendering' and news.share >= (share or 0)
      if not at and (there or share is None):
        at.append((time.process_time(), time.monotonic()))
        stop.set()

    with pytest.raises(lipsync_jax.Cancelled):
      session.sync(
        PHOTO, SPEECH, tmp_path / 'o.mp4', progress=cancel, cancelled=stop
      )
    slowest = max(slowest, time.process_time() - at[0][0])
    waited = max(waited, time.monotonic() - at[0][1])
    assert list(tmp_path.iterdir()) == []
  print(f'\n10 cancels: at most {slowest:.2f} s of work, {waited:.2f} s passed')
  assert slowest < 2


def test_a_cancelled_scope_ends_a_wait_and_reaches_stages():
  stop, lock = threading.Event(), threading.Lock()
  lock.acquire()

  def checks():
    while True:
      cancellation.check()
      yield 1

  with cancellation.cancel_scope(stop):
    source = threads.prefetch(checks(), 1)
    assert next(source) == 1
    stop.set()
    with pytest.raises(lipsync_jax.Cancelled):
      for _ in source:
        pass
    with pytest.raises(lipsync_jax.Cancelled), cancellation.locked(lock):
      pass
  cancellation.check()  # outside of the scope


def test_a_video_in_memory_keeps_its_frames_outside_the_mouth(session):
  frames = np.repeat(picture()[None], 20, 0)
  frames[:, :8, :8] = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3))
  spoken = session.render(frames, 25, tone(0.6), 16_000, no_noise_gate=True)
  assert spoken.shape == frames.shape and spoken.dtype == np.uint8
  changed = (spoken != frames).any(-1)
  assert changed[:14].any((1, 2)).sum() > 8
  assert not changed[16:].any()  # after the end of the sound
  area = changed.any(0)
  assert 0.0005 < area.mean() < 0.2 and not area[:200].any()


@pytest.mark.parametrize('shape', [(719, 720), (720, 717)])
def test_odd_sides_and_longer_sound(session, shape):
  frames = np.repeat(picture()[None, : shape[0], : shape[1]], 5, 0)
  spoken = session.render(
    frames, Fraction(30000, 1001), tone(2), 16_000, no_noise_gate=True
  )
  assert spoken.shape == frames.shape
  assert (spoken != frames).any()


def test_strength_zero_in_memory_moves_nothing(session):
  spoken = session.render(
    picture(), 25, tone(0.2), 16_000, strength=0.0, no_noise_gate=True
  )
  assert len(spoken) == 5
  for frame in spoken:
    np.testing.assert_array_equal(frame, spoken[0])
  assert (spoken[0] != picture()).mean() < 0.001


def test_a_photo_in_memory_speaks_for_the_whole_sound(session):
  stereo = np.stack([tone(1, 48_000)] * 2)
  as_int = np.round(stereo * 32767).astype(np.int16)
  spoken = session.render(picture(), 25, as_int, 48_000, no_noise_gate=True)
  assert spoken.shape == (25, *picture().shape)
  assert np.ptp(spoken.astype(int), axis=0).any()


def test_memory_and_file_move_the_same_lips(session, tmp_path):
  """The change of a frame in memory is that of the lossless file."""
  voice = test_clips.write_wav(tmp_path / 'v.wav', tone(0.6))
  out = tmp_path / 'o.mp4'
  session.sync(PHOTO, voice, out, crf=0, no_noise_gate=True)
  lumas = np.stack(test_clips.read_video(out)[1]).astype(float)
  spoken = session.render(
    picture(), 25, tone(0.6), 16_000, no_noise_gate=True
  ).astype(float)
  gray = spoken @ np.array([0.2126, 0.7152, 0.0722])
  assert len(gray) == len(lumas)
  moved = [np.abs(x - x[0]).mean((1, 2))[1:] for x in (lumas, gray)]
  assert np.corrcoef(*moved)[0, 1] > 0.99


@pytest.mark.parametrize(
  'change, said',
  [
    ({'frames': np.zeros((2, 8, 8, 3), np.float32)}, 'expected uint8 RGB'),
    ({'frames': np.zeros((2, 8, 8), np.uint8)}, 'expected uint8 RGB'),
    ({'frames': np.zeros((0, 8, 8, 3), np.uint8)}, 'expected at least one'),
    ({'fps': 0}, 'expected a rate from 1'),
    ({'samples': np.zeros((2, 2, 2), np.float32)}, 'expected floats'),
    ({'samples': np.zeros(4, np.int64)}, 'expected floats'),
    ({'samples': np.zeros(0, np.float32)}, 'expected at least one'),
    ({'crf': 3}, "found 'crf'"),
    ({'strength': 5.0}, 'expected 0 to 2'),
    ({}, 'found no face'),
  ],
)
def test_bad_frames_and_samples_are_one_line(session, change, said):
  given = {
    'frames': np.zeros((2, 64, 64, 3), np.uint8),
    'fps': 25,
    'samples': np.zeros(3200, np.float32),
    'rate': 16_000,
  }
  with pytest.raises(lipsync_jax.LipSyncError, match=said) as caught:
    session.render(**(given | change))
  assert '\n' not in str(caught.value)


def test_options_of_render_exist():
  fields = lipsync_jax.SyncOptions.__dataclass_fields__.keys()
  assert fields >= session_module.RENDER_OPTIONS


def test_a_frame_in_memory_comes_back():
  rng = np.random.default_rng(0)
  video = memory.memory_video(rng.integers(0, 255, (3, 9, 7, 3), np.uint8), 25)
  assert (video.width, video.height) == (8, 10)
  for index in (0, 2):
    same = video.changed_picture(index, video.frame(index))
    np.testing.assert_array_equal(same, video.pictures[index])
  assert [f.index for f in video.read_frames(1)] == [1, 2]
  assert [f.index for f in video.read_backwards(1)] == [1, 0]
  assert [f.index for f in video.read_chosen([0, 1, 900])] == [0, 1]


def test_people_have_pictures_and_specifications(session, tmp_path):
  import cv2

  one = picture()[..., ::-1]
  wide = np.concatenate([cv2.resize(one, (400, 400)), one[:400, :400] * 0], 1)
  wide[100:400, 450:750] = cv2.resize(one, (300, 300))
  path = tmp_path / 'two.png'
  cv2.imwrite(str(path), wide)
  large, less = session.people(path)
  assert (large.number, less.number) == (0, 1)
  assert large.picture.shape == less.picture.shape == (160, 160, 3)
  x = [float(one.person.split(',')[0]) for one in (large, less)]
  assert x[0] < 400 < x[1]
  found = session.sync(
    path, SPEECH, tmp_path / 'o.mp4', preview=0.4, person=less.person
  )
  assert found.speakers[0].person == 1


def test_stages_are_those_of_the_documentation():
  text = report_module.Progress.__doc__
  assert 'finding faces' in text and 'rendering' in text


def test_examples_of_the_documentation(tmp_path, monkeypatch):
  shutil.copy(PHOTO, tmp_path / 'face.jpg')
  shutil.copy(SPEECH, tmp_path / 'speech.flac')
  monkeypatch.chdir(tmp_path)
  text = (ROOT / 'docs/api.md').read_text(encoding='utf-8')
  examples = EXAMPLE.findall(text)
  assert len(examples) == text.count('```python') >= 8
  names: dict = {}
  for example in examples:
    exec(compile(example, 'docs/api.md', 'exec'), names)
  assert names['stop'].is_set() and not os.path.exists('long.mp4')
  assert len(names['reports']) == 2


def test_reports_keep_what_only_some_jobs_say(tmp_path):
  """The note of the default person, turns, and what was left behind."""
  import json

  facts = {
    'outfile': '/o.mp4', 'face': '/f.mp4', 'width': 8, 'height': 6,
    'rate': '25', 'seconds_of_sound': 1.0, 'frames': 25, 'people': '2 people',
    'note': '--person 1: lips go with the sound', 'left_behind': ['chapters'],
    'speakers': [
      {
        'person': 1, 'audio': ['/a.wav', '/b.wav'], 'turns': [[0.0, 0.5]],
        'frames_spoken': 25, 'tracks': [], 'skipped': [],
      }
    ],
    'cuts': [], 'engine': 'mesh warp', 'batch': 4, 'weights': {},
    'seconds': {}, 'peak_memory_mb': 1, 'decoder_memory_mb': 1,
  }  # fmt: skip
  report = lipsync_jax.SyncReport.from_dict(facts)
  assert json.loads(json.dumps(report.to_dict())) == facts
  assert report.warnings[0] == facts['note']
  del facts['note'], facts['speakers'][0]['turns']
  again = lipsync_jax.SyncReport.from_dict(facts).to_dict()
  assert json.loads(json.dumps(again)) == facts


def test_a_covered_mouth_is_in_the_report_and_in_a_warning():
  facts = {'person': 0, 'audio': '', 'frames_spoken': 20, 'skipped': []}
  job = {
    'outfile': '', 'face': '', 'width': 8, 'height': 6, 'rate': '25',
    'seconds_of_sound': 1.0, 'frames': 25, 'engine': 'mesh warp', 'batch': 4,
    'weights': {}, 'seconds': {}, 'peak_memory_mb': 1, 'decoder_memory_mb': 1,
  }  # fmt: skip
  for covered, told in ((7, 1), (0, 0), (None, 0)):
    speaker = facts | ({} if covered is None else {'frames_covered': covered})
    report = lipsync_jax.SyncReport.from_dict(job | {'speakers': [speaker]})
    assert len(report.warnings) == told
    again = report.to_dict()['speakers'][0]
    assert again.get('frames_covered') == covered
    assert ('frames_covered' in again) == (covered is not None)
  report = lipsync_jax.SyncReport.from_dict(
    job | {'speakers': [facts | {'frames_covered': 7}]}
  )
  assert '7 of 25 frames' in report.warnings[0]
