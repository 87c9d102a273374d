"""The training state, and the optimizer that changes it.

The state is a frozen dataclass of arrays, in dicts keyed by the network's name.
It holds no functions and no random keys: all randomness of training is in the
data. It is created sharded over a mesh of ('data', 'fsdp').
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
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.training import sharding
from lipsync_jax.weights import convert

INIT_STREAM = 0  # random stream of the first weights; the data use others
Networks = dict[str, nn.Module]
Optimizers = dict[str, optax.GradientTransformation]


class TrainingError(LipSyncError):
  """A run that cannot begin or continue."""


@struct.dataclass
class TrainState:
  """A training run between two steps.

  The same class holds the shapes or the shardings of its arrays, hence no
  array types.
  """

  step: Any  # int32 [], batches so far
  params: dict[str, Any]  # 'syncnet' and 'temperature', or 'generator', …
  batch_stats: dict[str, Any]
  opt: dict[str, Any]  # optimizer states, by the same names as `params`
  ema: dict[str, Any]  # averaged variables by network, or empty
  sync_weight: Any  # float32 [], present weight of the sync loss
  sync_goal: Any  # float32 [], the weight's target, set by validation


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
    networks: the networks to train, by name.
    optimizers: by the same names, and 'temperature' if it is learned.
    averaged: names of the networks whose moving average is kept.
    log_scale: initial logarithm of the inverse temperature.
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
  """Variables for inference: the moving average if it is kept."""
  if name in state.ema:
    return state.ema[name]
  return _network_variables(state.params, state.batch_stats, name)


def update_ema(ema: dict, state_params: dict, stats: dict, decay, step) -> dict:
  """Moving averages after a step.

  The decay is smaller at first, so that the random start has no weight.
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
  """A new state in its shardings, and the shardings.

  Args:
    least: smallest array that is split, in numbers.
    values: arguments of `init_state`.
  """
  # Partitionable threefry gives the same numbers on any mesh.
  make = functools.partial(init_state, **values)
  key = jax.random.fold_in(jax.random.key(seed), INIT_STREAM)
  where = sharding.state_sharding(jax.eval_shape(make, key), mesh, least)
  create = jax.jit(
    make, out_shardings=where, compiler_options=sharding.FAST_COMPILE
  )
  return create(key), where


def abstract_state(
  mesh: Mesh, least: int = sharding.MIN_FSDP_SIZE, **values
) -> tuple[Any, Any]:
  """Shapes of the state of `create_state`, to restore it; and shardings."""
  make = functools.partial(init_state, **values)
  shapes = jax.eval_shape(make, jax.random.key(0))
  where = sharding.state_sharding(shapes, mesh, least)
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    where,
  )
  return shapes, where


def learning_rate_schedule(
  rate: float, warmup_steps: int = 0, decay_steps: int = 0
) -> optax.Schedule:
  """Learning rate of each update: linear warm-up, then constant or cosine.

  Args:
    rate: after the warm-up.
    warmup_steps: updates.
    decay_steps: updates until the end of a half cosine; 0 stays at `rate`, as
      the originals do.
  """
  if decay_steps:
    return optax.warmup_cosine_decay_schedule(
      0.0 if warmup_steps else rate, rate, warmup_steps, decay_steps
    )
  if not warmup_steps:
    return optax.constant_schedule(rate)
  return optax.linear_schedule(rate / warmup_steps, rate, warmup_steps)


def adamw_optimizer(
  fields, rate: optax.Schedule, weight_decay: float
) -> optax.GradientTransformation:
  """AdamW with clipping, for networks without a counterpart in Wav2Lip.

  Args:
    fields: `config.optimizer`.
    rate: learning rate of each update.
    weight_decay: of all parameters, each update, relative to the rate.
  """
  clip = fields.grad_clip_norm
  return optax.chain(
    *([optax.clip_by_global_norm(clip)] if clip else []),
    optax.adamw(rate, fields.b1, fields.b2, weight_decay=weight_decay),
  )


def adam_optimizer(
  rate: optax.Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  grad_clip_norm: float = 0.0,
  accumulate_steps: int = 1,
) -> optax.GradientTransformation:
  """Adam as in the originals (spec 4.3), with clipping and accumulation.

  Args:
    grad_clip_norm: largest global norm of a gradient; 0 for no clipping.
    accumulate_steps: batches whose gradients are averaged for one update.
  """
  clip = grad_clip_norm
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  chain = optax.chain(*parts, optax.adam(rate, b1, b2, eps=1e-8))
  if accumulate_steps == 1:
    return chain
  return optax.MultiSteps(chain, accumulate_steps).gradient_transformation()


# --- first weights from files: a whole network, or its audio encoder


def init_from_weights(
  path: str, network: str, image_size: int, width: float, state: TrainState
) -> TrainState:
  """The state with the weights of a file for one network.

  Args:
    path: weights, ours or published.
    network: which network of the state gets them.
    image_size, width: of that network.

  Raises:
    TrainingError: the file holds another size or width.
  """
  given = convert.load_any(path, network)
  if (given.size, given.width) != (image_size, width):
    raise TrainingError(
      f'{path}: expected {image_size} pixels and width {width:g}, found '
      f'{given.size} and {given.width:g}; set --config.model.image_size and '
      '--config.model.width_multiplier to match'
    )
  return set_variables(state, network, given.variables)


def init_audio_encoder(
  path: str, width: float, state: TrainState
) -> TrainState:
  """The state with a SyncNet's audio encoder in the generator.

  SyncNet's encoder has one more residual layer, of 256 channels, which is left
  out.

  Args:
    path: weights of a SyncNet.
    width: of the generator.

  Raises:
    TrainingError: the SyncNet has another width.
  """
  given = convert.load_any(path, 'syncnet')
  if given.width != width:
    raise TrainingError(
      f'{path}: expected a SyncNet of width {width:g}, found {given.width:g}; '
      'set --config.model.width_multiplier to match, or leave out '
      '--config.init_audio_encoder'
    )
  variables = {
    'params': dict(state.params['generator']),
    'batch_stats': dict(state.batch_stats['generator']),
  }
  names = sorted(
    (n for n in variables['params'] if n.startswith('audio_encoder_')),
    key=lambda name: int(name.rpartition('_')[2]),
  )
  for i, name in enumerate(names):
    source = f'audio_encoder_{i if i < len(names) - 2 else i + 1}'
    for kind, table in variables.items():
      table[name] = given.variables[kind][source]
  return set_variables(state, 'generator', variables)


def set_variables(
  state: TrainState, network: str, variables: dict
) -> TrainState:
  """The state with these variables of a network, also in its average."""
  average = {network: variables} if network in state.ema else {}
  return state.replace(
    params=state.params | {network: variables['params']},
    batch_stats=state.batch_stats | {network: variables['batch_stats']},
    ema=state.ema | average,
  )


def place_state(state: TrainState, where) -> TrainState:
  """The state in its shardings. Copied, since a donated state may not share
  buffers."""
  copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=where)
  return copy(state)
