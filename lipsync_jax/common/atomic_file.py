"""Files that appear under their name only when they are complete.

A file is written under a temporary name beside the final one, which ends in
`PART_SUFFIX`. Its writer holds a lock on it, which the system releases when
the process ends. Temporary files without a lock belong to a killed process;
the next writer in the same folder deletes them.
"""

import contextlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator

PART_SUFFIX = '.lipsync-part'


class AtomicFile:
  """A file being written: write `part`, then call `keep` or `drop`.

  Attributes:
    path: the final name.
    part: the temporary name.
  """

  def __init__(self, path: str | os.PathLike):
    """Create an empty `part`, after deleting stale ones in the folder.

    Args:
      path: the final name; its folder must exist.

    Raises:
      OSError: the folder cannot be written.
    """
    self.path = pathlib.Path(path)
    remove_stale(self.path.parent)
    while True:
      name = f'{self.path.name[:48]}.{secrets.token_hex(4)}{PART_SUFFIX}'
      self.part = self.path.parent / name
      self.handle = _locked(self.part)
      if self.part.exists():  # not deleted by another process before the lock
        break
      self._release()

  def keep(self) -> None:
    """Give the file its final name, after all of it is on disk."""
    with open(self.part, 'rb+') as file:
      os.fsync(file.fileno())
    os.replace(self.part, self.path)  # still locked, so nobody deletes it
    self._release()

  def drop(self) -> None:
    """Delete the unfinished file; does nothing after `keep`."""
    self._release()
    # A folder that is no longer writable must not hide the first error.
    with contextlib.suppress(OSError):
      self.part.unlink(missing_ok=True)

  def _release(self) -> None:
    if self.handle is not None:
      os.close(self.handle)  # which releases the lock
      self.handle = None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yield a temporary name, which becomes `path` unless an error is raised.

  Raises:
    OSError: the folder does not exist or cannot be written.
  """
  file = AtomicFile(path)
  try:
    yield file.part
    file.keep()
  finally:
    file.drop()


def write_text(path: str | os.PathLike, text: str) -> None:
  """Write a text file in UTF-8, complete or not at all."""
  with atomic_write(path) as part:
    part.write_text(text, encoding='utf-8')


def remove_stale(folder: pathlib.Path) -> None:
  """Delete the temporary files in a folder that no process is writing."""
  with contextlib.suppress(OSError):
    for name in os.listdir(folder):
      if name.endswith(PART_SUFFIX):
        with contextlib.suppress(OSError):
          _remove_unlocked(folder / name)


def _locked(part: pathlib.Path) -> int | None:
  """Create and lock a file; None on systems that protect open files."""
  handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
  if os.name != 'posix':
    os.close(handle)  # Windows cannot rename an open file
    return None
  import fcntl

  # On drives without locks no process can delete the file as stale.
  with contextlib.suppress(OSError):
    fcntl.flock(handle, fcntl.LOCK_EX)
  return handle


def _remove_unlocked(part: pathlib.Path) -> None:
  """Delete a file, unless a writer holds its lock."""
  if os.name != 'posix':
    part.unlink()  # fails while the file is open
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
