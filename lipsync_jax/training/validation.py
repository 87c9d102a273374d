"""Validation: losses over the whole validation split.

Also writes what people look at, sample pictures and a video of the generator,
and exports the weights of the best network so far.
"""

import dataclasses
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
)
from lipsync_jax.training.input_pipeline import InputPipeline
from lipsync_jax.training.metric_writer import MetricWriter
from lipsync_jax.training.stages import Stage
from lipsync_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Validator:
  """Measures states on the validation split; compiled once.

  Attributes:
    eval_step: (state, batch, expert_variables) -> sums, jitted.
    generate: (state, batch) -> columns of a sample grid, jitted; None for
      SyncNet, and with several processes, which would have to gather the rows
      of their devices.
    export: writes the network to a path, see `stages.NetworkFactory`.
  """

  config: Any
  workdir: pathlib.Path
  stage: Stage
  mesh: Any
  pipeline: InputPipeline
  expert_variables: Any
  eval_step: Callable
  generate: Callable | None
  export: Callable

  def validate(
    self, step: int, state: TrainState, writer: MetricWriter, facts: dict
  ) -> dict[str, float]:
    """Means over the whole split; writes metrics, samples and weights.

    Args:
      facts: what the checkpoint remembers; gets 'measured', the selection
        metric, and 'least', its lowest value so far.
    """
    means = self._means(step, state, writer)
    if self.generate and self.config.run.sample_video:
      self._write_video(step, state)
    select = self.stage.select
    measured = select(means) if select else selection_metric(self.config, means)
    means['selection_metric'] = measured
    writer.write(step, 'validation', means)
    facts['measured'] = measured
    best = measured < facts.get('least', math.inf)
    if best:
      facts['least'] = measured
    if best or self.config.run.export_policy == 'last':
      path = self.workdir / f'{self.stage.network}.safetensors'
      meta = {'step': step, 'validation': means}
      self.export(path, self.stage, state, self.config, meta)
    return means

  def _means(
    self, step: int, state: TrainState, writer: MetricWriter
  ) -> dict[str, float]:
    totals: dict[str, float] = {}
    count = self.config.run.num_sample_rows
    for i, batch in enumerate(self.pipeline.validation):
      sums = self.eval_step(state, batch, self.expert_variables)
      for name, value in jax.device_get(sums).items():
        totals[name] = totals.get(name, 0.0) + float(value)
      if i == 0 and self.generate and count:
        columns = jax.device_get(self.generate(state, batch))
        rows = {name: x[:count] for name, x in columns.items()}
        writer.picture(step, 'validation', metric_writer.sample_grid(**rows))
    examples = totals.pop('count')
    means = {name: value / examples for name, value in totals.items()}
    return self.stage.summarize(means)

  def _write_video(self, step: int, state: TrainState) -> None:
    """Write a video of one clip, with its sound."""
    clips = self.pipeline.validation_clips
    clip = sample_video.choose_clip(clips)
    spread = sharding.batch_sharding(self.mesh)

    def columns(batch: batches.Batch) -> dict[str, Any]:
      batch = batches.to_global_arrays(batch, spread)
      return jax.device_get(self.generate(state, batch))

    size, rows = self.config.model.image_size, self.config.batch_size
    frames = sample_video.video_frames(
      sample_video.clip_batches(clips, clip, size, rows), columns
    )
    path = self.workdir / 'videos' / f'{step:08d}.mp4'
    sample_video.write_video(path, frames, clips[clip])
    sample_video.remove_old_videos(path.parent)


def compile_steps(
  stage: Stage, mesh, where, options: dict | None
) -> tuple[Callable, Callable | None]:
  """The jitted `eval_step` and `generate` of a `Validator`.

  Args:
    where: shardings of the state.
    options: of XLA.
  """

  def compiled(step: Callable) -> Callable:
    step = input_pipeline.with_preprocessing(step)
    return sharding.jit_eval_step(step, mesh, where, options)

  evaluate = compiled(stage.eval_step)
  if stage.generate is None or jax.process_count() > 1:
    return evaluate, None
  generate = stage.generate
  ignoring = compiled(lambda state, batch, _: generate(state, batch))
  return evaluate, functools.partial(_call_without_expert, ignoring)


def _call_without_expert(step: Callable, state, batch):
  return step(state, batch, None)


def selection_metric(config, means: dict[str, float]) -> float:
  """The number by which checkpoints are compared; less is better."""
  if config.stage == 'syncnet':
    return means['sync']
  if config.stage == 'articulator':
    return 2 - means['correlation'] - means['closure_f1']
  weights = config.loss
  share, mouth = weights.sync, weights.mouth_l1
  pictures = (1 - mouth) * means['l1'] + mouth * means['mouth_l1']
  pictures += weights.temporal * means['temporal']
  if 'sync' not in means:
    return pictures
  return share * means['sync'] + (1 - share) * pictures


def update_sync_weight_target(
  config, state: TrainState, means: dict[str, float], mesh
) -> TrainState:
  """The state with the sync weight's target set by a validation."""
  if 'sync/ground_truth' not in means:  # there is no expert
    return state
  sync, previous = config.sync, float(jax.device_get(state.sync_goal))
  target = losses.sync_weight_target(
    means['sync'], config.loss.sync, sync.high, sync.low, previous
  )
  below = means['sync'] < means['sync/ground_truth']
  if sync.stop_below_ground_truth and below:
    # Below the loss of real lips, the generator exploits the expert: stripes.
    target = 0.0
  replicated = sharding.replicated_sharding(mesh)
  with jax.transfer_guard('allow'):  # processes compare their values
    target = jax.device_put(np.float32(target), replicated)
  return state.replace(sync_goal=target)
