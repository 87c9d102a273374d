"""Serialization of `tf.train.Example`.

The message has two levels of protocol buffers: `Example {1: Features {1:
map<name, Feature {1: BytesList {1: bytes} | 2: FloatList {1: packed
float}}>}}`. Fields are sorted by name, so that equal fields give equal bytes,
which protobuf's map does not promise. Training then needs no protobuf package.
Source: `tensorflow/core/example/{example,feature}.proto`.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float32

from lipsync_jax.common.errors import LipSyncError

Field = list[bytes] | Float32[np.ndarray, 'n']

_BYTES, _FLOATS = 1, 2
_LENGTH = 2  # the wire type of values with a length


class ExampleError(LipSyncError):
  """Bytes that are not a `tf.train.Example` of bytes and floats."""


def encode_example(fields: Mapping[str, Field]) -> bytes:
  """Serialize fields, each a list of bytes or an array of floats."""
  parts = []
  for name, values in sorted(fields.items()):
    if isinstance(values, list):
      items = [part for value in values for part in _encode_field(1, value)]
      feature = _encode_field(_BYTES, b''.join(items))
    else:
      packed = _encode_field(1, np.ascontiguousarray(values, '<f4').tobytes())
      feature = _encode_field(_FLOATS, b''.join(packed))
    entry = [
      *_encode_field(1, name.encode()),
      *_encode_field(2, b''.join(feature)),
    ]
    parts += _encode_field(1, b''.join(entry))
  return b''.join(_encode_field(1, b''.join(parts)))


def decode_example(data: bytes) -> dict[str, Field]:
  """The fields of a serialized example.

  Raises:
    ExampleError: it has integers, or is not such a message.
  """
  fields = {}
  for features in _field_bounds(data, 0, len(data), 1):
    for entry in _field_bounds(data, *features, 1):
      names = [data[a:b] for a, b in _field_bounds(data, *entry, 1)]
      values = list(_field_bounds(data, *entry, 2))
      if len(names) != 1 or len(values) != 1:
        raise ExampleError('expected one name and one value a field')
      fields[names[0].decode()] = _decode_feature(data, *values[0])
  return fields


def _decode_feature(data: bytes, start: int, end: int) -> Field:
  for field, a, b in _walk_fields(data, start, end):
    if field == _BYTES:
      return [data[c:d] for c, d in _field_bounds(data, a, b, 1)]
    if field == _FLOATS:
      return np.concatenate(
        [
          np.frombuffer(data[c:d], '<f4')
          for c, d in _field_bounds(data, a, b, 1)
        ]
        or [np.zeros(0, '<f4')]
      )
    raise ExampleError('expected a list of bytes or floats in every field')
  return []


def _field_bounds(
  data: bytes, start: int, end: int, wanted: int
) -> Iterator[tuple[int, int]]:
  """Bounds of every part with field number `wanted` of a message."""
  return (
    (a, b) for field, a, b in _walk_fields(data, start, end) if field == wanted
  )


def _walk_fields(
  data: bytes, start: int, end: int
) -> Iterator[tuple[int, int, int]]:
  """Field number and bounds of every part of a message."""
  while start < end:
    tag, start = _read_varint(data, start, end)
    if tag & 7 != _LENGTH:
      raise ExampleError(f'expected parts with a length, found tag {tag}')
    size, start = _read_varint(data, start, end)
    if size > end - start:
      raise ExampleError(f'a part of {size} bytes ends beyond its message')
    yield tag >> 3, start, start + size
    start += size


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
  """The varint at `at`, and its end."""
  value = shift = 0
  while at < end and shift < 64:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at
  raise ExampleError('a number does not end within its message')


def _encode_field(field: int, data: bytes) -> tuple[bytes, bytes, bytes]:
  size, digits = len(data), bytearray()
  while size > 127:
    digits.append(size & 127 | 128)
    size >>= 7
  digits.append(size)
  return bytes([field << 3 | _LENGTH]), bytes(digits), data
