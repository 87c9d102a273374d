"""Feed: the batches of a run, from what its config says of data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import batches, device_dataset, sampler, windows
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.training.sharding import batch_sharding
from lipsync_jax.training.stages import Stage

# All validation is of the same windows, whatever the seed of the run.
VALIDATION_SEED = 0


class InputPipelineError(LipSyncError):
  """Data that a run cannot use; one line says what to change."""


@dataclasses.dataclass(frozen=True)
class InputPipeline:
  """Where batches come from."""

  train: Any  # grain IterDataset without end, global arrays
  validation: Any  # the same, the whole split, with 'mask'
  frozen: dict[str, Any]  # {'store': the resident split} or empty
  sample: Callable | None  # (store, picks) -> batch, where data are resident
  source: ClipDataset  # of the training clips
  shown: ClipDataset  # of the validation clips
  rows: int  # by which the state of `train`'s iterator counts a batch


def build_input_pipeline(config, recipe: Stage, mesh) -> InputPipeline:
  """Open both splits.

  Raises:
    ValueError: shards are missing, empty or damaged, clips too short or
      fewer than a batch.
  """
  pairs, size, batch = config.data, config.net.size, config.batch
  train, validation = (
    ClipDataset(pairs.folder, split) for split in (pairs.train, pairs.val)
  )
  plans = _window_indices(config, recipe, train, validation, mesh.size)
  sharding = batch_sharding(mesh)
  process = jax.process_index(), jax.process_count()
  stream = functools.partial(
    batches.example_batches,
    batch=batch,
    size=size,
    process=process,
    threads=pairs.threads,
    sharding=sharding,
  )
  frozen, sample = {}, None
  if pairs.resident:
    held = device_dataset.load_dataset(
      train, size, recipe.change, threads=pairs.threads
    )
    store = vars(held).copy()
    del store['size']  # the rest are arrays, which may go anywhere
    frozen = {'store': store}

    def sample(store: dict, chosen: dict) -> dict:
      held = device_dataset.DeviceDataset(**store, size=size)
      return device_dataset.sample_batch(
        held, chosen, kind=recipe.kind, change=recipe.change
      )

    chosen = sampler.sample_batches(
      plans[0], batch, seed=config.seed, process=process
    )
    first = chosen.map(
      functools.partial(batches.to_global_arrays, sharding=sharding)
    )
  else:
    first = stream(train, plans[0], change=recipe.change, seed=config.seed)
  second = stream(
    validation,
    plans[1],
    seed=VALIDATION_SEED,
    rounds=config.validate_rounds,
  )
  rows = 1 if sample else batch // process[1]
  return InputPipeline(first, second, frozen, sample, train, validation, rows)


def _window_indices(
  config, recipe: Stage, train, validation, devices: int
) -> list:
  """The windows of both splits; raises FeedError if they are too few."""
  pairs, batch = config.data, config.batch
  for name, source in (('train', train), ('val', validation)):
    if not len(source):
      raise InputPipelineError(
        f'{pairs.folder}: expected clips in the split {source.split!r}, found '
        f'none; build it again or set --config.data.{name}'
      )
  keep = windows.speaker_fold_mask(train.speakers, pairs.part, pairs.parts)
  plans = [
    batches.index_dataset(train, recipe.kind, keep=keep, **recipe.windows),
    batches.index_dataset(validation, recipe.kind, **recipe.windows),
  ]
  if batch % devices:
    raise InputPipelineError(
      f'expected a batch that {devices} devices can share, found {batch}; '
      f'set --config.batch to a multiple of {devices}'
    )
  if len(plans[0]) < batch:
    raise InputPipelineError(
      f'{pairs.folder}: expected at least a batch of {batch} items to train '
      f'on, found {len(plans[0])}; lower --config.batch or add clips'
    )
  return plans


def get_position(feed: InputPipeline, iterator) -> dict[str, int]:
  """Where an iterator of `train` is; the same for any number of processes."""
  number, rest = divmod(iterator.get_state()['next_index'], feed.rows)
  assert not rest, (rest, feed.rows)
  return {'batches': number}


def set_position(feed: InputPipeline, iterator, place: dict[str, int]) -> None:
  """Put an iterator to where `get_position` says."""
  state = iterator.get_state()
  iterator.set_state(state | {'next_index': place['batches'] * feed.rows})


def with_preprocessing(
  function: Callable, sample: Callable | None = None
) -> Callable:
  """A step or measure that takes batches as they come from the host."""

  def run(state, batch, frozen):
    if sample:
      batch = sample(frozen['store'], batch)
    return function(state, batches.to_model_inputs(batch, jnp), frozen)

  return run


def clip_names(feed: InputPipeline, batch: dict) -> str:
  """The clips of this process's rows of a batch, for people."""
  rows = [np.asarray(s.data) for s in batch['clip'].addressable_shards]
  clips = sorted({feed.source.keys[i] for i in np.concatenate(rows)})
  return ', '.join(clips[:8]) + (' …' if len(clips) > 8 else '')
