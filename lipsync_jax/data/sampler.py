"""Picks: which windows make which batch.

Order and randomness are functions of (seed, number of the batch) alone, so
that any number of processes draws the same global batches, and a run that is
resumed goes on with the next. A batch is drawn at once (`windows.sample_windows`).

Alphabet: `b` rows of a batch, `n` items of an epoch.
"""

import dataclasses
import functools
import sys

import numpy as np
from jaxtyping import Int

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import windows

ORDER_STREAM, DRAW_STREAM = (
  1,
  2,
)  # doors of the seed: the order, and what is drawn


class SamplerError(LipSyncError):
  """A batch that cannot be shared; one line says what to change."""


@dataclasses.dataclass(frozen=True)
class BatchSampler:
  """This process's rows of every global batch, a source for grain.

  Args:
    plan: of the windows.
    batch: rows of a global batch, over all processes.
    seed: of the order and of all that is drawn.
    process: index and count, `jax.process_index(), jax.process_count()`.
    rounds: None shuffles anew every epoch, without end. A number goes over
      the plan that often, in order, and adds `mask`, 0 for the rows that
      fill up the last batch.
  """

  plan: windows.WindowIndex
  batch: int
  seed: int = 0
  process: tuple[int, int] = (0, 1)
  rounds: int | None = None

  def __post_init__(self):
    index, count = self.process
    if self.batch % count or not 0 <= index < count:
      raise SamplerError(
        f'expected a batch that {count} processes can share, found '
        f'{self.batch}; choose a multiple of {count}'
      )

  @property
  def rows(self) -> int:
    """Of a batch, for this process."""
    return self.batch // self.process[1]

  def __len__(self) -> int:
    if self.rounds is None:
      return sys.maxsize // (2 * self.batch)
    return -(-self.rounds * len(self.plan) // self.batch)

  def __getitem__(self, number: int) -> windows.WindowSample:
    """The rows of batch `number`; all processes draw the same batch."""
    at = int(number) * self.batch + np.arange(self.batch)
    items = self._items(at)
    rng = np.random.default_rng([self.seed, DRAW_STREAM, int(number)])
    found = windows.sample_windows(items, rng, self.plan)
    if self.rounds is not None:
      total = self.rounds * len(self.plan)
      found['mask'] = (at < total).astype(np.float32)
    low = self.process[0] * self.rows
    return {name: x[low : low + self.rows] for name, x in found.items()}

  def _items(self, at: Int[np.ndarray, 'b']) -> Int[np.ndarray, 'b']:
    """Items of the plan at these places of the endless order."""
    epochs, items = np.divmod(at, len(self.plan))
    if self.rounds is not None:
      return np.where(epochs < self.rounds, items, len(self.plan) - 1)
    for epoch in np.unique(epochs):
      here = epochs == epoch
      items[here] = _epoch_order(self.seed, int(epoch), len(self.plan))[
        items[here]
      ]
    return items


@functools.lru_cache(4)
def _epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, 'n']:
  """The items of an epoch, shuffled."""
  rng = np.random.default_rng([seed, ORDER_STREAM, epoch])
  return rng.permutation(count)


@dataclasses.dataclass(frozen=True)
class ExampleSampler:
  """The rows of `picks` one after another."""

  picks: BatchSampler

  def __len__(self) -> int:
    return len(self.picks) * self.picks.rows

  def __getitem__(self, i: int) -> windows.WindowSample:
    number, row = divmod(int(i), self.picks.rows)
    found = self._batch(number)
    return {name: np.asarray(x[row]) for name, x in found.items()}

  @functools.cached_property
  def _batch(self):
    return functools.lru_cache(8)(self.picks.__getitem__)

  def __getstate__(self):
    return {'picks': self.picks}


def sample_batches(plan: windows.WindowIndex, batch: int, **values):
  """`BatchSampler` as a grain IterDataset: the resident mode's feed."""
  import grain

  chosen = grain.MapDataset.source(BatchSampler(plan, batch, **values))
  return chosen.to_iter_dataset(grain.ReadOptions(num_threads=1))
