"""The readers of `media` and `sound`, run in a process of their own.

Decoders are large programs in C that meet files from anywhere. Here a crash,
a hang or a flood of memory ends that process (`worker`) and becomes one line;
the functions are those of `media` and `sound`, with the same results.

A process serves one reading at a time and is kept for the next one.
"""

import atexit
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float32, UInt8

from lipsync_jax.common.errors import printable
from lipsync_jax.media import audio_reader, decoder_protocol, decoder_worker
from lipsync_jax.media.container import MediaError, log
from lipsync_jax.media.types import Frame, Video, View

TIMEOUT_SECONDS = (
  60.0  # s without a sign of life, after which the process is killed
)
EXIT_SECONDS = (
  2.0  # s in which a process must answer that it has stopped reading
)
POLL_SECONDS = 0.25  # s between looks at a process
PIPE_BYTES = 2**20  # bytes; what Linux allows everybody
MAX_IDLE = 2  # idle processes: pictures and sound are read side by side
PACKAGE_PARENT = str(pathlib.Path(__file__).resolve().parents[2])
COMMAND = (sys.executable, '-P', '-m', decoder_worker.__name__)
# Threads of NumPy and heaps of many threads take room from the decoders.
WORKER_ENVIRONMENT = {'OPENBLAS_NUM_THREADS': '1', 'MALLOC_ARENA_MAX': '2'}

_idle: list['DecoderProcess'] = []
peaks: dict[int, int] = {}  # of living processes, the most bytes held


def probe_video(path: str | os.PathLike, view: View | None = None) -> Video:
  """`video_reader.probe_video`, apart."""
  path = os.fspath(path)
  return _single_result('probe_video', {'path': path, 'view': view})


def probe_audio(path: str | os.PathLike) -> audio_reader.AudioStream:
  """`audio_reader.probe_audio`, apart."""
  path = os.fspath(path)
  return _single_result('probe_audio', {'path': path})


def read_frames(video: Video, start: int = 0) -> Iterator[Frame]:
  """`video_reader.read_frames`, apart."""
  yield from _frames('read_frames', {'video': video, 'start': start})


def read_backwards(
  video: Video, last: int, times: Sequence[Fraction]
) -> Iterator[Frame]:
  """`video_reader.read_backwards`, apart."""
  known = ' '.join(str(time) for time in times[: last + 1])
  details = {'video': video, 'last': last, 'times': known}
  yield from _frames('read_backwards', details)


def read_audio(
  audio: audio_reader.AudioStream, origin: Fraction | None = None
) -> Iterator[Float32[np.ndarray, 'c n']]:
  """`audio_reader.read_audio`, apart."""
  details = {'audio': audio, 'origin': origin}
  for _, body in request_answers(audio.path, 'read_audio', details):
    yield body.view(np.float32).reshape(audio.channels, -1)  # [c n]


def stream_template(
  audio: audio_reader.AudioStream, origin: Fraction
) -> bytes | None:
  """`audio_reader.stream_template`, apart."""
  details = {'audio': audio, 'origin': origin}
  facts, body = next(request_answers(audio.path, 'stream_template', details))
  return bytes(body) if facts['copied'] else None


def read_packets(
  audio: audio_reader.AudioStream,
) -> Iterator[audio_reader.Packet]:
  """`audio_reader.read_packets`, apart."""
  for facts, body in request_answers(
    audio.path, 'read_packets', {'audio': audio}
  ):
    yield audio_reader.Packet(bytes(body), **facts)


def request_answers(
  path: str, what: str, details: dict
) -> Iterator[tuple[dict, UInt8[np.ndarray, 'n']]]:
  """Ask a decoder process for one of `decoder_worker.HANDLERS` about a file.

  Raises:
    MediaError: the reader's own, or what happened to the process.
  """
  process = _acquire_decoder()
  try:
    yield from process.answers(path, what, details)
  finally:
    if process.stop() and len(_idle) < MAX_IDLE:
      _idle.append(process)
    else:
      process.close()


def start_idle_worker() -> None:
  """Start a process that will be needed soon; starting takes half a second."""
  if not _idle:
    _idle.append(_acquire_decoder())


def close_idle_workers() -> None:
  """End the idle processes."""
  while _idle:
    _idle.pop().close()


