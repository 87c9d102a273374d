"""Does a generator listen? L1 of the lips with their own and another sound.

python scripts/listens.py WEIGHTS SHARDS [SPLIT] [SPEAKER'S FIRST DIGITS]

`own` against `other` (the sound of another row of the batch), both against
real lips; `reference` is what a network that copies its reference would get;
`moved` is by how much the other sound moves the lips.
"""

import functools
import itertools
import sys

import jax
import numpy as np

from lipsync_jax import models
from lipsync_jax.data import batches
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.training import losses
from lipsync_jax.weights import convert

BATCH, BATCHES = 24, 8


def measure(apply, batch: dict, bump) -> dict:
  """Values [b] for the first frame of each window."""
  batch = batches.to_model_inputs(batch)
  mel, face, true = (batch[k][:, 0] for k in ('mels', 'face', 'target'))
  own, other = apply(mel, face), apply(mel[::-1].copy(), face)
  return {
    'own': losses.l1_loss(own, true, bump),
    'other': losses.l1_loss(other, true, bump),
    'reference': losses.l1_loss(face[..., 3:], true, bump),
    'moved': losses.l1_loss(own, other, bump),
  }


def main(argv: list[str]) -> int:
  """Print the means, and how often the own sound is the better one."""
  if len(argv) not in (2, 3, 4):
    print(__doc__.strip(), file=sys.stderr)
    return 2
  path, shards, split, speaker = (*argv, *('val', '')[len(argv) - 2 :])
  net = convert.load_any(path, 'generator')
  module = models.build_model('generator', net.size, net.width)
  apply = functools.partial(
    jax.jit(functools.partial(module.apply, train=False)), net.variables
  )
  source = ClipDataset(shards, split)
  keep = np.array([name.startswith(speaker) for name in source.speakers])
  plan = batches.index_dataset(source, 'generator', keep=keep)
  stream = batches.example_batches(
    source, plan, BATCH, net.size, seed=0, threads=2
  )
  bump = losses.mouth_weight_map(net.size)
  rows = [measure(apply, x, bump) for x in itertools.islice(stream, BATCHES)]
  found = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
  print({name: round(float(x.mean()), 4) for name, x in found.items()})
  print(
    'own is better:', float((found['own'] < found['other']).mean().round(2))
  )
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
