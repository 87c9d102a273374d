"""steps.py: the golden step, meshes, donation, and what stops a step."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lipsync_jax import models
from lipsync_jax.data.windows import WINDOW_SPECS
from lipsync_jax.training import losses, objective, sharding, steps
from lipsync_jax.training import objective as apply
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.state import TrainState, create_state, init_state
from lipsync_jax.weights import tensor_mapping
from tests.helpers import golden_weights, untrained_weights

WIDTH = 0.05
CHEAP = {'xla_backend_optimization_level': 0}
FULL = pytest.mark.full


# --- golden


def golden_variables(shared, network: str) -> dict:
  records = json.loads(
    (shared / 'reference/wav2lip_statedict.json').read_text()
  )
  tensors = golden_weights.state_dict(
    records[network], golden_weights.GAIN[network]
  )
  return tensor_mapping.from_published(network, tensors)


def golden_batch() -> dict:
  """The inputs in our layout; published networks see BGR, ours RGB."""

  def video(x):
    x = x.transpose(0, 2, 3, 4, 1)  # [b, t, h, w, c]
    return x.reshape(*x.shape[:-1], -1, 3)[..., ::-1].reshape(x.shape)

  x = golden_weights.uniform('tr/x', 0, 1, (4, 6, 5, 96, 96))
  x[:, :3, :, 48:] = 0
  batch = {
    'face': video(x),
    'target': video(golden_weights.uniform('tr/gt', 0, 1, (4, 3, 5, 96, 96))),
    'mels': golden_weights.uniform('tr/im', -4, 4, (4, 5, 1, 80, 16))[
      :, :, 0, ..., None
    ],
    'mel': golden_weights.uniform('tr/mel', -4, 4, (4, 1, 80, 16))[
      :, 0, ..., None
    ],
  }
  return {name: jnp.asarray(x, jnp.float32) for name, x in batch.items()}


def golden_state(shared):
  names = ('generator', 'discriminator')
  networks = {name: models.build_model(name) for name in (*names, 'syncnet')}
  tx = state_lib.adam_optimizer(state_lib.learning_rate_schedule(1e-4), b1=0.5)
  given = {name: golden_variables(shared, name) for name in names}
  params = {name: given[name]['params'] for name in names}
  state = TrainState(
    step=jnp.int32(0),
    params=params,
    batch_stats={k: given[k].get('batch_stats', {}) for k in names},
    opt={name: tx.init(params[name]) for name in names},
    ema={},
    sync_weight=jnp.float32(0.03),
    sync_goal=jnp.float32(0.03),
  )
  return networks, {name: tx for name in names}, state


def first_gradients(opt: dict) -> dict:
  """Adam's first moment after one step is half the gradient, at b1 0.5."""
  mu = optax.tree_utils.tree_get(opt, 'mu')
  return jax.tree.map(lambda x: x / 0.5, mu)


def norm(tree) -> float:
  return float(
    np.sqrt(sum(np.square(np.float64(x)).sum() for x in jax.tree.leaves(tree)))
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'mode', ['train', pytest.param('eval', marks=pytest.mark.full)]
)
def test_golden_step(mode, shared):
  """One HQ step of the originals, computed in float64 elsewhere.

  float32 deviates from float64 by 3e-6 in losses and 2e-3 in norms.
  """
  goldens = json.loads((shared / 'reference/golden.json').read_text())
  golden = goldens[f'train_step_syncnet_{mode}_mode']
  networks, optimizers, state = golden_state(shared)
  weights = objective.LossWeights(adversarial=0.07)
  step = functools.partial(
    steps.generator_train_step,
    networks=networks,
    optimizers=optimizers,
    terms=objective.generator_terms(networks, weights, mode == 'train'),
  )
  expert = golden_variables(shared, 'syncnet')
  # Without optimization, jax 0.12 deviates by 1.1e-5.
  run = jax.jit(step)
  new, metrics = run(state, golden_batch(), expert)
  for ours, theirs in (
    ('sync', 'sync_loss'),
    ('adversarial', 'perceptual_loss'),
    ('l1', 'l1'),
    ('total', 'total'),
    ('real', 'disc_real_loss'),
    ('fake', 'disc_fake_loss'),
  ):
    found = float(metrics[ours])
    assert found == pytest.approx(golden[theirs], abs=1e-5), ours
  close = functools.partial(pytest.approx, rel=5e-3)
  grads = first_gradients(new.opt['generator'])
  assert norm(grads) == close(golden['gen_grad_norm_total'])
  assert metrics['grad_norm/generator'] == close(golden['gen_grad_norm_total'])
  judged = first_gradients(new.opt['discriminator'])
  assert norm(judged) == close(golden['disc_grad_norm_total'])
  variables = {'params': grads, 'batch_stats': new.batch_stats['generator']}
  tensors = tensor_mapping.to_published('generator', 96, 1.0, variables)
  for name, expected in golden['gen_grad_norms'].items():
    assert norm(tensors[name]) == close(expected), name
  for name, expected in golden['bn_running_after'].items():
    np.testing.assert_allclose(tensors[name][:4], expected, rtol=0, atol=2e-5)
  bias = np.asarray(new.params['generator']['output_block_1']['bias'])[::-1]
  np.testing.assert_allclose(
    bias, golden['output_block_1_bias_after_step'], atol=2e-6
  )


