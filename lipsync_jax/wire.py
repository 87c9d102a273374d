"""Messages between the program and its decoder process.

A message is a JSON object and a block of bytes, with both lengths in front.
JSON knows a few more kinds of values here, all in one closed table: nothing
that arrives can name a class or a function of its own choice.

Alphabet: n bytes.
"""

import dataclasses
import fractions
import io
import json
import struct

import numpy as np
from jaxtyping import UInt8

from lipsync_jax import planes, sound

Fraction = fractions.Fraction

Pipe = io.RawIOBase | io.BufferedIOBase

HEAD = struct.Struct('<IQ')  # bytes of JSON, bytes of the block
MOST_TEXT = 2**27  # bytes; the times of a day at 60 frames/s are a tenth
MOST_BYTES = 2**30  # bytes; a picture of source.MAX_PIXELS in 10 bit is a third
KINDS = {
  kind.__name__: kind
  for kind in (planes.Video, planes.Colour, planes.View, sound.Audio)
}


def send(file: Pipe, facts: dict, *blocks) -> None:
  """Write a message; blocks are contiguous arrays or bytes."""
  text = json.dumps(facts, default=_plain).encode('ascii')
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
    ValueError: what it sent is no message.
  """
  text_size, size = HEAD.unpack(_block(file, HEAD.size))
  if text_size > MOST_TEXT or size > MOST_BYTES:
    raise ValueError(f'a message of {text_size} + {size} bytes')
  text = bytes(_block(file, text_size))
  facts = json.loads(text, object_hook=_restored)
  if not isinstance(facts, dict):
    raise ValueError('a message that is no object')
  return facts, _block(file, size)


def _block(file: Pipe, size: int) -> UInt8[np.ndarray, 'n']:
  """Read exactly `size` bytes."""
  block = np.empty(size, np.uint8)
  view, done = memoryview(block), 0
  while done < size:
    count = file.readinto(view[done:])
    if not count:
      raise EOFError('the other side has ended')
    done += count
  return block


def _plain(value):
  """What JSON has no word for, as an object with one key."""
  if isinstance(value, Fraction):
    return {'Fraction': str(value)}
  name = type(value).__name__
  if name not in KINDS:
    raise TypeError(f'{name} does not travel')
  fields = dataclasses.fields(value)
  return {name: {f.name: getattr(value, f.name) for f in fields}}


def _restored(value: dict):
  """The inverse of `_plain`; other objects stay what they are."""
  if len(value) != 1:
    return value
  name, content = next(iter(value.items()))
  if name == 'Fraction':
    return Fraction(content)
  if name not in KINDS:
    return value
  fields = {
    key: tuple(item) if isinstance(item, list) else item
    for key, item in content.items()
  }
  return KINDS[name](**fields)
