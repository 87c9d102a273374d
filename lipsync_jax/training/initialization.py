"""TODO."""

import jax
import jax.numpy as jnp

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.weights import convert


class TrainingError(LipSyncError):
  """A run that cannot begin or go on; one line says what to do."""


def init_from_weights(config, recipe, state, where):
  """The state with first weights from the file `config.init`."""
  name = recipe.network
  given = convert.load_any(config.init, name)
  if (given.size, given.width) != (config.net.size, config.net.width):
    raise TrainingError(
      f'{config.init}: expected {config.net.size} pixels and width '
      f'{config.net.width:g}, found {given.size} and {given.width:g}; set '
      '--config.net to match'
    )
  return set_variables(state, where, name, given.variables)


def init_audio_encoder(config, state, where):
  """The state with the audio tower of the expert `config.ears`.

  The towers differ by one residual layer at 256 channels, which is left out.
  """
  given = convert.load_any(config.ears, 'syncnet')
  if given.width != config.net.width:
    raise TrainingError(
      f'{config.ears}: expected an expert of width {config.net.width:g}, found '
      f'{given.width:g}; set --config.net.width to match, or no --config.ears'
    )
  parts = {
    'params': dict(state.params['generator']),
    'batch_stats': dict(state.batch_stats['generator']),
  }
  names = sorted(
    (name for name in parts['params'] if name.startswith('audio_encoder_')),
    key=lambda name: int(name.rpartition('_')[2]),
  )
  for i, name in enumerate(names):
    other = f'audio_encoder_{i if i < len(names) - 2 else i + 1}'
    for kind, table in parts.items():
      table[name] = given.variables[kind][other]
  return set_variables(state, where, 'generator', parts)


def set_variables(state, where, name: str, parts: dict):
  """The state with these variables of a network."""
  new = state.replace(
    params=state.params | {name: parts['params']},
    batch_stats=state.batch_stats | {name: parts['batch_stats']},
    ema=state.ema | ({name: parts} if name in state.ema else {}),
  )
  # Copies: what is donated must not share buffers.
  copied = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=where)
  return copied(new)
