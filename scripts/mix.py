"""Weights between two of one run: FIRST + SHARE * (SECOND - FIRST).

python scripts/mix.py FIRST SECOND SHARE OUT.safetensors

A network and what it was taught later lie in one valley: on the way from one
to the other much of the later lesson comes early and its mistakes come late
(Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

import dataclasses
import sys

import jax
import numpy as np

from lipsync_jax import stored


def mixed(first: stored.Weights, second: stored.Weights, share: float):
  """The weights at `share` of the way; both must be of one architecture."""
  sides = [(x.network, x.size, x.width) for x in (first, second)]
  if sides[0] != sides[1]:
    raise SystemExit(f'mix: expected two networks alike, found {sides}')
  variables = jax.tree.map(
    lambda x, y: np.asarray(x + share * (y - x), x.dtype),
    first.variables,
    second.variables,
  )
  source = f'{1 - share:g} of {first.source}, {share:g} of {second.source}'
  meta = {'share': share, 'of': [first.sha256, second.sha256]}
  return dataclasses.replace(
    second, variables=variables, source=source, meta=meta
  )


def main(argv: list[str]) -> int:
  """Write the file."""
  if len(argv) != 4:
    print(__doc__.strip(), file=sys.stderr)
    return 2
  first, second = (stored.load(path) for path in argv[:2])
  stored.save(argv[3], mixed(first, second, float(argv[2])))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
