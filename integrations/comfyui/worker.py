"""Runs lipsync_jax in a process of its own environment, which stays warm.

XLA takes memory of the card and has its own version of numpy, so ComfyUI's
process loads neither. LIPSYNC_JAX_PYTHON names the Python of an environment
with lipsync_jax; without it the program `lipsync` on the PATH is run. Both
processes exchange lines of JSON (`lipsync worker`). The worker starts with the
first job, keeps weights and compiled networks for the next ones, and ends with
ComfyUI or after LIPSYNC_JAX_IDLE_SECONDS (600) without a job.
"""

import atexit
import collections
import contextlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping

POLL_SECONDS = 0.2
CANCEL_SECONDS = 3.0  # until a worker that does not cancel is killed
END_SECONDS = 5.0


def find_command() -> list[str]:
  """The words that start `lipsync`.

  Raises:
    RuntimeError: it is not installed.
  """
  python = os.environ.get('LIPSYNC_JAX_PYTHON')
  if python:
    if not os.path.isfile(python):
      raise RuntimeError(
        f'LIPSYNC_JAX_PYTHON: expected a Python program, found none at '
        f'{python!r}'
      )
    return [python, '-m', 'lipsync_jax']
  program = shutil.which('lipsync')
  if program is None:
    raise RuntimeError(
      'expected LIPSYNC_JAX_PYTHON (the Python of an environment with '
      'lipsync_jax) or `lipsync` on the PATH, found neither'
    )
  return [program]


class _Process:
  """A running worker: lines in, lines out, and its last words."""

  def __init__(self):
    command = find_command()
    words = [*command, 'worker']
    idle = os.environ.get('LIPSYNC_JAX_IDLE_SECONDS')
    words += [f'--idle-seconds={idle}'] if idle else []
    # ComfyUI's own settings of Python would load its packages in the worker.
    hidden = ('PYTHONPATH', 'PYTHONHOME')
    given = {k: v for k, v in os.environ.items() if k not in hidden}
    given.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    self.command = command
    self.popen = subprocess.Popen(  # noqa: S603  (a list of words, no shell)
      words,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      encoding='utf-8',
      errors='replace',
      env=given,
      # A Python looks for modules in the folder in which it starts.
      cwd=os.path.dirname(os.path.abspath(command[0])),
    )
    self.news: queue.Queue[dict] = queue.Queue()
    self.last_words: collections.deque[str] = collections.deque(maxlen=20)
    self._readers = [
      threading.Thread(target=read, daemon=True)
      for read in (self._read_news, self._read_words)
    ]
    for reader in self._readers:
      reader.start()

  def _read_news(self) -> None:
    for line in self.popen.stdout:
      with contextlib.suppress(ValueError):
        self.news.put(json.loads(line))
    self.news.put({'state': 'ended'})

  def _read_words(self) -> None:
    for line in filter(str.strip, self.popen.stderr):
      self.last_words.append(line.strip())

  def send(self, message: dict) -> None:
    """Write a line; a worker that has ended reads none."""
    with contextlib.suppress(OSError, ValueError):
      self.popen.stdin.write(json.dumps(message) + '\n')
      self.popen.stdin.flush()

  def why_it_ended(self) -> str:
    """The last words of a worker that has ended, or its exit code."""
    self.popen.wait()
    self._readers[1].join(END_SECONDS)
    words = self.last_words[-1] if self.last_words else ''
    words = words.removeprefix('error: ')
    return words or f'the worker ended with code {self.popen.returncode}'

  def end(self) -> None:
    """End the worker in order, else kill it."""
    with contextlib.suppress(OSError, ValueError):
      self.popen.stdin.close()
    try:
      self.popen.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
      self.kill()

  def kill(self) -> None:
    """End the worker now."""
    self.popen.kill()
    self.popen.wait()


class Worker:
  """The worker of this process: started when needed, and again if it died."""

  def __init__(self):
    self._lock = threading.Lock()  # one job at a time
    self._process: _Process | None = None
    self._ids = itertools.count(1)

  def run(self, job: dict, check: Callable[[], object]) -> None:
    """Do a job; see `lip_sync`."""
    with self._lock:
      for attempt in range(2):
        process, job = self._running(), job | {'id': str(next(self._ids))}
        process.send(job)
        try:
          state, reason, started = self._follow(process, job['id'], check)
        except BaseException:
          self._cancel(process, job['id'])
          raise
        if state == 'done':
          return
        # A worker that was idle may end just when the job is sent.
        idle = state == 'ended' and not started and process.popen.wait() == 0
        if idle and not attempt:
          continue
        if state == 'ended':
          reason = process.why_it_ended()
        raise RuntimeError(f'lipsync: {reason}')

  def close(self) -> None:
    """End the worker."""
    process, self._process = self._process, None
    if process is not None:
      process.end()

  def _running(self) -> _Process:
    """The worker, a new one if there is none that runs."""
    now = self._process
    if now is not None and now.popen.poll() is None:
      if now.command == find_command():
        return now
      now.end()
    self._process = _Process()
    return self._process

  def _follow(
    self, process: _Process, name: str, check: Callable[[], object]
  ) -> tuple[str, str, bool]:
    """Read news until the job ends: (state, reason, whether it began)."""
    started = False
    while True:
      check()
      try:
        news = process.news.get(timeout=POLL_SECONDS)
      except queue.Empty:
        continue
      state = news.get('state', '')
      if state == 'ended':
        return state, '', started
      if news.get('id') != name:
        continue  # of a job that was canceled
      started = True
      if state in ('done', 'failed', 'canceled'):
        return state, news.get('reason', state), started

  def _cancel(self, process: _Process, name: str) -> None:
    """Cancel a job; a worker that does not answer is killed."""
    process.send({'cancel': name})
    waits = round(CANCEL_SECONDS / POLL_SECONDS)
    for _ in range(waits):
      try:
        news = process.news.get(timeout=POLL_SECONDS)
      except queue.Empty:
        continue
      ended = news.get('state') in ('done', 'failed', 'canceled')
      if news.get('state') == 'ended' or (ended and news.get('id') == name):
        return
    process.kill()


WORKER = Worker()
atexit.register(WORKER.close)


def lip_sync(
  face: str,
  audio: str,
  outfile: str,
  options: Mapping[str, object] | None = None,
  check: Callable[[], object] = lambda: None,
) -> None:
  """Write `outfile`: `face` with lips that speak the words of `audio`.

  Args:
    face: video.
    audio: sound.
    outfile: its suffix is the container.
    options: further options of `lipsync`, with underscores.
    check: called often; an exception in it cancels the job.

  Raises:
    RuntimeError: the worker's line on what it refused.
  """
  paths = {'face': face, 'audio': audio, 'outfile': outfile}
  job = {name: os.path.abspath(path) for name, path in paths.items()}
  WORKER.run(job | {'options': dict(options or {})}, check)
