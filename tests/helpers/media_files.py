"""Small video and audio files made for tests."""

import os
from fractions import Fraction

import av
import numpy as np


def picture(i, width=96, height=64, pix_fmt='yuv420p'):
  """A frame with its number in its brightness and a white corner."""
  image = np.zeros((height, width, 3), np.uint8)
  image[..., 0] = np.linspace(0, 200, width)
  image[..., 1] = (i * 7) % 200
  image[..., 2] = np.linspace(0, 200, height)[:, None]
  image[: height // 4, : width // 4] = 255
  frame = av.VideoFrame.from_ndarray(image, 'rgb24')
  return frame.reformat(format=pix_fmt, dst_colorspace=1, dst_color_range=1)


def film(path, times, size=(96, 64), rate=25, pix_fmt='yuv420p', **more):
  """Write a lossless video with pictures at `times` (seconds)."""
  codec = more.pop('codec', 'libx264')
  options = more.pop('options', {'crf': '0', 'bf': '2'})
  rotation = more.pop('rotation', None)
  with av.open(str(path), 'w') as file:
    stream = file.add_stream(codec, rate=rate, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    if rotation is not None:
      stream.set_display_rotation(rotation, **more)
    unit = Fraction(1, 720_000 if codec == 'libx264' else rate)
    stream.codec_context.time_base = unit
    for i, time in enumerate(times):
      frame = picture(i, *size, pix_fmt)
      frame.pts, frame.time_base = round(time / unit), unit
      for packet in stream.encode(frame):
        file.mux(packet)
    for packet in stream.encode(None):
      file.mux(packet)
  return path


def tone(path, seconds, rate=16_000, channels=1, codec=None, start=0):
  """Write a sine that begins with a click at 0.5 s."""
  codec = codec or {'.wav': 'pcm_s16le', '.mp3': 'libmp3lame'}.get(
    os.path.splitext(path)[1], 'aac'
  )
  time = np.arange(int(seconds * rate)) / rate
  wave = np.where(time >= 0.5, 0.5 * np.sin(2 * np.pi * 440 * time), 0)
  wave = np.tile(wave.astype(np.float32), (channels, 1))
  layout = {1: 'mono', 2: 'stereo', 6: '5.1'}[channels]
  with av.open(str(path), 'w') as file:
    stream = file.add_stream(codec, rate=rate, layout=layout)
    for i in range(0, wave.shape[1], 1000):
      block = np.ascontiguousarray(wave[:, i : i + 1000])
      frame = av.AudioFrame.from_ndarray(block, 'fltp', layout)
      frame.sample_rate, frame.pts = rate, i + round(start * rate)
      frame.time_base = Fraction(1, rate)
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
  return path


def even(count, rate=25):
  return [Fraction(i) / rate for i in range(count)]


def same(frames, others):
  frames, others = list(frames), list(others)
  assert len(frames) == len(others)
  for one, other in zip(frames, others, strict=True):
    assert one.index == other.index and one.time == other.time
    for a, b in zip(one.planes, other.planes, strict=True):
      assert np.array_equal(a, b)


def one_line(caught):
  text = str(caught.value)
  assert text and '\n' not in text and len(text) < 400
  return text
