"""Live lip-sync: a photo or a short video speaks what the microphone records.

  python examples/live.py FACE                       microphone, in a window
  python examples/live.py FACE --audio speech.flac   a file, in real time
  python examples/live.py FACE --audio speech.flac --outfile silent.mp4
  python examples/live.py FACE --audio speech.flac --measure 60

A microphone needs `pip install sounddevice`.
"""

import argparse
import queue
import sys
import time
from collections.abc import Iterator

import numpy as np

import lipsync_jax
from lipsync_jax import audio
from lipsync_jax.media import decoder

CHUNK_SECONDS = 0.04
RATE = audio.SAMPLE_RATE


def read_speech(path: str) -> np.ndarray:
  """The sound of a file, mono at RATE."""
  sound = decoder.probe_audio(path)
  blocks = audio.resample_blocks(sound.rate, decoder.read_audio(sound))
  return np.concatenate(list(blocks))


def chunks_of(wave: np.ndarray) -> Iterator[np.ndarray]:
  """Chunks of CHUNK_SECONDS."""
  size = round(CHUNK_SECONDS * RATE)
  for first in range(0, len(wave), size):
    yield wave[first : first + size]


def in_real_time(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
  """Each chunk at the moment at which a microphone would have recorded it."""
  began, samples = time.perf_counter(), 0
  for chunk in chunks:
    samples += len(chunk)
    wait = began + samples / RATE - time.perf_counter()
    if wait > 0:
      time.sleep(wait)
    yield chunk


def microphone() -> Iterator[np.ndarray]:
  """Chunks of the default microphone, without end."""
  try:
    import sounddevice
  except (ImportError, OSError) as reason:
    raise lipsync_jax.LipSyncError(
      f'expected a microphone, found none ({reason}); pip install '
      'sounddevice, or give --audio FILE'
    ) from reason
  waiting: queue.Queue = queue.Queue()

  def take(block, frames, moment, status):
    waiting.put(block[:, 0].copy())

  size = round(CHUNK_SECONDS * RATE)
  with sounddevice.InputStream(RATE, size, channels=1, callback=take):
    while True:
      yield waiting.get()


def show(stream, chunks: Iterator[np.ndarray]) -> None:
  """Frames in a window, until its key q."""
  import cv2

  for chunk in chunks:
    for frame in stream.push(chunk):
      cv2.imshow('lipsync', frame[..., ::-1])
    if cv2.waitKey(1) == ord('q'):
      break


def write(stream, chunks: Iterator[np.ndarray], outfile: str) -> None:
  """Frames in a video without sound."""
  import cv2

  code = cv2.VideoWriter_fourcc(*'mp4v')
  writer = cv2.VideoWriter(outfile, code, float(stream.fps), stream.size)
  if not writer.isOpened():
    raise lipsync_jax.LipSyncError(
      f'--outfile: expected an .mp4 that can be written, found {outfile!r}'
    )
  for chunk in chunks:
    for frame in stream.push(chunk):
      writer.write(np.ascontiguousarray(frame[..., ::-1]))
  for frame in stream.finish():
    writer.write(np.ascontiguousarray(frame[..., ::-1]))
  writer.release()


def measure(open_stream, wave: np.ndarray, seconds: float) -> None:
  """Print speed as fast as possible, and delay and drift in real time."""
  wave = np.resize(wave, round(seconds * RATE))  # repeats it
  stream = open_stream()
  began, cpu, count = time.perf_counter(), time.process_time(), 0
  for chunk in chunks_of(wave):
    count += sum(1 for _ in stream.push(chunk))
  count += sum(1 for _ in stream.finish())
  spent, cpu = time.perf_counter() - began, time.process_time() - cpu
  print(f'frames of {stream.size[0]}x{stream.size[1]}: {count}')
  print(f'as fast as possible: {count / spent:.1f} frames/s')
  print(f'CPU: {1000 * cpu / count:.1f} ms a frame, all threads')

  stream, delays = open_stream(), []
  began = time.perf_counter()
  for chunk in in_real_time(chunks_of(wave)):
    for _ in stream.push(chunk):
      shown = len(delays) / float(stream.fps)
      delays.append(time.perf_counter() - began - shown)
  given = len(delays) + sum(1 for _ in stream.finish())
  delays = 1000 * np.array(delays)
  p50, p99 = np.percentile(delays, (50, 99))
  part = max(len(delays) // 6, 1)
  slope = np.median(delays[-part:]) - np.median(delays[:part])
  wanted = round(seconds * float(stream.fps))
  print(
    f'real time, delay after the start of a frame: p50 {p50:.0f} ms, '
    f'p99 {p99:.0f} ms, max {delays.max():.0f} ms '
    f'(stated: {1000 * stream.delay_seconds:.0f} ms and a chunk of '
    f'{1000 * CHUNK_SECONDS:.0f} ms)'
  )
  print(
    f'drift: {given - wanted} of {wanted} frames; median delay of the last '
    f'sixth minus the first: {slope:+.1f} ms'
  )


def build_parser() -> argparse.ArgumentParser:
  """The options of the command."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('face', help='photo or short video')
  parser.add_argument('--audio', help='file instead of the microphone')
  parser.add_argument('--outfile', help='.mp4 without sound, no window')
  parser.add_argument('--measure', type=float, metavar='SECONDS')
  parser.add_argument('--strength', type=float, default=1.0)
  parser.add_argument('--size', type=int, help='longer side of a photo, pixels')
  return parser


def read_face(path: str, size: int | None) -> str | np.ndarray:
  """The path, or the photo scaled to `size`."""
  if size is None:
    return path
  import cv2

  picture = cv2.imread(path)
  if picture is None:
    raise lipsync_jax.LipSyncError(
      f'--size: expected a photo, found {path!r}; leave --size out'
    )
  scale = size / max(picture.shape[:2])
  sides = [max(round(side * scale), 2) for side in picture.shape[1::-1]]
  scaled = cv2.resize(picture, sides, interpolation=cv2.INTER_AREA)
  return np.ascontiguousarray(scaled[..., ::-1])


def run(words: list[str] | None = None) -> None:
  """The command."""
  given = build_parser().parse_args(words)
  if given.measure and not given.audio:
    raise lipsync_jax.LipSyncError('--measure: give --audio FILE as well')
  face = read_face(given.face, given.size)
  with lipsync_jax.Session() as session:

    def open_stream():
      return session.stream(face, rate=RATE, strength=given.strength)

    if given.measure:
      measure(open_stream, read_speech(given.audio), given.measure)
      return
    chunks = microphone()
    if given.audio:
      chunks = chunks_of(read_speech(given.audio))
      chunks = chunks if given.outfile else in_real_time(chunks)
    with open_stream() as stream:
      if given.outfile:
        write(stream, chunks, given.outfile)
      else:
        show(stream, chunks)


if __name__ == '__main__':
  try:
    run()
  except (lipsync_jax.LipSyncError, OSError) as reason:
    sys.exit(f'live: {reason}')
  except KeyboardInterrupt:
    sys.exit(130)
