"""A HEIC photo in tiles, as phones write it (ISO 23008-12, 6.6.2.3)."""

import io
import struct

import av
import numpy as np

TILE = 64  # pixels of a tile's side


def box(name: bytes, *parts: bytes) -> bytes:
  body = b''.join(parts)
  return struct.pack('>I4s', 8 + len(body), name) + body


def full_box(name: bytes, *parts: bytes, version=0, flags=0) -> bytes:
  return box(name, struct.pack('>I', version << 24 | flags), *parts)


def encode_tile(rgb: np.ndarray) -> tuple[bytes, bytes]:
  """One HEVC picture and its decoder configuration."""
  out = io.BytesIO()
  with av.open(out, 'w', format='mp4') as file:
    options = {
      'x265-params': 'log-level=none:bframes=0:hrd=0:info=0',
      'crf': '10',
    }
    stream = file.add_stream('libx265', rate=1, options=options)
    stream.height, stream.width = rgb.shape[:2]
    stream.pix_fmt = 'yuv420p'
    frame = av.VideoFrame.from_ndarray(rgb)
    frame.pts = 0
    file.mux(stream.encode(frame) + stream.encode(None))
  with av.open(io.BytesIO(out.getvalue())) as file:
    stream = file.streams.video[0]
    packet = next(p for p in file.demux(stream) if p.size)
    return bytes(packet), bytes(stream.codec_context.extradata)


def tiled_photo(path, rgb: np.ndarray) -> None:
  """Write `rgb` [h w 3] in tiles; its sides are multiples of TILE."""
  rows, columns = rgb.shape[0] // TILE, rgb.shape[1] // TILE
  tiles = []
  for i in range(rows * columns):
    y, x = divmod(i, columns)
    part = rgb[y * TILE :, x * TILE :][:TILE, :TILE]
    tiles.append(encode_tile(np.ascontiguousarray(part)))
  count = len(tiles)  # the tiles are items 1..count, the grid comes after them
  size = struct.pack('>HH', rgb.shape[1], rgb.shape[0])
  grid = struct.pack('>BBBB', 0, 0, rows - 1, columns - 1) + size
  items = [body for body, _ in tiles] + [grid]
  infos = [
    full_box(
      b'infe',
      struct.pack('>HH', i + 1, 0),
      b'grid\0' if i == count else b'hvc1\0',
      version=2,
      flags=i < count,  # tiles are hidden
    )
    for i in range(count + 1)
  ]
  tile_size, whole = struct.pack('>II', TILE, TILE), rgb.shape[1::-1]
  properties = box(
    b'ipco',
    box(b'hvcC', tiles[0][1]),
    full_box(b'ispe', tile_size),
    full_box(b'ispe', struct.pack('>II', *whole)),
  )
  links = b''.join(
    struct.pack('>HBB', i + 1, 1, 3)
    if i == count
    else struct.pack('>HBBB', i + 1, 2, 0x81, 2)
    for i in range(count + 1)
  )
  links = full_box(b'ipma', struct.pack('>I', count + 1), links)
  parts = struct.pack(f'>HH{count}H', count + 1, count, *range(1, count + 1))

  def meta(start: int) -> bytes:
    places, at = b'', start
    for i, item in enumerate(items):
      places += struct.pack('>HHHII', i + 1, 0, 1, at, len(item))
      at += len(item)
    return full_box(
      b'meta',
      full_box(b'hdlr', bytes(4), b'pict', bytes(13)),
      full_box(b'pitm', struct.pack('>H', count + 1)),
      full_box(b'iloc', struct.pack('>HH', 0x4400, len(items)), places),
      full_box(b'iinf', struct.pack('>H', count + 1), *infos),
      full_box(b'iref', box(b'dimg', parts)),
      box(b'iprp', properties, links),
    )

  head = box(b'ftyp', b'heic', bytes(4), b'mif1heic')
  start = len(head) + len(meta(0)) + 8
  path.write_bytes(head + meta(start) + box(b'mdat', *items))
