"""TFRecord shards with checksums, each with an index for random access.

A record has its length (8 bytes), the masked crc32c of the length, the data,
and the masked crc32c of the data. Beside `x.tfrecord-00000-of-00004` is
`x.tfrecord-00000-of-00004.index` with the key, the length and some facts of
every record, and a checksum.

Every read compares both checksums and the length, as TensorFlow's reader does;
grain's does not. Damaged or missing data raise an error that names shard and
byte.
"""

import contextlib
import dataclasses
import os
import re
import struct
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.common import atomic_file
from lipsync_jax.common.errors import LipSyncError

MAX_RECORD_BYTES = (
  2**30
)  # bytes of one record; limits the effect of a damaged length
_FRAME = 8 + 4 + 4  # bytes of a record besides its data
_MAGIC = b'LIPSIDX1'
_HEAD = struct.Struct('<8sQII')  # magic, records, numbers a record, key bytes
_NAME = re.compile(r'^.+-([^-]+)\.tfrecord-(\d{5})-of-(\d{5})$')
_REMEDY = 'delete this shard and its index and run the build again'


class ShardError(LipSyncError):
  """A damaged, missing or foreign shard."""


@dataclasses.dataclass(frozen=True)
class Index:
  """The content of a shard, in the order of its records."""

  keys: tuple[str, ...]
  lengths: Int[np.ndarray, 'n']  # bytes of data
  facts: Float[np.ndarray, 'n k']  # defined by the caller

  @property
  def offsets(self) -> Int[np.ndarray, 'n']:
    """First byte of each record."""
    return np.cumsum(self.lengths + _FRAME) - self.lengths - _FRAME

  @property
  def size(self) -> int:
    """Bytes of the whole shard."""
    return int((self.lengths + _FRAME).sum())


def masked_crc(data: bytes) -> int:
  """TFRecord's checksum: crc32c, rotated and shifted by a constant."""
  import google_crc32c

  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame_record(data: bytes) -> bytes:
  """One TFRecord record: lengths, checksums and data."""
  if len(data) > MAX_RECORD_BYTES:
    raise ShardError(
      f'expected at most {MAX_RECORD_BYTES} bytes of a record, found '
      f'{len(data)}: cut long clips'
    )
  head = struct.pack('<Q', len(data))
  crcs = [struct.pack('<I', masked_crc(part)) for part in (head, data)]
  return head + crcs[0] + data + crcs[1]


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
  """The file name that TFDS expects."""
  return f'{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}'


def index_name(shard: str) -> str:
  """The path of a shard's index."""
  return f'{shard}.index'


def write_shard(
  path: str | os.PathLike, records: Iterable[tuple[str, bytes, Sequence[float]]]
) -> Index:
  """Write a shard and its index, both atomically.

  Args:
    path: of the shard, local or in a bucket.
    records: key, data, and the same number of facts for each.
  """
  keys, lengths, facts = [], [], []
  with _atomic_file(os.fspath(path)) as shard:
    for key, data, about in records:
      shard.write(frame_record(data))
      keys.append(key)
      lengths.append(len(data))
      facts.append([float(v) for v in about])
    index = Index(
      tuple(keys),
      np.array(lengths, np.int64),
      np.array(facts, np.float64).reshape(len(keys), -1 if facts else 0),
    )
    # The index first, so that a shard always has one.
    write_index(path, index)
  return index


def write_index(path: str | os.PathLike, index: Index) -> None:
  """Write the index of the shard at `path`."""
  if any('\n' in key for key in index.keys):
    raise ShardError('a key may not contain a line break: rename the clip')
  keys = '\n'.join(index.keys).encode()
  count, width = index.facts.shape
  data = _HEAD.pack(_MAGIC, count, width, len(keys))
  data += index.lengths.astype('<u8').tobytes()
  data += index.facts.astype('<f8').tobytes() + keys
  with _atomic_file(index_name(os.fspath(path))) as file:
    file.write(data + struct.pack('<I', masked_crc(data)))


