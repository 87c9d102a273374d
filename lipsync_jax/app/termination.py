"""SIGTERM ends a server as Ctrl-C does, and within seconds."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator

GRACE_SECONDS = 1.5  # for an orderly end; supervisors wait some 10 s


class Terminator:
  """Ends the process after SIGTERM.

  Attributes:
    folder: deleted even if a job cannot be ended in time.
    requested: whether SIGTERM has come.
  """

  def __init__(self, folder: str):
    self.folder, self.requested = folder, False

  def start_countdown(self) -> None:
    """End the process after GRACE_SECONDS, whatever it does then."""
    if not self.requested:
      self.requested = True
      timer = threading.Timer(GRACE_SECONDS, self._end)
      timer.daemon = True
      timer.start()

  def _end(self) -> None:
    # A thread that still writes may add a file to a folder that is deleted.
    for _ in range(3):
      shutil.rmtree(self.folder, ignore_errors=True)
    os._exit(0)  # a thread in native code, such as a compilation, goes on


@contextlib.contextmanager
def stopped_by_sigterm(folder: str) -> Iterator[Terminator]:
  """A block that SIGTERM ends; the process ends with code 0 after it.

  Code in the block gets a KeyboardInterrupt, as from Ctrl-C, and may clean up.

  Args:
    folder: of temporary files, see `Terminator`.
  """
  terminator = Terminator(folder)
  if threading.current_thread() is not threading.main_thread():
    yield terminator  # only the main thread gets signals
    return

  def stop(number, frame):
    terminator.start_countdown()
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGTERM, stop)
  try:
    yield terminator
  except KeyboardInterrupt:
    if not terminator.requested:
      raise
  finally:
    signal.signal(signal.SIGTERM, before)
    if terminator.requested:
      # Python's own end joins threads of libraries, for seconds, and the
      # countdown's thread no longer runs then.
      sys.stderr.flush()
      os._exit(0)
