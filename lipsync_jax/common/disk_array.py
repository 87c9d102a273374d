"""Large arrays on disk instead of in memory.

The pages of a memory-mapped file count as memory of the process, so rows are
read with plain file reads.
"""

import contextlib
import math
import tempfile
import weakref

import numpy as np
from jaxtyping import Shaped

BLOCK_ROWS = 4096  # rows written at once


class DiskArray:
  """Rows of an array in a temporary file, read a few at a time.

  The file has no name and is deleted with this object or the process. The rows
  stay in memory if the disk is full. Only one thread may read.
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
    """Rows `first` to `end`, exclusive."""
    assert 0 <= first <= end <= len(self), (first, end, len(self))
    if self.rows is not None:
      return self.rows[first:end]
    shape = (end - first, *self.shape[1:])
    size = math.prod(self.shape[1:]) * self.kind.itemsize
    self.file.seek(first * size)
    content = self.file.read((end - first) * size)
    return np.frombuffer(content, self.kind).reshape(shape)


def _write_temporary(rows: Shaped[np.ndarray, 'n ...']):
  """An open temporary file with the rows; None if the disk is full."""
  with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
    file = stack.enter_context(tempfile.TemporaryFile())
    for at in range(0, len(rows), BLOCK_ROWS):
      file.write(np.ascontiguousarray(rows[at : at + BLOCK_ROWS]))
    file.flush()
    stack.pop_all()
    return file
  return None
