"""The device mesh, the sharding of arrays over it, and jitted steps.

Batches are split over both axes of the mesh ('data', 'fsdp'), large parameters
over 'fsdp', so that BatchNorm and losses see the global batch.
"""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lipsync_jax.common.errors import LipSyncError


class MeshError(LipSyncError):
  """A mesh that does not fit the devices."""


MIN_FSDP_SIZE = 2**14  # numbers in an array that is worth splitting
# Without optimization by XLA's back end: for functions that run once, and for
# debugging.
FAST_COMPILE = {'xla_backend_optimization_level': 0}


def make_mesh(data: int = -1, fsdp: int = 1, devices=None) -> Mesh:
  """The mesh ('data', 'fsdp').

  Args:
    data: devices along it; -1 takes what `fsdp` leaves.
    fsdp: devices along it.
    devices: None for all of them.

  Raises:
    MeshError: the mesh does not use all devices.
  """
  count = len(devices if devices is not None else jax.devices())
  if data == -1:
    data = max(1, count // fsdp)
  if data * fsdp != count:
    raise MeshError(
      f'expected data x fsdp = {count} devices, found {data} x {fsdp}; '
      'set --config.mesh.data=-1'
    )
  # Auto: Linen's convolutions cannot name the sharding of their output.
  types = (AxisType.Auto,) * 2
  return jax.make_mesh((data, fsdp), ('data', 'fsdp'), types, devices=devices)


def fsdp_spec(
  shape: tuple[int, ...], parts: int, least: int = MIN_FSDP_SIZE
) -> P:
  """Split the largest axis that `parts` divides, if the array is large."""
  axes = [i for i, n in enumerate(shape) if n % parts == 0]
  if parts == 1 or not axes or math.prod(shape) < least:
    return P()
  best = max(axes, key=lambda i: (shape[i], i))
  return P(*[None] * best, 'fsdp')


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis is split over all devices."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, P())


def state_sharding(tree, mesh: Mesh, least: int = MIN_FSDP_SIZE):
  """Shardings of every array of a state, or of its shapes."""
  parts = mesh.shape['fsdp']
  return jax.tree.map(
    lambda x: NamedSharding(mesh, fsdp_spec(x.shape, parts, least)), tree
  )


def jit_train_step(step, mesh: Mesh, where, options: dict | None = None):
  """Jit `step(state, batch, expert_variables, dataset) -> (state, metrics)`.

  The state is donated; the expert's variables and the device-resident data set
  are not. Keep the result: every call of this function compiles anew.

  Args:
    where: shardings of the state.
    options: of XLA.
  """
  rest = replicated_sharding(mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(where, batch_sharding(mesh), rest, rest),
    out_shardings=(where, rest),
    compiler_options=options,
  )


def jit_eval_step(step, mesh: Mesh, where, options: dict | None = None):
  """Jit `step(state, batch, expert_variables) -> sums`; donates nothing."""
  rest = replicated_sharding(mesh)
  return jax.jit(
    step,
    in_shardings=(where, batch_sharding(mesh), rest),
    out_shardings=rest,
    compiler_options=options,
  )
