"""Work of the web page: people, previews and whole videos, for many users.

Each user has a folder, which only that user's files are in. A job runs in a
thread and hands its progress over as it comes.
"""

import dataclasses
import os
import pathlib
import queue
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator

from lipsync_jax.common import cancellation
from lipsync_jax.common.errors import LipSyncError, printable, reason_of
from lipsync_jax.inference import turns
from lipsync_jax.inference.people import FoundPerson
from lipsync_jax.inference.report import Progress, SyncReport
from lipsync_jax.inference.session import Session
from lipsync_jax.media import decoder

PREVIEW_SECONDS = 5
BEYOND = 1e9  # seconds; lips that move after it do not move
PLAYABLE = ('.mp4', '.m4v', '.webm', '.mov')  # by browsers


class AppError(LipSyncError):
  """A file or a setting that the page refuses."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a user may upload.

  Attributes:
    megabytes: of a file.
    minutes: of a video or sound.
  """

  megabytes: int = 500
  minutes: float = 10.0

  def check(self, path: str, sound: bool = False) -> None:
    """Refuse a file that is too large, too long, or no media.

    Raises:
      LipSyncError: one line for the user.
    """
    size = os.path.getsize(path) / 2**20
    if size > self.megabytes:
      raise AppError(
        f'{_name(path)}: expected at most {self.megabytes} MB, found '
        f'{size:.0f} MB'
      )
    probe = decoder.probe_audio if sound else decoder.probe_video
    minutes = float(probe(path).duration) / 60
    if minutes > self.minutes:
      raise AppError(
        f'{_name(path)}: expected at most {self.minutes:g} minutes, found '
        f'{minutes:.1f}; cut it, or start lipsync app with --max-minutes'
      )


class User:
  """One user: a folder for outputs and the running job.

  Attributes:
    folder: of outputs, deleted by `close`.
  """

  def __init__(self, parent: pathlib.Path):
    self.folder = pathlib.Path(tempfile.mkdtemp(dir=parent, prefix='job-'))
    self._lock = threading.Lock()
    self._running: set[threading.Event] = set()

  def begin(self) -> threading.Event:
    """The event that cancels a new job of this user."""
    event = threading.Event()
    with self._lock:
      self._running.add(event)
    return event

  def end(self, event: threading.Event) -> None:
    """Forget a job that has ended."""
    with self._lock:
      self._running.discard(event)

  def cancel(self) -> bool:
    """Cancel all jobs of this user; returns whether there were any."""
    with self._lock:
      for event in self._running:
        event.set()
      return bool(self._running)

  def new_file(self, name: str) -> str:
    """A path for an output, in a folder of its own."""
    return str(pathlib.Path(tempfile.mkdtemp(dir=self.folder)) / name)

  def close(self) -> None:
    """Cancel everything and delete the folder."""
    self.cancel()
    shutil.rmtree(self.folder, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Result:
  """Files of a finished job: the source and the output, and the report."""

  before: str
  after: str
  report: SyncReport


class JobRunner:
  """Does the work of all users in one session.

  Attributes:
    limits: of uploads.
    folder: of all users' folders.
  """

  def __init__(self, limits: Limits | None = None, folder: str | None = None):
    self.limits = limits or Limits()
    self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix='lipsync-'))
    self.folder.mkdir(mode=0o700, exist_ok=True)
    self.session = Session()
    self._device = threading.Lock()  # one job at a time
    self._lock = threading.Lock()
    self._users: dict[str, User] = {}

  def user(self, name: str) -> User:
    """The user of a browser session."""
    with self._lock:
      if name not in self._users:
        self._users[name] = User(self.folder)
      return self._users[name]

  def forget(self, name: str) -> None:
    """End a browser session: cancel its job and delete its files."""
    with self._lock:
      user = self._users.pop(name, None)
    if user is not None:
      user.close()

  def reason_of(self, error: BaseException) -> str:
    """An error in one line, with names of files instead of their paths."""
    parent = re.escape(str(self.folder.parent))
    return re.sub(rf'{parent}/(?:[^/\s]+/)*', '', reason_of(error))

  def close(self) -> None:
    """End all sessions and delete the folder."""
    for name in list(self._users):
      self.forget(name)
    self.session.close()
    shutil.rmtree(self.folder, ignore_errors=True)

  def find_people(
    self, user: User, face: str, whole: bool = False
  ) -> Iterator[Progress | list[FoundPerson]]:
    """Yield the progress, then the people of a video or photo.

    Args:
      user: who asks.
      face: video or photo.
      whole: search all of it, not only its first seconds.
    """

    def work(progress: Callable, cancelled: threading.Event):
      self.limits.check(face)
      found = self.session.people(
        face,
        None if whole else PREVIEW_SECONDS,
        progress=progress,
        cancelled=cancelled,
      )
      if not found:
        part = '' if whole else f' in the first {PREVIEW_SECONDS} seconds'
        raise AppError(
          f'{_name(face)}: no face found{part}; a face must be upright and '
          'at least some 20 pixels wide'
        )
      return found

    return run_streamed(user, self._alone(work))

  def sync(
    self,
    user: User,
    face: str,
    audio: str,
    preview: bool,
    options: dict,
    source: bool = True,
  ) -> Iterator[Progress | Result]:
    """Yield the progress, then the files.

    Args:
      user: who asks.
      face: video or photo.
      audio: speech of the person in `options`; '' if turns have files.
      preview: render only the first seconds.
      options: further fields of `SyncOptions`.
      source: give a playable source too.
    """

    def work(progress: Callable, cancelled: threading.Event) -> Result:
      self.limits.check(face)
      for sound in _sounds(audio, options):
        self.limits.check(sound, sound=True)
      stem = pathlib.Path(face).stem[:40] or 'video'
      kind = '_preview' if preview else '_lipsync'
      given = {**options, 'cancelled': cancelled}
      if preview:
        given['preview'] = PREVIEW_SECONDS
      after = user.new_file(f'{stem}{kind}.mp4')
      report = self.session.sync(face, audio, after, progress=progress, **given)
      before = face
      playable = pathlib.Path(face).suffix.lower() in PLAYABLE
      if source and (preview or not playable):
        before = user.new_file(f'{stem}_source.mp4')
        given |= {'since': BEYOND, 'until': None}
        self.session.sync(face, audio, before, **given)
      return Result(before, after, report)

    return run_streamed(user, self._alone(work))

  def _alone(self, work: Callable) -> Callable:
    """`work`, which waits until the jobs of other users have ended."""

    def wait_and_work(progress: Callable, cancelled: threading.Event):
      with (
        cancellation.cancel_scope(cancelled),
        cancellation.locked(self._device),
      ):
        return work(progress, cancelled)

    return wait_and_work


