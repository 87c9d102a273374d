"""The networks; `build_model` is the only dispatch by name.

Read blocks (layers as data), then generator, syncnet, discriminator.
`folded` runs a trained generator, `openvino` the same on Intel's runtime.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from lipsync_jax.models import discriminator, generator, syncnet, syncnet_v2
from lipsync_jax.models.layers import ConvSpec

NETWORKS = {
  'generator': generator.Generator,
  'syncnet': syncnet.SyncNet,
  'discriminator': discriminator.Discriminator,
  'syncnet_v2': syncnet_v2.SyncNetV2,
}


def build_model(
  network: str, size: int = 96, width: float = 1.0, dtype: str = 'float32'
) -> nn.Module:
  """A Linen module of NETWORKS, `size` pixels, channels times `width`."""
  if network not in NETWORKS:
    raise ValueError(
      f'expected a network of {sorted(NETWORKS)}, found {network!r}'
    )
  if network == 'syncnet_v2':
    return syncnet_v2.SyncNetV2()
  return NETWORKS[network](size, width, jnp.dtype(dtype))


def all_layers(
  network: str, size: int = 96, width: float = 1.0
) -> tuple[ConvSpec, ...]:
  """All rows of a network's tables, in the order they are applied."""
  if network == 'syncnet_v2':
    rows = syncnet_v2.AUDIO + syncnet_v2.LIP
    return tuple(row for row in rows if isinstance(row, ConvSpec))
  module = {
    'generator': generator,
    'syncnet': syncnet,
    'discriminator': discriminator,
  }[network]
  stages = module.layer_specs(size, width).values()
  return tuple(row for part in stages for stage in part for row in stage)


def dummy_inputs(network: str, size: int = 96, batch: int = 1) -> tuple:
  """Zero inputs of the right shapes, to initialize or trace a network."""
  mel, half = (batch, 80, 16, 1), (batch, size // 2, size, 15)
  shapes = {
    'generator': (mel, (batch, size, size, 6)),
    'syncnet': (mel, half),
    'discriminator': ((batch, size, size, 3),),
    'syncnet_v2': ((batch, 13, 20, 1), (batch, 224, 224, 15)),
  }[network]
  return tuple(jnp.zeros(shape, jnp.float32) for shape in shapes)


def init_variables(network: str, net: nn.Module, key: Array) -> dict[str, dict]:
  """Variables before the first step.

  What `net.init` makes, from one draw that is cut into pieces: a draw for
  each array and a forward pass take XLA some ten times as long to compile.

  Args:
    net: one that `build_model` made; any other is asked itself.

  Returns:
    {'params': …, 'batch_stats': …}; kernels and biases uniform up to
    `Layer.bound`, norms at rest. The latter key only where there are any.
  """
  if type(net) is not NETWORKS[network]:
    return net.init(key, *dummy_inputs(network, net.size), train=False)
  size, width = getattr(net, 'size', 96), getattr(net, 'width', 1.0)
  rows = all_layers(network, size, width)
  counts = [math.prod(row.shape) + row.cout for row in rows]
  drawn = jax.random.uniform(key, (sum(counts),), jnp.float32, -1, 1)
  params, stats, at = {}, {}, 0
  for row, count in zip(rows, counts, strict=True):
    piece = row.bound * drawn[at : at + count]
    kernel, bias = piece[: -row.cout].reshape(row.shape), piece[-row.cout :]
    params[row.name] = {'kernel': kernel, 'bias': bias}
    if row.norm:
      ones, zeros = jnp.ones(row.cout), jnp.zeros(row.cout)
      params[row.name]['norm'] = {'scale': ones, 'bias': zeros}
      stats[row.name] = {'norm': {'mean': zeros, 'var': ones}}
    at += count
  return {'params': params} | ({'batch_stats': stats} if stats else {})
