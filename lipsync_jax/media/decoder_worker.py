"""The decoder process: `python -m lipsync_jax.media.video_reader.decoder_worker`, started by `decoder`.

It reads requests from its standard input and answers on its standard output
(`wire`), one after the other. All foreign bytes are parsed here, by the very
readers of `media` and `sound`: whatever a file does to them, it does it to
this process, which has a limit of memory and may be killed at any moment.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from lipsync_jax.media import (
  audio_reader,
  container,
  decoder_protocol,
  video_reader,
)

# Bytes. An 8k video of 10 bits with 16 threads needs about 4 GB.
MEMORY_LIMIT = 6 * 2**30
HEARTBEAT_SECONDS = (
  1.0  # s between signs of life while nothing can be delivered
)
MEMORY_EXIT_CODE = 9  # exit status: the memory watcher has ended the process


class PipeConnection:
  """Both pipes to the program that has started this process."""

  def __init__(self):
    # What libraries print must not get between the messages.
    self.out = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)
    self.requests: queue.SimpleQueue = queue.SimpleQueue()
    self.unwanted = -1  # serial number of the last request called off
    self.sent = time.monotonic()
    threading.Thread(target=self._listen, daemon=True).start()

  def send(self, facts: dict, *blocks) -> None:
    decoder_protocol.send(self.out, facts, *blocks)
    self.sent = time.monotonic()

  def beat(self) -> None:
    """Say now and then that the work goes on."""
    if time.monotonic() - self.sent > HEARTBEAT_SECONDS:
      self.send({'beat': True})

  def _listen(self) -> None:
    """Collect requests; end the process when the program has ended."""
    try:
      with os.fdopen(0, 'rb', closefd=False) as file:
        while True:
          facts, _ = decoder_protocol.receive(file)
          if 'stop' in facts:
            self.unwanted = facts['stop']
          else:
            self.requests.put(facts)
    finally:
      os._exit(0)  # whatever the decoder is doing


class WarningBuffer(logging.Handler):
  """Warnings of the readers, kept for the end of the answer."""

  def __init__(self):
    super().__init__(logging.WARNING)
    self.lines: list[str] = []

  def emit(self, record):
    self.lines.append(record.getMessage())

  def taken(self) -> list[str]:
    lines, self.lines = self.lines, []
    return lines


def probe_video(path: str, view) -> Iterator[tuple]:
  yield ({'result': video_reader.probe_video(path, view)},)


def probe_audio(path: str) -> Iterator[tuple]:
  yield ({'result': audio_reader.probe_audio(path)},)


def read_frames(video, start: int) -> Iterator[tuple]:
  return _planes(video_reader.read_frames(video, start))


def read_backwards(video, last: int, times: str) -> Iterator[tuple]:
  times = [Fraction(time) for time in times.split()]
  return _planes(video_reader.read_backwards(video, last, times))


def read_audio(audio, origin) -> Iterator[tuple]:
  for block in audio_reader.read_audio(audio, origin):
    yield {'count': block.shape[1]}, np.ascontiguousarray(block)


def stream_template(audio, origin) -> Iterator[tuple]:
  content = audio_reader.stream_template(audio, origin)
  yield {'copied': content is not None}, content or b''


def read_packets(audio) -> Iterator[tuple]:
  for packet in audio_reader.read_packets(audio):
    facts = {
      name: getattr(packet, name) for name in ('pts', 'dts', 'duration', 'unit')
    }
    yield facts, packet.data


def _planes(frames) -> Iterator[tuple]:
  for frame in frames:
    blocks = [np.ascontiguousarray(plane) for plane in frame.planes]
    yield {'index': frame.index, 'time': frame.time}, *blocks


HANDLERS = {
  answer.__name__: answer
  for answer in (
    *(probe_video, probe_audio, read_frames, read_backwards),
    *(read_audio, stream_template, read_packets),
  )
}


def answer_request(
  line: PipeConnection, request: dict, notes: WarningBuffer
) -> None:
  """Answer one request; every answer ends with exactly one last message."""
  serial, end = request['serial'], {}
  try:
    os.chdir(request['folder'])
    for message in HANDLERS[request['what']](**request['with']):
      if line.unwanted >= serial:
        break
      line.send(*message)
  except OSError as error:
    if isinstance(error, BrokenPipeError):
      raise
    end = {'error': f'decoding failed: {error}'}
  except MemoryError:
    end = {
      'error': f'decoding needs more than {MEMORY_LIMIT / 2**30:g} GB of memory'
    }
  except Exception as error:
    known = isinstance(error, container.MediaError)
    end = {'error': str(error) if known else f'decoding failed: {error!r}'}
  line.send({'end': True, 'notes': notes.taken(), 'peak': peak_rss(), **end})


def limit_memory() -> None:
  """Let allocations fail beyond MEMORY; watch the size where none would."""
  if sys.platform == 'linux':
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = (
      MEMORY_LIMIT
      if hard == resource.RLIM_INFINITY
      else min(MEMORY_LIMIT, hard)
    )
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    return

  def watch():
    while peak_rss() <= MEMORY_LIMIT:
      time.sleep(0.1)
    os._exit(MEMORY_EXIT_CODE)

  threading.Thread(target=watch, daemon=True).start()


def peak_rss() -> int:
  """The most memory this process has held, in bytes."""
  if sys.platform == 'win32':
    return _peak_rss_windows()
  if sys.platform == 'linux':
    # getrusage would count what the program held when it started this one.
    with open('/proc/self/status', encoding='ascii') as file:
      line = next(line for line in file if line.startswith('VmHWM'))
    return int(line.split()[1]) * 2**10
  import resource

  unit = 1 if sys.platform == 'darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_rss_windows() -> int:
  """PeakWorkingSetSize of PROCESS_MEMORY_COUNTERS."""
  import ctypes
  from ctypes import wintypes

  class Counters(ctypes.Structure):
    _fields_ = (
      ('size', wintypes.DWORD),
      ('faults', wintypes.DWORD),
      *((f'value{i}', ctypes.c_size_t) for i in range(8)),
    )

  counters = Counters(size=ctypes.sizeof(Counters))
  kernel = ctypes.WinDLL('kernel32')
  kernel.GetCurrentProcess.restype = wintypes.HANDLE
  kernel.K32GetProcessMemoryInfo.argtypes = (
    *(wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD),
  )
  handle = kernel.GetCurrentProcess()
  kernel.K32GetProcessMemoryInfo(handle, counters, counters.size)
  return counters.value0


def main() -> None:
  """Serve until the program ends or closes its side of the pipe."""
  line, notes = PipeConnection(), WarningBuffer()
  limit_memory()
  logging.getLogger('lipsync_jax').addHandler(notes)
  container.alive = line.beat
  while True:
    answer_request(line, line.requests.get(), notes)


if __name__ == '__main__':
  main()
