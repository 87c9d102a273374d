"""Losses and metrics of the refiner against oracles; a step that learns."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.models import mouth_discriminator, refiner
from lipsync_jax.refinement import (
  adversarial,
  pair_batches,
  refiner_losses,
  refiner_steps,
)
from lipsync_jax.refinement.refiner_losses import RefinerLossWeights
from lipsync_jax.refinement.refiner_steps import NAME
from lipsync_jax.training import sharding
from lipsync_jax.training import state as state_lib

SIZE = 64


def pictures(seed: int = 0, rows: int = 2) -> np.ndarray:
  rng = np.random.default_rng(seed)
  x = rng.random((rows, SIZE, SIZE, 3))
  return ndimage.gaussian_filter(x, (0, 2, 2, 0)).astype(np.float32)


def test_ssim_is_that_of_uniform_windows():
  """Oracle: scipy's uniform filter."""
  x, y = pictures(0), 0.7 * pictures(0) + 0.3 * pictures(1)
  width = refiner_losses.SSIM_WINDOW
  a, b = refiner_losses.SSIM_STABILITY

  def mean(z):
    size = (1, width, width, 1)
    edge = width // 2
    whole = ndimage.uniform_filter(z.astype(np.float64), size)
    return whole[:, edge:-edge, edge:-edge]

  mx, my = mean(x), mean(y)
  vx, vy = mean(x * x) - mx**2, mean(y * y) - my**2
  cross = mean(x * y) - mx * my
  value = (2 * mx * my + a) * (2 * cross + b)
  value = value / ((mx**2 + my**2 + a) * (vx + vy + b))
  found = refiner_losses.ssim(jnp.asarray(x), jnp.asarray(y))
  np.testing.assert_allclose(found, value.mean((1, 2, 3)), atol=1e-3)
  same = refiner_losses.ssim(jnp.asarray(x), jnp.asarray(x))
  np.testing.assert_allclose(same, 1, atol=1e-4)


def test_sharpness_falls_with_blur():
  sharp = jnp.asarray(pictures())
  soft = ndimage.gaussian_filter(np.asarray(sharp), (0, 3, 3, 0))
  ratio = refiner_losses.sharpness(
    jnp.asarray(soft)
  ) / refiner_losses.sharpness(sharp)
  assert float(ratio.max()) < 0.6


def test_sharpness_of_the_hole_sees_the_hole_only():
  truth = pictures()
  hole = np.zeros((2, SIZE, SIZE, 1), np.float32)
  hole[:, 28:36, 20:44] = 1
  soft = ndimage.gaussian_filter(truth, (0, 2, 2, 0))
  inside = np.where(hole > 0, soft, truth)
  outside = np.where(hole > 0, truth, soft)
  crops = (jnp.asarray(x) for x in (truth, inside, outside))
  whole, within, without = (
    np.asarray(refiner_losses.hole_sharpness(x, jnp.asarray(hole)))
    for x in crops
  )
  np.testing.assert_allclose(without, whole, rtol=1e-3)
  assert (within < 0.8 * whole).all()
  wanted = np.abs(np.diff(truth[0, 28:36, 20:44], axis=0)).mean()
  wanted += np.abs(np.diff(truth[0, 28:36, 20:44], axis=1)).mean()
  assert whole[0] == pytest.approx(wanted, rel=1e-2)


def inputs_of(warped: np.ndarray, truth: np.ndarray) -> dict:
  hole = np.zeros((len(truth), SIZE, SIZE, 1), np.float32)
  hole[:, 28:36, 20:44] = 1
  return {
    'mel': jnp.zeros((len(truth), 80, 16, 1)),
    'warped': jnp.asarray(warped),
    'hole': jnp.asarray(hole),
    'references': jnp.stack([jnp.asarray(truth)] * 3, 1),
    'truth': jnp.asarray(truth),
  }


