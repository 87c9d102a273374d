"""Jobs of the HTTP server: their states, and the table that holds them.

A job is PENDING, PROCESSING, COMPLETED, FAILED or CANCELED. One job runs at a
time.
"""

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable

from lipsync_jax.app import jobs
from lipsync_jax.common.errors import Cancelled, LipSyncError
from lipsync_jax.inference.report import Progress, SyncReport

ENDED = ('COMPLETED', 'FAILED', 'CANCELED')
STATES = ('PENDING', 'PROCESSING', *ENDED)


@dataclasses.dataclass(frozen=True)
class Request:
  """What a client submits.

  Attributes:
    face: saved video or photo.
    audio: saved sound; '' if every segment has its own.
    options: fields of `SyncOptions`.
    webhook: URL that is called when the job ends, or ''.
  """

  face: str
  audio: str
  options: dict
  webhook: str = ''


@dataclasses.dataclass
class HttpJob:
  """A job and its state."""

  id: str
  user: jobs.User
  request: Request
  created: float
  status: str = 'PENDING'
  progress: Progress | None = None
  error: str = ''
  output: str = ''
  report: SyncReport | None = None
  webhook_status: str = ''  # PENDING, DELIVERED or FAILED; '' without one

  def note_delivery(self, delivered: bool) -> None:
    """Keep whether the webhook was called."""
    self.webhook_status = 'DELIVERED' if delivered else 'FAILED'

  def to_dict(self) -> dict:
    """The job as the interface shows it."""
    found = {'id': self.id, 'status': self.status, 'created': self.created}
    if self.progress is not None and self.status == 'PROCESSING':
      found['stage'] = self.progress.stage
      found['progress'] = self.progress.share
      found['remaining_seconds'] = self.progress.remaining
    if self.error:
      found['error'] = self.error
    if self.webhook_status:
      found['webhook_status'] = self.webhook_status
    if self.report is not None:
      report = self.report.to_dict()
      hidden = ('outfile', 'face', 'speakers')  # paths of the server
      found['report'] = {k: v for k, v in report.items() if k not in hidden}
      found['warnings'] = list(self.report.warnings)
      found['output_url'] = f'/v2/generate/{self.id}/output'
    return found


class JobTable:
  """All jobs; each runs in a thread that waits for its turn.

  Attributes:
    runner: does the work.
    most: jobs that may wait or run, and ended jobs that are kept.
    on_end: is called with every job that has ended; it must not wait.
  """

  def __init__(
    self,
    runner: jobs.JobRunner,
    most: int = 100,
    on_end: Callable[[HttpJob], object] | None = None,
  ):
    self.runner, self.most, self.on_end = runner, most, on_end
    self._lock = threading.Lock()
    self._jobs: dict[str, HttpJob] = {}

  def submit(self, user: jobs.User, request: Request) -> HttpJob:
    """Start a job.

    Raises:
      AppError: too many jobs wait.
    """
    with self._lock:
      waiting = sum(job.status not in ENDED for job in self._jobs.values())
      if waiting >= self.most:
        raise jobs.AppError(
          f'expected at most {self.most} waiting jobs: try again later'
        )
      ended = [job for job in self._jobs.values() if job.status in ENDED]
      for old in ended[: max(len(ended) - self.most + 1, 0)]:
        self._jobs.pop(old.id).user.close()
      name = secrets.token_hex(16)
      job = HttpJob(name, user, request, time.time())
      job.webhook_status = 'PENDING' if request.webhook else ''
      self._jobs[name] = job
    threading.Thread(target=self._run, args=(job,), daemon=True).start()
    return job

  def _run(self, job: HttpJob) -> None:
    given = job.request
    try:
      work = self.runner.sync(
        job.user, given.face, given.audio, False, given.options, source=False
      )
      for news in work:
        if isinstance(news, Progress):
          job.status, job.progress = 'PROCESSING', news
        else:
          job.output, job.report = news.after, news.report
      job.status = 'COMPLETED'
    except Cancelled:
      job.status = 'CANCELED'
    except Exception as error:
      known = isinstance(error, LipSyncError | OSError)
      kind = '' if known else f'{type(error).__name__}: '
      job.error = kind + self.runner.reason_of(error)
      job.status = 'FAILED'
    if self.on_end is not None:
      self.on_end(job)

  def get(self, name: str) -> HttpJob | None:
    """A job by its id."""
    return self._jobs.get(name)

  def list(self, status: str | None = None) -> list[HttpJob]:
    """All jobs, or those in one state; the newest first."""
    found = list(self._jobs.values())[::-1]
    return [job for job in found if status in (None, job.status)]

  def cancel(self, job: HttpJob) -> None:
    """End a job, unless it has ended, and wait; a canceled one has no files."""
    while job.status not in ENDED:
      job.user.cancel()  # again: the job may not have begun
      time.sleep(0.02)
    if job.status == 'CANCELED':
      job.user.close()

  def remove(self, job: HttpJob) -> None:
    """Cancel a job and delete its files."""
    self.cancel(job)
    job.user.close()
    with self._lock:
      self._jobs.pop(job.id, None)

  def close(self) -> None:
    """Cancel and remove all jobs."""
    for job in self.list():
      job.user.cancel()  # all at once, before the wait for any
    for job in self.list():
      self.remove(job)
