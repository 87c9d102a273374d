"""Pipe: stages of work side by side, each in a thread of its own, and clocked.

The heavy parts of every stage (codecs, networks, OpenCV) release Python's
lock, so threads suffice.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator


class StageTimer:
  """Busy seconds of each stage; stages run side by side and overlap."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, stage: str):
    start = time.perf_counter()
    try:
      yield
    finally:
      spent = time.perf_counter() - start
      self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def prefetch(source: Iterable, depth: int) -> Iterator:
  """Run an iterator in a thread of its own, at most `depth` items ahead.

  Its exceptions surface here; closing this generator stops it.
  """
  waiting: queue.Queue = queue.Queue(maxsize=depth)
  stopped = threading.Event()
  done = object()

  def put(entry) -> bool:
    while not stopped.is_set():
      with contextlib.suppress(queue.Full):
        waiting.put(entry, timeout=0.1)
        return True
    return False

  def work():
    try:
      for item in source:
        if not put((item, None)):
          break
      else:
        put((done, None))
    except BaseException as error:  # it must reach the reader, whatever it is
      put((done, error))
    finally:
      if hasattr(source, 'close'):
        source.close()

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  try:
    while True:
      item, error = waiting.get()
      if error is not None:
        raise error
      if item is done:
        return
      yield item
  finally:
    stopped.set()
    thread.join()
