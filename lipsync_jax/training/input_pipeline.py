"""The batches of a run, from what its config says about data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import batches, device_dataset, sampler
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.data.device_dataset import DeviceDataset
from lipsync_jax.data.windows import WindowIndex
from lipsync_jax.training import articulator_stage, sharding
from lipsync_jax.training.stages import Stage

# Every validation uses the same windows, whatever the seed of the run.
VALIDATION_SEED = 0


class InputPipelineError(LipSyncError):
  """Data that a run cannot use."""


@dataclasses.dataclass(frozen=True)
class InputPipeline:
  """Where the batches of a run come from."""

  train: Any  # grain IterDataset without end, of global arrays
  validation: Any  # the same, once over the split, with 'mask'
  dataset: DeviceDataset | dict | None  # the training split, if on the device
  sample: Callable | None  # (dataset, window samples) -> batch, likewise
  train_clips: Any  # with the `keys` of its clips, which batches number
  validation_clips: Any
  rows: int  # by which the state of the training iterator counts a batch


def build_input_pipeline(config, stage: Stage, mesh) -> InputPipeline:
  """Open both splits.

  Raises:
    LipSyncError: shards are missing, empty or damaged, or the clips are too
      short or fewer than a batch.
  """
  if stage.pipeline:
    return stage.pipeline(config, mesh)
  if stage.motion:
    return _motion_pipeline(config, stage, mesh)
  data, batch = config.data, config.batch_size
  size = config.model.image_size
  clips = [
    ClipDataset(data.path, split)
    for split in (data.train_split, data.validation_split)
  ]
  indices = _window_indices(config, stage, clips, mesh.size)
  spread = sharding.batch_sharding(mesh)
  process = jax.process_index(), jax.process_count()
  stream = functools.partial(
    batches.example_batches,
    batch=batch,
    size=size,
    process=process,
    threads=data.num_workers,
    sharding=spread,
  )
  dataset, sample = None, None
  if data.device_resident:
    dataset = device_dataset.load_dataset(
      clips[0], size, stage.augmentation, threads=data.num_workers
    )
    sample = functools.partial(
      device_dataset.sample_batch,
      spec=stage.spec,
      change=stage.augmentation,
    )
    samples = sampler.sample_batches(
      indices[0], batch, seed=config.seed, process=process
    )
    train = samples.map(
      functools.partial(batches.to_global_arrays, sharding=spread)
    )
  else:
    train = stream(
      clips[0], indices[0], change=stage.augmentation, seed=config.seed
    )
  validation = stream(
    clips[1],
    indices[1],
    seed=VALIDATION_SEED,
    rounds=config.validation.passes,
  )
  rows = 1 if sample else batch // process[1]
  return InputPipeline(train, validation, dataset, sample, *clips, rows)


def _motion_pipeline(config, stage: Stage, mesh) -> InputPipeline:
  """The batches of the articulator, from data in memory."""
  data, batch = stage.motion, config.batch_size
  check_batch(batch, mesh.size)
  train, validation = articulator_stage.batches(config, data, mesh)
  return InputPipeline(
    train, validation, None, None, data.train, data.validation, 1
  )


def check_batch(batch: int, devices: int) -> None:
  """Refuse a batch that the devices cannot share."""
  if batch % devices:
    raise InputPipelineError(
      f'expected a batch that {devices} devices can share, found {batch}; '
      f'set --config.batch_size to a multiple of {devices}'
    )


def _window_indices(
  config, stage: Stage, clips: list[ClipDataset], devices: int
) -> list[WindowIndex]:
  """The windows of both splits; raises InputPipelineError if too few."""
  data, batch = config.data, config.batch_size
  fields = ('train_split', 'validation_split')
  for field, dataset in zip(fields, clips, strict=True):
    if not len(dataset):
      raise InputPipelineError(
        f'{data.path}: expected clips in the split {dataset.split!r}, found '
        f'none; build it again or set --config.data.{field}'
      )
  keep = sampler.speaker_fold_mask(
    clips[0].speakers, data.speaker_fold, data.num_speaker_folds
  )
  index = functools.partial(
    batches.index_dataset, spec=stage.spec, **stage.windows
  )
  indices = [index(clips[0], keep=keep), index(clips[1])]
  check_batch(batch, devices)
  if len(indices[0]) < batch:
    raise InputPipelineError(
      f'{data.path}: expected at least a batch of {batch} items to train on, '
      f'found {len(indices[0])}; lower --config.batch_size or add clips'
    )
  return indices


def get_position(pipeline: InputPipeline, iterator) -> dict[str, int]:
  """Position of a training iterator, for any number of processes."""
  index = iterator.get_state()['next_index']
  number, rest = divmod(index, pipeline.rows)
  assert not rest, (rest, pipeline.rows)
  return {'batches': number}


def set_position(
  pipeline: InputPipeline, iterator, position: dict[str, int]
) -> None:
  """Move a training iterator to a position of `get_position`."""
  state = iterator.get_state()
  index = position['batches'] * pipeline.rows
  iterator.set_state(state | {'next_index': index})


def with_preprocessing(step: Callable) -> Callable:
  """An evaluation step that takes batches as they come from the host."""

  def run(state, batch, *rest):
    return step(state, batches.to_model_inputs(batch, jnp), *rest)

  return run


def with_sampling(step: Callable, sample: Callable | None) -> Callable:
  """A training step that takes host batches or samples a `DeviceDataset`.

  Args:
    step: (state, batch, expert_variables) -> (state, metrics).
    sample: `InputPipeline.sample`.

  Returns:
    (state, batch or window samples, expert_variables, dataset) -> the same.
  """

  def run(state, batch, expert_variables, dataset):
    if sample:
      batch = sample(dataset, batch)
    batch = batches.to_model_inputs(batch, jnp)
    return step(state, batch, expert_variables)

  return run


def clip_names(pipeline: InputPipeline, batch: dict) -> str:
  """Names of the clips in this process's rows of a batch."""
  rows = [np.asarray(s.data) for s in batch['clip'].addressable_shards]
  keys = pipeline.train_clips.keys
  clips = sorted({keys[i] for i in np.concatenate(rows)})
  return ', '.join(clips[:8]) + (' …' if len(clips) > 8 else '')
