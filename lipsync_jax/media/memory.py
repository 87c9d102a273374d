"""Videos and sound that a program holds in memory, as `decoder` reads them.

Shapes: f frames, h w rows and columns of a picture, c channels, n samples.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float32, UInt8

from lipsync_jax.media import yuv
from lipsync_jax.media.audio_reader import AudioStream
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import FULL_RANGE, Color, Frame, Video

MEMORY_COLOR = Color(matrix=1, range=FULL_RANGE, primaries=1, transfer=1)
BLOCK_SECONDS = 1  # of sound delivered at once
MAX_RATE = 240  # frames/s


@dataclasses.dataclass(frozen=True)
class MemoryVideo(Video):
  """A video whose pictures are an array.

  Attributes:
    pictures: RGB, not changed.
  """

  pictures: UInt8[np.ndarray, 'f h w 3'] = dataclasses.field(
    default_factory=lambda: np.zeros((0, 2, 2, 3), np.uint8),
    compare=False,
    repr=False,
  )

  def content_hash(self) -> str:
    """SHA-256 of the pictures and their rate, hexadecimal."""
    digest = hashlib.sha256(repr((self.pictures.shape, self.rate)).encode())
    for picture in self.pictures:
      digest.update(np.ascontiguousarray(picture))
    return digest.hexdigest()

  def frame(self, index: int) -> Frame:
    """A picture in YUV planes; odd sides are extended by their edge."""
    picture = self.pictures[index]
    height, width = picture.shape[:2]
    if (height, width) != (self.height, self.width):
      more = ((0, self.height - height), (0, self.width - width), (0, 0))
      picture = np.pad(picture, more, 'edge')
    y, u, v = yuv.to_yuv(self, picture.astype(np.float32))
    planes = (y, yuv.halve_plane(u), yuv.halve_plane(v))
    planes = (np.clip(np.rint(plane), 0, 255) for plane in planes)
    planes = tuple(plane.astype(np.uint8) for plane in planes)
    return Frame(index, index / self.rate, planes)

  def read_frames(self, start: int = 0) -> Iterator[Frame]:
    """As `video_reader.read_frames`."""
    for index in range(start, len(self.pictures)):
      yield self.frame(index)

  def read_backwards(self, last: int) -> Iterator[Frame]:
    """As `video_reader.read_backwards`."""
    for index in range(last, -1, -1):
      yield self.frame(index)

  def read_chosen(self, chosen: Sequence[int]) -> Iterator[Frame]:
    """As `video_reader.read_chosen`."""
    for index in chosen:
      if index < len(self.pictures):
        yield self.frame(index)

  def changed_picture(
    self, index: int, frame: Frame
  ) -> UInt8[np.ndarray, 'h w 3']:
    """The picture with the changes that an edited frame has.

    The difference of both frames is added to the picture, so that every pixel
    that was not edited keeps its exact value.
    """
    before, picture = self.frame(index), self.pictures[index]
    height, width = picture.shape[:2]
    change = yuv.to_rgb(self, frame).astype(np.int16)
    change -= yuv.to_rgb(self, before)
    change = change[:height, :width] + picture
    return np.clip(change, 0, 255, out=change).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class MemoryAudio(AudioStream):
  """Sound whose samples are an array.

  Attributes:
    samples: in [-1, 1].
  """

  samples: Float32[np.ndarray, 'c n'] = dataclasses.field(
    default_factory=lambda: np.zeros((1, 0), np.float32),
    compare=False,
    repr=False,
  )

  def read_blocks(self) -> Iterator[Float32[np.ndarray, 'c _']]:
    """As `audio_reader.read_audio`."""
    size = BLOCK_SECONDS * self.rate
    for first in range(0, self.samples.shape[1], size):
      yield self.samples[:, first : first + size]


def memory_video(pictures: np.ndarray, fps: float | Fraction) -> MemoryVideo:
  """Describe pictures in memory.

  Args:
    pictures: RGB uint8 [f h w 3], or one picture [h w 3], which is a photo.
    fps: frames/s.

  Raises:
    MediaError: other shapes or types, or a rate out of range.
  """
  still = pictures.ndim == 3
  stack = pictures[None] if still else pictures
  if pictures.dtype != np.uint8 or stack.ndim != 4 or stack.shape[-1] != 3:
    raise MediaError(
      'frames: expected uint8 RGB of shape [f, h, w, 3], or one picture '
      f'[h, w, 3], found {pictures.dtype} of shape {pictures.shape}'
    )
  if not all(stack.shape):
    raise MediaError(f'frames: expected at least one, found {stack.shape}')
  if not 1 <= fps <= MAX_RATE:
    raise MediaError(
      f'fps: expected a rate from 1 to {MAX_RATE} frames/s, found {fps}'
    )
  rate = Fraction(fps).limit_denominator(1001)
  height, width = (side + side % 2 for side in stack.shape[1:3])
  return MemoryVideo(
    path='',
    width=width,
    height=height,
    rate=rate,
    duration=Fraction(0) if still else len(stack) / rate,
    start=Fraction(0),
    pix_fmt='yuv420p',
    color=MEMORY_COLOR,
    still=still,
    tick=1 / rate,
    stored=(width, height),
    pictures=stack,
  )


def memory_audio(samples: np.ndarray, rate: int) -> MemoryAudio:
  """Describe sound in memory.

  Args:
    samples: [n] or [c n], floats in [-1, 1] or int16.
    rate: samples/s.

  Raises:
    MediaError: other shapes or types, no sample, or no rate.
  """
  stack = samples[None] if samples.ndim == 1 else samples
  known = samples.dtype == np.int16 or samples.dtype.kind == 'f'
  if stack.ndim != 2 or not known or not 1 <= stack.shape[0] <= 64:
    raise MediaError(
      'samples: expected floats in [-1, 1] or int16 of shape [n] or '
      f'[channels, n], found {samples.dtype} of shape {samples.shape}'
    )
  if not stack.size or rate < 1:
    raise MediaError(
      'samples: expected at least one at a rate above 0, found '
      f'{stack.shape[1]} at {rate}/s'
    )
  scale = np.float32(1 / 32768 if samples.dtype == np.int16 else 1)
  stack = np.ascontiguousarray(stack, np.float32) * scale
  return MemoryAudio(
    path='',
    rate=int(rate),
    channels=len(stack),
    codec='memory',
    duration=Fraction(stack.shape[1], int(rate)),
    start=Fraction(0),
    origin=Fraction(0),
    stream=0,
    samples=stack,
  )
