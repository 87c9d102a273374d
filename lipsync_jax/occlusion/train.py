"""Train the occlusion network on faces with synthetic objects.

  python -m lipsync_jax.occlusion.train SHARDS --out FILE

It takes some 15 minutes on two cores. The clips need no objects of their own
(`occluders`). Speakers of the split `val` measure it.

Shapes: b batch, g the network's grid.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jaxtyping import Array, Float, Float32, UInt8

from lipsync_jax.common import threads
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.faces import crop
from lipsync_jax.models import occlusion
from lipsync_jax.occlusion import occluders
from lipsync_jax.weights import occlusion_weights

BATCH = 32
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-4
FACES = 7000  # pictures of the training, equally from all speakers
UNCOVERED_WEIGHT = 1.5  # of the loss where no object is
CLIP_FRAMES = 12  # pictures of a clip at most


def read_faces(
  folder: str, split: str, count: int, seed: int
) -> UInt8[np.ndarray, 'n 112 112 3']:
  """Face crops of a split, in equal shares of its speakers."""
  import cv2

  data, rng, faces = ClipDataset(folder, split), np.random.default_rng(seed), []
  names = np.array(data.speakers)
  for speaker in sorted(set(data.speakers)):
    clips = np.flatnonzero(names == speaker)
    share = max(1, count // len(set(data.speakers)))
    each = min(CLIP_FRAMES, -(-share // len(clips)))
    for i in rng.permutation(clips)[: -(-share // each)]:
      clip = data[int(i)]
      frames = rng.permutation(len(clip.frames))[:each]
      for k in frames:
        jpeg = np.frombuffer(clip.frames[k], np.uint8)
        rgb = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
        row = crop.crop_from_row(clip.crops[k])
        faces.append(crop.extract_crop(rgb, row, occluders.CROP))
  return np.stack(faces)


def pairs(
  faces: UInt8[np.ndarray, 'n 112 112 3'], seed: int, batch: int
) -> Iterator[
  tuple[UInt8[np.ndarray, 'b 96 96 3'], Float32[np.ndarray, 'b g g']]
]:
  """Endless batches of `occluders.training_pair`."""
  rng = np.random.default_rng(seed)

  def one():
    two = faces[rng.integers(len(faces), size=2)].astype(np.float32) / 255
    return occluders.training_pair(two[0], two[1], rng)

  while True:
    pictures, masks = zip(*(one() for _ in range(batch)), strict=True)
    yield np.stack(pictures), np.stack(masks)


def loss(
  variables: dict,
  pictures: UInt8[Array, 'b h w 3'],
  masks: Float[Array, 'b g g'],
) -> Float[Array, '']:
  """Cross-entropy of covered pixels."""
  pixels = pictures.astype(jnp.float32) / 255
  logits = occlusion.OcclusionNetwork().apply(variables, pixels)
  weight = jnp.where(masks > 0.5, 1.0, UNCOVERED_WEIGHT)
  return (weight * optax.sigmoid_binary_cross_entropy(logits, masks)).mean()


def train(
  faces: UInt8[np.ndarray, 'n 112 112 3'], steps: int, seed: int = 0
) -> dict:
  """The variables after a number of steps."""
  rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
  optimizer = optax.adamw(rate, weight_decay=WEIGHT_DECAY)
  blank = jnp.zeros((1, occlusion.SIZE, occlusion.SIZE, 3))
  variables = occlusion.OcclusionNetwork().init(jax.random.key(seed), blank)

  @jax.jit
  def step(variables, state, pictures, masks):
    gradient = jax.grad(loss)(variables, pictures, masks)
    update, state = optimizer.update(gradient, state, variables)
    return optax.apply_updates(variables, update), state

  state = optimizer.init(variables)
  source = threads.prefetch(pairs(faces, seed, BATCH), 4)
  with contextlib.closing(source):
    for _ in tqdm.trange(steps, desc='occlusion', unit=' steps'):
      variables, state = step(variables, state, *next(source))
  return jax.tree.map(np.asarray, variables)


def evaluate(
  variables: dict, faces: UInt8[np.ndarray, 'n 112 112 3'], count: int = 512
) -> dict[str, float]:
  """Intersection over union, recall, and wrong area of uncovered pictures."""
  covered = occlusion.build_occlusion(variables)
  pictures, masks = next(pairs(faces, 9, count))
  found = np.stack([covered(picture) for picture in pictures]) > 0.5
  true = masks > 0.5
  clean = ~true.any((1, 2))
  both = (found & true).sum()
  return {
    'iou': round(float(both / (found | true).sum()), 3),
    'recall': round(float(both / true.sum()), 3),
    'wrong_area': round(float(found[clean].mean()), 4),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Train, measure on other speakers, write the file."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('shards', help='folder of data_prep/build_tfrecords.py')
  parser.add_argument('--out', required=True, help='.safetensors to write')
  parser.add_argument('--steps', type=int, default=5500)
  args = parser.parse_args(argv)
  variables = train(read_faces(args.shards, 'train', FACES, 0), args.steps)
  scores = evaluate(variables, read_faces(args.shards, 'val', 600, 1))
  occlusion_weights.save_occlusion(
    args.out, variables, f'{args.steps} steps on synthetic objects', scores
  )
  print(scores)
  return 0


if __name__ == '__main__':
  sys.exit(main())
