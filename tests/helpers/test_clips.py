"""Small media made on the spot, for tests."""

import pathlib
import wave
from fractions import Fraction

import av
import numpy as np


def write_wav(path: pathlib.Path, samples: np.ndarray, rate: int = 16000):
  """A 16-bit mono file of samples in [-1, 1]."""
  with wave.open(str(path), 'wb') as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    whole = np.round(np.clip(samples, -1, 1) * 32767).astype('<i2')
    file.writeframes(whole.tobytes())
  return path


def write_video(
  path: pathlib.Path, times, size=(64, 64), picture=None, rate=25
):
  """A video of gray frames (or `picture(i)` RGB) at the given times."""
  times = list(times)
  unit = Fraction(1, 90000)
  with av.open(str(path), 'w') as file:
    stream = file.add_stream(
      'libx264', rate=rate, options={'preset': 'ultrafast'}
    )
    stream.width, stream.height = size
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.time_base = unit
    gray = np.full((size[1], size[0], 3), 128, np.uint8)
    for i, time in enumerate(times):
      frame = av.VideoFrame.from_ndarray(picture(i) if picture else gray)
      frame.pts, frame.time_base = round(time / unit), unit
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
  return path


def steady(seconds: float, rate) -> list[Fraction]:
  """Frame times of a constant rate."""
  return [i / Fraction(rate) for i in range(round(seconds * Fraction(rate)))]


def read_video(path) -> tuple[list[Fraction], list[np.ndarray]]:
  """Times and luma planes of a whole file."""
  times, planes = [], []
  with av.open(str(path)) as file:
    for frame in file.decode(video=0):
      times.append(frame.pts * frame.time_base)
      plane = frame.planes[0]
      rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
      planes.append(rows[: frame.height, : frame.width].copy())
  return times, planes