def test_losses_are_zero_at_the_truth_and_count_the_hole_most():
  truth, weights = pictures(), RefinerLossWeights()
  inputs = inputs_of(truth, truth)
  none = jnp.zeros((2, SIZE, SIZE, 1))
  values = refiner_losses.loss_terms(jnp.asarray(truth), none, inputs, weights)
  assert values.keys() == {'l1', 'gradient', 'painted', 'mask'}
  for name, x in values.items():
    np.testing.assert_allclose(x, 0, atol=1e-6, err_msg=name)
  errors = []
  for rows in (slice(28, 36), slice(2, 10)):  # the hole, the edge
    bad = truth.copy()
    bad[:, rows, 20:44] += 0.1
    got = refiner_losses.loss_terms(
      jnp.asarray(truth), none, inputs_of(bad, truth), weights
    )
    errors.append(float(got['l1'].mean()))
  assert errors[0] > 4 * errors[1]
  blurred = ndimage.gaussian_filter(truth, (0, 2, 2, 0))
  got = refiner_losses.loss_terms(
    jnp.asarray(truth), none, inputs_of(blurred, truth), weights
  )
  assert float(got['gradient'].min()) > 1e-3


def test_paint_costs_outside_the_hole_only():
  truth, weights = pictures(), RefinerLossWeights()
  inputs, mask = inputs_of(truth, truth), np.zeros((2, SIZE, SIZE, 1))
  mask[:, 28:36, 20:44] = 1
  for moved, expected in ((0, 0), (16, 8 * 24 / SIZE**2)):
    where = jnp.asarray(np.roll(mask, moved, 1), jnp.float32)
    got = refiner_losses.loss_terms(jnp.asarray(truth), where, inputs, weights)
    np.testing.assert_allclose(got['mask'], expected, atol=1e-6)


def test_a_perfect_mask_chooses_the_painted_picture():
  truth, warped = pictures(), pictures(1)
  mask = jnp.ones((2, SIZE, SIZE, 1))
  args = jnp.asarray(warped), jnp.asarray(truth)
  np.testing.assert_allclose(refiner.blend(*args, mask), truth, atol=1e-6)
  np.testing.assert_array_equal(refiner.blend(*args, 0 * mask), warped)


def synthetic_batch() -> dict:
  """One pair: the truth has bright teeth in a hole that the warp has dark."""
  side = SIZE + 2 * (SIZE // 16)
  truth = np.full((1, side, side, 3), (190, 140, 120), np.uint8)
  truth[:, 30:42, 22:50] = (235, 230, 220)
  warp = np.concatenate([truth, 0 * truth[..., :1]], -1)
  warp[:, 30:42, 22:50] = (30, 12, 14, 255)
  repeat = 4
  batch = {
    'warp': np.repeat(warp, repeat, 0),
    'mouth': np.repeat(truth, repeat, 0),
    'others': np.repeat(truth[:, None], 3, 1).repeat(repeat, 0),
    'mel': np.zeros((repeat, 80, 16), np.float16),
    'photo': np.array([0, 0, 1, 1], np.int32),
    'uniforms': np.full((repeat, 28), 0.5, np.float32),
  }
  return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope='module')
