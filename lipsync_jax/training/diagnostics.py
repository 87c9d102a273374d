"""Diagnose: why does the expert not leave chance?

A report of plain lines, each a finding with its remedy. It is written
when `config.stuck_steps` batches have taught the expert nothing.
"""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

FEW_SPEAKERS = 20  # below, an expert knows persons instead of sounds
AT_CHANCE = 0.97  # of the loss of chance: nothing was learned
MAX_OFFSET = 1  # frames of offset that teaching in sync can bear


def chance_loss(kind: str, group: int) -> float:
  """The sync loss of an expert that knows nothing: log of the choices."""
  return math.log(group if kind == 'contrastive' else 2)


def is_at_chance(numbers: dict[str, float], expected: float) -> bool:
  """Whether validation found no more than chance."""
  return numbers['sync'] > AT_CHANCE * expected


def diagnosis_due(
  config, step: int, numbers: dict[str, float], facts: dict
) -> bool:
  """Whether the expert is at chance for too long and has not said why yet.

  Notes in `facts` that it has.
  """
  if config.stage != 'syncnet' or step < config.stuck_steps:
    return False
  expected = chance_loss(config.data.kind, config.data.group)
  if facts.get('explained') or not is_at_chance(numbers, expected):
    return False
  facts['explained'] = True
  return True


def overfit_one_batch(
  step: Callable, state, batch: dict, frozen: dict, count: int = 60
) -> list[float]:
  """Losses of learning one batch again and again; donates `state`.

  Args:
    count: steps, at most; fewer where the loss was halved before.
  """
  found = []
  while len(found) < count and not (found and loss_halved(found)):
    state, values = step(state, batch, frozen)
    found.append(float(jax.device_get(values['sync'])))
  return found


def loss_halved(learned: Sequence[float]) -> bool:
  """Whether a loss went below half of the first."""
  return min(learned) < learned[0] / 2


def offset_histogram(offsets: Float[np.ndarray, 'n']) -> dict[int, int]:
  """How many clips are how many frames out of sync, as they were measured."""
  known = offsets[np.isfinite(offsets)]
  values, counts = np.unique(np.round(known).astype(int), return_counts=True)
  return dict(zip(values.tolist(), counts.tolist(), strict=True))


def diagnosis_report(
  numbers: dict[str, float],
  expected: float,
  learned: list[float],
  offsets: Float[np.ndarray, 'n'],
  speakers: Sequence[str],
) -> str:
  """Findings and remedies, one a line.

  Args:
    numbers: of the validation.
    expected: loss of chance.
    learned: `overfit_one_batch` of one batch.
    offsets: frames, of every training clip; NaN: not measured.
    speakers: of every training clip.
  """
  lines = [
    f'The expert is at chance: validation loss {numbers["sync"]:.3f} of '
    f'{expected:.3f}, {numbers["accuracy"]:.1%} right.'
  ]
  lines.append(_learning(learned))
  lines.append(_offsets(offset_histogram(offsets), len(offsets)))
  count = len(set(speakers))
  lines.append(
    f'{count} speakers in {len(speakers)} clips: '
    + (
      'enough to learn sounds instead of persons.'
      if count >= FEW_SPEAKERS
      else f'few; add speakers ({FEW_SPEAKERS} or more), set '
      '--config.data.order=speaker and keep the augmentation on.'
    )
  )
  return '\n'.join(lines) + '\n'


def _learning(learned: list[float]) -> str:
  first, least = learned[0], min(learned)
  moved = f'({first:.2f} to {least:.2f} in {len(learned)} steps)'
  if loss_halved(learned):
    return (
      f'One batch is learned by heart {moved}: the network and the rate work; '
      'look at the data below, set --config.opening_weight=0.5 (for windows '
      'that compete), then wait.'
    )
  if max(learned) - least < 0.01 * first:
    return (
      f'One batch teaches nothing at all {moved}: the rate is too low or '
      'zero; raise --config.optimizer.rate.'
    )
  return (
    f'One batch is not even learned by heart {moved}: lower '
    '--config.optimizer.rate tenfold, or use --config.data.kind=contrastive.'
  )


def _offsets(table: dict[int, int], clips: int) -> str:
  known = sum(table.values())
  if not known:
    return (
      f'No clip of {clips} has a measured offset: build the shards with '
      'data_prep, which measures and corrects it; unsynced data is the '
      'usual cause.'
    )
  far = sum(n for offset, n in table.items() if abs(offset) > MAX_OFFSET)
  shown = ', '.join(f'{k:+d}: {n}' for k, n in sorted(table.items()))
  text = f'Offsets in frames ({known} of {clips} clips known): {shown}; '
  if far > 0.1 * known:
    return text + (
      f'{far / known:.0%} are more than {MAX_OFFSET} off: correct or leave out '
      'these clips when you build the shards.'
    )
  return text + 'the data are in sync.'
