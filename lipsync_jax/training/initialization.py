"""First weights from files: a whole network, or its audio encoder."""

import jax
import jax.numpy as jnp

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.training.state import TrainState
from lipsync_jax.weights import convert


class TrainingError(LipSyncError):
  """A run that cannot begin or continue."""


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
