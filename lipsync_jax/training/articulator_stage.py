"""The stage that trains the articulator: network, steps, data and export.

The metrics of a file on the speakers of a split:

  python -m lipsync_jax.training.articulator_stage SHARDS [--weights FILE]
"""

import argparse
import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lipsync_jax.audio import FPS
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import motion, motion_batches
from lipsync_jax.data.batches import to_global_arrays
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.data.motion import MotionBasis, MotionDataset
from lipsync_jax.data.motion_batches import MotionAugmentation
from lipsync_jax.models import articulator
from lipsync_jax.training import articulator_steps, distributed, sharding
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.articulator_steps import ArticulatorLossWeights
from lipsync_jax.weights import articulation

NAME = articulator_steps.NAME


class ArticulatorStageError(LipSyncError):
  """A config that describes no training of an articulator."""


@dataclasses.dataclass(frozen=True)
class MotionData:
  """Both splits in memory, and the basis of the training split."""

  train: MotionDataset
  validation: MotionDataset
  basis: MotionBasis


def load_data(config) -> MotionData:
  """Read both splits.

  Raises:
    LipSyncError: shards are missing or damaged, or clips have no mesh.
  """
  data, show = config.data, distributed.is_process_zero()
  loaded, basis = [], None
  for split in (data.train_split, data.validation_split):
    clips = ClipDataset(data.path, split)
    if not len(clips):
      raise ArticulatorStageError(
        f'{data.path}: expected clips in the split {split!r}, found none; '
        'build it again or set --config.data.train_split or validation_split'
      )
    dataset, basis = motion.load_motion(
      clips, basis, articulator.NUM_COEFFICIENTS, show
    )
    clips.close()
    loaded.append(dataset)
  return MotionData(*loaded, basis)


def importance(basis: MotionBasis) -> np.ndarray:
  """Weight of each coefficient's error: its share of motion, mean 1. [n]"""
  share = np.sqrt(basis.explained)
  return (share / share.mean()).astype(np.float32)


def stage_values(config, rate) -> dict[str, Any]:
  """The fields of `stages.Stage`.

  Args:
    config: locked.
    rate: learning rate schedule.

  Raises:
    ArticulatorStageError: first weights are named.
  """
  if config.init_weights:
    raise ArticulatorStageError(
      'expected no init_weights for the stage articulator, found '
      f'{config.init_weights!r}: its basis comes from the data; leave it out'
    )
  fields, data = config.articulator, load_data(config)
  networks = {NAME: articulator.Articulator(fields.width, fields.dropout)}
  decay = config.articulator.weight_decay
  optimizers = {NAME: state_lib.adamw_optimizer(config.optimizer, rate, decay)}
  gaps = jnp.asarray(data.basis.gaps, jnp.float32)
  columns = motion_batches.window_columns(motion_batches.WINDOW_FRAMES)
  step = functools.partial(
    articulator_steps.train_step,
    networks=networks,
    optimizers=optimizers,
    weights=ArticulatorLossWeights(**fields.loss),
    basis_gaps=gaps,
    importance=jnp.asarray(importance(data.basis)),
    ema_decay=config.ema_decay,
  )
  evaluate = functools.partial(
    articulator_steps.eval_step,
    networks=networks,
    basis_gaps=gaps,
    speakers=data.validation.names,
  )
  return {
    'network': NAME,
    'init': {
      'networks': networks,
      'optimizers': optimizers,
      'averaged': (NAME,) if config.ema_decay else (),
    },
    'train_step': lambda state, batch, _: step(state, batch),
    'eval_step': lambda state, batch, _: evaluate(state, batch),
    'summarize': articulator_steps.summarize,
    'motion': data,
    'flops': articulator.train_window_flops(columns, fields.width),
  }


def batches(config, data: MotionData, mesh) -> tuple[Any, Any]:
  """Training batches without end, and validation batches; grain datasets."""
  import grain

  spread = sharding.batch_sharding(mesh)
  process = jax.process_index(), jax.process_count()
  fields = config.articulator
  change = MotionAugmentation(**fields.augment)
  sampler = motion_batches.MotionSampler(
    data.train,
    config.batch_size,
    config.seed,
    change if config.augment.enabled else motion_batches.NO_CHANGE,
    fields.speaker_share,
    process,
  )
  whole = motion_batches.MotionClips(
    data.validation, config.batch_size, process
  )
  options = grain.ReadOptions(config.data.num_workers, 16)
  return tuple(
    grain.MapDataset.source(source)
    .to_iter_dataset(options)
    .map(functools.partial(to_global_arrays, sharding=spread))
    for source in (sampler, whole)
  )


def export(path, stage, state, config, meta: dict) -> None:
  """Write the articulator with its basis. All processes take part."""
  variables = distributed.fully_replicate(state_lib.eval_variables(state, NAME))
  if not distributed.is_process_zero():
    return
  data = stage.motion
  seconds = len(data.train.coefficients) / FPS
  articulation.save_articulation(
    path,
    articulation.Articulation(
      variables={'params': jax.device_get(variables['params'])},
      basis=data.basis.displacements.astype(np.float32),
      width=config.articulator.width,
      source=f'trained by lipsync_jax on {len(data.train)} clips '
      f'({seconds / 60:.0f} minutes) of {len(data.train.names)} speakers',
      meta=meta,
    ),
  )


def measure(
  value: articulation.Articulation, shards: str, split: str, batch: int = 48
) -> dict[str, float]:
  """Metrics of an articulator on the whole clips of a split, by name.

  Raises:
    LipSyncError: shards are missing or damaged, or clips have no mesh.
  """
  clips = ClipDataset(shards, split)
  basis = MotionBasis(value.basis.astype(np.float64))
  dataset, _ = motion.load_motion(clips, basis)
  return measure_clips(value, dataset, basis.gaps, batch)


def measure_clips(
  value: articulation.Articulation,
  dataset: MotionDataset,
  basis_gaps: Float[np.ndarray, 'n 11'],
  batch: int,
) -> dict[str, float]:
  """Metrics of an articulator on whole clips, by name.

  Args:
    value: the articulator.
    dataset: its clips.
    basis_gaps: change of the lip gaps by a coefficient of 1.
    batch: clips at once.
  """
  step = jax.jit(
    functools.partial(
      articulator_steps.evaluate,
      net=articulator.Articulator(value.width),
      basis_gaps=jnp.asarray(basis_gaps, jnp.float32),
      speakers=dataset.names,
    )
  )
  source, totals = motion_batches.MotionClips(dataset, batch), {}
  for number in range(len(source)):
    for name, x in step(value.variables, source[number]).items():
      totals[name] = totals.get(name, 0.0) + float(x)
  count = totals.pop('count')
  return articulator_steps.summarize(
    {name: total / count for name, total in totals.items()}
  )


def main(argv: list[str] | None = None) -> int:
  """Print the metrics of an articulator; 2 on an error."""
  parser = argparse.ArgumentParser(
    prog='python -m lipsync_jax.training.articulator_stage',
    description='Measure an articulator on the speakers of a split.',
  )
  parser.add_argument('shards', help='folder of TFRecord shards')
  parser.add_argument('--split', default='test', help='of the shards')
  parser.add_argument(
    '--weights', default=articulation.DEFAULT_ARTICULATOR, help='articulator'
  )
  flags = parser.parse_args(argv)
  try:
    value = articulation.load_articulation(flags.weights)
    found = measure(value, flags.shards, flags.split)
  except ValueError as error:  # every error of ours is one line
    print(f'articulator_stage: {error}', file=sys.stderr)
    return 2
  for name, x in found.items():
    print(f'{name:40} {x:8.3f}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
