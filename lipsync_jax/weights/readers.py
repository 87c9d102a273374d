"""Files of tensors: PyTorch's two containers, Paddle's pickle, safetensors.

`read_tree` detects the format from the content and returns nested dictionaries
of arrays; nothing in the file is executed (`safe_unpickle`). `writers` writes
the same containers.

  zip     PyTorch >= 1.6: stored entries data.pkl, data/0, data/1 …
  legacy  PyTorch < 1.6: five pickles, then (int64 count, bytes) per storage
  paddle  one pickle of NumPy arrays (spec 6.4)
"""

import contextlib
import io
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

from lipsync_jax.weights import safe_unpickle
from lipsync_jax.weights.pickle_types import (
  DTYPES,
  MAGIC,
  VERSION,
  Storage,
  UnsafeFile,
  printable_name,
  refuse,
  to_array,
)

# Adam's moments, two thirds of a published file, are never read.
SKIPPED_KEY = 'optimizer'
# Files that are often saved under the name of a checkpoint by mistake.
OTHER_FORMATS = (
  (b'', 'an empty file'),
  (b'version https://git-lfs', 'a Git LFS pointer, not the file itself'),
  (b'<', 'a web page or XML, not a file of weights'),
  (b'{', 'JSON text, perhaps the error message of a server'),
  (b'\x1f\x8b', 'a gzip archive; unpack it first'),
  (b'7z\xbc\xaf', 'a 7z archive; unpack it first'),
  (b'Rar!', 'a rar archive; unpack it first'),
  (b'\x89HDF', 'an HDF5 file, a format that is not read'),
  (b'\x08', 'an ONNX file, a format that is not read'),
)


def sniff_format(head: bytes) -> str:
  """'safetensors', 'zip' or 'pickle', from the first bytes of a file."""
  if head[:1] == b'\x80' and b'\x02' <= head[1:2] <= b'\x05':
    return 'pickle'
  if head[:4] == b'PK\x03\x04':
    return 'zip'
  if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 100 << 20:
    return 'safetensors'
  text = head.lstrip(b'\xef\xbb\xbf \t\r\n')
  for prefix, what in OTHER_FORMATS:
    if text.startswith(prefix) and (prefix or not text):
      raise UnsafeFile(f'{what}; download the weights again')
  raise UnsafeFile('of no known format; expected .pth, .pdparams, .safetensors')


@contextlib.contextmanager
def as_unsafe_file(path: pathlib.Path) -> Iterator[None]:
  """Raise any error of the block as one UnsafeFile."""
  try:
    yield
  except UnsafeFile as error:
    raise UnsafeFile(f'{printable_name(path)}: {error}') from None
  except OSError as error:
    raise UnsafeFile(
      f'{printable_name(path)}: cannot be read: {error.strerror}'
    ) from None
  except Exception as error:
    # Damage raises errors anywhere: an index, a decoder, a zip directory.
    what = f'{type(error).__name__}: {" ".join(str(error).split())[:80]}'
    raise UnsafeFile(
      f'{printable_name(path)}: damaged or cut short; download it again '
      f'({what})'
    ) from None


def file_format(path: str | os.PathLike) -> str:
  """`sniff_format` of a file."""
  path = pathlib.Path(path)
  with as_unsafe_file(path):
    if path.is_dir():
      refuse('expected a file of weights, found a folder')
    if not path.exists():
      refuse('no file of that name')
    if not path.is_file():
      refuse('expected a file of weights, found a pipe or a device')
    with open(path, 'rb') as file:
      return sniff_format(file.read(64))


def read_tree(path: str | os.PathLike) -> dict:
  """Nested dictionaries of arrays, without optimizer state.

  Arrays are views of bytes in memory, in the file's dtype (bfloat16 as
  float32).

  Raises:
    UnsafeFile: for any error in the file.
  """
  path = pathlib.Path(path)
  readers = {
    'safetensors': read_safetensors,
    'zip': read_zip,
    'pickle': read_pickle,
  }
  reader = readers[file_format(path)]
  with as_unsafe_file(path):
    tree = reader(path)
    return tree if type(tree) is dict else refuse('no dictionary of tensors')


def read_safetensors(path: pathlib.Path) -> dict:
  """The tensors of a safetensors file."""
  from safetensors import numpy as safetensors

  return safetensors.load_file(path)


