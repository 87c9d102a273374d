"""Networks that have learned nothing, for tests of what is round them."""

import functools

import jax
import numpy as np

from lipsync_jax import models
from lipsync_jax.training import sharding
from lipsync_jax.weights import safetensors_file


@functools.cache
def variables(network: str, width: float = 1.0, size: int = 96, seed: int = 0):
  """First weights, numpy."""
  net = models.build_model(network, size, width)
  made = jax.jit(
    lambda key: models.init_variables(network, net, key),
    compiler_options=sharding.FAST_COMPILE,
  )
  return jax.tree.map(np.asarray, made(jax.random.key(seed)))


def save(path, network: str = 'generator', width: float = 0.1) -> str:
  """The file of such a network."""
  tree = variables(network, width)
  safetensors_file.save(
    path, safetensors_file.Weights(network, 96, width, tree, 'untrained')
  )
  return str(path)
