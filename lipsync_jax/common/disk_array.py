"""Large arrays on disk instead of in memory.

The pages of a memory-mapped file count as memory of the process, so rows are
read with plain file reads.
"""

import contextlib
import itertools
import math
import tempfile
import threading
import weakref

import numpy as np
from jaxtyping import Int, Shaped

BLOCK_ROWS = 4096  # rows written at once


class RowFile:
  """Rows of one shape in a temporary file, appended and read in blocks.

  The file has no name and is deleted with this object or the process. The rows
  stay in memory if the disk is full. Safe for threads.
  """

  def __init__(self, shape: tuple[int, ...], dtype):
    self.shape, self.dtype = shape, np.dtype(dtype)
    self._size = math.prod(shape) * self.dtype.itemsize
    self._count = 0
    self._memory: bytearray | None = None  # all rows, after a full disk
    self._file, self._lock = None, threading.Lock()  # of the position
    with contextlib.suppress(OSError):
      self._file = tempfile.TemporaryFile()  # noqa: SIM115
      weakref.finalize(self, self._file.close)
    if self._file is None:
      self._memory = bytearray()

  def __len__(self) -> int:
    return self._count

  @property
  def on_disk(self) -> bool:
    """Whether the rows are in the file, not in memory."""
    return self._memory is None

  def append(self, rows: Shaped[np.ndarray, 'n ...']) -> None:
    """Add rows at the end."""
    assert rows.shape[1:] == self.shape, (rows.shape, self.shape)
    data = np.ascontiguousarray(rows, self.dtype)
    if self._memory is None:
      try:
        with self._lock:
          self._file.seek(self._count * self._size)
          self._file.write(data)
          self._file.flush()
      except OSError:
        self._memory = bytearray(self._read_file(0, self._count))
    if self._memory is not None:
      self._memory += data.tobytes()
    self._count += len(rows)

  def read(self, first: int, end: int) -> Shaped[np.ndarray, 'n ...']:
    """Rows `first` to `end`, exclusive."""
    assert 0 <= first <= end <= self._count, (first, end, self._count)
    if self._memory is None:
      data = self._read_file(first, end)
    else:
      data = bytes(self._memory[first * self._size : end * self._size])
    return np.frombuffer(data, self.dtype).reshape(end - first, *self.shape)

  def take(self, indices: Int[np.ndarray, 'n']) -> Shaped[np.ndarray, 'n ...']:
    """The rows with these numbers."""
    out = np.empty((len(indices), *self.shape), self.dtype)
    if not len(indices):
      return out
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    edges = [0, *breaks.tolist(), len(indices)]
    for low, high in itertools.pairwise(edges):
      first = int(indices[low])
      out[low:high] = self.read(first, first + high - low)
    return out

  def _read_file(self, first: int, end: int) -> bytes:
    with self._lock:
      self._file.seek(first * self._size)
      return self._file.read((end - first) * self._size)


def to_disk(rows: Shaped[np.ndarray, 'n ...']) -> RowFile:
  """The rows of an array in a new file, written in blocks."""
  file = RowFile(rows.shape[1:], rows.dtype)
  for first in range(0, len(rows), BLOCK_ROWS):
    file.append(rows[first : first + BLOCK_ROWS])
  return file
