"""The stages that train the refiner: networks, steps, data and export.

The stage refiner has losses of pixels only. The stage refiner_hq adds a
discriminator and begins with the weights of the former.

The metrics of a file, or of the warp alone, on the pairs of a split:

  python -m lipsync_jax.refinement.refiner_stage PAIRS [--weights FILE]
"""

import argparse
import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp

from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.data.batches import to_global_arrays
from lipsync_jax.models import flops, refiner
from lipsync_jax.models.mouth_discriminator import MouthDiscriminator
from lipsync_jax.refinement import (
  adversarial,
  pair_batches,
  pair_file,
  refiner_losses,
  refiner_steps,
)
from lipsync_jax.refinement.face_frames import RefinementError
from lipsync_jax.refinement.pair_file import PairSplit
from lipsync_jax.refinement.refiner_losses import RefinerLossWeights
from lipsync_jax.refinement.refiner_steps import NAME
from lipsync_jax.training import distributed, input_pipeline, sharding
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.input_pipeline import InputPipeline
from lipsync_jax.training.stages import DEFAULT_NETWORKS, Stage
from lipsync_jax.training.state import TrainState
from lipsync_jax.weights import refiner_weights

HQ = 'refiner_hq'  # the stage with a discriminator


def load_splits(config) -> tuple[PairSplit, PairSplit]:
  """The pairs of both splits.

  Raises:
    RefinementError: there are none, or of another size.
  """
  data, size = config.data, config.refiner.image_size
  train, validation = (
    pair_file.load_pairs(data.path, name, size)
    for name in (data.train_split, data.validation_split)
  )
  if config.refiner.photos_only:
    return pair_file.photo_pairs(train), pair_file.photo_pairs(validation)
  return train, validation


def build_stage(config) -> Stage:
  """The stage that a locked config describes.

  Raises:
    RefinementError: the pairs or the first weights do not fit.
  """
  fields, optimizer = config.refiner, config.optimizer
  size, width = fields.image_size, fields.width_multiplier
  rate = state_lib.learning_rate_schedule(
    optimizer.learning_rate, optimizer.warmup_steps, optimizer.decay_steps
  )
  single = jax.device_count() == 1
  kind = jnp.dtype(fields.dtype), single
  networks = {NAME: refiner.Refiner(size, width, *kind)}
  if config.stage == HQ:
    networks[adversarial.NAME] = MouthDiscriminator(width, *kind)
  optimizers = {
    name: state_lib.adamw_optimizer(optimizer, rate, fields.weight_decay)
    for name in networks
  }
  augment = config.augment.to_dict()
  enabled = augment.pop('enabled')
  change = Augmentation(**augment if enabled else dict.fromkeys(augment, 0))
  splits = load_splits(config)
  step = functools.partial(
    refiner_steps.train_step,
    networks=networks,
    optimizers=optimizers,
    weights=RefinerLossWeights(**fields.loss),
    change=change,
    ema_decay=config.ema_decay,
  )
  evaluate = functools.partial(refiner_steps.eval_step, networks=networks)
  return Stage(
    network=NAME,
    spec=None,
    init={
      'networks': networks,
      'optimizers': optimizers,
      'averaged': (NAME,) if config.ema_decay else (),
    },
    train_step=lambda state, batch, _: step(state, batch),
    eval_step=lambda state, batch, _: evaluate(state, batch),
    generate=None,
    expert_variables=None,
    learning_rate=rate,
    augmentation=None,
    windows={},
    flops=flops.refiner_step_flops(size, width, config.stage == HQ),
    summarize=refiner_steps.summarize,
    pipeline=functools.partial(build_pipeline, splits=splits),
    select=refiner_losses.selection,
    export=functools.partial(export, split=splits[0]),
    load_weights=functools.partial(load_weights, size=size, width=width),
  )


