"""TODO."""

import contextlib
import math
import tempfile
import weakref

import numpy as np
from jaxtyping import Shaped

BLOCK_ROWS = 4096  # rows laid aside at once


class DiskArray:
  """Rows of numbers laid aside on disk, read a few at a time.

  Nobody sees the file, which ends with this object or the program. Where
  there is no room for it the rows stay in memory. One thread reads.
  """

  def __init__(self, rows: Shaped[np.ndarray, 'n ...']):
    self.shape, self.kind = rows.shape, rows.dtype
    self.file = _write_temporary(rows)
    self.rows = rows if self.file is None else None
    if self.file is not None:
      weakref.finalize(self, self.file.close)

  def __len__(self) -> int:
    return self.shape[0]

  def read(self, first: int, end: int) -> Shaped[np.ndarray, 'n ...']:
    """The rows from `first` to before `end`, both within the shelf."""
    assert 0 <= first <= end <= len(self), (first, end, len(self))
    if self.rows is not None:
      return self.rows[first:end]
    shape = (end - first, *self.shape[1:])
    size = math.prod(self.shape[1:]) * self.kind.itemsize
    self.file.seek(first * size)
    content = self.file.read((end - first) * size)
    return np.frombuffer(content, self.kind).reshape(shape)


def _write_temporary(rows: Shaped[np.ndarray, 'n ...']):
  """An open file without a name that holds the rows; None without room."""
  with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
    file = stack.enter_context(tempfile.TemporaryFile())
    for at in range(0, len(rows), BLOCK_ROWS):
      file.write(np.ascontiguousarray(rows[at : at + BLOCK_ROWS]))
    file.flush()
    stack.pop_all()
    return file
  return None
