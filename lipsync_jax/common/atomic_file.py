"""Claims: a file is written under another name and takes its own when whole.

The other name stands beside the file and ends in MARK. Its writer holds a
lock on it; what has no such writer any more was left by a killed program and
is swept away by the next claim in that folder.
"""

import contextlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator

PART_SUFFIX = '.lipsync-part'


class AtomicFile:
  """The right to a name: write `part`, then `keep` or `drop` it."""

  def __init__(self, path: str | os.PathLike):
    """Sweep the folder, which must exist, and create an empty `part`.

    Raises:
      OSError: the folder cannot be written.
    """
    self.path = pathlib.Path(path)
    remove_stale(self.path.parent)
    while True:
      name = f'{self.path.name[:48]}.{secrets.token_hex(4)}{PART_SUFFIX}'
      self.part = self.path.parent / name
      self.handle = _locked(self.part)
      if self.part.exists():  # a sweeper may have come before the lock
        break
      self._release()

  def keep(self) -> None:
    """Give the file its name, once all of it is on disk."""
    with open(self.part, 'rb+') as file:
      os.fsync(file.fileno())
    os.replace(self.part, self.path)  # still locked: nobody sweeps it now
    self._release()

  def drop(self) -> None:
    """Remove the unfinished file; harmless after `keep`."""
    self._release()
    # A folder that can no longer be written has worse troubles.
    with contextlib.suppress(OSError):
      self.part.unlink(missing_ok=True)

  def _release(self) -> None:
    if self.handle is not None:
      os.close(self.handle)  # and so unlocked
      self.handle = None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A name to write to, which becomes `path` if nothing is raised."""
  claim = AtomicFile(path)
  try:
    yield claim.part
    claim.keep()
  finally:
    claim.drop()


def remove_stale(folder: pathlib.Path) -> None:
  """Remove the files of MARK in a folder that nobody is writing."""
  with contextlib.suppress(OSError):
    for name in os.listdir(folder):
      if name.endswith(PART_SUFFIX):
        with contextlib.suppress(OSError):
          _remove_unlocked(folder / name)


def _locked(part: pathlib.Path) -> int | None:
  """Create and lock a file; None where an open file is safe without."""
  handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
  if os.name != 'posix':
    os.close(handle)  # an open file could not be renamed
    return None
  import fcntl

  # Without locks (some network drives) nobody can sweep either.
  with contextlib.suppress(OSError):
    fcntl.flock(handle, fcntl.LOCK_EX)
  return handle


def _remove_unlocked(part: pathlib.Path) -> None:
  """Remove a file, unless a writer holds it."""
  if os.name != 'posix':
    part.unlink()  # refused while it is open
    return
  import fcntl

  if not stat.S_ISREG(os.lstat(part).st_mode):
    return
  handle = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    part.unlink()
  finally:
    os.close(handle)
