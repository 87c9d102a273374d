"""Synthetic talking faces, a data set without a download.

The mouth opening follows the loudness of the sound. Everything is a function of
the seed. Used by `configs/debug.py`.

Shapes: n frames, p mesh points, s sound samples at 16 kHz.
"""

import pathlib

import numpy as np
from jaxtyping import Float, Float32, Int16, UInt8

from lipsync_jax import audio
from lipsync_jax.data import tfrecord
from lipsync_jax.data.clip import DATASET_NAME, NUM_LANDMARKS, Clip, write_clips
from lipsync_jax.faces import mesh

MAX_DROP = 0.2  # canonical units, of the lower lip
IMAGE_SIZE = 120  # pixels of a stored picture, crop and margin


def synthetic_clip(key: str, frames: int, seed: int) -> Clip:
  """One talking face of `frames` frames; the speaker determines its looks."""
  speaker = key.split('/')[0]
  looks = np.random.default_rng([seed, *speaker.encode()])
  rng = np.random.default_rng([seed, *key.encode()])
  wave, opening = synthetic_speech(frames, rng)
  colors = looks.integers(60, 230, (3, 3))
  drift = np.cumsum(rng.normal(0, 0.4, (frames, 2)), 0)
  drift = np.clip(drift, -5, 5)
  pictures = [
    draw_face(colors, drift[i], float(opening[i])) for i in range(frames)
  ]
  middle = np.float32([IMAGE_SIZE / 2, IMAGE_SIZE / 2, 96, 96, 0])
  corner = np.float32([12, 12, 108, 108])
  return Clip(
    key=key,
    speaker=speaker,
    frames=tuple(_jpeg(rgb) for rgb in pictures),
    crops=np.tile(middle, (frames, 1)),
    points=np.full((frames, NUM_LANDMARKS, 2), IMAGE_SIZE / 2, np.float32),
    boxes=np.tile(corner, (frames, 1)),
    mesh=mesh.pack(synthetic_mesh(opening)),
    mel=audio.log_mel(audio.int16_to_float(wave)),
    wave=wave,
    source='drawn',
  )


def synthetic_speech(
  frames: int, rng: np.random.Generator
) -> tuple[Int16[np.ndarray, 's'], Float32[np.ndarray, 'n']]:
  """A buzzing voice with syllables, and the mouth opening in [0, 1]."""
  count = frames * audio.SAMPLES_PER_FRAME
  # A new loudness about every three frames, without a rhythm.
  knots = np.sort(rng.uniform(0, count, max(2, frames // 3)))
  level = np.interp(np.arange(count), knots, rng.random(len(knots)))
  level = np.clip(level * 1.6 - 0.3, 0, 1)
  time = np.arange(count) / audio.SAMPLE_RATE
  pitch = rng.uniform(100, 220)
  voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
  wave = 5000 * level * voice + rng.normal(0, 20, count)
  opening = level.reshape(frames, audio.SAMPLES_PER_FRAME).mean(1)
  return wave.astype(np.int16), opening.astype(np.float32)


def synthetic_mesh(
  opening: Float32[np.ndarray, 'n'],
) -> Float[np.ndarray, 'n p 3']:
  """Canonical shapes of the reference face whose lower lip and chin drop."""
  closed = mesh.close_lips(mesh.reference_shape()[None])
  y = closed[0, :, 1]
  line = closed[0, list(mesh.LOWER_LIP_IDS), 1].mean()
  drop = MAX_DROP * mesh.displacement_weights() * (y > line)
  drop[list(mesh.LOWER_LIP_IDS[1:-1])] = MAX_DROP
  drop[list(mesh.UPPER_LIP_IDS)] = 0
  out = np.repeat(closed, len(opening), 0)
  out[:, :, 1] += opening[:, None] * drop
  return out


def draw_face(colors, shift, opening: float) -> UInt8[np.ndarray, 'h w 3']:
  """A face with a mouth opening in [0, 1]."""
  import cv2

  skin, shirt, wall = (tuple(int(v) for v in row) for row in colors)
  rgb = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), wall, np.uint8)
  x, y = (int(IMAGE_SIZE / 2 + v) for v in shift)
  cv2.ellipse(rgb, (x, IMAGE_SIZE), (50, 26), 0, 0, 360, shirt, -1, cv2.LINE_AA)
  cv2.ellipse(rgb, (x, y), (36, 48), 0, 0, 360, skin, -1, cv2.LINE_AA)
  for side in (-14, 14):
    cv2.circle(rgb, (x + side, y - 14), 5, (250, 250, 250), -1, cv2.LINE_AA)
    cv2.circle(rgb, (x + side, y - 14), 2, (20, 20, 20), -1, cv2.LINE_AA)
  high = 1 + round(12 * opening)
  cv2.ellipse(rgb, (x, y + 22), (14, high + 2), 0, 0, 360, (150, 40, 50), -1)
  cv2.ellipse(rgb, (x, y + 22), (12, high), 0, 0, 360, (30, 5, 10), -1)
  return rgb


def _jpeg(rgb: np.ndarray) -> bytes:
  import cv2

  bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
  _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
  return data.tobytes()


def build_dataset(
  folder, seed: int = 0, speakers: int = 4, frames: int = 40
) -> None:
  """Write shards of the splits 'train' and 'val', with disjoint speakers.

  Existing shards are kept.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for split, number, clips in (('train', speakers, 6), ('val', 2, 3)):
    path = folder / tfrecord.shard_name(DATASET_NAME, split, 0, 1)
    if path.exists():
      continue
    keys = [f'{split}{s}/{i:05d}' for s in range(number) for i in range(clips)]
    write_clips(path, (synthetic_clip(key, frames, seed) for key in keys))