# --- small networks


def batch_of(kind: str, b: int = 8, seed: int = 0) -> dict:
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(rng.random(shape), jnp.float32)

  if kind in ('generator', 'pair'):
    t = 2 if kind == 'pair' else 5
    batch = {
      'mels': draw(b, t, 80, 16, 1) * 4,
      'face': draw(b, t, 96, 96, 6),
      'target': draw(b, t, 96, 96, 3),
    }
    if kind == 'generator':
      batch['mel'] = draw(b, 80, 16, 1) * 4
  elif kind == 'contrastive':
    batch = {'mel': draw(b, 3, 80, 16, 1), 'frames': draw(b, 3, 48, 96, 15)}
    batch['opening'] = draw(b, 3, 5) / 10
  else:
    batch = {'mel': draw(b, 80, 16, 1), 'frames': draw(b, 48, 96, 15)}
    batch['label'] = jnp.arange(b) % 2 * 1.0
  return batch


def parts(stage: str, dtype: str = 'float32', **values):
  """(step, arguments of `init_state`, expert variables) of small networks."""
  build = functools.partial(
    models.build_model,
    width=WIDTH,
    dtype=dtype,
    cpu_gradients=jax.device_count() == 1,
  )
  trained = {
    'hq': ('generator', 'discriminator'),
    'generator': ('generator',),
    'pair': ('generator',),
  }.get(stage, ('syncnet',))
  used = (*trained, 'syncnet') if stage in ('hq', 'generator') else trained
  networks = {name: build(name) for name in used}
  if stage == 'pair':
    networks['generator'] = networks['generator'].clone(
      freeze_audio_encoder=True
    )
  tx = state_lib.adam_optimizer(state_lib.learning_rate_schedule(1e-3))
  names = (*trained, 'temperature') if stage == 'contrastive' else trained
  optimizers = {name: tx for name in names}
  made = dict(
    networks={name: networks[name] for name in trained}, optimizers=optimizers
  )
  expert = None
  fixed = dict(networks=networks, optimizers=optimizers)
  if 'generator' not in trained:
    step = functools.partial(steps.syncnet_train_step, **fixed, **values)
    return lambda state, batch, _: step(state, batch), made, expert
  made['averaged'] = ('generator',)
  if stage != 'pair':
    width = networks['syncnet'].width
    expert = untrained_weights.variables('syncnet', width, seed=7)
  weights = objective.LossWeights(**values)
  step = functools.partial(
    steps.generator_train_step,
    terms=objective.generator_terms(networks, weights),
    r1_gamma=weights.r1_gamma,
    ema_decay=0.9,
    sync_rate=0.01,
    **fixed,
  )
  return step, made, expert


def single():
  return sharding.make_mesh(1, 1, jax.devices()[:1])


def run(
  stage: str, mesh, count: int = 2, least=sharding.MIN_FSDP_SIZE, **values
):
  """All metrics of `count` steps, and the last state."""
  step_of, made, expert = parts(stage, **values)
  state, where = create_state(mesh, 0, least, **made)
  kind = 'generator' if expert else stage
  step = sharding.jit_train_step(
    lambda state, batch, expert, dataset: step_of(state, batch, expert),
    mesh,
    where,
    CHEAP,
  )
  put = functools.partial(jax.device_put, device=sharding.batch_sharding(mesh))
  batches = [put(batch_of(kind, seed=i)) for i in range(count)]
  expert = jax.device_put(expert, sharding.replicated_sharding(mesh))
  seen = []
  with jax.transfer_guard('disallow'):
    for batch in batches:
      old = state
      state, metrics = step(state, batch, expert, None)
      seen.append(metrics)
  assert all(x.is_deleted() for x in jax.tree.leaves(old)), 'not donated'
  assert step._cache_size() == 1, 'traced more than once'
  return [jax.tree.map(float, m) for m in seen], state


