"""The decoder process, which `decoder_process` starts.

It reads requests from standard input and answers on standard output, one
after the other (`decoder_protocol`). `video_reader` and `audio_reader` parse
the files here, so a malformed file harms only this process. The process has a
memory limit and may be killed at any moment.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from lipsync_jax.common.memory import peak_rss
from lipsync_jax.media import (
  audio_reader,
  container,
  decoder_protocol,
  extras,
  video_reader,
)
from lipsync_jax.media.container import Heartbeat

# Bytes. An 8k video of 10 bits with 16 threads needs about 4 GB.
MEMORY_LIMIT = 6 * 2**30
HEARTBEAT_SECONDS = 1.0  # between messages while there is no result
MEMORY_EXIT_CODE = 9  # exit status after exceeding MEMORY_LIMIT


class PipeConnection:
  """Both pipes to the program that started this process."""

  def __init__(self):
    """Take over standard input and output and start listening."""
    # The output of libraries must not mix with the messages.
    self.out = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)
    self.requests: queue.SimpleQueue = queue.SimpleQueue()
    self.canceled = -1  # serial number of the last canceled request
    self.sent = time.monotonic()
    threading.Thread(target=self._listen, daemon=True).start()

  def send(self, facts: dict, *blocks) -> None:
    """Write a message to the program."""
    decoder_protocol.send(self.out, facts, *blocks)
    self.sent = time.monotonic()

  def beat(self) -> None:
    """Send a sign of life if there was no message for a second."""
    if time.monotonic() - self.sent > HEARTBEAT_SECONDS:
      self.send({'beat': True})

  def _listen(self) -> None:
    """Collect requests; end the process when the program has ended."""
    try:
      with os.fdopen(0, 'rb', closefd=False) as file:
        while True:
          facts, _ = decoder_protocol.receive(file)
          if 'stop' in facts:
            self.canceled = facts['stop']
          else:
            self.requests.put(facts)
    finally:
      os._exit(0)  # also in the middle of decoding


class WarningBuffer(logging.Handler):
  """Warnings of the readers, until they are sent with the last message."""

  def __init__(self):
    """Create an empty buffer."""
    super().__init__(logging.WARNING)
    self.lines: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    """Store a warning."""
    self.lines.append(record.getMessage())

  def take(self) -> list[str]:
    """The stored warnings; the buffer is then empty."""
    lines, self.lines = self.lines, []
    return lines


def probe_video(beat: Heartbeat, path: str, view) -> Iterator[tuple]:
  """Messages of `video_reader.probe_video`."""
  yield ({'result': video_reader.probe_video(path, view)},)


def probe_audio(
  beat: Heartbeat, path: str, stream: int | None
) -> Iterator[tuple]:
  """Messages of `audio_reader.probe_audio`."""
  yield ({'result': audio_reader.probe_audio(path, beat, stream)},)


def probe_extras(beat: Heartbeat, path: str, picture: int) -> Iterator[tuple]:
  """Messages of `extras.probe_extras`."""
  del beat  # only headers are read
  yield ({'result': extras.probe_extras(path, picture)},)


def read_file(beat: Heartbeat, path: str, index: int) -> Iterator[tuple]:
  """Messages of `extras.read_file`."""
  del beat  # one packet is read
  yield {}, extras.read_file(path, index)


def read_subtitles(beat: Heartbeat, path: str, index: int) -> Iterator[tuple]:
  """Messages of `extras.read_subtitles`: one a line."""
  for line in extras.read_subtitles(path, index, beat):
    yield ({'line': line},)


def read_frames(beat: Heartbeat, video, start: int) -> Iterator[tuple]:
  """Messages of `video_reader.read_frames`: one a frame."""
  return _planes(video_reader.read_frames(video, start, beat))


def read_backwards(
  beat: Heartbeat, video, last: int, times: str
) -> Iterator[tuple]:
  """Messages of `video_reader.read_backwards`: one a frame."""
  times = [Fraction(time) for time in times.split()]
  return _planes(video_reader.read_backwards(video, last, times, beat))


def read_chosen(
  beat: Heartbeat, video, chosen: str, times: str, skip: int
) -> Iterator[tuple]:
  """Messages of `video_reader.read_chosen`: one a frame."""
  times = [Fraction(time) for time in times.split()]
  chosen = [int(index) for index in chosen.split()]
  return _planes(video_reader.read_chosen(video, chosen, times, skip, beat))


def read_audio(beat: Heartbeat, audio, origin) -> Iterator[tuple]:
  """Messages of `audio_reader.read_audio`: one a block."""
  for block in audio_reader.read_audio(audio, origin, beat):
    yield {'count': block.shape[1]}, np.ascontiguousarray(block)


def stream_template(beat: Heartbeat, audio, origin) -> Iterator[tuple]:
  """Messages of `audio_reader.stream_template`."""
  content = audio_reader.stream_template(audio, origin)
  yield {'copied': content is not None}, content or b''


def read_packets(beat: Heartbeat, audio) -> Iterator[tuple]:
  """Messages of `audio_reader.read_packets`: one a packet."""
  for packet in audio_reader.read_packets(audio):
    facts = {
      name: getattr(packet, name) for name in ('pts', 'dts', 'duration', 'unit')
    }
    yield facts, packet.data


def _planes(frames: Iterable) -> Iterator[tuple]:
  for frame in frames:
    planes = [*frame.planes, *([] if frame.alpha is None else [frame.alpha])]
    blocks = [np.ascontiguousarray(plane) for plane in planes]
    yield {'index': frame.index, 'time': frame.time}, *blocks


HANDLERS = {
  handler.__name__: handler
  for handler in (
    *(probe_video, probe_audio, read_frames, read_backwards, read_chosen),
    *(read_audio, stream_template, read_packets),
    *(probe_extras, read_file, read_subtitles),
  )
}


def answer_request(
  connection: PipeConnection, request: dict, notes: WarningBuffer
) -> None:
  """Answer one request; every answer ends with exactly one last message."""
  serial, end = request['serial'], {}
  try:
    os.chdir(request['folder'])
    handler = HANDLERS[request['what']]
    for message in handler(connection.beat, **request['with']):
      if connection.canceled >= serial:
        break
      connection.send(*message)
  except OSError as error:
    if isinstance(error, BrokenPipeError):
      raise
    end = {'error': f'decoding failed: {error}'}
  except MemoryError:
    end = {
      'error': f'decoding needs more than {MEMORY_LIMIT / 2**30:g} GB of memory'
    }
  except Exception as error:
    expected = isinstance(error, container.MediaError)
    end = {'error': str(error) if expected else f'decoding failed: {error!r}'}
  last = {'end': True, 'notes': notes.take(), 'peak': peak_rss()}
  connection.send({**last, **end})


def limit_memory() -> None:
  """Make allocations fail beyond MEMORY_LIMIT; elsewhere watch the size."""
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


def main() -> None:
  """Serve until the program ends or closes its side of the pipe."""
  connection, notes = PipeConnection(), WarningBuffer()
  limit_memory()
  logging.getLogger('lipsync_jax').addHandler(notes)
  while True:
    answer_request(connection, connection.requests.get(), notes)


if __name__ == '__main__':
  main()