class DecoderProcess:
  """A decoder process and the pipes to it; `request_answers` are read one by one."""

  def __init__(self):
    options = {}
    if sys.platform == 'win32':
      options['creationflags'] = (
        subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
      )
    else:
      options['start_new_session'] = True  # Ctrl-C is for the program
    path = os.pathsep.join(
      filter(None, [PACKAGE_PARENT, os.environ.get('PYTHONPATH')])
    )
    try:
      self.process = subprocess.Popen(  # noqa: S603  (no word of the user's)
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
    self.owner, self.serial = os.getpid(), 0
    self.busy = self.torn = self.silent = False
    self.waiting: float | None = None  # since when for an answer
    self.patience = TIMEOUT_SECONDS
    threading.Thread(target=self._watch, daemon=True).start()

  def answers(
    self, path: str, what: str, details: dict
  ) -> Iterator[tuple[dict, UInt8[np.ndarray, 'n']]]:
    """Ask, and yield every message of the answer but the last."""
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
      raise MediaError(f'{printable(path)}: {self._death(error)}') from None
    self.busy = False
    peaks[self.process.pid] = facts['peak']
    for note in facts['notes']:
      log.warning('%s', note)
    if 'error' in facts:
      raise MediaError(facts['error'])

  def stop(self) -> bool:
    """Call the rest of an answer off; whether it can serve again."""
    if self.busy and not self.torn:
      self.patience = EXIT_SECONDS
      with contextlib.suppress(OSError, EOFError, ValueError):
        self._send({'stop': self.serial})
        facts: dict = {}
        while 'end' not in facts:
          facts, _ = self._receive()
        peaks[self.process.pid] = facts['peak']
        self.busy = False
    return not (self.busy or self.torn) and self.process.poll() is None

  def close(self) -> None:
    """End the process."""
    peaks.pop(self.process.pid, None)
    self.process.kill()
    for pipe in (self.process.stdin, self.process.stdout):
      with contextlib.suppress(OSError):
        pipe.close()
    self.process.wait()

  def _send(self, facts: dict) -> None:
    decoder_protocol.send(self.process.stdin, facts)

  def _receive(self) -> tuple[dict, UInt8[np.ndarray, 'n']]:
    """Read one message; if that is interrupted, the next cannot be found."""
    self.torn, self.waiting = True, time.monotonic()
    message = decoder_protocol.receive(self.process.stdout)
    self.torn, self.waiting = False, None
    return message

  def _watch(self) -> None:
    """Kill the process when it keeps silent for too long."""
    before, pulses = None, 0
    while self.process.poll() is None:
      time.sleep(POLL_SECONDS)
      # Counted, not measured: a program that was stopped for a while (Ctrl-Z)
      # must not take its own sleep for the decoder's.
      since = self.waiting
      pulses = pulses + 1 if since is not None and since == before else 0
      before = since
      if pulses * POLL_SECONDS > self.patience:
        self.silent = True
        self.process.kill()

  def _death(self, error: Exception) -> str:
    """Say what happened to the process."""
    if self.silent:
      how = f'gave no sign of life for {TIMEOUT_SECONDS:g} s'
    elif not isinstance(error, EOFError | OSError):
      how = f'answered nonsense ({printable(str(error))})'
    else:
      with contextlib.suppress(subprocess.TimeoutExpired):
        self.process.wait(EXIT_SECONDS)
      status = self.process.returncode
      if status == decoder_worker.MEMORY_EXIT_CODE:
        how = (
          f'took more than {decoder_worker.MEMORY_LIMIT / 2**30:g} GB of memory'
        )
      elif status is not None and status < 0:
        name = signal.Signals(-status).name if -status < 32 else -status
        how = f'was ended by {name}'
      else:
        how = f'ended with status {status}'
    return f'its decoder {how}; the file is damaged, convert or replace it'


def _enlarge_pipe(pipe) -> None:
  """Let a pipe hold most of a frame, where it can; fewer changes of turn."""
  if sys.platform == 'linux':
    import fcntl

    with contextlib.suppress(OSError):
      fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _acquire_decoder() -> DecoderProcess:
  """An idle process, or a new one."""
  while True:
    try:
      process = _idle.pop()
    except IndexError:
      break
    # A fork has the list too, but must leave its parent's processes alone.
    if process.owner == os.getpid() and process.process.poll() is None:
      return process
  atexit.unregister(close_idle_workers)
  atexit.register(close_idle_workers)
  return DecoderProcess()


def _single_result(what: str, details: dict):
  """The result of a request that has one."""
  with contextlib.closing(
    request_answers(details['path'], what, details)
  ) as messages:
    result = next(messages)[0]['result']
    for _ in messages:  # the last message brings warnings
      pass
  return result


def _frames(what: str, details: dict) -> Iterator[Frame]:
  """Frames of a video, each with its planes in one block of memory."""
  video = details['video']
  shapes = [(video.height // s, video.width // s) for s in (1, 2, 2)]
  kind = np.uint8 if video.color.depth == 8 else np.uint16
  with contextlib.closing(
    request_answers(video.path, what, details)
  ) as messages:
    for facts, body in messages:
      body.flags.writeable = False
      planes, done = [], 0
      for shape in shapes:
        size = shape[0] * shape[1] * np.dtype(kind).itemsize
        planes.append(body[done : done + size].view(kind).reshape(shape))
        done += size
      yield Frame(facts['index'], facts['time'], tuple(planes))
