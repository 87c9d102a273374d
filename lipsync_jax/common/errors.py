"""The base class of all errors of this package, and their one-line form.

A message names what was expected, what was found, and what to do about it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator


class LipSyncError(ValueError):
  """A request that cannot be fulfilled; the message is one line."""


class Cancelled(LipSyncError):
  """The caller ended the work (`common.cancellation`)."""


def printable(text: str | os.PathLike) -> str:
  """A name or reason on one line, without control characters."""
  text = os.fsdecode(text) if not isinstance(text, str) else text
  return ''.join(c if c.isprintable() else '?' for c in ' '.join(text.split()))


def reason_of(error: BaseException) -> str:
  """The message of an exception on one line, or its `repr` if it has none."""
  reason = getattr(error, 'strerror', None) or str(error) or repr(error)
  return printable(reason)


@contextlib.contextmanager
def as_one_line(
  error_class: type[LipSyncError],
  path: str | os.PathLike,
  message: str | Callable[[Exception], str],
  catch: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Iterator[None]:
  """Turn exceptions raised within into an error of one line about `path`.

  Args:
    error_class: raised instead; exceptions of this class pass unchanged.
    path: named at the start of the line.
    message: the rest of the line, or a function of the exception.
    catch: the exceptions to turn; others pass unchanged, as does `Cancelled`.

  Raises:
    LipSyncError: of `error_class`, for the exceptions in `catch`.
  """
  try:
    yield
  except (error_class, Cancelled):
    raise
  except catch as error:
    line = message(error) if callable(message) else message
    raise error_class(f'{printable(path)}: {line}') from error
