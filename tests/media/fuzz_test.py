"""Mutated media files through the decoder process: no hang, no crash.

LIPSYNC_JAX_FUZZ=10000 python -m pytest tests/media/fuzz_test.py -s

makes as many files (200 by default), reads all pictures, sound and packets
of each, and prints what came of it.
"""

import collections
import itertools
import logging
import os
import random
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_jax.media import (
  decoder,
  decoder_process,
  video_reader,
  video_writer,
)
from tests.helpers import media_files, rich_files

COUNT = int(os.environ.get('LIPSYNC_JAX_FUZZ', '200'))
LONGEST = 30.0  # s a file may take, on a busy machine


def seeds(folder):
  """Small files of many kinds, pictures with and without sound."""
  times = media_files.even(12)

  def film(name, **options):
    return media_files.film(folder / name, times, (64, 48), **options)

  plain = {'options': {}}
  yield film('a.mp4', options={'crf': '30', 'bf': '2', 'g': '5'})
  yield film('b.ts', options={'crf': '30', 'g': '5'})
  yield film('c.mov', codec='mpeg4', **plain)
  yield film('d.avi', codec='mpeg4', **plain)
  yield film('e.mkv', codec='ffv1', **plain)
  yield film('f.webm', codec='libvpx-vp9', options={'cpu-used': '8'})
  yield film('g.gif', codec='gif', pix_fmt='rgb8', **plain)
  yield film('h.avi', codec='mjpeg', pix_fmt='yuvj420p', **plain)
  yield film('i.mkv', pix_fmt='yuv420p10le', options={'crf': '30'})
  yield film('j.mp4', rotation=90, options={'crf': '30'})
  for name in ('k.wav', 'l.mp3', 'm.m4a', 'n.mkv', 'o.ts'):
    yield media_files.tone(folder / name, 0.7, 16_000)
  yield with_sound(folder)
  from PIL import Image

  picture = Image.fromarray(
    media_files.picture(3, 64, 48).to_rgb().to_ndarray()
  )
  for name in ('p.png', 'q.jpg', 'r.webp', 's.bmp', 't.tiff'):
    picture.save(folder / name)
    yield folder / name
  for name in ('v.webp', 'w.png', 'x.avif', 'y.gif'):
    others = [picture.rotate(10 * i) for i in range(5)]
    picture.save(
      folder / name, save_all=True, append_images=others, duration=40
    )
    yield folder / name
  for name in ('rich.mp4', 'rich.mkv', 'rich.webm'):
    yield rich_files.rich_film(folder / name, 1, (64, 48))


def with_sound(folder):
  """Pictures and sound in one file, index in front."""
  path = folder / 'u.mp4'
  options = {'movflags': 'faststart'}
  with av.open(str(path), 'w', options=options) as file:
    pictures = file.add_stream('libx264', rate=25)
    pictures.width, pictures.height, pictures.pix_fmt = 64, 48, 'yuv420p'
    sounds = file.add_stream('aac', rate=16_000, layout='mono')
    for i in range(12):
      file.mux(pictures.encode(media_files.picture(i, 64, 48)))
      wave = np.random.default_rng(i).normal(0, 0.1, (1, 640))
      frame = av.AudioFrame.from_ndarray(wave.astype('f4'), 'fltp', 'mono')
      frame.sample_rate = 16_000
      file.mux(sounds.encode(frame))
    file.mux(pictures.encode(None))
    file.mux(sounds.encode(None))
  return path


def mutated(content: bytes, dice: random.Random) -> bytes:
  """Bits flipped, numbers blown up, pieces cut, doubled or overwritten."""
  data = bytearray(content)
  for _ in range(dice.randint(1, 6)):
    if len(data) < 16:
      break
    at, kind = dice.randrange(len(data)), dice.randrange(6)
    # Half of the changes fall where the structure is.
    at = dice.randrange(min(len(data), 600)) if dice.random() < 0.5 else at
    if kind == 0:
      data[at] ^= 1 << dice.randrange(8)
    elif kind == 1:
      words = (b'\0' * 4, b'\xff' * 4, b'\x7f\xff\xff\xff', b'\x80\0\0\0')
      data[at : at + 4] = dice.choice(words)
    elif kind == 2:
      del data[at : at + dice.randint(1, 2000)]
    elif kind == 3:
      data[at:at] = data[at : at + dice.randint(1, 2000)]
    elif kind == 4:
      size = dice.randint(1, 64)
      data[at : at + size] = dice.randbytes(size)
    else:
      del data[max(64, at) :]
  return bytes(data)


def read_everything(path) -> str:
  """Use a file in every way there is; what came of it."""
  result = 'refused'
  try:
    video = decoder.probe_video(path)
    frames = decoder.read_frames(video)
    times = [frame.time for frame in itertools.islice(frames, 50)]
    frames.close()
    result = 'read'
    back = decoder.read_backwards(video, len(times) - 1, times)
    for _ in itertools.islice(back, 3):
      pass
  except video_reader.MediaError as error:
    result = judged(error, result)
  else:
    result = carry_everything(path, video, result)
  try:
    audio = decoder.probe_audio(path)
    for _ in itertools.islice(decoder.read_audio(audio), 500):
      pass
    decoder.stream_template(audio, audio.origin)
    for _ in itertools.islice(decoder.read_packets(audio), 500):
      pass
    return 'read' if result == 'refused' else result
  except video_reader.MediaError as error:
    return judged(error, result)


def carry_everything(path, video, result) -> str:
  """Write the first pictures with all extras; what came of it."""
  suffixes = ('.mp4', '.mov', '.mkv', '.webm', '.avi')
  out = path.parent / f'out{suffixes[len(path.name) % 5]}'
  if video.alpha or video.color.depth > 8 or video.width * video.height > 2**20:
    return result
  try:
    source = decoder.probe_extras(path, video.stream)
    with video_writer.VideoWriter(out, video) as writer:
      writer.carry(source, video, Fraction(1))
      for frame in itertools.islice(decoder.read_frames(video), 3):
        writer.write(frame)
  except video_reader.MediaError as error:
    return judged(error, f'{result}, not written')
  return result


def judged(error: Exception, result: str) -> str:
  """An error is one line; it may tell of a death."""
  text = str(error)
  assert '\n' not in text and len(text) < 600, text
  return f'killed: {text}' if 'its decoder' in text else result


@pytest.mark.slow
def test_mutated_files(tmp_path, monkeypatch):
  logging.getLogger('lipsync_jax').setLevel(logging.CRITICAL)
  monkeypatch.setattr(decoder_process, 'TIMEOUT_SECONDS', LONGEST)
  folder = tmp_path / 'seeds'
  folder.mkdir()
  dice, contents = random.Random(7), []
  for path in seeds(folder):
    contents.append((path.suffix, path.read_bytes()))
    assert read_everything(path) == 'read', path
  tally, slowest, peak = collections.Counter(), (0.0, ''), 0
  for i in range(COUNT):
    suffix, content = dice.choice(contents)
    path = tmp_path / f'{i}{suffix}'
    path.write_bytes(mutated(content, dice))
    began = time.monotonic()
    tally[read_everything(path)] += 1
    slowest = max(slowest, (time.monotonic() - began, path.name))
    peak = max(peak, decoder.DEFAULT_POOL.peak_bytes)
    path.unlink()
  print(
    f'\n{COUNT} mutated files: {dict(tally)}, '
    f'slowest {slowest[0]:.2f} s ({slowest[1]}), peak {peak / 2**20:.0f} MB'
  )
  assert slowest[0] < LONGEST
  assert tally['read'] > COUNT / 10 and tally['refused'] > COUNT / 100
