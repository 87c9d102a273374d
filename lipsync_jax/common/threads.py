"""Pipeline stages in threads, and their timer.

Codecs, networks and OpenCV release the interpreter lock, so that threads run in
parallel.
"""

import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator


class StageTimer:
  """Busy seconds of each stage; stages run in parallel and overlap."""

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


def one_at_a_time(function: Callable) -> Callable:
  """`function`, which only one thread calls at a time."""
  lock = threading.Lock()

  def call(*args):
    with lock:
      return function(*args)

  return call


def prefetch(source: Iterable, depth: int) -> Iterator:
  """Run an iterator in a thread, at most `depth` items ahead.

  Its exceptions are raised here. Closing this generator stops the thread. The
  thread has the context variables of the caller, `cancellation` among them.
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
    except BaseException as error:  # raised again in the reading thread
      put((done, error))
    finally:
      if hasattr(source, 'close'):
        source.close()

  context = contextvars.copy_context()
  thread = threading.Thread(target=context.run, args=(work,), daemon=True)
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
