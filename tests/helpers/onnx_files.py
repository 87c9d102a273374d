"""Small ONNX models, encoded by hand (onnx.proto)."""

FLOAT, DOUBLE = 1, 11


def varint(value: int) -> bytes:
  out = b''
  while value > 127:
    out += bytes([value & 127 | 128])
    value >>= 7
  return out + bytes([value])


def field(number: int, value) -> bytes:
  """A field of a protobuf message: an integer, a string or a message."""
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  value = value.encode() if isinstance(value, str) else value
  return varint(number << 3 | 2) + varint(len(value)) + value


def port(name: str, shape: list, kind: int = FLOAT) -> bytes:
  """A ValueInfoProto; None is a side that stays open."""
  sides = b''.join(
    field(1, field(2, 's') if side is None else field(1, side))
    for side in shape
  )
  tensor = field(1, kind) + field(2, sides)
  return field(1, name) + field(2, field(1, tensor))


def node(kind: str, inputs: list[str], output: str, *attributes) -> bytes:
  names = b''.join(field(1, name) for name in inputs)
  more = b''.join(field(5, attribute) for attribute in attributes)
  return names + field(2, output) + field(4, kind) + more


def cast_to_float() -> bytes:
  """The attribute `to` of a Cast node."""
  return field(1, 'to') + field(3, FLOAT) + field(20, 2)


def write_model(path, nodes: list, inputs: list, outputs: list) -> str:
  graph = b''.join(field(1, one) for one in nodes) + field(2, 'g')
  graph += b''.join(field(11, one) for one in inputs)
  graph += b''.join(field(12, one) for one in outputs)
  opset = field(1, '') + field(2, 13)
  path.write_bytes(field(1, 8) + field(7, graph) + field(8, opset))
  return str(path)


def negative(path, side=512) -> str:
  """A model that gives the negative of its picture."""
  shape = [1, 3, side, side]
  return write_model(
    path, [node('Neg', ['x'], 'y')], [port('x', shape)], [port('y', shape)]
  )


def copy(path) -> str:
  """A model that gives its picture, of any size."""
  shape = [None, 3, None, None]
  return write_model(
    path, [node('Identity', ['x'], 'y')], [port('x', shape)], [port('y', shape)]
  )


def weighted(path) -> str:
  """A model like CodeFormer: picture times a second input, a double."""
  shape = [1, 3, 512, 512]
  return write_model(
    path,
    [
      node('Cast', ['w'], 'f', cast_to_float()),
      node('Mul', ['x', 'f'], 'y'),
    ],
    [port('x', shape), port('w', [], DOUBLE)],
    [port('y', shape)],
  )
