"""Examples: named fields as the bytes of a `tf.train.Example`.

The message is two levels of protocol buffers, small enough to be written
out: `Example {1: Features {1: map<name, Feature {1: BytesList {1: bytes} |
2: FloatList {1: packed float}}>}}`. Fields are written in the order of
their names, so that equal fields give equal bytes, which a map does not
promise. Source: `tensorflow/core/example/{example,feature}.proto`.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float32

Field = list[bytes] | Float32[np.ndarray, 'n']

_BYTES, _FLOATS = 1, 2
_LENGTH = 2  # the wire type of what is preceded by its length


class ExampleError(ValueError):
  """Bytes that are no `tf.train.Example` of bytes and floats."""


def encode(fields: Mapping[str, Field]) -> bytes:
  """Serialize fields, each a list of bytes or an array of floats."""
  parts = []
  for name, values in sorted(fields.items()):
    if isinstance(values, list):
      items = [part for value in values for part in _tagged(1, value)]
      feature = _tagged(_BYTES, b''.join(items))
    else:
      packed = _tagged(1, np.ascontiguousarray(values, '<f4').tobytes())
      feature = _tagged(_FLOATS, b''.join(packed))
    entry = [*_tagged(1, name.encode()), *_tagged(2, b''.join(feature))]
    parts += _tagged(1, b''.join(entry))
  return b''.join(_tagged(1, b''.join(parts)))


def decode(data: bytes) -> dict[str, Field]:
  """The fields of a serialized example.

  Raises:
    ExampleError: it holds integers, or is not such a message at all.
  """
  fields = {}
  for features in _parts(data, 0, len(data), 1):
    for entry in _parts(data, *features, 1):
      names = [data[a:b] for a, b in _parts(data, *entry, 1)]
      values = list(_parts(data, *entry, 2))
      if len(names) != 1 or len(values) != 1:
        raise ExampleError('expected one name and one value a field')
      fields[names[0].decode()] = _feature(data, *values[0])
  return fields


def _feature(data: bytes, start: int, end: int) -> Field:
  for field, a, b in _walk(data, start, end):
    if field == _BYTES:
      return [data[c:d] for c, d in _parts(data, a, b, 1)]
    if field == _FLOATS:
      return np.concatenate(
        [np.frombuffer(data[c:d], '<f4') for c, d in _parts(data, a, b, 1)]
        or [np.zeros(0, '<f4')]
      )
    raise ExampleError('expected a list of bytes or floats in every field')
  return []


def _parts(
  data: bytes, start: int, end: int, wanted: int
) -> Iterator[tuple[int, int]]:
  """Bounds of every part that is field `wanted` of a message."""
  return ((a, b) for field, a, b in _walk(data, start, end) if field == wanted)


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
  """Field number and bounds of every part of a message."""
  while start < end:
    tag, start = _number(data, start, end)
    if tag & 7 != _LENGTH:
      raise ExampleError(f'expected parts with a length, found tag {tag}')
    size, start = _number(data, start, end)
    if size > end - start:
      raise ExampleError(f'a part of {size} bytes ends beyond its message')
    yield tag >> 3, start, start + size
    start += size


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
  """A varint at `at`, and where it ends."""
  value = shift = 0
  while at < end and shift < 64:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at
  raise ExampleError('a number does not end within its message')


def _tagged(field: int, data: bytes) -> tuple[bytes, bytes, bytes]:
  size, digits = len(data), bytearray()
  while size > 127:
    digits.append(size & 127 | 128)
    size >>= 7
  digits.append(size)
  return bytes([field << 3 | _LENGTH]), bytes(digits), data
