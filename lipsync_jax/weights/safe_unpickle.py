"""An interpreter for pickles that builds tensors and nothing else.

A pickle is a program for a stack machine that can call any function by name.
This interpreter has only the instructions of files of tensors and only the
names in `pickle_types`: no INST, OBJ, NEWOBJ, EXT or POP. Depth, steps and
copied bytes are bounded. Every length is compared with the remaining file.

`readers` reads whole files with it. Instructions: see pickletools.
"""

import pickletools
from collections.abc import Callable
from io import BufferedIOBase

import numpy as np

from lipsync_jax.weights import pickle_types
from lipsync_jax.weights.pickle_types import UnsafeFile, refuse

__all__ = ['BoundedReader', 'UnsafeFile', 'materialize', 'parse_pickle']

MAX_STEPS = 1_000_000  # instructions in a pickle; wav2lip.pth has 60,000
MAX_DEPTH = 32
# Instructions that push their own argument, or push a constant.
VALUES = frozenset(
  """
  BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
  BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BINSTRING SHORT_BINSTRING
  """.split()  # noqa: SIM905
)
CONSTANTS = {
  'NONE': None,
  'NEWTRUE': True,
  'NEWFALSE': False,
  'EMPTY_TUPLE': (),
}


class BoundedReader:
  """An open file that never reads past its end and counts copied bytes."""

  def __init__(self, file: BufferedIOBase, whole: int):
    """Args:
    file: open at the start of the pickle.
    whole: size of the file on disk in bytes.
    """
    self.file = file
    start = file.tell()
    self.left = file.seek(0, 2) - start
    file.seek(start)
    self.allowance = 4 * whole + (1 << 20)  # bytes that may be copied
    self.storages: dict[str, pickle_types.Storage] = {}

  def tell(self) -> int:
    """Position in the file."""
    return self.file.tell()

  def read(self, n: int) -> bytes:
    """Exactly `n` bytes."""
    if not 0 <= n <= self.left:
      refuse('it ends in the middle of an object; download it again')
    self.left -= n
    return self.file.read(n)

  def skip(self, n: int):
    """Move forward by `n` bytes."""
    if not 0 <= n <= self.left:
      refuse('it ends before its last tensor; download it again')
    self.left -= n
    self.file.seek(n, 1)

  def readline(self) -> bytes:
    """A line without its end."""
    line = self.file.readline(min(self.left, 4096))
    self.left -= len(line)
    return line

  def spend(self, n: int):
    """Count `n` bytes that an instruction copies."""
    self.allowance -= n
    if self.allowance < 0:
      refuse('it unpacks to much more than its own size')


def container_op(name: str, stack: list, since_mark: Callable) -> bool:
  """Run an instruction on containers; False for another one."""
  match name:
    case 'EMPTY_DICT':
      stack.append({})
    case 'EMPTY_LIST':
      stack.append([])
    case 'TUPLE':
      items = since_mark()
      stack.append(tuple(items))
    case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
      items = [stack.pop() for _ in range(int(name[-1]))]
      stack.append(tuple(reversed(items)))
    case 'APPEND' | 'APPENDS':
      items = since_mark() if name == 'APPENDS' else [stack.pop()]
      if type(stack[-1]) is not list:
        refuse('it appends to something that is no list')
      stack[-1].extend(items)
    case 'SETITEM' | 'SETITEMS':
      items = (
        since_mark() if name == 'SETITEMS' else [stack.pop(-2), stack.pop()]
      )
      for key, value in zip(items[::2], items[1::2], strict=True):
        pickle_types.put_item(stack[-1], key, value)
    case _:
      return False
  return True


def call_op(name: str, arg, stack: list, tape: BoundedReader) -> bool:
  """Run an instruction on names; False for another one."""
  match name:
    case 'GLOBAL':
      stack.append(pickle_types.stand_in(arg.replace(' ', '.', 1)))
    case 'STACK_GLOBAL':
      last, module = stack.pop(), stack.pop()
      if not (isinstance(last, str) and isinstance(module, str)):
        refuse('a malformed name')
      stack.append(pickle_types.stand_in(f'{module}.{last}'))
    case 'REDUCE':
      args, function = stack.pop(), stack.pop()
      if not (
        isinstance(function, pickle_types.Name)
        and function.path in pickle_types.CALLS
      ):
        refuse('it calls something that is no function')
      if type(args) is not tuple:
        refuse('it calls a function with malformed arguments')
      stack.append(pickle_types.CALLS[function.path](tape.spend, *args))
    case 'BUILD':
      state = stack.pop()
      pickle_types.build_object(stack[-1], state)
    case 'BINPERSID':
      stack.append(pickle_types.persistent_storage(tape.storages, stack.pop()))
    case _:
      return False
  return True


def parse_pickle(tape: BoundedReader):
  """Run one pickle; returns containers, plain values and placeholders."""
  stack, marks, memo = [], [], {}

  def since_mark() -> list:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items

  for step, (op, arg, where) in enumerate(pickletools.genops(tape)):
    if step > MAX_STEPS:
      refuse('it has too many instructions')
    name = op.name
    if name in VALUES:
      stack.append(arg)
    elif name in CONSTANTS:
      stack.append(CONSTANTS[name])
    elif name == 'MARK':
      marks.append(len(stack))
    elif name in ('BINGET', 'LONG_BINGET'):
      stack.append(memo[arg])
    elif name in ('BINPUT', 'LONG_BINPUT'):
      memo[arg] = stack[-1]
    elif name == 'MEMOIZE':
      memo[len(memo)] = stack[-1]
    elif name in ('PROTO', 'FRAME', 'STOP'):
      continue
    elif not (
      container_op(name, stack, since_mark) or call_op(name, arg, stack, tape)
    ):
      refuse(f'instruction {name} at byte {where} belongs to no tensor file')
  return stack.pop()


def materialize(
  tape: BoundedReader, raw, fetch: Callable[[pickle_types.Storage], np.ndarray]
):
  """Replace placeholders by arrays.

  Containers are copied, with bounded depth and number.

  Args:
    fetch: returns the flat array of a PyTorch storage.
  """
  count, above = 0, set()

  def walk(x, depth: int):
    nonlocal count
    count += 1
    if depth > MAX_DEPTH or count > MAX_STEPS:
      refuse('it is nested too deeply')
    if isinstance(x, pickle_types.Array):
      return pickle_types.to_array(
        tape.spend, *(x.facts or refuse('an array without data'))
      )
    if isinstance(x, pickle_types.Tensor):
      return pickle_types.strided_view(fetch(x.storage), x)
    if type(x) in (str, int, float, bool, bytes, type(None)):
      return x
    if type(x) not in (dict, list, tuple) or id(x) in above:
      refuse('it holds more than tensors, numbers and text')
    above.add(id(x))
    if type(x) is dict:
      result = {key: walk(value, depth + 1) for key, value in x.items()}
    else:
      result = type(x)([walk(value, depth + 1) for value in x])
    above.discard(id(x))
    return result

  return walk(raw, 0)
