"""One decoder process and the pipes to it.

A crash, a hang or too much memory ends the process (`decoder_worker`) and
becomes an error of one line.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from lipsync_jax.common.errors import printable
from lipsync_jax.media import decoder_protocol, decoder_worker
from lipsync_jax.media.container import MediaError, log

TIMEOUT_SECONDS = 60.0  # without a message; then the process is killed
EXIT_SECONDS = 2.0  # to confirm that a reading has stopped
POLL_SECONDS = 0.25  # between two checks of a process
PIPE_BYTES = 2**20  # the most that Linux grants to every user
PACKAGE_PARENT = str(pathlib.Path(__file__).resolve().parents[2])
COMMAND = (sys.executable, '-P', '-m', decoder_worker.__name__)
# Threads of NumPy and heaps of many threads would use the decoders' memory.
WORKER_ENVIRONMENT = {'OPENBLAS_NUM_THREADS': '1', 'MALLOC_ARENA_MAX': '2'}


class DecoderProcess:
  """A decoder process; it answers one request at a time.

  Attributes:
    peak: the most bytes it had held at the end of its last answer.
    owner: process that started it; a fork of that process must not end it.
  """

  def __init__(self):
    """Start the process.

    Raises:
      MediaError: it cannot be started.
    """
    options = {}
    if sys.platform == 'win32':
      options['creationflags'] = (
        subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
      )
    else:
      options['start_new_session'] = True  # Ctrl-C reaches only the program
    path = os.pathsep.join(
      filter(None, [PACKAGE_PARENT, os.environ.get('PYTHONPATH')])
    )
    try:
      self.process = subprocess.Popen(  # noqa: S603  (no input of the user)
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **WORKER_ENVIRONMENT, 'PYTHONPATH': path},
        bufsize=0,
        **options,
      )
    except OSError as error:
      raise MediaError(
        f'the decoder process could not be started: {error}'
      ) from error
    _enlarge_pipe(self.process.stdout)
    self.owner, self.serial, self.peak = os.getpid(), 0, 0
    self.busy = self.torn = self.timed_out = False
    self.waiting_since: float | None = None  # for a message
    self.patience = TIMEOUT_SECONDS
    threading.Thread(target=self._watch, daemon=True).start()

  def is_alive(self) -> bool:
    """Whether the process has not ended."""
    return self.process.poll() is None

  def answers(
    self, path: str, what: str, details: dict
  ) -> Iterator[tuple[dict, UInt8[np.ndarray, 'n']]]:
    """Send a request and yield every message of the answer but the last.

    Args:
      path: the file, for errors.
      what: a key of `decoder_worker.HANDLERS`.
      details: the handler's arguments.

    Raises:
      MediaError: the reader's own, or the end of the process.
    """
    self.serial += 1
    request = {'serial': self.serial, 'what': what, 'with': details}
    request['folder'] = os.getcwd()
    self.busy, self.patience = True, TIMEOUT_SECONDS
    try:
      self._send(request)
      while True:
        facts, body = self._receive()
        if 'end' in facts:
          break
        if 'beat' not in facts:
          yield facts, body
    except (OSError, EOFError, ValueError) as error:
      self.torn = True
      raise MediaError(
        f'{printable(path)}: {self._describe_end(error)}'
      ) from None
    self.busy, self.peak = False, facts['peak']
    for note in facts['notes']:
      log.warning('%s', note)
    if 'error' in facts:
      raise MediaError(facts['error'])

  def stop(self) -> bool:
    """Cancel the rest of an answer; returns whether it can serve again."""
    if self.busy and not self.torn:
      self.patience = EXIT_SECONDS
      with contextlib.suppress(OSError, EOFError, ValueError):
        self._send({'stop': self.serial})
        facts: dict = {}
        while 'end' not in facts:
          facts, _ = self._receive()
        self.busy, self.peak = False, facts['peak']
    return not (self.busy or self.torn) and self.is_alive()

  def close(self) -> None:
    """End the process, unless it belongs to the parent of this one."""
    if self.owner != os.getpid():
      return
    self.process.kill()
    for pipe in (self.process.stdin, self.process.stdout):
      with contextlib.suppress(OSError):
        pipe.close()
    self.process.wait()

  def _send(self, facts: dict) -> None:
    decoder_protocol.send(self.process.stdin, facts)

  def _receive(self) -> tuple[dict, UInt8[np.ndarray, 'n']]:
    """Read one message; after an interruption the stream is unusable."""
    self.torn, self.waiting_since = True, time.monotonic()
    message = decoder_protocol.receive(self.process.stdout)
    self.torn, self.waiting_since = False, None
    return message

  def _watch(self) -> None:
    """Kill the process if no message comes for `patience` seconds."""
    before, polls = None, 0
    while self.is_alive():
      time.sleep(POLL_SECONDS)
      # Polls are counted instead of seconds: after a pause of the program
      # (Ctrl-Z) its own idle time must not count as the decoder's.
      since = self.waiting_since
      polls = polls + 1 if since is not None and since == before else 0
      before = since
      if polls * POLL_SECONDS > self.patience:
        self.timed_out = True
        self.process.kill()

  def _describe_end(self, error: Exception) -> str:
    """Why the process ended, and what to do about the file."""
    if self.timed_out:
      how = f'gave no sign of life for {TIMEOUT_SECONDS:g} s'
    elif not isinstance(error, EOFError | OSError):
      how = f'answered nonsense ({printable(str(error))})'
    else:
      with contextlib.suppress(subprocess.TimeoutExpired):
        self.process.wait(EXIT_SECONDS)
      how = _describe_status(self.process.returncode)
    return f'its decoder {how}; the file is damaged, convert or replace it'


def _describe_status(status: int | None) -> str:
  """An exit status in words."""
  if status == decoder_worker.MEMORY_EXIT_CODE:
    limit = decoder_worker.MEMORY_LIMIT / 2**30
    return f'took more than {limit:g} GB of memory'
  if status is not None and status < 0:
    name = signal.Signals(-status).name if -status < 32 else -status
    return f'was ended by {name}'
  return f'ended with status {status}'


def _enlarge_pipe(pipe) -> None:
  """Let a pipe hold most of a frame, which saves process switches."""
  if sys.platform == 'linux':
    import fcntl

    with contextlib.suppress(OSError):
      fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
