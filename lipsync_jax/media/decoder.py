"""The readers of `video_reader` and `audio_reader`, run in other processes.

Decoders are large programs in C that parse files of unknown origin. Here a
crash, a hang or too much memory ends only the decoder process and becomes an
error of one line. `DecoderPool` has the readers' functions with the same
results; the functions of this module are those of `DEFAULT_POOL`. Videos and
sound in memory (`media.memory`) are read without a process.
"""

import collections
import contextlib
import os
import weakref
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float32, UInt8

from lipsync_jax.common import cancellation
from lipsync_jax.media import audio_reader, extras
from lipsync_jax.media.decoder_process import DecoderProcess
from lipsync_jax.media.memory import MemoryAudio, MemoryVideo
from lipsync_jax.media.types import Frame, Video, View

MAX_IDLE = 2  # idle processes: frames and sound are read side by side


class DecoderPool:
  """Decoder processes of a program or of one job; safe for threads.

  A process serves one reading at a time and is kept for the next one. Use
  the pool in a `with` statement, or call `close`. Idle processes also end
  with the pool object and with the program.
  """

  def __init__(self, max_idle: int = MAX_IDLE):
    """Create an empty pool.

    Args:
      max_idle: processes kept for later readings.
    """
    self.max_idle = max_idle
    self._owner = os.getpid()
    # No lock: the garbage collector may end a reading within any statement
    # of any thread, also while it holds a lock. Each operation on the two
    # collections is atomic.
    self._idle: collections.deque[DecoderProcess] = collections.deque()
    self._busy: set[DecoderProcess] = set()
    self._closings = 0
    weakref.finalize(self, _close_all, self._idle)

  def __enter__(self) -> 'DecoderPool':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """End the idle processes, and the others when their readings end.

    The pool may be used again and then starts new processes.
    """
    self._closings += 1
    self._busy.clear()
    _close_all(self._idle)

  @property
  def peak_bytes(self) -> int:
    """Sum of the peak memory of all living processes."""
    processes = (*self._idle.copy(), *self._busy.copy())
    return sum(process.peak for process in processes)

  def start_idle_worker(self) -> None:
    """Have a process ready, since starting one takes half a second."""
    if not self._idle:
      self._release(self._acquire())

  def probe_video(
    self, path: str | os.PathLike, view: View | None = None
  ) -> Video:
    """`video_reader.probe_video` in a decoder process."""
    path = os.fspath(path)
    return self._result(path, 'probe_video', {'path': path, 'view': view})

  def probe_audio(
    self, path: str | os.PathLike, stream: int | None = None
  ) -> audio_reader.AudioStream:
    """`audio_reader.probe_audio` in a decoder process."""
    path = os.fspath(path)
    return self._result(path, 'probe_audio', {'path': path, 'stream': stream})

  def probe_extras(
    self, path: str | os.PathLike, picture: int
  ) -> extras.Extras:
    """`extras.probe_extras` in a decoder process."""
    path = os.fspath(path)
    details = {'path': path, 'picture': picture}
    return self._result(path, 'probe_extras', details)

  def read_file(self, path: str, index: int) -> bytes:
    """`extras.read_file` in a decoder process."""
    details = {'path': path, 'index': index}
    messages = list(self.answers(path, 'read_file', details))
    return bytes(messages[0][1])

  def read_subtitles(
    self, path: str, index: int
  ) -> tuple[str, list[extras.SubtitleLine]]:
    """`extras.read_subtitles` in a decoder process: the header, the lines."""
    details = {'path': path, 'index': index}
    messages = self.answers(path, 'read_subtitles', details)
    header, *lines = [facts['line'] for facts, _ in messages]
    return header, lines

  def read_frames(self, video: Video, start: int = 0) -> Iterator[Frame]:
    """`video_reader.read_frames` in a decoder process."""
    if isinstance(video, MemoryVideo):
      return video.read_frames(start)
    details = {'video': video, 'start': start}
    return self._frames(video, 'read_frames', details)

  def read_backwards(
    self, video: Video, last: int, times: Sequence[Fraction]
  ) -> Iterator[Frame]:
    """`video_reader.read_backwards` in a decoder process."""
    if isinstance(video, MemoryVideo):
      return video.read_backwards(last)
    text = ' '.join(str(time) for time in times[: last + 1])
    details = {'video': video, 'last': last, 'times': text}
    return self._frames(video, 'read_backwards', details)

  def read_chosen(
    self,
    video: Video,
    chosen: Sequence[int],
    times: Sequence[Fraction],
    skip: int,
  ) -> Iterator[Frame]:
    """`video_reader.read_chosen` in a decoder process."""
    if isinstance(video, MemoryVideo):
      return video.read_chosen(chosen)
    if not len(chosen):
      return (frame for frame in ())
    texts = (' '.join(map(str, values)) for values in (chosen, times))
    details = dict(zip(('chosen', 'times'), texts, strict=True))
    details |= {'video': video, 'skip': skip}
    return self._frames(video, 'read_chosen', details)

  def read_audio(
    self, audio: audio_reader.AudioStream, origin: Fraction | None = None
  ) -> Iterator[Float32[np.ndarray, 'c n']]:
    """`audio_reader.read_audio` in a decoder process."""
    if isinstance(audio, MemoryAudio):
      yield from audio.read_blocks()
      return
    details = {'audio': audio, 'origin': origin}
    for _, body in self.answers(audio.path, 'read_audio', details):
      yield body.view(np.float32).reshape(audio.channels, -1)  # [c n]

  def stream_template(
    self, audio: audio_reader.AudioStream, origin: Fraction
  ) -> bytes | None:
    """`audio_reader.stream_template` in a decoder process."""
    details = {'audio': audio, 'origin': origin}
    messages = self.answers(audio.path, 'stream_template', details)
    with contextlib.closing(messages):
      facts, body = next(messages)
    return bytes(body) if facts['copied'] else None

  def read_packets(
    self, audio: audio_reader.AudioStream
  ) -> Iterator[audio_reader.Packet]:
    """`audio_reader.read_packets` in a decoder process."""
    messages = self.answers(audio.path, 'read_packets', {'audio': audio})
    for facts, body in messages:
      yield audio_reader.Packet(bytes(body), **facts)

  def answers(
    self, path: str, what: str, details: dict
  ) -> Iterator[tuple[dict, UInt8[np.ndarray, 'n']]]:
    """Send a request to a process and yield the messages of its answer.

    Args:
      path: the file, for errors.
      what: a key of `decoder_worker.HANDLERS`.
      details: the handler's arguments.

    Raises:
      MediaError: the reader's own, or the end of the process.
      Cancelled: by the scope of the thread that reads.
    """
    cancellation.check()
    process = self._acquire()
    try:
      for message in process.answers(path, what, details):
        yield message
        cancellation.check()
    finally:
      self._release(process)

  def _acquire(self) -> DecoderProcess:
    """An idle process, or a new one."""
    if self._owner != os.getpid():
      self._start_over()
    process = _pop(self._idle)
    while process is not None and not process.is_alive():
      process.close()
      process = _pop(self._idle)
    process = process or DecoderProcess()
    self._busy.add(process)
    return process

  def _release(self, process: DecoderProcess) -> None:
    """Keep a process for the next reading, or end it."""
    closings, keep = self._closings, False
    try:
      keep = process.stop() and process in self._busy
      keep = keep and len(self._idle) < self.max_idle
    finally:
      self._busy.discard(process)
      if keep:
        self._idle.append(process)
      else:
        process.close()
    if closings != self._closings:  # the pool was closed meanwhile
      _close_all(self._idle)

  def _start_over(self) -> None:
    """Empty the pool in a forked child: its parent owns the processes."""
    self._owner = os.getpid()
    self._idle.clear()
    self._busy.clear()

  def _result(self, path: str, what: str, details: dict):
    """The result of a request that has only one."""
    messages = self.answers(path, what, details)
    with contextlib.closing(messages):
      result = next(messages)[0]['result']
      for _ in messages:  # the last message brings warnings
        pass
    return result

  def _frames(self, video: Video, what: str, details: dict) -> Iterator[Frame]:
    """Frames of a video, each with its planes in one block of memory."""
    steps = (1, 2, 2, 1) if video.alpha else (1, 2, 2)
    shapes = [(video.height // s, video.width // s) for s in steps]
    dtype = np.uint8 if video.color.depth == 8 else np.uint16
    messages = self.answers(video.path, what, details)
    with contextlib.closing(messages):
      for facts, body in messages:
        body.flags.writeable = False
        planes, start = [], 0
        for shape in shapes:
          end = start + shape[0] * shape[1] * np.dtype(dtype).itemsize
          planes.append(body[start:end].view(dtype).reshape(shape))
          start = end
        alpha = planes.pop() if video.alpha else None
        yield Frame(facts['index'], facts['time'], tuple(planes), alpha)


def _pop(processes: collections.deque) -> DecoderProcess | None:
  try:
    return processes.pop()
  except IndexError:
    return None


def _close_all(processes: collections.deque) -> None:
  while (process := _pop(processes)) is not None:
    process.close()


DEFAULT_POOL = DecoderPool()
probe_video = DEFAULT_POOL.probe_video
probe_audio = DEFAULT_POOL.probe_audio
read_frames = DEFAULT_POOL.read_frames
read_backwards = DEFAULT_POOL.read_backwards
read_chosen = DEFAULT_POOL.read_chosen
read_audio = DEFAULT_POOL.read_audio
stream_template = DEFAULT_POOL.stream_template
read_packets = DEFAULT_POOL.read_packets
probe_extras = DEFAULT_POOL.probe_extras
