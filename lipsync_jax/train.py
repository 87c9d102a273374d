"""Train: the loop. `train_and_evaluate(config, workdir)` is all of it.

Resuming is the same command again. First weights come, in this order,
from the newest checkpoint, from `config.init`, or from the seed.
"""

import functools
import json
import math
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np

from lipsync_jax import cartoons, diagnose, losses, metrics, weights
from lipsync_jax import feed as feeds
from lipsync_jax import recipe as recipes
from lipsync_jax import state as states
from lipsync_jax.checkpoint import Checkpoints
from lipsync_jax.progress import Log, Stop

# Fields that a resumed run may change; all others shape what is learnt.
FREE = {'steps', 'keep', 'keep_best', 'log_steps', 'save_steps', 'strips'}
FREE |= {
  'quick_compile',
  'stuck_steps',
  'mesh.data',
  'mesh.fsdp',
  'init',
  'expert',
}
FREE |= {'data.folder', 'data.threads', 'data.resident'}


# XLA's back end does not optimise: for debugging.
QUICK = {'xla_backend_optimization_level': 0}


class TrainingError(ValueError):
  """A run that cannot begin or go on; one line says what to do."""


def train_and_evaluate(config, workdir) -> dict[str, Any]:
  """Train what a locked config describes; resume if there is a checkpoint.

  Returns:
    'step' reached, 'stopped' by a signal or not, 'weights', the exported
    file (the best validated), and the numbers of the last validation.

  Raises:
    ValueError: of this or of a lower room, in one line.
  """
  workdir = pathlib.Path(workdir)
  if config.data.folder == 'cartoons':
    config = with_cartoons(config, workdir)
  if config.stage == 'all':
    return train_all(config, workdir)
  recipe = recipes.recipe(config)
  mesh = states.mesh(config.mesh.data, config.mesh.fsdp)
  with Checkpoints(workdir, config.keep, config.keep_best) as store:
    feed = feeds.open_feed(config, recipe, mesh)
    return loop(config, workdir, recipe, mesh, feed, store)


def loop(config, workdir, recipe, mesh, feed, store) -> dict[str, Any]:
  """Validate, save, next batch, step, log the step before; again."""
  iterator = iter(feed.train)
  state, where, start, facts = begin(config, recipe, mesh, store, iterator)
  put = functools.partial(jax.device_put, device=states.replicated(mesh))
  frozen = put(feed.frozen | recipe.frozen)
  options = QUICK if config.quick_compile else None
  run = states.jit_step(
    feeds.prepared(recipe.step, feed.sample), mesh, where, options
  )
  first = jax.process_index() == 0
  look = validation(config, workdir, recipe, mesh, where, feed, frozen)
  step, numbers = start, {}
  with metrics.Writer(workdir, start, first) as writer, Stop() as stop:
    faces = config.batch * recipe.pictures
    log = Log(
      writer, config.log_steps, start, config.steps, faces, recipe.rate, first
    )
    # This order is fixed: a checkpoint holds what its validation set, and
    # the data of a batch that was not learnt yet.
    with jax.transfer_guard('disallow'):
      while True:
        last = step >= config.steps or stop.asked
        if step > start:
          due = step % config.validate_steps == 0
          if due or step >= config.steps:
            log.flush()
            with log.pause():
              numbers = look(step, state, writer, facts)
              if stuck(config, step, numbers, facts):
                explain(
                  config, workdir, recipe, mesh, feed, run, frozen, numbers
                )
          if due:  # only then: a resumed run must not see where one ended
            state = steer(config, state, numbers, put)
          if last or step % config.save_steps == 0:
            log.flush()  # raises, so that nothing broken is saved
            with log.pause():
              data = iterator.get_state()
              store.save(step, state, data, plain(config), dict(facts))
        if last:
          break
        began = time.perf_counter()
        batch = next(iterator)
        waited = time.perf_counter() - began
        if step == start:
          log.flops = flops(run, state, batch, frozen)
        state, values = run(state, batch, frozen)
        step += 1
        names = functools.partial(feeds.names, feed, {'clip': batch['clip']})
        log.add(step, values, waited, names)
    log.close()
  store.wait()
  path = workdir / f'{recipe.network}.safetensors'
  if first and not path.exists():
    recipes.export(path, recipe, state, config, {'step': step})
  return numbers | {'step': step, 'stopped': stop.asked, 'weights': str(path)}


def flops(run, state, batch, frozen) -> float | None:
  """Operations of a step as XLA counts them, where a backend does."""
  cost = run.lower(state, batch, frozen).cost_analysis()
  return cost.get('flops') if cost else None


def begin(config, recipe, mesh, store, iterator):
  """(state, shardings, step, facts), and the iterator put to its place."""
  disagree(plain(config), store.config(), store.folder)
  make = functools.partial(states.init, **recipe.init)
  abstract = jax.eval_shape(make, jax.random.key(config.seed))
  where = states.shardings(abstract, mesh)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    where,
  )
  found = store.restore(abstract)
  if found:
    step, state, data, _, facts = found
    iterator.set_state(data)
    return state, where, step, facts
  state, where = states.create(mesh, config.seed, **recipe.init)
  if config.init:
    state = transplant(config, recipe, state, where)
  return state, where, 0, {}