def read_index(path: str | os.PathLike) -> Index:
  """Read the index of the shard at `path`.

  Raises:
    ShardError: it is damaged.
  """
  name = index_name(os.fspath(path))
  try:
    data = _path(name).read_bytes()
  except FileNotFoundError:
    raise ShardError(f'{name}: there is no such file; {_REMEDY}') from None
  body, mark = data[:-4], data[-4:]
  whole = len(body) >= _HEAD.size and body.startswith(_MAGIC)
  if not whole or struct.pack('<I', masked_crc(body)) != mark:
    raise ShardError(f'{name}: the index is damaged; {_REMEDY}')
  _, count, width, size = _HEAD.unpack_from(body)
  at = _HEAD.size
  lengths = np.frombuffer(body, '<u8', count, at).astype(np.int64)
  at += 8 * count
  facts = np.frombuffer(body, '<f8', count * width, at).reshape(count, width)
  keys = body[at + 8 * count * width :].decode()
  names = tuple(keys.split('\n')) if count else ()
  assert len(names) == count and len(body) == at + 8 * count * width + size
  return Index(names, lengths, facts.astype(np.float64))


def scan_records(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
  """Read a shard without its index: (offset, data) of every record.

  Raises:
    ShardError: after the last record before damage.
  """
  path, at = os.fspath(path), 0
  size = _path(path).stat().length
  with _path(path).open('rb') as file:
    while at < size:
      head = file.read(12)
      length = _length(head, f'{path}: byte {at}')
      if length > min(MAX_RECORD_BYTES, size - at - _FRAME):
        raise ShardError(
          f'{path}: byte {at}: the file ends inside this record; {_REMEDY}'
        )
      data = file.read(length)
      _check(data, file.read(4), f'{path}: byte {at}')
      yield at, data
      at += length + _FRAME


def find_shards(folder: str | os.PathLike, split: str) -> list[str]:
  """Paths of all shards of a split, in order.

  Raises:
    ShardError: one is missing.
  """
  folder = _path(os.fspath(folder))
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  matches = [m for m in map(_NAME.match, sorted(names)) if m]
  splits = sorted({m[1] for m in matches})
  matches = [m for m in matches if m[1] == split]
  if not matches:
    raise ShardError(
      f'{folder}: expected shards of the split {split!r}, found '
      f'{", ".join(splits) or "no shards"}; check the folder and the split'
    )
  total = {int(m[3]) for m in matches}
  missing = sorted(set(range(max(total))) - {int(m[2]) for m in matches})
  if len(total) > 1 or missing or len(matches) != max(total):
    mixed = len(total) > 1 or not missing
    what = 'two builds are mixed' if mixed else f'shard {missing[0]} is missing'
    raise ShardError(
      f'{folder}: expected {max(total)} shards of {split!r}, found '
      f'{len(matches)}: {what}; run the build again'
    )
  return [os.fspath(folder / m[0]) for m in matches]


class TFRecordReader:
  """All shards of a split, open for random access by any thread.

  Attributes:
    keys: of all records, in order.
    facts: float64 [n, k], as written.
  """

  def __init__(self, folder: str | os.PathLike, split: str):
    self._paths = find_shards(folder, split)
    self._indices = [read_index(path) for path in self._paths]
    for path, index in zip(self._paths, self._indices, strict=True):
      _check_size(path, index)
    self._firsts = np.cumsum([0, *(len(i.keys) for i in self._indices)])
    self._offsets = [index.offsets for index in self._indices]
    self.keys = tuple(key for index in self._indices for key in index.keys)
    kept = [i.facts for i in self._indices if i.keys]
    self.facts = np.concatenate(kept) if kept else np.zeros((0, 0))
    if len(set(self.keys)) != len(self.keys):
      twice = next(k for k in self.keys if self.keys.count(k) > 1)
      raise ShardError(
        f'{folder}: {twice!r} is there twice; run the build again'
      )
    self._open()

  def _open(self):
    self._lock, self._files = threading.Lock(), {}

  def __len__(self) -> int:
    return len(self.keys)

  def __getstate__(self):
    """The state without open files, for copies in worker processes."""
    return {k: v for k, v in vars(self).items() if k not in ('_lock', '_files')}

  def __setstate__(self, state):
    vars(self).update(state)
    self._open()

  def where(self, i: int) -> tuple[str, int]:
    """Shard and first byte of record `i`."""
    shard = int(np.searchsorted(self._firsts, i, side='right')) - 1
    at = int(self._offsets[shard][i - self._firsts[shard]])
    return self._paths[shard], at

  def read(self, i: int) -> bytes:
    """The data of record `i`.

    Raises:
      ShardError: it is damaged.
    """
    if not 0 <= i < len(self):
      raise IndexError(f'record {i} of {len(self)}')
    shard = int(np.searchsorted(self._firsts, i, side='right')) - 1
    path, at = self.where(i)
    length = int(self._indices[shard].lengths[i - self._firsts[shard]])
    what = f'{path}: record {self.keys[i]!r} at byte {at}'
    head, data, mark = self._read(path, at, (12, length, 4))
    if len(mark) < 4:
      raise ShardError(f'{what}: the file ends inside this record; {_REMEDY}')
    if _length(head, what) != length:
      raise ShardError(f"{what}: its length is not the index's; {_REMEDY}")
    _check(data, mark, what)
    return data

  def _read(self, path: str, at: int, sizes: tuple[int, ...]) -> list[bytes]:
    local = '://' not in path
    with self._lock:
      if path not in self._files:
        self._files[path] = _path(path).open('rb')
      file, parts = self._files[path], []
      if not local:
        file.seek(at)
        return [file.read(size) for size in sizes]
    for size in sizes:
      parts.append(os.pread(file.fileno(), size, at))  # needs no position
      at += size
    return parts

  def close(self) -> None:
    """Close the files; a later read opens them again."""
    with self._lock:
      files, self._files = self._files, {}
    for file in files.values():
      file.close()


def _length(head: bytes, what: str) -> int:
  if len(head) < 12:
    raise ShardError(f'{what}: the file ends inside this record; {_REMEDY}')
  length, mark = struct.unpack('<QI', head)
  if masked_crc(head[:8]) != mark:
    raise ShardError(f'{what}: its length is damaged; {_REMEDY}')
  return length


def _check(data: bytes, mark: bytes, what: str) -> None:
  if len(mark) < 4 or masked_crc(data) != struct.unpack('<I', mark)[0]:
    raise ShardError(f'{what}: its data is damaged; {_REMEDY}')


def _check_size(path: str, index: Index) -> None:
  size = _path(path).stat().length
  if size < index.size:
    ends = index.offsets + index.lengths + _FRAME
    i = int((ends <= size).sum())
    raise ShardError(
      f'{path}: the file ends at byte {size}, inside record {index.keys[i]!r} '
      f'at byte {index.offsets[i]} ({len(ends) - i} of {len(ends)} records '
      f'are lost); {_REMEDY}'
    )
  if size > index.size:
    raise ShardError(
      f'{path}: expected {index.size} bytes, found {size}: the index is of '
      f'another build; {_REMEDY}'
    )


def _path(path: str):
  from etils import epath  # local paths and buckets

  return epath.Path(path)


@contextlib.contextmanager
def _atomic_file(path: str):
  """A file that is renamed to its name after the last byte."""
  if '://' not in path:
    with atomic_file.atomic_write(path) as part, open(part, 'wb') as file:
      yield file
    return
  # A bucket has no locks and needs no fsync.
  part = _path(f'{path}.part-{uuid.uuid4().hex[:8]}')
  try:
    with part.open('wb') as file:
      yield file
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)
