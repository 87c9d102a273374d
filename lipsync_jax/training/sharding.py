"""TODO."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

MIN_FSDP_SIZE = 2**14  # numbers in an array that is worth splitting
# XLA's back end does not optimize: for what runs once, and for debugging.
FAST_COMPILE = {'xla_backend_optimization_level': 0}


def make_mesh(data: int = -1, fsdp: int = 1, devices=None) -> Mesh:
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
  """The first axis over all devices."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def state_sharding(tree, mesh: Mesh, least: int = MIN_FSDP_SIZE):
  """Where every array of a state (or of its shapes) lies."""
  parts = mesh.shape['fsdp']
  return jax.tree.map(
    lambda x: NamedSharding(mesh, fsdp_spec(x.shape, parts, least)), tree
  )


def jit_train_step(step, mesh: Mesh, where, options: dict | None = None):
  """`step(state, batch, frozen) -> (state, metrics)` over the mesh.

  The state is donated; what is frozen, as the expert, is not. Whoever
  compiles this keeps the result: it is traced once. `options` are XLA's.
  """
  rest = replicated_sharding(mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(where, batch_sharding(mesh), rest),
    out_shardings=(where, rest),
    compiler_options=options,
  )


def jit_eval_step(measure, mesh: Mesh, where, options: dict | None = None):
  """`measure(state, batch, frozen) -> sums` over the mesh; donates nothing."""
  rest = replicated_sharding(mesh)
  return jax.jit(
    measure,
    in_shardings=(where, batch_sharding(mesh), rest),
    out_shardings=rest,
    compiler_options=options,
  )