def trained():
  """The state before and after 30 steps on `synthetic_batch`."""
  net = refiner.Refiner(SIZE, 0.25)
  networks, optimizers = {NAME: net}, {NAME: optax.adam(1e-2)}
  state = state_lib.init_state(
    jax.random.key(0), networks=networks, optimizers=optimizers
  )
  still = Augmentation(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

  @jax.jit
  def step(state, batch):
    return refiner_steps.train_step(
      state,
      batch,
      networks=networks,
      optimizers=optimizers,
      weights=RefinerLossWeights(),
      change=still,
    )

  first, totals = state, []
  for _ in range(30):
    state, values = step(state, synthetic_batch())
    totals.append(float(values['total']))
  return Trained(net, step, first, state, totals)


@dataclasses.dataclass(frozen=True)
class Trained:
  net: refiner.Refiner
  step: Callable
  first: state_lib.TrainState
  last: state_lib.TrainState
  totals: list[float]


def measured(net, state, mask=(1.0, 1, 1, 1)) -> dict[str, float]:
  batch = synthetic_batch() | {'mask': jnp.array(mask)}
  evaluate = functools.partial(refiner_steps.eval_step, networks={NAME: net})
  sums = jax.jit(evaluate)(state, batch)
  count = float(sums.pop('count'))
  return refiner_steps.summarize(
    {name: float(x) / count for name, x in sums.items()}
  )


def test_thirty_steps_on_one_pair_beat_the_warp(trained):
  net, state, totals = trained.net, trained.last, trained.totals
  assert totals[-1] < 0.7 * totals[0]
  inputs = pair_batches.to_inputs(synthetic_batch(), SIZE)
  variables = {
    'params': state.params[NAME],
    'batch_stats': state.batch_stats[NAME],
  }
  # Statistics of the batch: 30 steps do not settle the running ones.
  run = functools.partial(net.apply, train=True, mutable=['batch_stats'])
  (rgb, mask), _ = jax.jit(run)(variables, *refiner_steps.network_input(inputs))
  refined = refiner.blend(inputs['warped'], rgb, mask)
  plain, better = (
    refiner_losses.picture_metrics(x, inputs['truth'], inputs['hole'])
    for x in (inputs['warped'], refined)
  )
  for name in ('l1', 'hole_l1'):
    assert float(better[name].mean()) < 0.75 * float(plain[name].mean()), name
  assert float(better['ssim'].mean()) > float(plain['ssim'].mean())


def test_an_untrained_refiner_measures_as_the_warp(trained):
  found = measured(trained.net, trained.first)
  for kind in ('video', 'photo'):
    assert found[f'{kind}/l1'] == pytest.approx(
      found[f'{kind}/warp/l1'], abs=0.01
    )
    assert found[f'{kind}/warp/l1'] > 0.05
  apart = [abs(1 - found[f'{kind}/sharpness']) for kind in ('video', 'photo')]
  wanted = 1 + sum(apart) / 2
  assert refiner_losses.selection(found) == pytest.approx(wanted, abs=0.1)


def test_a_metric_of_a_kind_without_pairs_is_absent(trained):
  found = measured(trained.net, trained.first, (1.0, 1, 0, 0))
  assert 'video/l1' in found and 'photo/l1' not in found
  assert np.isfinite(refiner_losses.selection(found))


def test_a_worse_refiner_is_not_selected():
  warp = {f'video/warp/{k}': v for k, v in {'l1': 0.1, 'ssim': 0.8}.items()}
  good = warp | {'video/l1': 0.05, 'video/ssim': 0.9, 'video/sharpness': 1.0}
  bad = warp | {'video/l1': 0.12, 'video/ssim': 0.7, 'video/sharpness': 1.0}
  assert refiner_losses.selection(good) == pytest.approx(0.5)
  assert refiner_losses.selection(bad) > 1
  for other in (0.5, 1.5):  # blurred, noisy
    unlike = good | {'video/sharpness': other}
    assert refiner_losses.selection(unlike) == pytest.approx(1.0)


def test_a_broken_batch_changes_nothing(trained):
  first, batch = trained.first, synthetic_batch()
  batch['mel'] = jnp.full_like(batch['mel'], jnp.nan)
  after, metrics = trained.step(first, batch)
  assert float(metrics['finite']) == 0
  same = jax.tree.map(
    lambda a, b: bool((a == b).all()), after.params, first.params
  )
  assert all(jax.tree.leaves(same))


def test_discriminator_and_refiner_teach_each_other(trained):
  """12 steps from the weights of the plain losses."""
  judge = mouth_discriminator.MouthDiscriminator(0.25)
  networks = {NAME: trained.net, adversarial.NAME: judge}
  optimizers = {name: optax.adam(2e-3, b1=0.0) for name in networks}
  state = state_lib.init_state(
    jax.random.key(1), networks=networks, optimizers=optimizers
  )
  state = state_lib.set_variables(
    state,
    NAME,
    {
      'params': trained.last.params[NAME],
      'batch_stats': trained.last.batch_stats[NAME],
    },
  )
  weights = RefinerLossWeights(adversarial=0.1, features=0.5)
  step = jax.jit(
    functools.partial(
      refiner_steps.train_step,
      networks=networks,
      optimizers=optimizers,
      weights=weights,
      change=Augmentation(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    ),
    compiler_options=sharding.FAST_COMPILE,
  )
  before, seen = state.params[adversarial.NAME], []
  for _ in range(12):
    state, values = step(state, synthetic_batch())
    seen.append({name: float(x) for name, x in values.items()})
  assert all(line['finite'] == 1 for line in seen)
  told = [line['real'] + line['fake'] for line in seen]
  assert min(told) < 0.95 * told[0]
  after = state.params[adversarial.NAME]
  moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), before, after)
  assert min(jax.tree.leaves(moved)) > 0
  weighted = sum(
    getattr(weights, name) * seen[0][name]
    for name in (
      'l1',
      'gradient',
      'painted',
      'mask',
      'adversarial',
      'features',
    )
  )
  assert seen[0]['total'] == pytest.approx(weighted, rel=1e-4)
