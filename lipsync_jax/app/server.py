"""Jobs over HTTP: submit, status, result, cancel, list.

The words are those of hosted services (`job_table` has the states). A request
is read by `submission`.
"""

import contextlib
import dataclasses
import hmac
import os
from collections.abc import Callable

from lipsync_jax.app import jobs
from lipsync_jax.app.job_table import STATES, HttpJob, JobTable
from lipsync_jax.app.submission import read_request
from lipsync_jax.app.webhooks import WebhookSender
from lipsync_jax.common.errors import LipSyncError, printable

MAX_PAGE = 1000  # jobs of one answer


def read_page(query) -> tuple[int, int, str | None]:
  """The limit, offset and status that a list is asked for.

  Args:
    query: the words after '?', as text by name.

  Raises:
    AppError: a number or a status that does not exist.
  """
  numbers = {'limit': '100', 'offset': '0'}
  for name in numbers:
    text = query.get(name, numbers[name])
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
      raise jobs.AppError(
        f'{name}: expected a number from 0, found {printable(text)[:40]!r}'
      )
    numbers[name] = int(text)
  status = query.get('status')
  if status is not None and status not in STATES:
    raise jobs.AppError(
      f'status: expected one of {", ".join(STATES)}, found '
      f'{printable(status)[:40]!r}'
    )
  return min(numbers['limit'], MAX_PAGE), numbers['offset'], status


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
  webhooks: WebhookSender

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
      given = await read_request(request, user, self.webhooks.check)
      job = self.table.submit(user, given)
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
    """A page of the states of all jobs."""
    try:
      limit, offset, status = read_page(request.query_params)
    except LipSyncError as error:
      return _refuse(400, str(error))
    found = self.table.list(status)
    page = [job.to_dict() for job in found[offset : offset + limit]]
    return _answer(page, headers={'X-Total-Count': str(len(found))})

  async def result(self, request, job: HttpJob):
    """The output of a job."""
    from starlette.responses import FileResponse

    if job.status != 'COMPLETED':
      return _refuse(409, f'expected a COMPLETED job, found {job.status}')
    return FileResponse(job.output, filename=os.path.basename(job.output))

  async def cancel(self, request, job: HttpJob):
    """End a job and keep its entry."""
    from starlette.concurrency import run_in_threadpool

    await run_in_threadpool(self.table.cancel, job)
    return _answer(job.to_dict())

  async def remove(self, request, job: HttpJob):
    """Cancel and delete a job."""
    from starlette.concurrency import run_in_threadpool

    await run_in_threadpool(self.table.remove, job)
    return _answer({'id': job.id, 'status': 'CANCELED'})

  async def health(self, request):
    """Whether the server answers."""
    return _answer({'status': 'ok'})


def build_app(
  table: JobTable, token: str = '', webhooks: WebhookSender | None = None
):
  """The Starlette application.

  Args:
    table: of jobs.
    token: that every request must have; '' asks for none.
    webhooks: calls the URLs of requests; None refuses them.
  """
  from starlette.applications import Starlette
  from starlette.concurrency import run_in_threadpool
  from starlette.routing import Route

  @contextlib.asynccontextmanager
  async def lifespan(app):
    yield
    await run_in_threadpool(table.close)
    webhooks.close()

  webhooks = webhooks or WebhookSender(frozenset(), '')

  def notify(job: HttpJob) -> None:
    if job.request.webhook:
      facts = job.to_dict() | {'webhook_status': 'PENDING'}
      webhooks.send(job.request.webhook, facts, job.note_delivery)

  table.on_end = notify
  do = _Handlers(table, token, webhooks)
  one = '/v2/generate/{id}'
  return Starlette(
    routes=[
      Route('/health', do.health),
      Route('/v2/generate', do.guarded(do.submit), methods=['POST']),
      Route('/v2/generate', do.guarded(do.show_all)),
      Route(one, do.guarded(do.show)),
      Route(one, do.guarded(do.remove), methods=['DELETE']),
      Route(f'{one}/cancel', do.guarded(do.cancel), methods=['POST']),
      Route(f'{one}/output', do.guarded(do.result)),
    ],
    lifespan=lifespan,
  )


def _answer(value, code: int = 200, headers: dict | None = None):
  from starlette.responses import JSONResponse

  return JSONResponse(value, code, headers)


def _refuse(code: int, reason: str):
  return _answer({'error': reason}, code)
