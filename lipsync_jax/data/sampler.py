"""Which windows make which batch.

Order and randomness are functions of (seed, number of the batch) alone. Any
number of processes therefore draws the same global batches, and a resumed run
continues with the next batch.

Shapes: b rows of a batch, n items of an epoch.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import windows
from lipsync_jax.data.windows import WindowIndex, WindowSample

# Independent random streams of one seed: the order, and the windows drawn.
ORDER_STREAM, DRAW_STREAM = 1, 2


class SamplerError(LipSyncError):
  """A batch that the processes cannot share evenly."""


@dataclasses.dataclass(frozen=True)
class BatchSampler:
  """This process's rows of every global batch, a source for grain.

  Args:
    index: the windows to draw from.
    batch: rows of a global batch, over all processes.
    seed: of the order and of all draws.
    process: index and count, `jax.process_index(), jax.process_count()`.
    rounds: None shuffles anew every epoch, without end. A number passes over
      the index that often, in order, and adds `mask`, 0 for the rows that
      fill up the last batch.

  Raises:
    SamplerError: `batch` is not a multiple of the process count.
  """

  index: WindowIndex
  batch: int
  seed: int = 0
  process: tuple[int, int] = (0, 1)
  rounds: int | None = None

  def __post_init__(self):
    number, count = self.process
    if self.batch % count or not 0 <= number < count:
      raise SamplerError(
        f'expected a batch that {count} processes can share, found '
        f'{self.batch}; choose a multiple of {count}'
      )

  @property
  def rows(self) -> int:
    """Rows of a batch for this process."""
    return self.batch // self.process[1]

  def __len__(self) -> int:
    if self.rounds is None:
      return sys.maxsize // (2 * self.batch)
    return -(-self.rounds * len(self.index) // self.batch)

  def __getitem__(self, number: int) -> WindowSample:
    """The rows of batch `number`; all processes draw the same batch."""
    at = int(number) * self.batch + np.arange(self.batch)
    items = self._items(at)
    rng = np.random.default_rng([self.seed, DRAW_STREAM, int(number)])
    sample = windows.sample_windows(items, rng, self.index)
    if self.rounds is not None:
      total = self.rounds * len(self.index)
      sample['mask'] = (at < total).astype(np.float32)
    low = self.process[0] * self.rows
    return {name: x[low : low + self.rows] for name, x in sample.items()}

  def _items(self, at: Int[np.ndarray, 'b']) -> Int[np.ndarray, 'b']:
    """Items of the index at these places of the endless order."""
    count = len(self.index)
    epochs, items = np.divmod(at, count)
    if self.rounds is not None:
      return np.where(epochs < self.rounds, items, count - 1)
    for epoch in np.unique(epochs):
      here = epochs == epoch
      items[here] = _epoch_order(self.seed, int(epoch), count)[items[here]]
    return items


@functools.lru_cache(4)
def _epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, 'n']:
  """The items of an epoch, shuffled."""
  rng = np.random.default_rng([seed, ORDER_STREAM, epoch])
  return rng.permutation(count)


@dataclasses.dataclass(frozen=True)
class ExampleSampler:
  """The rows of a `BatchSampler`, one after another."""

  batches: BatchSampler

  def __len__(self) -> int:
    return len(self.batches) * self.batches.rows

  def __getitem__(self, i: int) -> WindowSample:
    number, row = divmod(int(i), self.batches.rows)
    batch = self._batch(number)
    return {name: np.asarray(x[row]) for name, x in batch.items()}

  @functools.cached_property
  def _batch(self):
    return functools.lru_cache(8)(self.batches.__getitem__)

  def __getstate__(self):
    return {'batches': self.batches}


def sample_batches(index: WindowIndex, batch: int, **values):
  """`BatchSampler` as a grain IterDataset, for the device-resident data set."""
  import grain

  source = grain.MapDataset.source(BatchSampler(index, batch, **values))
  return source.to_iter_dataset(grain.ReadOptions(num_threads=1))


def speaker_fold_mask(
  speakers: Sequence[str], fold: int, num_folds: int
) -> Bool[np.ndarray, 'n']:
  """Mark the clips of the speakers of one fold.

  The hash of a speaker's name decides the fold, so that two networks can be
  trained on disjoint speakers: the expert SyncNet that trains a generator and
  the held-out SyncNet that scores it.

  Raises:
    windows.WindowError: `fold` is not in 0..num_folds-1.
  """
  if not 0 <= fold < num_folds:
    raise windows.WindowError(
      f'expected 0 <= speaker_fold < num_speaker_folds, found {fold} of '
      f'{num_folds}; set --config.data.speaker_fold'
    )
  folds = [
    int.from_bytes(hashlib.sha256(s.encode()).digest()[:8], 'big') % num_folds
    for s in speakers
  ]
  return np.array(folds) == fold
