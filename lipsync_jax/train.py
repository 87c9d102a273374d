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
import jax.numpy as jnp

from lipsync_jax import diagnose, metrics, processes, settings, validation
from lipsync_jax import feed as feeds
from lipsync_jax import recipe as recipes
from lipsync_jax import state as states
from lipsync_jax.checkpoint import Checkpoints
from lipsync_jax.data import synthetic
from lipsync_jax.progress import Log
from lipsync_jax.weights import convert


class TrainingError(ValueError):
  """A run that cannot begin or go on; one line says what to do."""


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
      config = with_cartoons(config, workdir)
    if config.stage == 'all':
      return train_all(config, workdir)
    recipe = recipes.recipe(config)
    mesh = states.mesh(config.mesh.data, config.mesh.fsdp)
    with Checkpoints(workdir, config.keep, config.keep_best) as store:
      feed = feeds.open_feed(config, recipe, mesh)
      return loop(config, workdir, recipe, mesh, feed, store)
  except OSError as error:  # a full disk, a folder that cannot be written
    raise TrainingError(
      f'{error.filename or workdir}: {error.strerror or error}; make room or '
      'choose another --workdir'
    ) from error


def loop(config, workdir, recipe, mesh, feed, store) -> dict[str, Any]:
  """Validate, save, next batch, step, log the step before; again."""
  iterator = iter(feed.train)
  state, where, start, facts = begin(
    config, recipe, mesh, feed, store, iterator
  )
  frozen = feed.frozen | recipe.frozen
  frozen = jax.device_put(frozen, states.replicated(mesh))
  options = states.QUICK if config.quick_compile else None
  run = feeds.prepared(recipe.step, feed.sample)
  run = states.jit_step(run, mesh, where, options)
  look = validation.prepare(
    config, workdir, recipe, mesh, where, feed, frozen, options
  )
  step, numbers = start, {}
  # This order is fixed: a checkpoint holds what its validation set, and the
  # place in the data of a batch that was not learnt yet.
  with (
    metrics.Writer(workdir, start, processes.first()) as writer,
    log_of(config, recipe, writer, start) as log,
    processes.Stop() as stop,
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
            if diagnose.due(config, step, numbers, facts):
              explain(config, workdir, recipe, mesh, feed, run, frozen, numbers)
        if due:  # only then: a resumed run must not see where one ended
          state = validation.steer(config, state, numbers, mesh)
      if last or step % config.save_steps == 0:
        log.flush()  # raises, so that nothing broken is saved
        with log.pause():
          place = feeds.place(feed, iterator)
          store.save(step, state, place, settings.plain(config), dict(facts))
      if last:
        break
      began = time.perf_counter()
      batch = next(iterator)
      log.wait(time.perf_counter() - began)
      state, values = run(state, batch, frozen)
      step += 1
      names = functools.partial(feeds.names, feed, {'clip': batch['clip']})
      log.add(step, values, names)
  store.wait()
  path = workdir / f'{recipe.network}.safetensors'
  if not processes.by_first(path.exists):
    recipes.export(path, recipe, state, config, {'step': step})
  return numbers | {'step': step, 'stopped': stopped, 'weights': str(path)}


def log_of(config, recipe, writer: metrics.Writer, start: int) -> Log:
  """The bar and the rows of a run that begins at step `start`."""
  return Log(
    writer,
    every=config.log_steps,
    start=start,
    steps=config.steps,
    faces=config.batch * recipe.pictures,
    cost=config.batch * recipe.flops,
    rate=recipe.rate,
    shown=processes.first(),
  )


def begin(config, recipe, mesh, feed, store, iterator):
  """(state, shardings, step, facts), and the iterator put to its place."""
  newest = store.newest()
  if newest is not None:
    saved = store.config(newest)
    settings.agree(settings.plain(config), saved, store.folder)
    abstract, where = states.abstract(mesh, **recipe.init)
    step, state, place, _, facts = store.restore(abstract, newest)
    feeds.go(feed, iterator, place)
    return state, where, step, facts
  state, where = states.create(mesh, config.seed, **recipe.init)
  if config.init:
    state = transplant(config, recipe, state, where)
  elif config.ears and recipe.network == 'generator':
    state = hearing(config, state, where)
  return state, where, 0, {}


def transplant(config, recipe, state, where):
  """The state with first weights from the file `config.init`."""
  name = recipe.network
  given = convert.load_any(config.init, name)
  if (given.size, given.width) != (config.net.size, config.net.width):
    raise TrainingError(
      f'{config.init}: expected {config.net.size} pixels and width '
      f'{config.net.width:g}, found {given.size} and {given.width:g}; set '
      '--config.net to match'
    )
  return planted(state, where, name, given.variables)


def hearing(config, state, where):
  """The state with the audio tower of the expert `config.ears`.

  The towers differ by one residual layer at 256 channels, which is left out.
  """
  given = convert.load_any(config.ears, 'syncnet')
  if given.width != config.net.width:
    raise TrainingError(
      f'{config.ears}: expected an expert of width {config.net.width:g}, found '
      f'{given.width:g}; set --config.net.width to match, or no --config.ears'
    )
  parts = {
    'params': dict(state.params['generator']),
    'batch_stats': dict(state.batch_stats['generator']),
  }
  names = sorted(
    (name for name in parts['params'] if name.startswith('audio_encoder_')),
    key=lambda name: int(name.rpartition('_')[2]),
  )
  for i, name in enumerate(names):
    other = f'audio_encoder_{i if i < len(names) - 2 else i + 1}'
    for kind, table in parts.items():
      table[name] = given.variables[kind][other]
  return planted(state, where, 'generator', parts)


def planted(state, where, name: str, parts: dict):
  """The state with these variables of a network."""
  new = state.replace(
    params=state.params | {name: parts['params']},
    batch_stats=state.batch_stats | {name: parts['batch_stats']},
    ema=state.ema | ({name: parts} if name in state.ema else {}),
  )
  # Copies: what is donated must not share buffers.
  copied = jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=where)
  return copied(new)


def explain(config, workdir, recipe, mesh, feed, run, frozen, numbers):
  """Write the why-stuck report to `stuck.txt` and to the screen."""
  batch = next(iter(feed.train))
  # Beyond the warm-up, in which nobody learns anything by heart.
  count = 60 + config.optimiser.warmup_steps * config.optimiser.every
  with jax.transfer_guard('allow'):
    fresh, _ = states.create(mesh, config.seed, **recipe.init)
    learnt = diagnose.by_heart(run, fresh, batch, frozen, count)
  text = diagnose.report(
    numbers,
    diagnose.chance(config.data.kind, config.data.group),
    learnt,
    feed.source.offset,
    feed.source.speakers,
  )
  if processes.first():
    (workdir / 'stuck.txt').write_text(text, encoding='utf-8')
    print(f'\n{text}', file=sys.stderr)


def with_cartoons(config, workdir):
  """The config with drawn shards, which lie in the workdir."""
  folder = workdir / 'cartoons'
  processes.by_first(
    functools.partial(synthetic.build_dataset, folder, config.seed)
  )
  config = config.copy_and_resolve_references().unlock()
  config.data.folder = str(folder)
  return config.lock()


def train_all(config, workdir) -> dict[str, Any]:
  """Expert, generator and HQ, each in its own folder, one after another."""
  found: dict[str, Any] = {}
  for stage in recipes.STAGES:
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
