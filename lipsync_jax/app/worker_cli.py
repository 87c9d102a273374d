"""Command line of `lipsync worker`: jobs of another program, one process.

Each line of standard input is a JSON object: a job with `id`, `face`, `audio`,
`outfile` and `options` (fields of `SyncOptions`), or `{"cancel": id}`. Each
line of standard output is one with `id` and `state`: started, progress, done,
failed or canceled. Jobs run one after the other; weights and compiled networks
stay loaded. The process ends with its standard input, so with its parent.
"""

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TextIO

from lipsync_jax.common.cli import run_command
from lipsync_jax.common.errors import Cancelled, LipSyncError, reason_of
from lipsync_jax.inference import cli

END_SECONDS = 2.0  # for a job that is canceled when the input ends


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command's flags."""
  parser = cli.OneLineParser(
    'lipsync worker',
    description='Jobs of another program: JSON lines on standard input and '
    'output. Ends with its standard input.',
  )
  add = parser.add_argument
  add(
    '--idle-seconds',
    type=float,
    default=600,
    help='end after so long without a job, which frees the memory; 0: never',
  )
  add('--cpu', action='store_true', help='do not use a GPU')
  return parser


class Worker:
  """Does jobs in a thread of its own.

  Attributes:
    idle: seconds without a job after which the process ends, or None.
  """

  def __init__(self, sink: TextIO, idle: float | None):
    self.idle, self._sink = idle, sink
    self._jobs: queue.Queue[dict | None] = queue.Queue()
    self._stops: dict[str, threading.Event] = {}
    self._lock = threading.Lock()
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def take(self, line: str) -> None:
    """Take a line: a job, or a request to cancel one."""
    message = json.loads(line)
    if 'cancel' in message:
      if message['cancel'] in self._stops:
        self._stops[message['cancel']].set()
      return
    self._stops[message['id']] = threading.Event()
    self._jobs.put(message)

  def close(self) -> None:
    """Cancel all jobs, and wait for END_SECONDS."""
    for stop in list(self._stops.values()):
      stop.set()
    self._jobs.put(None)
    self._thread.join(END_SECONDS)

  def _tell(self, job: dict, state: str, **facts) -> None:
    """Write a line; a parent that has gone reads none."""
    line = json.dumps({'id': job['id'], 'state': state, **facts})
    with self._lock, contextlib.suppress(OSError, ValueError):
      self._sink.write(line + '\n')
      self._sink.flush()

  def _work(self) -> None:
    from lipsync_jax.inference.session import Session

    with Session() as session:
      for job in self._until_idle():
        self._do(session, job)
        del self._stops[job['id']]

  def _until_idle(self) -> Iterator[dict]:
    """The jobs, until none comes for `idle` seconds or `close` is called."""
    while True:
      try:
        job = self._jobs.get(timeout=self.idle)
      except queue.Empty:
        os._exit(0)  # the main thread waits for a line
      if job is None:
        return
      yield job

  def _do(self, session, job: dict) -> None:
    """Do a job and tell its states."""
    self._tell(job, 'started')

    def show(news) -> None:
      self._tell(job, 'progress', stage=news.stage, share=news.share)

    try:
      session.sync(
        job['face'],
        job['audio'],
        job['outfile'],
        progress=show,
        cancelled=self._stops[job['id']],
        **job.get('options', {}),
      )
    except Cancelled:
      self._tell(job, 'canceled')
    except Exception as error:
      known = isinstance(error, LipSyncError | OSError)
      kind = '' if known else f'{type(error).__name__}: '
      self._tell(job, 'failed', reason=kind + reason_of(error))
    else:
      self._tell(job, 'done')


def run(argv: Sequence[str]) -> None:
  """Do jobs until the end of standard input.

  Raises:
    LipSyncError: a line that is no job.
  """
  args = build_parser().parse_args(list(cli.with_hyphens(argv)))
  if args.idle_seconds < 0:
    raise LipSyncError(
      f'--idle-seconds: expected 0 or more, found {args.idle_seconds:g}'
    )
  if args.cpu:
    os.environ['JAX_PLATFORMS'] = 'cpu'
  # What a library prints must not stand between the lines.
  sink = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  worker = Worker(sink, args.idle_seconds or None)
  try:
    for line in sys.stdin:
      try:
        worker.take(line)
      except (ValueError, TypeError, KeyError) as error:
        raise LipSyncError(
          'expected lines of JSON with id, face, audio and outfile, found '
          f'{line.strip()[:80]!r}'
        ) from error
  finally:
    worker.close()


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  code = run_command(lambda: run(words), 'stopped')
  # Python's own end would wait for native code of a job that goes on.
  sys.stderr.flush()
  os._exit(code)