def without_optimizer(raw):
  """The dictionary without the keys of optimizer state."""
  if type(raw) is not dict:
    return raw
  return {k: v for k, v in raw.items() if not str(k).startswith(SKIPPED_KEY)}


def read_zip(path: pathlib.Path):
  """Read a zip container.

  Entries must be stored, unique, and together no larger than the file.
  """
  size = path.stat().st_size
  with zipfile.ZipFile(path) as archive:
    entries = {e.filename: e for e in archive.infolist()}
    if len(entries) != len(archive.infolist()):
      refuse('a zip with two entries of one name')
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries.values()):
      refuse('a compressed zip, which PyTorch never writes; unpack it first')
    if sum(e.file_size for e in entries.values()) > size:
      refuse('a zip whose entries overlap')
    roots = [n[:-8] for n in entries if n.endswith('/data.pkl')]
    if len(roots) != 1:
      refuse('a zip archive, but not of PyTorch; unpack it first')
    if roots[0] + 'constants.pkl' in entries:
      refuse('a TorchScript program; expected a state dict')
    order = entries.get(roots[0] + 'byteorder')
    if order and archive.read(order) != b'little':
      refuse('a big-endian file')
    stream = io.BytesIO(archive.read(roots[0] + 'data.pkl'))
    tape, flat = safe_unpickle.BoundedReader(stream, size), {}

    def fetch(storage: Storage) -> np.ndarray:
      if storage.key not in flat:
        data = archive.read(f'{roots[0]}data/{storage.key}')
        flat[storage.key] = to_array(
          tape.spend, storage.code, (storage.count,), data
        )
      return flat[storage.key]

    raw = without_optimizer(safe_unpickle.parse_pickle(tape))
    return safe_unpickle.materialize(tape, raw, fetch)


def read_pickle(path: pathlib.Path):
  """Read a legacy PyTorch or a Paddle file, by its first object."""
  with open(path, 'rb') as file:
    tape = safe_unpickle.BoundedReader(file, path.stat().st_size)
    raw = safe_unpickle.parse_pickle(tape)
    if type(raw) is int and raw == MAGIC:
      return read_legacy(tape)
    tree = safe_unpickle.materialize(
      tape, without_optimizer(raw), refuse_storage
    )
  return paddle_values(tape, tree)


def refuse_storage(storage: Storage):
  """Raise UnsafeFile: this file may not have storages."""
  return refuse('a PyTorch tensor outside a PyTorch file')


def read_legacy(tape: safe_unpickle.BoundedReader):
  """Read a legacy PyTorch file after its magic number."""
  version, system = (
    safe_unpickle.parse_pickle(tape),
    safe_unpickle.parse_pickle(tape),
  )
  if version != VERSION or system.get('little_endian') is not True:
    refuse('a PyTorch file of an unknown version or a big-endian one')
  raw, keys = (
    without_optimizer(safe_unpickle.parse_pickle(tape)),
    safe_unpickle.parse_pickle(tape),
  )
  places = {}
  for key in keys:
    storage = tape.storages[key] if type(key) is str else refuse('odd keys')
    if struct.unpack('<q', tape.read(8))[0] != storage.count:
      refuse('a storage of unexpected length; download it again')
    places[key] = tape.tell()
    tape.skip(storage.count * DTYPES[storage.code].itemsize)
  flat = {}

  def fetch(storage: Storage) -> np.ndarray:
    if storage.key not in flat:
      tape.file.seek(places[storage.key])
      data = tape.file.read(storage.count * DTYPES[storage.code].itemsize)
      shape = (storage.count,)
      flat[storage.key] = to_array(tape.spend, storage.code, shape, data)
    return flat[storage.key]

  return safe_unpickle.materialize(tape, raw, fetch)


def paddle_values(tape: safe_unpickle.BoundedReader, x):
  """Arrays of a Paddle state dict.

  A nested tensor is (its name, the array); uint16 means bfloat16.
  """
  if type(x) is dict:
    return {key: paddle_values(tape, value) for key, value in x.items()}
  if type(x) is tuple and len(x) == 2 and isinstance(x[1], np.ndarray):
    x = x[1]
  if isinstance(x, np.ndarray) and x.dtype == np.uint16:
    return to_array(tape.spend, 'bf16', x.shape, x.tobytes())
  return x
