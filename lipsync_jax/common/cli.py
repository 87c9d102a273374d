"""Exit codes, one-line errors and Ctrl-C, the same for all commands."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from lipsync_jax.common import cancellation
from lipsync_jax.common.errors import Cancelled

DONE, REFUSED, MISUSED, INTERRUPTED = 0, 1, 2, 130  # exit codes


def quiet_native_logs() -> None:
  """Suppress the messages of glog and TensorFlow Lite, which log in C++."""
  for name in ('GLOG_minloglevel', 'TF_CPP_MIN_LOG_LEVEL'):
    os.environ.setdefault(name, '3')


def with_new_names(
  argv: Sequence[str], renamed: Mapping[str, str]
) -> list[str]:
  """The command line with the new names of renamed flags.

  Prints one line on standard error for each renamed flag.

  Args:
    argv: words; a value follows its flag or an equals sign.
    renamed: new flags by their old names, with hyphens.
  """
  words = []
  for word in argv:
    flag, equals, value = word.partition('=')
    if flag in renamed:
      print(f'note: {flag} is now {renamed[flag]}', file=sys.stderr)
      flag = renamed[flag]
    words.append(flag + equals + value)
  return words


@contextlib.contextmanager
def lasting_interrupt() -> Iterator[threading.Event]:
  """A block in which Ctrl-C cannot be lost; yields whether it was pressed.

  Libraries may swallow a KeyboardInterrupt, as in a bare `except` while they
  are imported. The next `cancellation.check` then raises Cancelled.
  """
  pressed = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield pressed  # only the main thread gets signals
    return

  def interrupt(number, frame):
    pressed.set()
    raise KeyboardInterrupt

  before = signal.getsignal(signal.SIGINT)
  if before is not signal.default_int_handler:  # ignored, or somebody's own
    yield pressed
    return
  signal.signal(signal.SIGINT, interrupt)
  try:
    with cancellation.cancel_scope(pressed):
      yield pressed
  finally:
    signal.signal(signal.SIGINT, before)


def run_command(
  action: Callable[[], object], interrupted: str = 'interrupted'
) -> int:
  """Run a command's work and print what it returns.

  Args:
    action: does the work. A `ValueError` or `OSError` becomes one line on
      standard error, unless LIPSYNC_JAX_DEBUG is set.
    interrupted: the line after Ctrl-C.

  Returns:
    The exit code: 0 done, 1 refused, 130 interrupted. (argparse exits with 2
    for a command line that it cannot read.)
  """
  quiet_native_logs()
  try:
    with lasting_interrupt() as pressed:
      try:
        result = action()
      except Cancelled:
        if pressed.is_set():
          raise KeyboardInterrupt from None
        raise
  except KeyboardInterrupt:
    print(interrupted, file=sys.stderr)
    return INTERRUPTED
  except (ValueError, OSError) as error:
    if os.environ.get('LIPSYNC_JAX_DEBUG'):
      raise
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return REFUSED
  with contextlib.suppress(BrokenPipeError):
    if result is not None:
      print(result)
  return DONE
