"""Clips of a drawn face whose pixels, landmarks and mesh belong together."""

import pathlib

import cv2
import numpy as np

from lipsync_jax import audio
from lipsync_jax.data import synthetic, tfrecord
from lipsync_jax.data.clip import DATASET_NAME, Clip, write_clips
from lipsync_jax.faces import landmarks, mesh
from lipsync_jax.rendering.mouth_interior import INNER_LIPS
from tests.helpers.synthetic_speech import jpeg

SIDE = 160  # pixels of a picture
SCALE = 58.0  # pixels of a canonical unit
LIPS = (*mesh.OUTER_UPPER_IDS, *mesh.OUTER_LOWER_IDS[-2:0:-1])


def draw(points: np.ndarray, colors: np.ndarray, opening: float) -> np.ndarray:
  """A face of three colors, with teeth under the upper lip."""
  skin, lips, wall = (tuple(int(v) for v in row) for row in colors)
  rgb = np.full((SIDE, SIDE, 3), wall, np.uint8)

  def fill(ids, color):
    fixed = np.rint((points[list(ids)] - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(rgb, [fixed], color, lineType=cv2.LINE_AA, shift=4)

  fill(mesh.OVAL_IDS, skin)
  fill(LIPS, lips)
  fill(INNER_LIPS, (40, 10, 12))
  if opening > 0.2:
    upper = points[list(mesh.UPPER_LIP_IDS[2:-2])]
    lower = points[list(mesh.LOWER_LIP_IDS[2:-2])]
    edge = upper + 0.4 * (lower - upper)
    ring = np.concatenate([upper, edge[::-1]])
    fixed = np.rint((ring - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(rgb, [fixed], (235, 228, 215), lineType=cv2.LINE_AA, shift=4)
  return rgb


def clip(key: str, frames: int = 24, seed: int = 0) -> Clip:
  """A talking face; the speaker determines its colors, the sound its lips."""
  speaker = key.split('/')[0]
  looks = np.random.default_rng([seed, *speaker.encode()])
  rng = np.random.default_rng([seed, *key.encode()])
  wave, opening = synthetic.synthetic_speech(frames, rng)
  opening[0], opening[frames // 2] = 0, 1
  shapes = mesh.unpack(mesh.pack(synthetic.synthetic_mesh(opening)))
  skin = looks.integers(150, 220)
  colors = np.array(
    [
      [skin, 0.78 * skin, 0.66 * skin],
      [0.85 * skin, 0.35 * skin, 0.4 * skin],
      looks.integers(20, 90, 3),
    ]
  )
  roll = looks.uniform(-0.15, 0.15)
  turn = SCALE * np.array(
    [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0]]
  )
  middle = np.array([SIDE / 2, SIDE / 2]) - shapes.mean((0, 1)) @ turn.T
  drift = np.cumsum(rng.normal(0, 0.3, (frames, 2)), 0)
  points = shapes @ turn.T + middle + drift[:, None]
  near = np.array([SIDE / 2, SIDE / 2, 110, 130, roll], np.float32)
  return Clip(
    key=key,
    speaker=speaker,
    frames=tuple(
      jpeg(draw(p, colors, float(o)))
      for p, o in zip(points, opening, strict=True)
    ),
    crops=np.tile(near, (frames, 1)),
    points=points[:, list(landmarks.LANDMARK_IDS)].astype(np.float32),
    boxes=np.tile(np.float32([0, 0, SIDE, SIDE]), (frames, 1)),
    mesh=mesh.pack(shapes),
    mel=audio.log_mel(audio.int16_to_float(wave)),
    wave=wave,
  )


def build(folder, counts: dict[str, int], split: str = 'train') -> None:
  """A shard of clips: `counts` names how many clips each speaker has."""
  path = pathlib.Path(folder) / tfrecord.shard_name(DATASET_NAME, split, 0, 1)
  path.parent.mkdir(parents=True, exist_ok=True)
  keys = [f'{s}/{i:05d}' for s, n in counts.items() for i in range(n)]
  write_clips(path, (clip(key) for key in keys))
