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
AT_CHANCE = 0.97  # of the loss of chance: nothing was learnt
NEAR = 1  # frames of offset that teaching in sync can bear


def chance(kind: str, group: int) -> float:
  """The sync loss of an expert that knows nothing: log of the choices."""
  return math.log(group if kind == 'contrastive' else 2)


def is_stuck(numbers: dict[str, float], expected: float) -> bool:
  """Whether validation found no more than chance."""
  return numbers['sync'] > AT_CHANCE * expected


def by_heart(
  step: Callable, state, batch: dict, frozen: dict, count: int = 60
) -> list[float]:
  """Losses of learning one batch again and again; donates `state`."""
  found = []
  for _ in range(count):
    state, values = step(state, batch, frozen)
    found.append(float(jax.device_get(values['sync'])))
  return found


def histogram(offsets: Float[np.ndarray, 'n']) -> dict[int, int]:
  """How many clips are how many frames out of sync, as they were measured."""
  known = offsets[np.isfinite(offsets)]
  values, counts = np.unique(np.round(known).astype(int), return_counts=True)
  return dict(zip(values.tolist(), counts.tolist(), strict=True))


def report(
  numbers: dict[str, float],
  expected: float,
  learnt: list[float],
  offsets: Float[np.ndarray, 'n'],
  speakers: Sequence[str],
) -> str:
  """Findings and remedies, one a line.

  Args:
    numbers: of the validation.
    expected: loss of chance.
    learnt: `by_heart` of one batch.
    offsets: frames, of every training clip; NaN: not measured.
    speakers: of every training clip.
  """
  lines = [
    f'The expert is at chance: validation loss {numbers["sync"]:.3f} of '
    f'{expected:.3f}, {numbers["accuracy"]:.1%} right.'
  ]
  first, last = learnt[0], min(learnt[-5:])
  if last < first / 2:
    lines.append(
      f'One batch is learnt by heart ({first:.2f} to {last:.2f}): the '
      'network and the rate work; look at the data below, then wait.'
    )
  else:
    lines.append(
      f'One batch is not even learnt by heart ({first:.2f} to {last:.2f}): '
      'lower --config.optimiser.rate tenfold, or use '
      '--config.data.kind=contrastive.'
    )
  lines.append(_offsets(histogram(offsets), len(offsets)))
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


def _offsets(table: dict[int, int], clips: int) -> str:
  known = sum(table.values())
  if not known:
    return (
      f'No clip of {clips} has a measured offset: build the shards with '
      'data_prep, which measures and corrects it; unsynced data is the '
      'usual cause.'
    )
  far = sum(n for offset, n in table.items() if abs(offset) > NEAR)
  shown = ', '.join(f'{k:+d}: {n}' for k, n in sorted(table.items()))
  text = f'Offsets in frames ({known} of {clips} clips known): {shown}; '
  if far > 0.1 * known:
    return text + (
      f'{far / known:.0%} are more than {NEAR} off: correct or leave out '
      'these clips when you build the shards.'
    )
  return text + 'the data are in sync.'
