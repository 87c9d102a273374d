"""The names that a pickle of tensors may contain, and their meaning.

Nothing is imported by name. Each name maps to a placeholder object that holds
facts (dtype, shape, position of the bytes) until they are checked; only then
does NumPy get them. `safe_unpickle` is the interpreter. Functions get `spend`,
which counts the bytes that they copy.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lipsync_jax.common.errors import LipSyncError

MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a legacy PyTorch file
VERSION = 1001  # the second
CODES = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1')
DTYPES = {code: np.dtype(code) for code in CODES}
DTYPES['bf16'] = np.dtype('u2')  # NumPy has none; widened by `to_array`
STORAGES = {
  'Float': 'f4',
  'Double': 'f8',
  'Half': 'f2',
  'BFloat16': 'bf16',
  'Long': 'i8',
  'Int': 'i4',
  'Short': 'i2',
  'Char': 'i1',
  'Byte': 'u1',
  'Bool': 'b1',
}


class UnsafeFile(LipSyncError):
  """A file that is damaged or contains more than tensors."""


def printable_name(text) -> str:
  """A name from a file, safe to print in one line."""
  text = str(text)
  return text if text.isprintable() else ascii(text)


def refuse(what: str):
  """Raise UnsafeFile unless a condition holds."""
  raise UnsafeFile(what)


@dataclasses.dataclass(frozen=True)
class Name:
  """A function or class that the file names; a key of CALLS or NAMES."""

  path: str


@dataclasses.dataclass(frozen=True)
class DType:
  """A NumPy dtype that the file names."""

  code: str  # a key of DTYPES


@dataclasses.dataclass
class Array:
  """A NumPy array whose facts follow after its creation."""

  facts: tuple | None = None  # (code, shape, data, order)


@dataclasses.dataclass(frozen=True)
class Storage:
  """A flat PyTorch buffer of `count` elements elsewhere in the file."""

  code: str
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A PyTorch tensor: a strided view of a storage, in elements."""

  storage: Storage
  offset: int
  shape: tuple
  stride: tuple


# The functions that files of tensors call.


def call_dtype(spend, code, *flags):
  """numpy.dtype: little-endian scalar types only."""
  code = code.lstrip('<|=') if isinstance(code, str) else ''
  code = {'V2': 'bf16', '?': 'b1'}.get(code, code)
  return DType(code) if code in DTYPES else refuse(f'dtype {code!r}')


def call_reconstruct(spend, kind, shape, tag):
  """numpy's _reconstruct: an empty array, filled by BUILD."""
  if isinstance(kind, Name) and kind.path == 'numpy.ndarray':
    return Array()
  return refuse('it reconstructs something that is no array')


def call_scalar(spend, dtype, data):
  """numpy's scalar: one number from its bytes."""
  if isinstance(dtype, DType) and isinstance(data, bytes | str):
    return Array((dtype.code, (), data, 'C'))
  return refuse('a malformed scalar')


def call_encode(spend, text, encoding):
  """_codecs.encode, the form of bytes in protocol 2."""
  if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
    refuse('a malformed string of bytes')
  spend(len(text))
  return text.encode('latin-1')


def call_bytes(spend):
  """bytes(): empty."""
  return b''


def call_tuple(spend, items=()):
  """tuple() of a list."""
  spend(8 * len(items))
  return tuple(items) if type(items) in (tuple, list) else refuse('a tuple')


def call_ordered(spend, pairs=()):
  """collections.OrderedDict: empty, or a list of pairs from Python 2."""
  result = {}
  if type(pairs) not in (tuple, list):
    refuse('a malformed OrderedDict')
  spend(64 * len(pairs))
  for key, value in pairs:
    put_item(result, key, value)
  return result


def call_tensor(spend, storage, offset, shape, stride, *flags):
  """torch's _rebuild_tensor: a view of a storage."""
  if isinstance(storage, Storage):
    return Tensor(storage, offset, shape, stride)
  return refuse('a tensor without storage')


def call_parameter(spend, tensor, *flags):
  """torch's _rebuild_parameter: its tensor."""
  return tensor if isinstance(tensor, Tensor) else refuse('a parameter')


CALLS: dict[str, Callable] = {
  'numpy.dtype': call_dtype,
  '_codecs.encode': call_encode,
  'collections.OrderedDict': call_ordered,
  'torch._utils._rebuild_tensor': call_tensor,
  'torch._utils._rebuild_tensor_v2': call_tensor,
  'torch._utils._rebuild_parameter': call_parameter,
}
for old in ('builtins', '__builtin__'):
  CALLS |= {f'{old}.tuple': call_tuple, f'{old}.bytes': call_bytes}
