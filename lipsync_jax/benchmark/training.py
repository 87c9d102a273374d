"""Speed of our training steps against equal steps in PyTorch.

A step is that of `train`: forward, losses, backward, clipping, Adam and moving
average, on a batch on the device. Both start from the same weights
(`torch_reference`).
"""

import functools
import gc

import jax
import numpy as np

from lipsync_jax import models
from lipsync_jax.benchmark import generator, settings, timing
from lipsync_jax.benchmark.timing import Candidates
from lipsync_jax.models import flops
from lipsync_jax.training import losses, sharding, steps
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.objective import LossWeights, generator_terms
from lipsync_jax.training.state import init_state


def random_batch(stage: str, size: int, batch: int, seed: int = 0) -> dict:
  """A random batch: mels in their range, noise for pictures."""
  rng = np.random.default_rng(seed)

  def mel(*lead):
    return rng.uniform(-4, 4, (*lead, 80, 16, 1)).astype(np.float32)

  def pictures(*shape):
    return rng.random(shape, np.float32)

  if stage == 'syncnet':
    frames = pictures(batch, settings.WINDOWS_PER_CLIP, size // 2, size, 15)
    return {'mel': mel(batch, settings.WINDOWS_PER_CLIP), 'frames': frames}
  masked = pictures(batch, settings.FRAMES, size, size, 6)
  masked[:, :, size // 2 :, :, :3] = 0
  return {
    'mels': mel(batch, settings.FRAMES),
    'mel': mel(batch),
    'face': masked,
    'target': pictures(batch, settings.FRAMES, size, size, 3),
  }


def own_step(stage: str, size: int, width: float, dtype: str):
  """Our step, its first state, and the expert's variables.

  Returns:
    (step, state, expert_variables); the step is not jitted.
  """
  names = settings.trained_networks(stage)
  build = functools.partial(
    models.build_model, size=size, width=width, dtype=dtype
  )
  networks = {name: build(name) for name in names}
  tx = state_lib.adam_optimizer(
    state_lib.learning_rate_schedule(settings.LEARNING_RATE),
    b1=settings.B1,
    grad_clip_norm=settings.GRAD_CLIP,
  )
  optimizers = dict.fromkeys(names, tx)
  if stage == 'syncnet':
    optimizers['temperature'] = tx
  make = functools.partial(
    init_state, networks=networks, optimizers=optimizers, averaged=names[:1]
  )
  state = initial_state(
    jax.eval_shape(make, jax.random.key(0)), names, size, width
  )
  values = {'optimizers': optimizers, 'ema_decay': settings.EMA_DECAY}
  if stage == 'syncnet':
    step = functools.partial(
      steps.syncnet_train_step, networks=networks, **values
    )
    return lambda state, batch, _: step(state, batch), state, None
  networks |= {'syncnet': build('syncnet')}
  weights = LossWeights(adversarial=settings.ADVERSARIAL_WEIGHT)
  step = functools.partial(
    steps.generator_train_step,
    networks=networks,
    terms=generator_terms(networks, weights),
    **values,
  )
  return step, state, generator.random_variables(size, width, 1, 'syncnet')


def initial_state(shapes, names, size: int, width: float):
  """A state of these shapes on the host: random weights, all else zero."""
  made = {n: generator.random_variables(size, width, 0, n) for n in names}
  zero = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  params = {name: made[name]['params'] for name in names}
  if 'temperature' in shapes.params:
    params['temperature'] = np.float32(losses.LOG_SCALE)
  # As in a late step, with the sync loss.
  weight = {
    name: np.float32(settings.SYNC_WEIGHT)
    for name in ('sync_weight', 'sync_goal')
  }
  return zero.replace(
    params=params,
    batch_stats={n: made[n].get('batch_stats', {}) for n in names},
    ema={n: jax.tree.map(np.copy, made[n]) for n in shapes.ema},
    **weight,
  )


def own_candidate(stage: str, size: int, width: float, dtype: str, batch: dict):
  """A runner of our step, compiled as `train` does."""
  step, state, expert = own_step(stage, size, width, dtype)
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  where = sharding.state_sharding(state, mesh)
  state = jax.device_put(state, where)
  batch = jax.device_put(batch, sharding.batch_sharding(mesh))
  expert = jax.device_put(expert, sharding.replicated_sharding(mesh))
  compiled = sharding.jit_train_step(
    lambda state, batch, expert, _: step(state, batch, expert), mesh, where
  )

  def run(n):
    nonlocal state
    for _ in range(n):
      state, metrics = compiled(state, batch, expert, None)
    jax.block_until_ready((state, metrics))

  return run


def candidates(
  stage: str, size: int, width: float, batch: int, eager: bool
) -> Candidates:
  """PyTorch's steps first, if it is installed, then ours."""
  given = random_batch(stage, size, batch)
  found = {}
  if timing.has_torch():
    from lipsync_jax.benchmark import torch_reference

    weights = own_step(stage, size, width, 'float32')[1:]
    found |= torch_reference.candidates(
      stage, size, width, given, *weights, eager
    )
  cpu = jax.default_backend() == 'cpu'
  for dtype in ('float32', 'bfloat16') if cpu else ('bfloat16',):
    name = f'ours {dtype}'
    found[name] = own_candidate(stage, size, width, dtype, given)
  return found


def report(
  size: int,
  width: float,
  batch: int,
  turns: int,
  stages=settings.STAGES,
  eager=False,
) -> str:
  """The table of all steps, in Markdown."""
  peak = flops.peak_flops()
  head = ['step', 'engine', 's/step', 'faces/s', 'x PyTorch', 'TFLOP/s']
  head += [f'of {peak / 1e12:.0f}'] if peak else []
  lines, notes = [], []
  for stage in stages:
    times = timing.time_candidates(
      candidates(stage, size, width, batch, eager), turns
    )
    gc.collect()
    rows = batch * (settings.WINDOWS_PER_CLIP if stage == 'syncnet' else 1)
    count = rows * flops.train_window_flops(stage, size, width, expert=width)
    faces = rows * settings.FRAMES
    notes.append(f'{stage} {count / 1e12:.3g} TFLOP')
    theirs = {k: v for k, v in times.items() if k.startswith('PyTorch')}
    base = min(theirs.values(), key=np.median, default=None)
    for name, spent in times.items():
      middle = float(np.median(spent))
      ratio = '' if base is None else f'{np.median(base / spent):.2f}'
      row = [stage, name, f'{middle:.4g}', f'{faces / middle:.1f}', ratio]
      row.append(f'{count / middle / 1e12:.3g}')
      row += [f'{100 * count / middle / peak:.1f} %'] if peak else []
      lines.append(row)
  title = (
    f'Training steps, {size} px, width {width:g}, batch {batch} '
    f'({settings.WINDOWS_PER_CLIP} windows each for syncnet): '
    f'{", ".join(notes)} a step; median of {turns} rounds\n'
    f'on {timing.machine_name()}\n'
  )
  tail = 'x PyTorch: speed relative to the fastest PyTorch candidate.'
  if not timing.has_torch():
    tail = 'PyTorch is not installed (pip install torch): no comparison.'
  return '\n'.join([title, *timing.markdown_table(head, lines), '', tail])
