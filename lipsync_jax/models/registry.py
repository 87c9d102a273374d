"""The networks by name: their modules, layers, inputs and first weights."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array

from lipsync_jax.models import (
  discriminator,
  generator,
  mouth_discriminator,
  refiner,
  syncnet,
  syncnet_v2,
)
from lipsync_jax.models.layers import (
  BatchNorm,
  ConvBlock,
  ConvSpec,
  ModelError,
)

NETWORKS = {
  'generator': generator.Generator,
  'syncnet': syncnet.SyncNet,
  'discriminator': discriminator.Discriminator,
  'syncnet_v2': syncnet_v2.SyncNetV2,
}
# Initial values of a BatchNorm: (collection, variable, value).
NORM_VALUES = (
  ('params', 'scale', 1.0),
  ('params', 'bias', 0.0),
  ('batch_stats', 'mean', 0.0),
  ('batch_stats', 'var', 1.0),
)


def build_model(
  network: str,
  size: int = 96,
  width: float = 1.0,
  dtype: str = 'float32',
  cpu_gradients: bool = True,
) -> nn.Module:
  """Build a Linen module of NETWORKS.

  Args:
    network: name in NETWORKS. SyncNet v2 ignores the other arguments.
    size: pixels of the square face crop.
    width: multiplier of the channels.
    dtype: of activations; parameters are float32.
    cpu_gradients: see `convolution.conv`; False where a CPU mesh has several
      devices.

  Raises:
    ModelError: for an unknown network.
  """
  if network not in NETWORKS:
    raise ModelError(
      f'expected a network of {sorted(NETWORKS)}, found {network!r}'
    )
  if network == 'syncnet_v2':
    return syncnet_v2.SyncNetV2()
  return NETWORKS[network](size, width, jnp.dtype(dtype), cpu_gradients)


def all_layers(
  network: str, size: int = 96, width: float = 1.0
) -> tuple[ConvSpec, ...]:
  """All layers of a network, in the order they are applied."""
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
  """Zero inputs of a network, to initialize or trace it."""
  mel, half = (batch, 80, 16, 1), (batch, size // 2, size, 15)
  shapes = {
    'generator': (mel, (batch, size, size, 6)),
    'syncnet': (mel, half),
    'discriminator': ((batch, size, size, 3),),
    'syncnet_v2': ((batch, 13, 20, 1), (batch, 224, 224, 15)),
    'articulator': ((batch, 64, 80),),
    'refiner': (mel, (batch, size, size, refiner.CHANNELS)),
    'mouth_discriminator': ((batch, size, size, mouth_discriminator.CHANNELS),),
  }[network]
  return tuple(jnp.zeros(shape, jnp.float32) for shape in shapes)


def init_variables(network: str, net: nn.Module, key: Array) -> dict[str, dict]:
  """Variables before the first step.

  One random draw is cut into all kernels and biases: XLA compiles the draw
  for each array of `net.init` some ten times as long. A module with
  parameters outside `ConvBlock` gets the variables of `net.init`.

  Args:
    network: name in NETWORKS whose inputs `net` takes.
    net: any Linen module.
    key: of the draw.

  Returns:
    {'params': …, 'batch_stats': …}. Kernels and biases are uniform up to
    `ConvSpec.bound`; norms are the identity. The latter key is absent if there
    are no norms.
  """
  inputs = dummy_inputs(network, getattr(net, 'size', 96))
  shapes, blocks = trace_blocks(net, key, inputs)
  leaves = traverse_util.flatten_dict(shapes)
  bounds = {
    ('params', *path, name): block.layer.bound
    for path, block in blocks.items()
    if isinstance(block, ConvBlock)
    for name in ('kernel', 'bias')
  }
  constants = {
    (collection, *path, name): value
    for path, block in blocks.items()
    if isinstance(block, BatchNorm)
    for collection, name, value in NORM_VALUES
  }
  if leaves.keys() != bounds.keys() | constants.keys():
    return net.init(key, *inputs, train=False)
  ends = np.cumsum([math.prod(leaves[path].shape) for path in bounds])
  drawn = jax.random.uniform(key, (int(ends[-1]),), jnp.float32, -1, 1)
  values = {
    path: (bound * piece).reshape(leaves[path].shape)
    for (path, bound), piece in zip(
      bounds.items(), jnp.split(drawn, ends[:-1]), strict=True
    )
  }
  values |= {
    path: jnp.full(leaves[path].shape, value, jnp.float32)
    for path, value in constants.items()
  }
  return traverse_util.unflatten_dict(values)


def trace_blocks(
  net: nn.Module, key: Array, inputs: tuple
) -> tuple[dict, dict[tuple[str, ...], nn.Module]]:
  """Trace the initialization of a module without computing anything.

  Returns:
    The shapes of its variables, and its `ConvBlock`s and `BatchNorm`s by path,
    in the order they are applied.
  """
  blocks = {}

  def record(method, args, kwargs, context):
    block = context.module
    if isinstance(block, ConvBlock | BatchNorm):
      blocks[block.path] = block
    return method(*args, **kwargs)

  init = functools.partial(net.init, train=False)
  with nn.intercept_methods(record):
    shapes = jax.eval_shape(init, key, *inputs)
  return shapes, blocks
