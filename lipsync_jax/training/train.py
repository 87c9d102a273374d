"""The training loop. `train_and_evaluate(config, workdir)` is the entry point.

The same command resumes a run. First weights come, in this order, from the
newest checkpoint, from `config.init_weights`, or from the seed.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from typing import Any

import jax

from lipsync_jax.data import synthetic
from lipsync_jax.training import (
  config_check,
  diagnostics,
  distributed,
  input_pipeline,
  sharding,
  stages,
  validation,
)
from lipsync_jax.training.checkpoint import CheckpointManager
from lipsync_jax.training.input_pipeline import InputPipeline
from lipsync_jax.training.metric_writer import MetricWriter
from lipsync_jax.training.progress import TrainingLog
from lipsync_jax.training.stages import NetworkFactory, Stage
from lipsync_jax.training.state import (
  TrainingError,
  TrainState,
  abstract_state,
  create_state,
  init_audio_encoder,
  init_from_weights,
  place_state,
)
from lipsync_jax.training.validation import Validator

SYNTHETIC = 'synthetic'  # config.data.path for shards drawn into the workdir


def train_and_evaluate(
  config, workdir, networks: NetworkFactory | None = None
) -> dict[str, Any]:
  """Train what a locked config describes; resume if there is a checkpoint.

  Args:
    workdir: folder of checkpoints, metrics and weights.
    networks: builds the networks; None for those of `lipsync_jax.models`.

  Returns:
    'step' reached, 'stopped' by a signal or not, 'weights', the exported
    file (by default the best validated), and the numbers of the last
    validation.

  Raises:
    LipSyncError: the run cannot begin or continue.
  """
  workdir = pathlib.Path(workdir).absolute()  # Orbax takes no other
  networks = networks or stages.DEFAULT_NETWORKS
  try:
    config_check.check_fields(config)
    if config.data.path == SYNTHETIC:
      config = with_synthetic_data(config, workdir)
    if config.stage == 'all':
      return train_all_stages(config, workdir, networks)
    stage = stages.build_stage(config, networks)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    run = config.run
    with CheckpointManager(workdir, run.max_to_keep, run.keep_best) as store:
      pipeline = input_pipeline.build_input_pipeline(config, stage, mesh)
      trainer = Trainer(config, workdir, stage, mesh, pipeline, store, networks)
      return trainer.run()
  except OSError as error:  # a full disk, a folder that cannot be written
    raise TrainingError(
      f'{error.filename or workdir}: {error.strerror or error}; make room or '
      'choose another --workdir'
    ) from error


@dataclasses.dataclass(frozen=True)
class Trainer:
  """A run of one stage: what is fixed while it trains."""

  config: Any
  workdir: pathlib.Path
  stage: Stage
  mesh: Any
  pipeline: InputPipeline
  store: CheckpointManager
  networks: NetworkFactory

  @functools.cached_property
  def expert_variables(self):
    """Variables of the expert SyncNet on the devices; None without one."""
    return self._replicated(self.stage.expert_variables)

  @functools.cached_property
  def dataset(self):
    """The device-resident training split; None if batches are streamed."""
    return self._replicated(self.pipeline.dataset)

  def _replicated(self, tree):
    return jax.device_put(tree, sharding.replicated_sharding(self.mesh))

  def run(self) -> dict[str, Any]:
    """Train to the end, or until a signal; see `train_and_evaluate`."""
    iterator = iter(self.pipeline.train)
    state, where, start, facts = self._init_or_restore(iterator)
    options = sharding.FAST_COMPILE if self.config.run.fast_compile else None
    step_fn = sharding.jit_train_step(
      input_pipeline.with_sampling(self.stage.train_step, self.pipeline.sample),
      self.mesh,
      where,
      options,
    )
    validator = Validator(
      self.config,
      self.workdir,
      self.stage,
      self.mesh,
      self.pipeline,
      self.expert_variables,
      *validation.compile_steps(self.stage, self.mesh, where, options),
      self.networks.export,
    )
    state, result = self._loop(
      state, start, facts, iterator, step_fn, validator
    )
    path = self.workdir / f'{self.stage.network}.safetensors'
    if not distributed.run_on_process_zero(path.exists):
      meta = {'step': result['step']}
      self.networks.export(path, self.stage, state, self.config, meta)
    return result | {'weights': str(path)}

  def _loop(self, state, step: int, facts, iterator, step_fn, validator):
    """Validate, save, next batch, step, log the step before; again.

    This order is fixed: a checkpoint holds what its validation set, and the
    position in the data of a batch that was not trained on yet.
    """
    start, means, config = step, {}, self.config
    with (
      MetricWriter(
        self.workdir, start, distributed.is_process_zero()
      ) as writer,
      self._build_log(writer, start) as log,
      distributed.PreemptionGuard() as guard,
      jax.transfer_guard('disallow'),
    ):
      while True:
        stopped = guard.asked(step)
        last = step >= config.num_train_steps or stopped
        if step > start:
          due = step % config.validation.every_steps == 0
          if due or step >= config.num_train_steps:
            log.flush()
            with log.pause():
              means = validator.validate(step, state, writer, facts)
              self._diagnose(step, means, facts, step_fn)
          if due:  # only then: a resumed run must not see where one ended
            state = validation.update_sync_weight_target(
              config, state, means, self.mesh
            )
        if last or step % config.run.save_every_steps == 0:
          log.flush()  # raises, so that nothing broken is saved
          with log.pause():
            self._save(step, state, iterator, facts)
        if last:
          break
        began = time.perf_counter()
        batch = next(iterator)
        log.wait(time.perf_counter() - began)
        state, values = step_fn(
          state, batch, self.expert_variables, self.dataset
        )
        step += 1
        names = functools.partial(
          input_pipeline.clip_names, self.pipeline, {'clip': batch['clip']}
        )
        log.add(step, values, names)
    self.store.wait()
    return state, means | {'step': step, 'stopped': stopped}

  def _save(self, step: int, state: TrainState, iterator, facts: dict) -> None:
    position = input_pipeline.get_position(self.pipeline, iterator)
    fields = config_check.to_json(self.config)
    self.store.save(step, state, position, fields, dict(facts))

  def _build_log(self, writer: MetricWriter, start: int) -> TrainingLog:
    """The progress bar and metrics of a run that begins at step `start`."""
    batch = self.config.batch_size
    return TrainingLog(
      writer,
      every=self.config.run.log_every_steps,
      start=start,
      steps=self.config.num_train_steps,
      faces=batch * self.stage.faces,
      cost=batch * self.stage.flops,
      rate=self.stage.learning_rate,
      shown=distributed.is_process_zero(),
    )

  def _init_or_restore(self, iterator):
    """(state, shardings, step, facts); moves the iterator to its position."""
    newest = self.store.newest()
    if newest is not None:
      fields = config_check.to_json(self.config)
      saved = self.store.config(newest)
      config_check.check_resumable(fields, saved, self.store.folder)
      shapes, where = abstract_state(self.mesh, **self.stage.init)
      step, state, position, _, facts = self.store.restore(shapes, newest)
      input_pipeline.set_position(self.pipeline, iterator, position)
      return state, where, step, facts
    state, where = create_state(self.mesh, self.config.seed, **self.stage.init)
    return self._with_first_weights(state, where), where, 0, {}

  def _with_first_weights(self, state: TrainState, where) -> TrainState:
    """The new state with weights from the files that the config names."""
    config, model = self.config, self.config.model
    if config.init_weights and self.stage.load_weights:
      state = self.stage.load_weights(config.init_weights, state)
    elif config.init_weights:
      state = init_from_weights(
        config.init_weights,
        self.stage.network,
        model.image_size,
        model.width_multiplier,
        state,
      )
    elif config.init_audio_encoder and self.stage.network == 'generator':
      state = init_audio_encoder(
        config.init_audio_encoder, model.width_multiplier, state
      )
    else:
      return state
    return place_state(state, where)

  def _diagnose(self, step: int, means: dict, facts: dict, step_fn) -> None:
    """Write the diagnosis of a SyncNet that is at chance, once."""
    if self.stage.network != 'syncnet':
      return
    report_step = self.config.run.chance_report_step
    if not diagnostics.diagnosis_due(
      self.stage.spec, report_step, step, means, facts
    ):
      return
    batch = next(iter(self.pipeline.train))
    # Beyond the warm-up, in which no network learns.
    fields = self.config.optimizer
    count = 60 + fields.warmup_steps * fields.accumulate_steps
    with jax.transfer_guard('allow'):
      fresh, _ = create_state(self.mesh, self.config.seed, **self.stage.init)

      def train(state):
        return step_fn(state, batch, self.expert_variables, self.dataset)

      learned = diagnostics.overfit_one_batch(train, fresh, count)
    text = diagnostics.diagnosis_report(
      means,
      diagnostics.chance_loss(self.stage.spec),
      learned,
      self.pipeline.train_clips.offset,
      self.pipeline.train_clips.speakers,
    )
    if distributed.is_process_zero():
      path = self.workdir / diagnostics.REPORT
      path.write_text(text, encoding='utf-8')
      print(f'\n{text}', file=sys.stderr)


def with_synthetic_data(config, workdir: pathlib.Path):
  """The config with synthetic shards, which are drawn into the workdir."""
  folder = workdir / SYNTHETIC
  distributed.run_on_process_zero(
    functools.partial(synthetic.build_dataset, folder, config.seed)
  )
  config = config.copy_and_resolve_references().unlock()
  config.data.path = str(folder)
  return config.lock()


def train_all_stages(
  config, workdir: pathlib.Path, networks: NetworkFactory
) -> dict[str, Any]:
  """SyncNet, generator and HQ generator, each in its own folder, in order."""
  result: dict[str, Any] = {}
  for stage in stages.STAGES:
    part = config.copy_and_resolve_references().unlock()
    part.stage = stage
    if stage != 'syncnet':
      part.syncnet_weights = str(workdir / 'syncnet/syncnet.safetensors')
    if stage == 'hq':
      part.init_weights = str(workdir / 'generator/generator.safetensors')
    result = train_and_evaluate(part.lock(), workdir / stage, networks)
    if result['stopped']:
      break
  return result
