"""Weights between two checkpoints of one training run.

A network and its fine-tuned version lie in one low-loss region. Between them,
much of the fine-tuning gain appears early and its artifacts appear late
(Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

import dataclasses
import os

import jax
import numpy as np

from lipsync_jax.weights import safetensors_file
from lipsync_jax.weights.safetensors_file import Weights


def interpolate(first: Weights, second: Weights, share: float) -> Weights:
  """`first + share * (second - first)` for every tensor.

  Args:
    first: weights at `share` 0.
    second: weights at `share` 1, of the same network, size and width.
    share: usually 0 to 1.

  Raises:
    WeightsError: the architectures differ.
  """
  sides = [(x.network, x.size, x.width) for x in (first, second)]
  if sides[0] != sides[1]:
    raise safetensors_file.WeightsError(
      f'interpolate: expected two networks of one architecture, found '
      f'{sides[0]} and {sides[1]}; give two files of one training run'
    )
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


def interpolate_files(
  first: str | os.PathLike,
  second: str | os.PathLike,
  share: float,
  dst: str | os.PathLike,
) -> None:
  """Interpolate two of our weight files into a third."""
  ends = safetensors_file.load(first), safetensors_file.load(second)
  safetensors_file.save(dst, interpolate(*ends, share))
