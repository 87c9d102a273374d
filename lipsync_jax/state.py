"""State: everything a training run changes, and where it lies.

One frozen dataclass of arrays, dicts keyed by the network's name. It is
created sharded over a mesh of ('data', 'fsdp'): batches are split over
both axes, large parameters over 'fsdp'. No functions and no keys in it:
all randomness of training is in the data.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from lipsync_jax import models

INIT = 0  # the door of the seed that makes first weights; data have another
LEAST = 2**14  # numbers in an array that is worth splitting
# XLA's back end does not optimise: for what runs once, and for debugging.
QUICK = {'xla_backend_optimization_level': 0}
Networks = dict[str, nn.Module]
Optimisers = dict[str, optax.GradientTransformation]


@struct.dataclass
class State:
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


def schedule(
  rate: float, warmup_steps: int = 0, decay_steps: int = 0
) -> optax.Schedule:
  """Learning rate of an update: a ramp, then constant or down to zero.

  Args:
    decay_steps: updates from the first to the end of a half cosine; 0 stays
      at `rate`, as the originals do.
  """
  if decay_steps:
    return optax.warmup_cosine_decay_schedule(
      0.0 if warmup_steps else rate, rate, warmup_steps, decay_steps
    )
  if not warmup_steps:
    return optax.constant_schedule(rate)
  return optax.linear_schedule(rate / warmup_steps, rate, warmup_steps)


def optimiser(
  rate: optax.Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  clip: float = 0.0,
  every: int = 1,
) -> optax.GradientTransformation:
  """Adam as in the originals (spec 4.3), with what they lack.

  Args:
    clip: greatest global norm of a gradient; 0 leaves it.
    every: batches whose gradients are averaged for one update.
  """
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  chain = optax.chain(*parts, optax.adam(rate, b1, b2, eps=1e-8))
  if every == 1:
    return chain
  return optax.MultiSteps(chain, every).gradient_transformation()


def init(
  key: Array,
  *,
  networks: Networks,
  optimisers: Optimisers,
  averaged: tuple[str, ...] = (),
  log_scale: float = 0.0,
) -> State:
  """The state before the first step.

  Args:
    networks: those to be trained, by name.
    optimisers: by the same names, and 'temperature' where it is learnt.
    averaged: names of those whose moving average is kept.
    log_scale: first logarithm of the inverse temperature.
  """
  params, stats = {}, {}
  for i, (name, net) in enumerate(sorted(networks.items())):
    variables = models.init_variables(name, net, jax.random.fold_in(key, i))
    params[name] = variables['params']
    stats[name] = variables.get('batch_stats', {})
  if 'temperature' in optimisers:
    params['temperature'] = jnp.float32(log_scale)
  assert params.keys() == optimisers.keys(), (params.keys(), optimisers.keys())
  return State(
    step=jnp.int32(0),
    params=params,
    batch_stats=stats,
    opt={name: tx.init(params[name]) for name, tx in optimisers.items()},
    # Copies: a donated state must not hold the same buffer twice.
    ema={
      name: jax.tree.map(jnp.copy, _variables(params, stats, name))
      for name in averaged
    },
    sync_weight=jnp.float32(0),
    sync_goal=jnp.float32(0),
  )


def _variables(params: dict, stats: dict, name: str) -> dict:
  return {'params': params[name], 'batch_stats': stats[name]}


def variables(state: State, name: str) -> dict:
  """What a network infers with: its moving average where that is kept."""
  if name in state.ema:
    return state.ema[name]
  return _variables(state.params, state.batch_stats, name)


def averaged(ema: dict, state_params: dict, stats: dict, decay, step) -> dict:
  """Moving averages after a step.

  Early on the average is shorter, so that it forgets the random start.
  """
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return {
    name: jax.tree.map(
      lambda old, new: old + (1 - decay) * (new - old),
      ema[name],
      _variables(state_params, stats, name),
    )
    for name in ema
  }


def mesh(data: int = -1, fsdp: int = 1, devices=None) -> Mesh:
  """The mesh ('data', 'fsdp').

  Args:
    data: devices along it; -1 takes what `fsdp` leaves.
    devices: all of them if None.

  Raises:
    ValueError: the devices do not make such a mesh.
  """
  count = len(devices if devices is not None else jax.devices())
  if data == -1:
    data = max(1, count // fsdp)
  if data * fsdp != count:
    raise ValueError(
      f'expected data x fsdp = {count} devices, found {data} x {fsdp}; '
      'set mesh.data to -1'
    )
  # Auto: Linen's convolutions cannot name the sharding of their output.
  types = (AxisType.Auto,) * 2
  return jax.make_mesh((data, fsdp), ('data', 'fsdp'), types, devices=devices)


def split(shape: tuple[int, ...], parts: int, least: int = LEAST) -> P:
  """Split the largest axis that `parts` divides, if the array is large."""
  axes = [i for i, n in enumerate(shape) if n % parts == 0]
  if parts == 1 or not axes or math.prod(shape) < least:
    return P()
  best = max(axes, key=lambda i: (shape[i], i))
  return P(*[None] * best, 'fsdp')


def by_batch(mesh: Mesh) -> NamedSharding:
  """The first axis over all devices."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def shardings(tree, mesh: Mesh, least: int = LEAST):
  """Where every array of a state (or of its shapes) lies."""
  parts = mesh.shape['fsdp']
  return jax.tree.map(
    lambda x: NamedSharding(mesh, split(x.shape, parts, least)), tree
  )


def create(
  mesh: Mesh, seed: int = 0, least: int = LEAST, **values
) -> tuple[State, Any]:
  """`init`, made where it will lie; with the shardings."""
  # Numbers by partitionable threefry do not depend on the mesh.
  make = functools.partial(init, **values)
  key = jax.random.fold_in(jax.random.key(seed), INIT)
  where = shardings(jax.eval_shape(make, key), mesh, least)
  made = jax.jit(make, out_shardings=where, compiler_options=QUICK)
  return made(key), where


def abstract(mesh: Mesh, least: int = LEAST, **values) -> tuple[Any, Any]:
  """The shapes of what `create` makes, for a checkpoint; and shardings."""
  make = functools.partial(init, **values)
  shapes = jax.eval_shape(make, jax.random.key(0))
  where = shardings(shapes, mesh, least)
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    where,
  )
  return shapes, where


def jit_step(step, mesh: Mesh, where, options: dict | None = None):
  """`step(state, batch, frozen) -> (state, metrics)` over the mesh.

  The state is donated; what is frozen, as the expert, is not. Whoever
  compiles this keeps the result: it is traced once. `options` are XLA's.
  """
  rest = replicated(mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(where, by_batch(mesh), rest),
    out_shardings=(where, rest),
    compiler_options=options,
  )


def jit_measure(measure, mesh: Mesh, where, options: dict | None = None):
  """`measure(state, batch, frozen) -> sums` over the mesh; donates nothing."""
  rest = replicated(mesh)
  return jax.jit(
    measure,
    in_shardings=(where, by_batch(mesh), rest),
    out_shardings=rest,
    compiler_options=options,
  )
