"""State: everything a training run changes, and where it lies.

One frozen dataclass of arrays, dicts keyed by the network's name. It is
created sharded over a mesh of ('data', 'fsdp'): batches are split over
both axes, large parameters over 'fsdp'. No functions and no keys in it:
all randomness of training is in the data.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array

from lipsync_jax import models
from lipsync_jax.training import sharding

INIT_STREAM = (
  0  # the door of the seed that makes first weights; data have another
)
Networks = dict[str, nn.Module]
Optimizers = dict[str, optax.GradientTransformation]


@struct.dataclass
class TrainState:
  """A training run between two steps.

  The same class holds the shapes or the shardings of its arrays, hence no
  array types.
  """

  step: Any  # int32 [], batches seen
  params: dict[str, Any]  # 'syncnet' and 'temperature', or 'generator', …
  batch_stats: dict[str, Any]
  opt: dict[str, Any]  # by the same names as `params`
  ema: dict[str, Any]  # {'generator': its averaged variables} or empty
  sync_weight: Any  # float32 [], of the sync loss now
  sync_goal: Any  # float32 [], where it walks to, set by validation


def init_state(
  key: Array,
  *,
  networks: Networks,
  optimizers: Optimizers,
  averaged: tuple[str, ...] = (),
  log_scale: float = 0.0,
) -> TrainState:
  """The state before the first step.

  Args:
    networks: those to be trained, by name.
    optimizers: by the same names, and 'temperature' where it is learned.
    averaged: names of those whose moving average is kept.
    log_scale: first logarithm of the inverse temperature.
  """
  params, stats = {}, {}
  for i, (name, net) in enumerate(sorted(networks.items())):
    variables = models.init_variables(name, net, jax.random.fold_in(key, i))
    params[name] = variables['params']
    stats[name] = variables.get('batch_stats', {})
  if 'temperature' in optimizers:
    params['temperature'] = jnp.float32(log_scale)
  assert params.keys() == optimizers.keys(), (params.keys(), optimizers.keys())
  return TrainState(
    step=jnp.int32(0),
    params=params,
    batch_stats=stats,
    opt={name: tx.init(params[name]) for name, tx in optimizers.items()},
    # Copies: a donated state must not hold the same buffer twice.
    ema={
      name: jax.tree.map(jnp.copy, _network_variables(params, stats, name))
      for name in averaged
    },
    sync_weight=jnp.float32(0),
    sync_goal=jnp.float32(0),
  )


def _network_variables(params: dict, stats: dict, name: str) -> dict:
  return {'params': params[name], 'batch_stats': stats[name]}


def eval_variables(state: TrainState, name: str) -> dict:
  """What a network infers with: its moving average where that is kept."""
  if name in state.ema:
    return state.ema[name]
  return _network_variables(state.params, state.batch_stats, name)


def update_ema(ema: dict, state_params: dict, stats: dict, decay, step) -> dict:
  """Moving averages after a step.

  Early on the average is shorter, so that it forgets the random start.
  """
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return {
    name: jax.tree.map(
      lambda old, new: old + (1 - decay) * (new - old),
      ema[name],
      _network_variables(state_params, stats, name),
    )
    for name in ema
  }


def create_state(
  mesh: Mesh, seed: int = 0, least: int = sharding.MIN_FSDP_SIZE, **values
) -> tuple[TrainState, Any]:
  """`init_state`, made where it will lie; with the shardings."""
  # Numbers by partitionable threefry do not depend on the mesh.
  make = functools.partial(init_state, **values)
  key = jax.random.fold_in(jax.random.key(seed), INIT_STREAM)
  where = sharding.state_sharding(jax.eval_shape(make, key), mesh, least)
  made = jax.jit(
    make, out_shardings=where, compiler_options=sharding.FAST_COMPILE
  )
  return made(key), where


def abstract_state(
  mesh: Mesh, least: int = sharding.MIN_FSDP_SIZE, **values
) -> tuple[Any, Any]:
  """The shapes of what `create_state` makes, for a checkpoint; and shardings."""
  make = functools.partial(init_state, **values)
  shapes = jax.eval_shape(make, jax.random.key(0))
  where = sharding.state_sharding(shapes, mesh, least)
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    where,
  )
  return shapes, where