def load_weights(
  path: str, state: TrainState, size: int, width: float
) -> TrainState:
  """The state with the refiner of a file.

  Raises:
    RefinementError: the file holds another size or width.
  """
  given = refiner_weights.load_refiner(path)
  if (given.size, given.width) != (size, width):
    raise RefinementError(
      f'{path}: expected {size} pixels and width {width:g}, found '
      f'{given.size} and {given.width:g}; set --config.refiner.image_size and '
      '--config.refiner.width_multiplier to match'
    )
  return state_lib.set_variables(state, NAME, given.variables)


def build_pipeline(config, mesh, splits) -> InputPipeline:
  """Training batches without end, and validation batches."""
  import grain

  input_pipeline.check_batch(config.batch_size, mesh.size)
  process = jax.process_index(), jax.process_count()
  resident = config.data.device_resident
  train = pair_batches.PairSampler(
    splits[0], config.batch_size, config.seed, process, resident
  )
  whole = pair_batches.WholeSplit(splits[1], config.batch_size, process)
  spread = functools.partial(
    to_global_arrays, sharding=sharding.batch_sharding(mesh)
  )
  options = grain.ReadOptions(config.data.num_workers, 16)
  first, second = (
    grain.MapDataset.source(source).to_iter_dataset(options).map(spread)
    for source in (train, whole)
  )
  arrays = splits[0].arrays if resident else None
  sample = pair_batches.sample_resident if resident else None
  return InputPipeline(first, second, arrays, sample, *splits, 1)


def export(path, stage, state, config, meta: dict, split: PairSplit) -> None:
  """Write the refiner. All processes take part."""
  variables = distributed.fully_replicate(state_lib.eval_variables(state, NAME))
  if not distributed.is_process_zero():
    return
  fields = config.refiner
  refiner_weights.save_refiner(
    path,
    refiner_weights.RefinerWeights(
      variables=jax.device_get(variables),
      size=fields.image_size,
      width=fields.width_multiplier,
      source=f'trained by lipsync_jax on {len(split)} pairs of '
      f'{len(split.names)} speakers',
      meta=meta,
    ),
  )


# For `train.train_and_evaluate`.
NETWORKS = dataclasses.replace(
  DEFAULT_NETWORKS, stages={NAME: build_stage, HQ: build_stage}
)


def measure(
  value: refiner_weights.RefinerWeights | None,
  split: PairSplit,
  batch: int = 16,
) -> dict[str, float]:
  """Metrics on all pairs of a split, by name.

  Args:
    value: a refiner; None measures the warp alone.
    split: the pairs.
    batch: pairs at a time.
  """
  if value is None:
    step = jax.jit(
      functools.partial(refiner_steps.evaluate_warp, size=split.size)
    )
  else:
    net = refiner.Refiner(value.size, value.width)
    compiled = jax.jit(functools.partial(refiner_steps.evaluate, net=net))
    step = functools.partial(compiled, value.variables)
  source, totals = pair_batches.WholeSplit(split, batch), {}
  for number in range(len(source)):
    for name, x in step(source[number]).items():
      totals[name] = totals.get(name, 0.0) + float(x)
  count = totals.pop('count')
  return refiner_steps.summarize(
    {name: total / count for name, total in totals.items()}
  )


def main(argv: list[str] | None = None) -> int:
  """Print the metrics of a refiner; 2 on an error."""
  parser = argparse.ArgumentParser(
    prog='python -m lipsync_jax.refinement.refiner_stage',
    description='Measure a refiner on the pairs of a split.',
  )
  parser.add_argument('pairs', help='folder of lipsync_jax.refinement.prepare')
  parser.add_argument('--split', default='test', help='of the pairs')
  parser.add_argument('--weights', help='refiner; without: the warp alone')
  flags = parser.parse_args(argv)
  try:
    value = size = None
    if flags.weights:
      value = refiner_weights.load_refiner(flags.weights)
      size = value.size
    split = pair_file.load_pairs(flags.pairs, flags.split, size)
    found = measure(value, split)
  except ValueError as error:  # every error of ours is one line
    print(f'refiner_stage: {error}', file=sys.stderr)
    return 2
  for name, x in found.items():
    print(f'{name:24} {x:8.4f}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
