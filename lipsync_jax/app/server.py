"""Jobs over HTTP: submit, status, result, cancel, list.

The words are those of hosted services: a job has an id and is PENDING,
PROCESSING, COMPLETED, FAILED or CANCELED. One job runs at a time.
"""

import contextlib
import dataclasses
import hmac
import json
import os
import pathlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable

from lipsync_jax.app import jobs
from lipsync_jax.common.errors import (
  Cancelled,
  LipSyncError,
  printable,
  reason_of,
)
from lipsync_jax.inference.report import Progress, SyncReport

ENDED = ('COMPLETED', 'FAILED', 'CANCELED')
# What happens if video and audio have different lengths, as options.
SYNC_MODES = {
  'cut_off': {'when_audio_longer': 'cut', 'when_video_longer': 'cut'},
  'loop': {'when_audio_longer': 'loop', 'when_video_longer': 'cut'},
  'bounce': {'when_audio_longer': 'bounce', 'when_video_longer': 'cut'},
  'silence': {'when_audio_longer': 'hold', 'when_video_longer': 'keep'},
}
# Options that name no file of the server.
OPTIONS = frozenset(
  (
    *('renderer', 'strength', 'person', 'since', 'until', 'preview', 'crf'),
    *('fps', 'pads', 'box', 'crop', 'rotate', 'resize_factor', 'nosmooth'),
    *('static', 'no_noise_gate', 'no_detail_transfer', 'when_audio_longer'),
    *('when_video_longer', 'dtype'),
  )
)