for old in ('numpy.core.multiarray', 'numpy._core.multiarray'):
  CALLS[f'{old}._reconstruct'] = call_reconstruct
  CALLS[f'{old}.scalar'] = call_scalar
KINDS = {f'torch.{k}Storage': code for k, code in STORAGES.items()}
NAMES = frozenset(CALLS) | frozenset(KINDS) | {'numpy.ndarray'}


def stand_in(path: str) -> Name:
  """The placeholder of a name."""
  if path not in NAMES:
    refuse(f'it asks for {path[:60]!r}, which no file of tensors needs')
  return Name(path)


def build_object(target, state):
  """BUILD: fill a reconstructed array; ignore attributes of dictionaries."""
  if isinstance(target, dict):
    return  # _metadata of a state dict: not needed
  if not isinstance(state, tuple):
    refuse('a malformed state')
  if isinstance(target, DType):  # (3, '<', None, None, None, -1, -1, 0)
    if len(state) != 8 or state[1] not in ('<', '|', '='):
      refuse('a big-endian dtype')
    if any(part is not None for part in state[2:5]):
      refuse('a structured dtype')
  elif isinstance(target, Array) and target.facts is None:
    if len(state) != 5 or not isinstance(state[2], DType):
      refuse('a malformed array')
    _, shape, dtype, fortran, data = state
    if not isinstance(data, bytes | str):
      refuse('an array of objects')
    target.facts = dtype.code, shape, data, 'F' if fortran is True else 'C'
  else:
    refuse('it sets the state of something that has none')


def persistent_storage(storages: dict[str, Storage], pid) -> Storage:
  """The placeholder of ('storage', kind, key, device, count, …)."""
  if not (isinstance(pid, tuple) and len(pid) in (5, 6)):
    refuse('a malformed storage')
  tag, kind, key, _, count = pid[:5]
  if not (isinstance(kind, Name) and kind.path in KINDS and tag == 'storage'):
    refuse('a storage of unknown kind')
  if not (type(key) is str and type(count) is int and 0 <= count < 1 << 40):
    refuse('a malformed storage')
  if len(pid) == 6 and pid[5] is not None:
    refuse('a view of a storage, a form that PyTorch gave up in 2017')
  storage = Storage(KINDS[kind.path], key, count)
  if storages.setdefault(key, storage) != storage:
    refuse('one storage with two types')
  return storage


def put_item(target, key, value):
  # Only plain keys: the hash of a nested tuple can take exponential time.
  """Set an item of a dictionary."""
  if not (isinstance(target, dict) and type(key) in (str, int)):
    refuse('a dictionary with odd keys')
  target[key] = value


def to_array(
  spend: Callable, code: str, shape, data, order: str = 'C'
) -> np.ndarray:
  """Bytes as an array (a view), after all facts were checked."""
  plain = type(shape) is tuple and len(shape) <= 8
  if not plain or any(
    type(n) is not int or not 0 <= n < 1 << 31 for n in shape
  ):
    refuse('an array with a malformed shape')
  if isinstance(data, str):  # Python 2
    data = data.encode('latin-1')
  need = math.prod(shape) * DTYPES[code].itemsize
  if need != len(data):
    refuse(f'an array of shape {shape} needs {need} bytes, has {len(data)}')
  flat = np.frombuffer(data, DTYPES[code])
  if code == 'bf16':
    spend(2 * need)
    flat = (flat.astype(np.uint32) << 16).view(np.float32)
  return flat.reshape(shape, order=order)


def strided_view(flat: np.ndarray, tensor: Tensor) -> np.ndarray:
  """A PyTorch tensor as a strided view of its storage."""
  offset, shape, stride = tensor.offset, tensor.shape, tensor.stride
  if not (type(shape) is tuple and type(stride) is tuple):
    refuse('a tensor of malformed shape')
  facts = (offset, *shape, *stride)
  if len(shape) != len(stride) or len(shape) > 8:
    refuse('a tensor of malformed shape')
  if any(type(n) is not int or not 0 <= n < 1 << 40 for n in facts):
    refuse('a tensor of malformed shape')
  if 0 in shape:
    return np.zeros(shape, flat.dtype)
  last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
  # The second test refuses zero strides: a few bytes could become terabytes.
  if last >= flat.size or math.prod(shape) > flat.size:
    refuse('a tensor that runs out of its storage')
  strides = [s * flat.itemsize for s in stride]
  return np.lib.stride_tricks.as_strided(
    flat[offset:], shape, strides, writeable=False
  )
