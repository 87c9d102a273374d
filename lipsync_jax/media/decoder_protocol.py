"""Messages between the program and its decoder process.

A message is a JSON object and a block of bytes, preceded by both lengths. The
JSON may hold the classes of one closed table, and fractions. No message can
name another class or function.

Shapes: n bytes.
"""

import dataclasses
import io
import json
import struct
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from lipsync_jax.media import audio_reader, extras
from lipsync_jax.media.types import Color, Video, View

Pipe = io.RawIOBase | io.BufferedIOBase

HEAD = struct.Struct('<IQ')  # bytes of JSON, bytes of the block
MAX_TEXT = 2**27  # bytes; ten times those for a day at 60 frames/s
MAX_BYTES = 2**30  # four planes of `container.MAX_PIXELS` in 10 bit
KINDS = {
  kind.__name__: kind
  for kind in (
    *(Video, Color, View, audio_reader.AudioStream),
    *(extras.Extras, extras.Stream, extras.Chapter, extras.SubtitleLine),
  )
}


def send(file: Pipe, facts: dict, *blocks) -> None:
  """Write a message; blocks are contiguous arrays or bytes."""
  text = json.dumps(facts, default=_to_json).encode('ascii')
  blocks = [memoryview(block) for block in blocks]
  file.write(HEAD.pack(len(text), sum(block.nbytes for block in blocks)))
  file.write(text)
  for block in blocks:
    file.write(block)
  file.flush()


def receive(file: Pipe) -> tuple[dict, UInt8[np.ndarray, 'n']]:
  """Read a message.

  Raises:
    EOFError: the other side has ended.
    ValueError: the bytes are no message.
  """
  text_size, size = HEAD.unpack(_read_exactly(file, HEAD.size))
  if text_size > MAX_TEXT or size > MAX_BYTES:
    raise ValueError(f'a message of {text_size} + {size} bytes')
  text = bytes(_read_exactly(file, text_size))
  facts = json.loads(text, object_hook=_from_json)
  if not isinstance(facts, dict):
    raise ValueError('a message that is no object')
  return facts, _read_exactly(file, size)


def _read_exactly(file: Pipe, size: int) -> UInt8[np.ndarray, 'n']:
  """Read exactly `size` bytes."""
  block = np.empty(size, np.uint8)
  view, done = memoryview(block), 0
  while done < size:
    count = file.readinto(view[done:])
    if not count:
      raise EOFError('the other side has ended')
    done += count
  return block


def _to_json(value):
  """A value of a class in KINDS, or a fraction, as an object of one key."""
  if isinstance(value, Fraction):
    return {'Fraction': str(value)}
  name = type(value).__name__
  if name not in KINDS:
    raise TypeError(f'{name} does not travel')
  fields = dataclasses.fields(value)
  return {name: {f.name: getattr(value, f.name) for f in fields}}


def _from_json(value: dict):
  """The inverse of `_to_json`; other objects are returned unchanged."""
  if len(value) != 1:
    return value
  name, content = next(iter(value.items()))
  if name == 'Fraction':
    return Fraction(content)
  if name not in KINDS:
    return value
  return KINDS[name](**{key: _frozen(item) for key, item in content.items()})


def _frozen(value):
  """Lists, also within lists, as tuples."""
  if isinstance(value, list):
    return tuple(_frozen(item) for item in value)
  return value