@dataclasses.dataclass
class HttpJob:
  """A job and its state."""

  id: str
  user: jobs.User
  face: str
  audio: str
  options: dict
  created: float
  status: str = 'PENDING'
  progress: Progress | None = None
  error: str = ''
  output: str = ''
  report: SyncReport | None = None

  def to_dict(self) -> dict:
    """The job as the interface shows it."""
    found = {'id': self.id, 'status': self.status, 'created': self.created}
    if self.progress is not None and self.status == 'PROCESSING':
      found['stage'] = self.progress.stage
      found['progress'] = self.progress.share
      found['remaining_seconds'] = self.progress.remaining
    if self.error:
      found['error'] = self.error
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
  """

  def __init__(self, runner: jobs.JobRunner, most: int = 100):
    self.runner, self.most = runner, most
    self._lock = threading.Lock()
    self._jobs: dict[str, HttpJob] = {}

  def submit(self, user: jobs.User, face: str, audio: str, options: dict):
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
      job = HttpJob(name, user, face, audio, options, time.time())
      self._jobs[name] = job
    threading.Thread(target=self._run, args=(job,), daemon=True).start()
    return job

  def _run(self, job: HttpJob) -> None:
    try:
      work = self.runner.sync(
        job.user, job.face, job.audio, False, job.options, source=False
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
      job.error, job.status = kind + reason_of(error), 'FAILED'

  def get(self, name: str) -> HttpJob | None:
    """A job by its id."""
    return self._jobs.get(name)

  def list(self) -> list[HttpJob]:
    """All jobs, the newest first."""
    return list(self._jobs.values())[::-1]

  def remove(self, job: HttpJob) -> None:
    """Cancel a job and delete its files."""
    job.user.cancel()
    while job.status not in ENDED:
      time.sleep(0.02)
    job.user.close()
    with self._lock:
      self._jobs.pop(job.id, None)

  def close(self) -> None:
    """Cancel and remove all jobs."""
    for job in self.list():
      self.remove(job)


def read_options(text: str) -> dict:
  """Fields of `SyncOptions` from the JSON of a request.

  Raises:
    AppError: no object, or an unknown name.
  """
  try:
    given = json.loads(text or '{}')
  except json.JSONDecodeError as error:
    raise jobs.AppError(f'options: expected JSON, found {error}') from error
  if not isinstance(given, dict):
    raise jobs.AppError(f'options: expected an object, found {given!r:.40}')
  mode = given.pop('sync_mode', None)
  if mode is not None and mode not in SYNC_MODES:
    raise jobs.AppError(
      f'sync_mode: expected one of {", ".join(SYNC_MODES)}, found '
      f'{printable(str(mode))!r}'
    )
  if 'temperature' in given:
    given['strength'] = given.pop('temperature')
  unknown = min(given.keys() - OPTIONS, default=None)
  if unknown is not None:
    raise jobs.AppError(
      f'options: expected {", ".join(sorted(OPTIONS))} or sync_mode, found '
      f'{printable(unknown)!r}'
    )
  return SYNC_MODES.get(mode, {}) | given


def is_allowed(headers, token: str) -> bool:
  """Whether a request has the token, in one of the two usual headers."""
  if not token:
    return True
  given = headers.get('x-api-key', '')
  given = given or headers.get('authorization', '').removeprefix('Bearer ')
  return hmac.compare_digest(given.encode(), token.encode())


@dataclasses.dataclass(frozen=True)
class _Handlers:
  """What the routes do: (request[, job]) -> response."""

  table: JobTable
  token: str

  def guarded(self, action: Callable) -> Callable:
    """The action for requests with the token, and with their job if named."""

    async def handle(request):
      if not is_allowed(request.headers, self.token):
        return _refuse(401, 'expected the token in x-api-key')
      name = request.path_params.get('id')
      if name is None:
        return await action(request)
      job = self.table.get(name)
      if job is None:
        return _refuse(404, 'expected the id of a job')
      return await action(request, job)

    return handle

  async def submit(self, request):
    """Start a job."""
    most = 2 * self.table.runner.limits.megabytes * 2**20 + 2**20
    length = request.headers.get('content-length', '')
    if not length.isdecimal():
      return _refuse(411, 'expected a Content-Length')
    if int(length) > most:
      return _refuse(413, f'expected at most {most} bytes')
    user = jobs.User(self.table.runner.folder)
    try:
      paths, options = await _read_form(request, user)
      job = self.table.submit(user, *paths, options)
    except LipSyncError as error:
      user.close()
      return _refuse(400, str(error))
    except BaseException:
      user.close()
      raise
    return _answer(job.to_dict(), 201)

  async def show(self, request, job: HttpJob):
    """The state of a job."""
    return _answer(job.to_dict())

  async def show_all(self, request):
    """The states of all jobs."""
    return _answer([job.to_dict() for job in self.table.list()])

  async def result(self, request, job: HttpJob):
    """The output of a job."""
    from starlette.responses import FileResponse

    if job.status != 'COMPLETED':
      return _refuse(409, f'expected a COMPLETED job, found {job.status}')
    return FileResponse(job.output, filename=os.path.basename(job.output))

  async def remove(self, request, job: HttpJob):
    """Cancel and delete a job."""
    from starlette.concurrency import run_in_threadpool

    await run_in_threadpool(self.table.remove, job)
    return _answer({'id': job.id, 'status': 'CANCELED'})

  async def health(self, request):
    """Whether the server answers."""
    return _answer({'status': 'ok'})


def build_app(table: JobTable, token: str = ''):
  """The Starlette application.

  Args:
    table: of jobs.
    token: that every request must have; '' asks for none.
  """
  from starlette.applications import Starlette
  from starlette.concurrency import run_in_threadpool
  from starlette.routing import Route

  @contextlib.asynccontextmanager
  async def lifespan(app):
    yield
    await run_in_threadpool(table.close)

  do = _Handlers(table, token)
  one = '/v2/generate/{id}'
  return Starlette(
    routes=[
      Route('/health', do.health),
      Route('/v2/generate', do.guarded(do.submit), methods=['POST']),
      Route('/v2/generate', do.guarded(do.show_all)),
      Route(one, do.guarded(do.show)),
      Route(one, do.guarded(do.remove), methods=['DELETE']),
      Route(f'{one}/output', do.guarded(do.result)),
    ],
    lifespan=lifespan,
  )


def _answer(value, code: int = 200):
  from starlette.responses import JSONResponse

  return JSONResponse(value, code)


def _refuse(code: int, reason: str):
  return _answer({'error': reason}, code)


async def _read_form(request, user: jobs.User) -> tuple[list[str], dict]:
  """The saved files of a form, face and sound, and its options."""
  from starlette.concurrency import run_in_threadpool

  async with request.form(max_files=2, max_fields=4) as form:
    paths = [
      await run_in_threadpool(_save, user, form.get(name), name)
      for name in ('video', 'audio')
    ]
    return paths, read_options(form.get('options', ''))


def _save(user: jobs.User, upload, name: str) -> str:
  """Copy an uploaded file into the job's folder."""
  if upload is None or isinstance(upload, str):
    raise jobs.AppError(f'{name}: expected a file in the form, found none')
  suffix = pathlib.PurePath(upload.filename or '').suffix
  suffix = suffix if suffix.removeprefix('.').isalnum() else ''
  path = user.new_file(name + suffix)
  with open(path, 'wb') as file:
    shutil.copyfileobj(upload.file, file)
  return path
