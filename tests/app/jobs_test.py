"""The work of the web page, without the page."""

import pathlib
import sys
import threading
import time

import numpy as np
import pytest

from lipsync_jax import __main__ as command
from lipsync_jax.app import jobs
from lipsync_jax.common.errors import Cancelled, LipSyncError
from lipsync_jax.inference.report import Progress
from tests.helpers import test_clips

EXAMPLES = pathlib.Path(jobs.__file__).parent / 'examples'
FACE, SPEECH = str(EXAMPLES / 'mona.jpg'), str(EXAMPLES / 'jfk.flac')
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
  found = jobs.JobRunner(folder=str(tmp_path_factory.mktemp('app') / 'jobs'))
  yield found
  found.close()
  assert not found.folder.exists()


def files_of(user: jobs.User) -> list[str]:
  return [p.name for p in user.folder.rglob('*') if p.is_file()]


def test_examples_are_those_of_the_repository():
  for name in ('mona.jpg', 'jfk.flac'):
    copy, original = EXAMPLES / name, ROOT / 'examples' / name
    assert copy.read_bytes() == original.read_bytes()


def test_people_then_preview_with_its_source(runner, monkeypatch):
  monkeypatch.setattr(jobs, 'PREVIEW_SECONDS', 1)
  user = runner.user('somebody')
  *news, people = runner.find_people(user, FACE)
  assert all(isinstance(one, Progress) for one in news)
  assert [one.number for one in people] == [0]
  options = {'person': people[0].person, 'strength': 1.5}
  *news, result = runner.sync(user, FACE, SPEECH, True, options)
  assert news[-1].stage == 'rendering'
  assert pathlib.Path(result.after).name == 'mona_preview.mp4'
  before, after = (
    np.stack(test_clips.read_video(path)[1]).astype(int)
    for path in (result.before, result.after)
  )
  assert before.shape == after.shape and len(after) == 25
  still = np.abs(before - before[:1]).mean()
  assert np.abs(after - before).mean() > 2 * still
  assert '100 % of the frames' in jobs.describe_report(result.report)
  folder = user.folder
  assert folder in pathlib.Path(result.after).parents
  runner.forget('somebody')
  assert not folder.exists()


def test_a_playable_source_is_shown_itself(runner, tmp_path):
  import cv2

  rgb = np.ascontiguousarray(cv2.imread(FACE)[::2, ::2, ::-1])
  face = test_clips.write_video(
    tmp_path / 'f.mp4', test_clips.steady(0.4, 25), (360, 360), lambda i: rgb
  )
  user = runner.user('u')
  options = {'when_audio_longer': 'cut'}
  *_, result = runner.sync(user, str(face), SPEECH, False, options)
  assert result.before == str(face)
  assert files_of(user) == ['f_lipsync.mp4']


def test_cancel_leaves_nothing(runner):
  user = runner.user('impatient')
  work = runner.sync(user, FACE, SPEECH, False, {})
  for news in work:
    if news.stage == 'rendering' and news.done:
      assert user.cancel()
      break
  with pytest.raises(Cancelled):
    for _ in work:
      pass
  assert files_of(user) == [] and not user.cancel()


def test_a_closed_page_ends_its_job(runner):
  user = runner.user('gone')
  work = runner.sync(user, FACE, SPEECH, False, {})
  next(work)
  work.close()
  assert files_of(user) == [] and not user.cancel()


def test_one_job_at_a_time_and_a_waiting_one_can_be_cancelled(runner):
  began, ends = threading.Event(), threading.Event()

  def first(progress, cancelled):
    began.set()
    assert ends.wait(60)
    return 'first'

  def second(progress, cancelled):
    raise AssertionError('ran beside another')

  users = [runner.user(name) for name in ('one', 'two')]
  results: list = []

  def read(user, work):
    try:
      results.extend(jobs.run_streamed(user, runner._alone(work)))
    except Cancelled:
      results.append('cancelled')

  threads = [threading.Thread(target=read, args=(users[0], first))]
  threads[0].start()
  assert began.wait(60)
  threads.append(threading.Thread(target=read, args=(users[1], second)))
  threads[1].start()
  while not users[1].cancel():
    time.sleep(0.01)
  threads[1].join(60)
  assert results == ['cancelled']
  ends.set()
  threads[0].join(60)
  assert results == ['cancelled', 'first']


@pytest.mark.parametrize('kind', ['large', 'long', 'text', 'faceless', 'sound'])
def test_files_that_are_refused_are_one_line(runner, tmp_path, kind):
  import cv2

  limits = jobs.Limits(megabytes=1, minutes=0.1)
  path = tmp_path / 'a b.mp4'
  said = {
    'large': 'at most 1 MB',
    'long': 'at most 0.1 minutes',
    'text': 'a b.mp4',
    'faceless': 'no face found',
    'sound': 'no video stream',
  }[kind]
  if kind == 'large':
    path.write_bytes(bytes(2**20 + 1))
  elif kind == 'long':
    test_clips.write_video(path, test_clips.steady(7, 5))
  elif kind == 'text':
    path.write_text('no media')
  elif kind == 'sound':
    test_clips.write_wav(path, np.zeros(16_000))
  else:
    path = path.with_suffix('.png')
    cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
  small = jobs.JobRunner(limits, str(tmp_path / 'jobs'))
  small.session = runner.session
  with pytest.raises(LipSyncError, match=said) as caught:
    list(small.find_people(small.user('u'), str(path)))
  assert '\n' not in str(caught.value)


def test_without_gradio_the_remedy_is_one_line(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  assert command.main(['app']) == 1
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'lipsync-jax[app]' in line


def test_progress_in_words():
  words = jobs.describe_progress
  assert words(Progress('finding faces', 3, None, 1)) == (
    'Finding faces: frame 3'
  )
  line = words(Progress('rendering', 50, 200, 10))
  assert line == (
    'Moving the lips: frame 50 of 200, about 30 s left in this step'
  )
  assert words(Progress('rendering', 50, 2000, 10)).endswith(
    'about 6 min left in this step'
  )


def test_an_error_names_files_without_their_folders(tmp_path):
  runner = jobs.JobRunner(folder=str(tmp_path / 'jobs'))
  for path in (tmp_path / 'a1/my face.mp4', tmp_path / 'jobs/job-1/x/b.wav'):
    said = runner.reason_of(OSError(f'{path}: reading stopped'))
    assert said == f'{path.name}: reading stopped'
  assert runner.reason_of(ValueError('/etc/x: no')) == '/etc/x: no'
  runner.close()
