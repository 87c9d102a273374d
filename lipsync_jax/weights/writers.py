"""Writers of weight files that PyTorch and Paddle load.

The pickles are composed of the few instructions that they need. Neither
framework must be installed, and the bytes depend on the tensors only.
"""

import dataclasses
import itertools
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from io import BufferedIOBase

import numpy as np

from lipsync_jax.common import atomic_file
from lipsync_jax.weights.pickle_types import MAGIC, STORAGES, VERSION

STORAGE = {code: f'{kind}Storage' for kind, code in STORAGES.items()}


@dataclasses.dataclass(frozen=True)
class Global:
  """A name that the reader's pickle module imports."""

  module: str
  name: str


@dataclasses.dataclass(frozen=True)
class Call:
  """A call of a function with arguments, with an optional state."""

  function: Global
  args: tuple
  state: tuple | None = None


@dataclasses.dataclass(frozen=True)
class Persistent:
  """An object that the reader loads from elsewhere by this tuple."""

  pid: tuple


def emit_pickle(x) -> Iterator[bytes]:
  """Pickle instructions that push `x`."""
  match x:
    case None:
      yield b'N'
    case bool():
      yield b'\x88' if x else b'\x89'
    case int():
      size = (8 + (x + (x < 0)).bit_length()) // 8
      yield b'\x8a' + bytes([size]) + x.to_bytes(size, 'little', signed=True)
    case str():
      data = x.encode()
      yield b'X' + struct.pack('<I', len(data)) + data
    case bytes() | memoryview():
      yield b'B' + struct.pack('<I', len(x))
      yield x
    case dict():
      yield b'}('
      for item in itertools.chain.from_iterable(x.items()):
        yield from emit_pickle(item)
      yield b'u'
    case tuple() | list():
      yield b'(' if isinstance(x, tuple) else b']('
      for item in x:
        yield from emit_pickle(item)
      yield b't' if isinstance(x, tuple) else b'e'
    case Global():
      yield f'c{x.module}\n{x.name}\n'.encode()
    case Call():
      yield from itertools.chain(
        emit_pickle(x.function), emit_pickle(x.args), (b'R',)
      )
      if x.state is not None:
        yield from itertools.chain(emit_pickle(x.state), (b'b',))
    case Persistent():
      yield from itertools.chain(emit_pickle(x.pid), (b'Q',))
    case _:
      raise TypeError(f'expected plain values, found {type(x).__name__}')


def write_pickle(file: BufferedIOBase, x, protocol: int = 2):
  """One pickle of `x`."""
  for piece in itertools.chain(
    (bytes([0x80, protocol]),), emit_pickle(x), (b'.',)
  ):
    file.write(piece)


def dtype_code(array: np.ndarray) -> str:
  """NumPy's code of a little-endian dtype."""
  return array.dtype.newbyteorder('=').str[1:]


def torch_tree(x, storages: list[np.ndarray], tail: tuple = ()):
  """Replace arrays by PyTorch tensors; their bytes go to `storages`.

  Args:
    tail: end of a storage's address: empty, or None in legacy files.
  """
  if isinstance(x, dict):
    return {key: torch_tree(value, storages, tail) for key, value in x.items()}
  if not isinstance(x, np.ndarray):
    return x
  stride = tuple(math.prod(x.shape[i + 1 :]) for i in range(x.ndim))
  key = str(len(storages))
  storages.append(x)
  kind = Global('torch', STORAGE[dtype_code(x)])
  pid = Persistent(('storage', kind, key, 'cpu', x.size, *tail))
  rebuild = Global('torch._utils', '_rebuild_tensor_v2')
  hooks = Call(Global('collections', 'OrderedDict'), ())
  return Call(rebuild, (pid, 0, x.shape, stride, False, hooks))


def write_pth(path: str | os.PathLike, tree: dict):
  """Write PyTorch's zip container of nested dictionaries of arrays."""
  storages: list[np.ndarray] = []
  tree = torch_tree(tree, storages)
  with (
    atomic_file.atomic_write(path) as part,
    zipfile.ZipFile(part, 'w') as archive,
  ):

    def entry(name: str):
      return archive.open(zipfile.ZipInfo(f'archive/{name}'), 'w')

    with entry('data.pkl') as file:
      write_pickle(file, tree)
    for name, text in (('byteorder', b'little'), ('version', b'3\n')):
      with entry(name) as file:
        file.write(text)
    for i, array in enumerate(storages):
      with entry(f'data/{i}') as file:
        file.write(array.tobytes())


def write_legacy(path: str | os.PathLike, tree: dict):
  """Write PyTorch's container before 1.6, the likely published format."""
  storages: list[np.ndarray] = []
  tree = torch_tree(tree, storages, tail=(None,))
  sizes = {'short': 2, 'int': 4, 'long': 4}
  system = {'protocol_version': VERSION, 'little_endian': True}
  with atomic_file.atomic_write(path) as part, open(part, 'wb') as file:
    write_pickle(file, MAGIC)
    write_pickle(file, VERSION)
    write_pickle(file, system | {'type_sizes': sizes})
    write_pickle(file, tree)
    write_pickle(file, [str(i) for i in range(len(storages))])
    for array in storages:
      file.write(struct.pack('<q', array.size))
      file.write(array.tobytes())


def paddle_array(x: np.ndarray) -> Call:
  """An array as NumPy 1 pickles it; NumPy 2 reads it too."""
  kind = Call(Global('numpy', 'dtype'), (dtype_code(x), False, True))
  order = (3, '<', None, None, None, -1, -1, 0)
  dtype = dataclasses.replace(kind, state=order)
  multiarray = Global('numpy.core.multiarray', '_reconstruct')
  empty = (Global('numpy', 'ndarray'), (0,), b'b')
  return Call(multiarray, empty, (1, x.shape, dtype, False, x.tobytes()))


def write_pdparams(
  path: str | os.PathLike,
  tensors: dict[str, np.ndarray],
  internal: dict[str, str],
):
  """Write Paddle's flat state dict.

  Args:
    internal: Paddle's names of parameters; `paddle.load` makes tensors of
      these.
  """
  tree = {name: paddle_array(x) for name, x in tensors.items()}
  with atomic_file.atomic_write(path) as part, open(part, 'wb') as file:
    write_pickle(
      file, tree | {'StructuredToParameterName@@': internal}, protocol=4
    )
