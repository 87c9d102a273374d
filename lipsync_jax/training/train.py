"""Train: the loop. `train_and_evaluate(config, workdir)` is all of it.

Resuming is the same command again. First weights come, in this order,
from the newest checkpoint, from `config.init`, or from the seed.
"""

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
  initialization,
  input_pipeline,
  metric_writer,
  sharding,
  stages,
  validation,
)
from lipsync_jax.training.checkpoint import CheckpointManager
from lipsync_jax.training.progress import TrainingLog
from lipsync_jax.training.state import abstract_state, create_state


def train_and_evaluate(config, workdir) -> dict[str, Any]:
  """Train what a locked config describes; resume if there is a checkpoint.

  Returns:
    'step' reached, 'stopped' by a signal or not, 'weights', the exported
    file (by default the best validated), and the numbers of the last
    validation.

  Raises:
    ValueError: of this or of a lower room, in one line.
  """
  workdir = pathlib.Path(workdir).absolute()  # Orbax takes no other
  try:
    if config.data.folder == 'cartoons':
      config = with_synthetic_data(config, workdir)
    if config.stage == 'all':
      return train_all_stages(config, workdir)
    recipe = stages.build_stage(config)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    with CheckpointManager(workdir, config.keep, config.keep_best) as store:
      feed = input_pipeline.build_input_pipeline(config, recipe, mesh)
      return train_loop(config, workdir, recipe, mesh, feed, store)
  except OSError as error:  # a full disk, a folder that cannot be written
    raise initialization.TrainingError(
      f'{error.filename or workdir}: {error.strerror or error}; make room or '
      'choose another --workdir'
    ) from error


def train_loop(config, workdir, recipe, mesh, feed, store) -> dict[str, Any]:
  """Validate, save, next batch, step, log the step before; again."""
  iterator = iter(feed.train)
  state, where, start, facts = init_or_restore(
    config, recipe, mesh, feed, store, iterator
  )
  frozen = feed.frozen | recipe.frozen
  frozen = jax.device_put(frozen, sharding.replicated_sharding(mesh))
  options = sharding.FAST_COMPILE if config.quick_compile else None
  run = input_pipeline.with_preprocessing(recipe.step, feed.sample)
  run = sharding.jit_train_step(run, mesh, where, options)
  look = validation.build_validator(
    config, workdir, recipe, mesh, where, feed, frozen, options
  )
  step, numbers = start, {}
  # This order is fixed: a checkpoint holds what its validation set, and the
  # place in the data of a batch that was not learned yet.
  with (
    metric_writer.MetricWriter(
      workdir, start, distributed.is_process_zero()
    ) as writer,
    build_log(config, recipe, writer, start) as log,
    distributed.PreemptionGuard() as stop,
    jax.transfer_guard('disallow'),
  ):
    while True:
      stopped = stop.asked(step)
      last = step >= config.steps or stopped
      if step > start:
        due = step % config.validate_steps == 0
        if due or step >= config.steps:
          log.flush()
          with log.pause():
            numbers = look(step, state, writer, facts)
            if diagnostics.diagnosis_due(config, step, numbers, facts):
              write_diagnosis(
                config, workdir, recipe, mesh, feed, run, frozen, numbers
              )
        if due:  # only then: a resumed run must not see where one ended
          state = validation.update_sync_weight_target(
            config, state, numbers, mesh
          )
      if last or step % config.save_steps == 0:
        log.flush()  # raises, so that nothing broken is saved
        with log.pause():
          place = input_pipeline.get_position(feed, iterator)
          store.save(
            step, state, place, config_check.to_json(config), dict(facts)
          )
      if last:
        break
      began = time.perf_counter()
      batch = next(iterator)
      log.wait(time.perf_counter() - began)
      state, values = run(state, batch, frozen)
      step += 1
      names = functools.partial(
        input_pipeline.clip_names, feed, {'clip': batch['clip']}
      )
      log.add(step, values, names)
  store.wait()
  path = workdir / f'{recipe.network}.safetensors'
  if not distributed.run_on_process_zero(path.exists):
    stages.export_weights(path, recipe, state, config, {'step': step})
  return numbers | {'step': step, 'stopped': stopped, 'weights': str(path)}


def build_log(
  config, recipe, writer: metric_writer.MetricWriter, start: int
) -> TrainingLog:
  """The bar and the rows of a run that begins at step `start`."""
  return TrainingLog(
    writer,
    every=config.log_steps,
    start=start,
    steps=config.steps,
    faces=config.batch * recipe.pictures,
    cost=config.batch * recipe.flops,
    rate=recipe.rate,
    shown=distributed.is_process_zero(),
  )


def init_or_restore(config, recipe, mesh, feed, store, iterator):
  """(state, shardings, step, facts), and the iterator put to its place."""
  newest = store.newest()
  if newest is not None:
    saved = store.config(newest)
    config_check.check_resumable(
      config_check.to_json(config), saved, store.folder
    )
    abstract, where = abstract_state(mesh, **recipe.init)
    step, state, place, _, facts = store.restore(abstract, newest)
    input_pipeline.set_position(feed, iterator, place)
    return state, where, step, facts
  state, where = create_state(mesh, config.seed, **recipe.init)
  if config.init:
    state = initialization.init_from_weights(config, recipe, state, where)
  elif config.ears and recipe.network == 'generator':
    state = initialization.init_audio_encoder(config, state, where)
  return state, where, 0, {}


def write_diagnosis(config, workdir, recipe, mesh, feed, run, frozen, numbers):
  """Write the why-stuck report to `stuck.txt` and to the screen."""
  batch = next(iter(feed.train))
  # Beyond the warm-up, in which nobody learns anything by heart.
  count = 60 + config.optimizer.warmup_steps * config.optimizer.every
  with jax.transfer_guard('allow'):
    fresh, _ = create_state(mesh, config.seed, **recipe.init)
    learned = diagnostics.overfit_one_batch(run, fresh, batch, frozen, count)
  text = diagnostics.diagnosis_report(
    numbers,
    diagnostics.chance_loss(config.data.kind, config.data.group),
    learned,
    feed.source.offset,
    feed.source.speakers,
  )
  if distributed.is_process_zero():
    (workdir / 'stuck.txt').write_text(text, encoding='utf-8')
    print(f'\n{text}', file=sys.stderr)


def with_synthetic_data(config, workdir):
  """The config with drawn shards, which lie in the workdir."""
  folder = workdir / 'cartoons'
  distributed.run_on_process_zero(
    functools.partial(synthetic.build_dataset, folder, config.seed)
  )
  config = config.copy_and_resolve_references().unlock()
  config.data.folder = str(folder)
  return config.lock()


def train_all_stages(config, workdir) -> dict[str, Any]:
  """Expert, generator and HQ, each in its own folder, one after another."""
  found: dict[str, Any] = {}
  for stage in stages.STAGES:
    part = config.copy_and_resolve_references().unlock()
    part.stage = stage
    if stage != 'syncnet':
      part.expert = str(workdir / 'syncnet/syncnet.safetensors')
    if stage == 'hq':
      part.init = str(workdir / 'generator/generator.safetensors')
    found = train_and_evaluate(part.lock(), workdir / stage)
    if found['stopped']:
      break
  return found
