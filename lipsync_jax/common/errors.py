"""The base of every error of this package, and errors as one line.

A message says what was expected, what was found, and what to do about it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator


class LipSyncError(ValueError):
  """A request that cannot be met. The message is one line for a person."""


def printable(text: str | os.PathLike) -> str:
  """A name or reason on one line, without control characters."""
  text = os.fsdecode(text) if not isinstance(text, str) else text
  return ''.join(c if c.isprintable() else '?' for c in ' '.join(text.split()))


def reason_of(error: BaseException) -> str:
  """What an exception says, on one line, or its type if it says nothing."""
  said = getattr(error, 'strerror', None) or str(error) or repr(error)
  return printable(said)


@contextlib.contextmanager
def as_one_line(
  error_class: type[LipSyncError],
  path: str | os.PathLike,
  message: str | Callable[[Exception], str],
  catch: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Iterator[None]:
  """Turn exceptions within into one line about `path`.

  Args:
    error_class: raised instead; exceptions of this class pass unchanged.
    path: named at the start of the line.
    message: the rest of the line, or a function of the exception.
    catch: the exceptions to turn; others pass unchanged.
  """
  try:
    yield
  except error_class:
    raise
  except catch as error:
    line = message(error) if callable(message) else message
    raise error_class(f'{printable(path)}: {line}') from error