def _sounds(audio: str, options: dict) -> list[str]:
  """All files with speech of a job."""
  further = [path for _, path in options.get('audio_for', ())]
  of_turns = turns.audio_files(options.get('subtitles'))
  return [*([audio] if audio else []), *further, *of_turns]


def run_streamed(user: User, work: Callable) -> Iterator:
  """Run `work(progress, cancelled)` in a thread.

  Yields the progress, newest only, and at last the result. An error of the
  work is raised here. Closing the generator cancels the work.
  """
  cancelled = user.begin()
  news: queue.Queue = queue.Queue()

  def run() -> None:
    try:
      news.put(('result', work(lambda p: news.put(('news', p)), cancelled)))
    except BaseException as error:  # raised again in the reading thread
      news.put(('error', error))

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    while True:
      kind, value = news.get()
      while kind == 'news' and not news.empty():
        kind, value = news.get()
      if kind == 'error':
        raise value
      yield value
      if kind == 'result':
        return
  finally:
    cancelled.set()
    thread.join()
    user.end(cancelled)


def describe_progress(progress: Progress) -> str:
  """A line for the user."""
  names = {'finding faces': 'Finding faces', 'rendering': 'Moving the lips'}
  name = names.get(progress.stage, progress.stage.capitalize())
  if not progress.total:
    return f'{name}: frame {progress.done}'
  line = f'{name}: frame {progress.done} of {progress.total}'
  if progress.remaining is None or progress.done < 3:
    return line
  return f'{line}, about {_duration(progress.remaining)} left in this step'


def describe_report(report: SyncReport) -> str:
  """The report in sentences, as Markdown."""
  seconds = report.frames / report.rate
  lines = [
    f'{report.frames} frames ({float(seconds):.1f} s) of {report.width} × '
    f'{report.height} pixels at {float(report.rate):g} frames/s, made in '
    f'{_duration(report.seconds["total"])}.'
  ]
  for speaker in report.speakers:
    share = 100 * speaker.frames_spoken / max(report.frames, 1)
    lines.append(
      f'Person {speaker.person} has new lips in {share:.0f} % of the frames.'
    )
  lines += [f'**Note:** {_escape(warning)}' for warning in report.warnings]
  return '\n\n'.join(lines)


def _duration(seconds: float) -> str:
  """Seconds in words."""
  if seconds < 90:
    return f'{max(seconds, 1):.0f} s'
  return f'{seconds / 60:.0f} min'


def _name(path: str) -> str:
  return printable(os.path.basename(path))


def _escape(text: str) -> str:
  """Text without the signs of Markdown and HTML."""
  return ''.join(c if c not in '<>&*_`[]#' else ' ' for c in text)
