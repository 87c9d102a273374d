"""Small synthetic clips whose pixels and sound tell which frame they are."""

import numpy as np

from lipsync_jax import audio
from lipsync_jax.data import windows
from lipsync_jax.data.clip import DATASET_NAME, NUM_LANDMARKS, Clip, write_clips


def jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
  import cv2

  bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
  good, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
  assert good
  return data.tobytes()


def picture(rng, side: int, frame: int) -> np.ndarray:
  """Smooth colors, and a block whose brightness is the frame's number."""
  import cv2

  coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
  rgb = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
  rgb[side // 2 : 3 * side // 4, side // 3 : 2 * side // 3] = 3 * frame % 256
  return rgb


def clip(key: str, frames: int = 20, side: int = 64, seed: int = 0) -> Clip:
  """A clip of `frames` frames at 25 frames/s with noise for sound."""
  rng = np.random.default_rng([seed, *key.encode()])
  points = rng.uniform(0, side, (frames, NUM_LANDMARKS, 2))
  near = np.array([side / 2, side / 2, side * 0.6, side * 0.7, 0])
  spread = np.array([1, 1, 2, 2, 0.05])
  wave = rng.integers(-3000, 3000, frames * 640).astype(np.int16)
  return Clip(
    key=key,
    speaker=key.split('/')[0],
    frames=tuple(jpeg(picture(rng, side, f)) for f in range(frames)),
    crops=(near + rng.normal(0, spread, (frames, 5))).astype(np.float32),
    points=points.astype(np.float32),
    boxes=np.tile(np.float32([0, 0, side, side]), (frames, 1)),
    mesh=rng.integers(-999, 999, (frames, 478, 3)).astype(np.int16),
    mel=audio.log_mel(wave / np.float32(32768)),
    wave=wave,
    source=f'/videos/{key}.mp4',
  )


def build(folder, counts, shards=2, split='train', frames=20, side=64):
  """Shards of clips: `counts` names how many clips each speaker has."""
  from lipsync_jax.data.tfrecord import shard_name

  keys = [f'{s}/{i:05d}' for s, n in counts.items() for i in range(n)]
  made = [
    clip(key, frames + i % 3 if frames > 16 else frames, side)
    for i, key in enumerate(keys)
  ]
  for shard in range(shards):
    name = shard_name(DATASET_NAME, split, shard, shards)
    write_clips(folder / name, made[shard::shards])
  return made


def pick(
  item: int, rng: np.random.Generator, plan: windows.WindowIndex
) -> dict:
  """The window sample of one item."""
  found = windows.sample_windows(np.array([item]), rng, plan)
  return {name: np.asarray(x[0]) for name, x in found.items()}
