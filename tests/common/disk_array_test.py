"""Growing arrays on disk, and in memory if the disk is full."""

import concurrent.futures
import errno
import tempfile

import numpy as np
import pytest

from lipsync_jax.common import disk_array
from lipsync_jax.common.disk_array import RowFile


class FullDisk:
  """A file that takes `room` bytes."""

  def __init__(self, room):
    self.room, self.data, self.place = room, bytearray(), 0

  def seek(self, place):
    self.place = place

  def write(self, block):
    block = bytes(block)
    if self.place + len(block) > self.room:
      raise OSError(errno.ENOSPC, 'no space left')
    self.data[self.place : self.place + len(block)] = block

  def flush(self):
    pass

  def read(self, size):
    return bytes(self.data[self.place : self.place + size])

  def close(self):
    pass


def refuse(*_, **__):
  raise OSError(errno.ENOSPC, 'no space left')


@pytest.mark.parametrize('disk', ['free', 'full', 'fills up'])
def test_rows_come_back(disk, monkeypatch):
  if disk == 'full':
    monkeypatch.setattr(tempfile, 'TemporaryFile', refuse)
  if disk == 'fills up':
    monkeypatch.setattr(tempfile, 'TemporaryFile', lambda: FullDisk(500))
  rows = np.random.default_rng(0).integers(-9, 9, (60, 3, 2)).astype(np.int16)
  file = RowFile((3, 2), np.int16)
  for first in range(0, 60, 7):
    file.append(rows[first : first + 7])
  assert len(file) == 60 and file.on_disk == (disk == 'free')
  np.testing.assert_array_equal(file.read(5, 50), rows[5:50])
  np.testing.assert_array_equal(file.read(9, 9), rows[9:9])
  order = np.array([3, 4, 5, 59, 0, 1, 1])
  np.testing.assert_array_equal(file.take(order), rows[order])
  assert not len(file.take(np.zeros(0, np.int64)))


def test_other_shapes_and_ranges_are_refused():
  file = RowFile((3,), np.float32)
  with pytest.raises(AssertionError):
    file.append(np.zeros((2, 4), np.float32))
  with pytest.raises(AssertionError):
    file.read(0, 1)


@pytest.mark.parametrize('disk', ['free', 'full', 'refuses', 'fills up'])
def test_array_on_disk_returns_its_rows(disk, monkeypatch):
  file_of = {'full': refuse, 'refuses': lambda: FullDisk(0)}
  file_of['fills up'] = lambda: FullDisk(1000)
  if disk != 'free':
    monkeypatch.setattr(tempfile, 'TemporaryFile', file_of[disk])
  monkeypatch.setattr(disk_array, 'BLOCK_ROWS', 16)
  rows = np.random.default_rng(0).normal(size=(5, 100)).astype(np.float32).T
  shelf = disk_array.to_disk(rows)
  assert len(shelf) == 100 and shelf.on_disk == (disk == 'free')
  for first, end in ((0, 100), (15, 17), (99, 100), (40, 40), (0, 1)):
    np.testing.assert_array_equal(shelf.read(first, end), rows[first:end])
  deep = np.arange(24.0).reshape(2, 4, 3)
  np.testing.assert_array_equal(disk_array.to_disk(deep).read(1, 2), deep[1:])
  with pytest.raises(AssertionError):
    shelf.read(90, 101)


def test_threads_read_their_own_rows():
  rows = np.arange(4000)[:, None] * np.ones((1, 50), int)
  file = disk_array.to_disk(rows)

  def read(seed):
    rng = np.random.default_rng(seed)
    for first in rng.integers(0, 3990, 2000).tolist():
      np.testing.assert_array_equal(
        file.read(first, first + 3), rows[first : first + 3]
      )
    return True

  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    assert all(threads.map(read, range(4)))