@pytest.mark.slow
@pytest.mark.parametrize(
  'stage, shapes',
  [
    pytest.param('contrastive', ['8x1', '2x4'], marks=FULL),
    ('hq', ['2x4']),
  ],
)
def test_meshes_agree(stage, shapes):
  """One device, eight along data, and 2 x 4 with split parameters.

  Batches are split over all eight in both; so the largest step, which takes
  a minute to compile, is tried on the harder of them alone.

  The first step only: Adam's first update is the sign of the gradient, so
  it makes whole steps of the rounding of gradients that are zero (before a
  norm) or nearly so, and the second loss differs in the third digit.
  """
  root = pathlib.Path(__file__).resolve().parents[2]
  env = os.environ | {'PYTHONPATH': str(root)}
  module = 'tests.helpers.mesh_subprocess'
  done = subprocess.run(
    [sys.executable, '-m', module, stage, '1x1', *shapes],
    capture_output=True,
    text=True,
    env=env,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert found['1x1']['split'] == 0
  names = ('sync', 'l1', 'adversarial', 'real', 'fake', 'total')
  for shape in shapes:
    assert (found[shape]['split'] > 10) == (shape == '2x4')
    for one, many in zip(
      found['1x1']['metrics'], found[shape]['metrics'], strict=True
    ):
      for name in set(names) & set(one):
        assert many[name] == pytest.approx(one[name], abs=1e-5), (shape, name)
      for name in one:
        if name.startswith('grad_norm/'):
          assert many[name] == pytest.approx(one[name], rel=1e-3), (shape, name)


@pytest.fixture(scope='module')
def hq():
  return run('hq', single(), count=3)


def test_hq_step_changes_what_it_should(hq):
  seen, state = hq
  assert set(seen[0]) >= {'sync', 'l1', 'adversarial', 'real', 'fake', 'finite'}
  assert all(np.isfinite(list(m.values())).all() for m in seen)
  assert state.step == 3
  # Without a goal the sync loss is measured but not learned from.
  assert seen[2]['sync_weight'] == 0
  total = 0.93 * seen[0]['l1'] + 0.07 * seen[0]['adversarial']
  assert seen[0]['total'] == pytest.approx(total, rel=1e-5)
  ema, params = state.ema['generator']['params'], state.params['generator']
  moved = [
    (a != b).any()
    for a, b in zip(jax.tree.leaves(ema), jax.tree.leaves(params), strict=True)
  ]
  assert np.mean(moved) > 0.9


def test_slope_is_that_of_the_logit():
  """R1 by finite differences; it is added, and changes nothing else."""
  net = models.build_model('discriminator', width=WIDTH)
  params = untrained_weights.variables('discriminator', WIDTH)['params']
  params = jax.tree.map(jnp.asarray, params)
  zero = jnp.float32(0)
  state = TrainState(0, {'discriminator': params}, {}, {}, {}, zero, zero)
  rng = np.random.default_rng(0)
  true, made = jnp.asarray(rng.random((2, 2, 1, 96, 96, 3), np.float32))
  plain, values = steps.discriminator_loss_and_grad(net, state, true, made)
  calmed, more = steps.discriminator_loss_and_grad(net, state, true, made, 2.0)
  assert float(more['real']) == pytest.approx(float(values['real']), abs=1e-6)
  assert optax.tree.norm(optax.tree.sub(plain, calmed)) > 0

  def logit(faces):
    made = net.apply({'params': params}, jnp.asarray(faces), train=True)
    return np.asarray(made, np.float64)

  # Along random directions the squared change is the squared slope, a pixel.
  dirs = rng.standard_normal((48, 1, 96, 96, 3)).astype(np.float32)
  found = [
    logit(true[:, 0] + 0.01 * d) - logit(true[:, 0] - 0.01 * d) for d in dirs
  ]
  estimate = np.square(np.array(found) / 0.02).mean()
  assert float(more['r1']) == pytest.approx(estimate, rel=0.3)


def test_pairs_teach_without_an_expert():
  seen, state = run('pair', single(), mouth_l1=0.25, temporal=2.0)
  assert state.step == 2 and 'sync' not in seen[0]
  total = 0.75 * seen[0]['l1'] + 0.25 * seen[0]['mouth_l1']
  total += 2.0 * seen[0]['temporal']
  assert seen[0]['total'] == pytest.approx(total, rel=1e-5)
  first, _ = create_state(single(), 0, **parts('pair')[1])
  for name in ('params', 'batch_stats'):
    old, new = (getattr(x, name)['generator'] for x in (first, state))
    for layer, kept in (('audio_encoder_3', True), ('output_block_0', False)):
      leaves = zip(*map(jax.tree.leaves, (old[layer], new[layer])), strict=True)
      assert kept == all((a == b).all() for a, b in leaves), (name, layer)


def test_what_is_not_finite_changes_nothing():
  step, made, expert = parts('contrastive')
  state = init_state(jax.random.key(0), **made)
  batch = batch_of('contrastive', b=2)
  # Without optimization, jax 0.12 deviates by 1.1e-5.
  run = jax.jit(step)
  good, metrics = run(state, batch, expert)
  assert metrics['finite'] == 1
  batch['mel'] = batch['mel'].at[0, 0, 0, 0, 0].set(jnp.nan)
  bad, metrics = run(state, batch, expert)
  assert metrics['finite'] == 0
  assert bad.step == 1
  jax.tree.map(
    np.testing.assert_array_equal, bad.replace(step=state.step), state
  )
  assert (good.params['temperature'] != state.params['temperature']).any()


def test_expert_learns_one_batch_by_heart():
  """The published loss leaves ln 2 on fixed pairs."""
  step, made, expert = parts('syncnet')
  state = init_state(jax.random.key(0), **made)
  batch = batch_of('syncnet', b=4)
  # Without optimization, jax 0.12 deviates by 1.1e-5.
  run = jax.jit(step)
  values = []
  for _ in range(25):
    state, metrics = run(state, batch, expert)
    values.append(float(metrics['sync']))
  assert values[-1] < 0.3 < values[0], values
  assert metrics['accuracy'] == 1


def test_expert_tells_the_lip_opening():
  step, made, expert = parts('contrastive', lip_opening_weight=0.5)
  state = init_state(jax.random.key(0), **made)
  batch = batch_of('contrastive', b=2)
  # Without optimization, jax 0.12 deviates by 1.1e-5.
  run = jax.jit(step)
  values = []
  for _ in range(12):
    state, metrics = run(state, batch, expert)
    values.append(float(metrics['lip_opening']))
    assert metrics['total'] == metrics['sync'] + metrics['lip_opening'] / 2
  assert values[-1] < 0.7 * values[0], values


def test_measuring_ignores_what_fills_up_a_batch():
  _, made, _ = parts('contrastive')
  state = init_state(jax.random.key(0), **made)
  batch = batch_of('contrastive', b=4)
  batch['mask'] = jnp.array([1.0, 1, 1, 0])
  measure = jax.jit(
    functools.partial(steps.syncnet_eval_step, networks=made['networks'])
  )
  found = measure(state, batch)
  batch['mel'] = batch['mel'].at[3].set(jnp.nan)
  again = measure(state, batch)
  assert found['count'] == 3
  assert np.isfinite(found['sync'])
  jax.tree.map(np.testing.assert_array_equal, found, again)


def test_frames_are_laid_out_for_the_expert_as_data_does():
  from lipsync_jax.data import batches

  frames = np.random.default_rng(0).random((2, 5, 96, 96, 3), np.float32)
  mels = np.zeros((2, 1, 80, 16), np.float32)
  expected = batches.assemble_example(
    WINDOW_SPECS['syncnet'], mels, frames[:, None]
  )['frames']
  found = apply.lower_half_stack(jnp.asarray(frames))
  np.testing.assert_array_equal(found, expected)


def test_weights_follow_the_goal():
  rate = losses.move_towards(jnp.float32(0), jnp.float32(0.03), 0.01)
  assert float(rate) == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
  'stage',
  ['hq', *(pytest.param(x, marks=FULL) for x in ('contrastive', 'syncnet'))],
)
def test_bfloat16_keeps_float32_where_it_matters(stage):
  seen, state = run(stage, single(), dtype='bfloat16')
  assert all(np.isfinite(list(m.values())).all() for m in seen)
  kinds = {x.dtype.name for x in jax.tree.leaves(state)}
  assert kinds == {'float32', 'int32'}
