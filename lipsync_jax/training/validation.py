"""Validation: what a state is worth, measured on the whole other split.

Also what people look at: strips and a film of the generator, and the file
of the best network so far.
"""

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lipsync_jax.data import batches
from lipsync_jax.training import (
  input_pipeline,
  losses,
  metric_writer,
  sample_video,
  sharding,
  stages,
  state,
)

ValidateFn = Callable[
  [int, state.TrainState, metric_writer.MetricWriter, dict], dict[str, float]
]


def build_validator(
  config, workdir: pathlib.Path, recipe, mesh, where, feed, frozen, options
) -> ValidateFn:
  """`look(step, state, writer, facts)` -> means over the whole split.

  Notes in `facts` what the checkpoint is to remember, and exports the
  network, by default whenever it is better than ever. Compiled once.

  Args:
    where: shardings of the state.
    options: of XLA.
  """

  def compiled(function):
    function = input_pipeline.with_preprocessing(function)
    return sharding.jit_eval_step(function, mesh, where, options)

  measure = compiled(recipe.measure)
  show = recipe.show and jax.process_count() == 1 and compiled(recipe.show)

  def look(step, state, writer, facts):
    totals: dict[str, float] = {}
    for i, batch in enumerate(feed.validation):
      found = jax.device_get(measure(state, batch, frozen))
      for name, value in found.items():
        totals[name] = totals.get(name, 0.0) + float(value)
      if i == 0 and show and config.strips:
        parts = jax.device_get(show(state, batch, frozen))
        rows = {k: x[: config.strips] for k, x in parts.items()}
        writer.picture(step, 'validation', metric_writer.sample_grid(**rows))
    if show and config.video:
      speak = functools.partial(_generate, show, mesh, state, frozen)
      write_sample_video(config, workdir, feed, step, speak)
    count = totals.pop('count')
    means = {name: value / count for name, value in totals.items()}
    means['measured'] = selection_metric(config, means)
    writer.write(step, 'validation', means)
    facts['measured'] = means['measured']
    best = means['measured'] < facts.get('least', math.inf)
    if best:
      facts['least'] = means['measured']
    if best or config.export == 'last':
      path = workdir / f'{recipe.network}.safetensors'
      about = {'step': step, 'validation': means}
      stages.export_weights(path, recipe, state, config, about)
    return means

  return look


def _generate(
  show, mesh, state, frozen, batch: batches.Batch
) -> dict[str, Any]:
  batch = batches.to_global_arrays(batch, sharding.batch_sharding(mesh))
  return jax.device_get(show(state, batch, frozen))


def write_sample_video(
  config, workdir: pathlib.Path, feed, step: int, show
) -> None:
  """Write the film of a step.

  Only where there is one process, as for strips: others would have to bring
  their devices' rows together.
  """
  source = feed.shown
  clip = sample_video.choose_clip(source)
  batches = sample_video.clip_batches(
    source, clip, config.net.size, config.batch
  )
  path = workdir / 'videos' / f'{step:08d}.mp4'
  sample_video.write_video(
    path, sample_video.video_frames(batches, show), source[clip]
  )
  sample_video.remove_old_videos(path.parent)


def selection_metric(config, means: dict[str, float]) -> float:
  """The one number by which checkpoints are compared; less is better."""
  if config.stage == 'syncnet':
    return means['sync']
  part, lips = config.sync.weight, config.lips_weight
  pictures = (1 - lips) * means['l1'] + lips * means['lips']
  pictures += config.motion_weight * means['motion']
  if 'sync' not in means:
    return pictures
  return part * means['sync'] + (1 - part) * pictures


def update_sync_weight_target(config, state, numbers: dict[str, float], mesh):
  """Set where the sync weight walks to, from what was measured."""
  if 'sync_of_truth' not in numbers:  # no expert teaches
    return state
  sync, before = config.sync, float(jax.device_get(state.sync_goal))
  goal = losses.sync_weight_target(
    numbers['sync'], sync.weight, sync.high, sync.low, before
  )
  if sync.until_real and numbers['sync'] < numbers['sync_of_truth']:
    goal = 0.0  # what comes below real lips fools the expert: stripes
  with jax.transfer_guard('allow'):  # several processes compare theirs
    goal = jax.device_put(np.float32(goal), sharding.replicated_sharding(mesh))
  return state.replace(sync_goal=goal)