def transplant(config, recipe, state, where):
  """The state with first weights from the file `config.init`."""
  name = recipe.network
  given = weights.read(config.init, name)
  if (given.size, given.width) != (config.net.size, config.net.width):
    raise TrainingError(
      f'{config.init}: expected {config.net.size} pixels and width '
      f'{config.net.width:g}, found {given.size} and {given.width:g}; set '
      '--config.net to match'
    )
  parts = given.variables
  new = state.replace(
    params=state.params | {name: parts['params']},
    batch_stats=state.batch_stats | {name: parts['batch_stats']},
    ema=state.ema | ({name: parts} if name in state.ema else {}),
  )
  # Each leaf on its own: what is donated must not share buffers.
  return jax.tree.map(lambda x, s: jax.device_put(np.array(x), s), new, where)


def validation(config, workdir, recipe, mesh, where, feed, frozen):
  """`look(step, state, writer, facts)` -> means over the whole split.

  Notes in `facts` what the checkpoint is to remember, draws strips, and
  exports the network whenever it is better than ever.
  """
  options = QUICK if config.quick_compile else None

  def compiled(function):
    return states.jit_measure(feeds.prepared(function), mesh, where, options)

  measure, show = (
    compiled(recipe.measure),
    recipe.show and compiled(recipe.show),
  )
  first = jax.process_index() == 0

  def look(step: int, state, writer, facts: dict) -> dict[str, float]:
    totals: dict[str, float] = {}
    for i, batch in enumerate(feed.validation):
      found = jax.device_get(measure(state, batch, frozen))
      for name, value in found.items():
        totals[name] = totals.get(name, 0.0) + float(value)
      if i == 0 and show and config.strips and jax.process_count() == 1:
        parts = jax.device_get(show(state, batch, frozen))
        rows = {k: x[: config.strips] for k, x in parts.items()}
        writer.picture(step, 'validation', metrics.strip(**rows))
    count = totals.pop('count')
    means = {name: value / count for name, value in totals.items()}
    means['measured'] = measured(config, means)
    writer.write(step, 'validation', means)
    facts['measured'] = means['measured']
    if means['measured'] < facts.get('least', math.inf):
      facts['least'] = means['measured']
      if first:
        path = workdir / f'{recipe.network}.safetensors'
        about = {'step': step, 'validation': means}
        recipes.export(path, recipe, state, config, about)
    return means

  return look


def stuck(config, step: int, numbers: dict, facts: dict) -> bool:
  """Whether the expert is at chance for too long, and has not said why."""
  if config.stage != 'syncnet' or step < config.stuck_steps:
    return False
  expected = diagnose.chance(config.data.kind, config.data.group)
  if facts.get('explained') or not diagnose.is_stuck(numbers, expected):
    return False
  facts['explained'] = True
  return True


def explain(config, workdir, recipe, mesh, feed, run, frozen, numbers):
  """Write the why-stuck report to `stuck.txt` and to the screen."""
  with jax.transfer_guard('allow'):
    fresh, _ = states.create(mesh, config.seed, **recipe.init)
    learnt = diagnose.by_heart(run, fresh, next(iter(feed.train)), frozen)
  text = diagnose.report(
    numbers,
    diagnose.chance(config.data.kind, config.data.group),
    learnt,
    feed.source.offset,
    feed.source.speakers,
  )
  if jax.process_index() == 0:
    (workdir / 'stuck.txt').write_text(text, encoding='utf-8')
    print(f'\n{text}', file=sys.stderr)


def measured(config, means: dict[str, float]) -> float:
  """The one number by which checkpoints are compared; less is better."""
  if config.stage == 'syncnet':
    return means['sync']
  part = config.sync.weight
  return part * means['sync'] + (1 - part) * means['l1']


def steer(config, state, numbers: dict[str, float], put):
  """Set where the sync weight walks to, from what was measured."""
  if config.stage == 'syncnet':
    return state
  sync, before = config.sync, float(jax.device_get(state.sync_goal))
  goal = losses.sync_goal(
    numbers['sync'], sync.weight, sync.high, sync.low, before
  )
  return state.replace(sync_goal=put(np.float32(goal)))


def plain(config) -> dict:
  """A config as JSON gives it back."""
  return json.loads(json.dumps(config.to_dict()))


def disagree(mine: dict, saved: dict | None, folder) -> None:
  """Raise if a run's config is not that of its checkpoints."""

  def flat(tree: dict, prefix: str = '') -> dict:
    rows = {}
    for key, value in tree.items():
      if isinstance(value, dict):
        rows |= flat(value, f'{prefix}{key}.')
      else:
        rows[f'{prefix}{key}'] = value
    return rows

  if saved is None:
    return
  one, two = flat(mine), flat(saved)
  for name in sorted((one.keys() | two.keys()) - FREE):
    if one.get(name) != two.get(name):
      raise TrainingError(
        f'{folder}: expected {name}={two.get(name)!r} as it was trained, '
        f'found {one.get(name)!r}; set --config.{name}={two.get(name)} or '
        'choose another --workdir'
      )


def with_cartoons(config, workdir):
  """The config with drawn shards, which lie in the workdir."""
  folder = workdir / 'cartoons'
  if jax.process_index() == 0:
    cartoons.build(folder, config.seed)
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
