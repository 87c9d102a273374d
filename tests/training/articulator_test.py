"""Losses, metrics and the training stage of the articulator."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import articulator as config_file
from lipsync_jax.data import synthetic
from lipsync_jax.training import (
  articulator_stage,
  articulator_steps,
  stages,
  train,
)
from lipsync_jax.training import articulator_steps as losses
from lipsync_jax.weights import articulation


def windows(seed=0, rows=3, frames=40):
  rng = np.random.default_rng(seed)
  truth = np.cumsum(rng.normal(0, 0.01, (rows, frames)), 1)
  return np.abs(truth).astype(np.float32), np.ones((rows, frames), np.float32)


def metrics(opening, truth, valid):
  values = losses.opening_metrics(
    *(jnp.asarray(x) for x in (opening, truth, valid, valid))
  )
  return {name: np.asarray(value) for name, value in values.items()}


def test_correlation_and_amplitude_agree_with_numpy():
  truth, valid = windows()
  other, _ = windows(1)
  valid[:, 25:] = 0
  found = metrics(other, truth, valid)
  for row in range(3):
    x, y = other[row, :25], truth[row, :25]
    assert found['correlation'][row] == pytest.approx(
      np.corrcoef(x, y)[0, 1], abs=2e-3
    )
    assert found['amplitude'][row] == pytest.approx(x.std() / y.std(), rel=1e-2)


@pytest.mark.parametrize('lag', [-3, 0, 2])
def test_lag_histogram_finds_a_shift(lag):
  truth, valid = windows(2)
  late = np.roll(truth, lag, axis=1)
  found = metrics(late, truth, valid)
  assert (found[f'lag/{lag:+d}'] == 1).all()
  total = sum(v for name, v in found.items() if name.startswith('lag/'))
  np.testing.assert_array_equal(total, 1)


def test_closures_count_within_one_frame():
  truth = np.full((1, 20), 0.05, np.float32)
  truth[0, [4, 12]] = 0
  near = np.full((1, 20), 0.05, np.float32)
  near[0, [5, 18]] = 0
  valid = np.ones_like(truth)
  found = articulator_steps.summarize(
    {k: float(v[0]) for k, v in metrics(near, truth, valid).items()}
  )
  assert found['closure_recall'] == pytest.approx(0.5)
  assert found['closure_precision'] == pytest.approx(0.5)
  never = articulator_steps.summarize(
    {k: float(v[0]) for k, v in metrics(truth * 0 + 1, truth, valid).items()}
  )
  assert never['closure_recall'] == never['closure_f1'] == 0


def loss_terms(guess, batch, basis):
  arrays = jax.tree.map(jnp.asarray, (guess, batch, basis))
  guess, batch, basis = arrays
  closed = (batch['gaps'].mean(-1) < losses.CLOSED_GAP).astype(jnp.float32)
  logit = 40 * closed - 20  # certain and right
  return losses.loss_terms(guess, logit, batch, basis, jnp.ones(16), 40.0)


def batch_of(truth, gaps):
  rows, frames, _ = truth.shape
  return {
    'coefficients': truth,
    'gaps': gaps,
    'neutral_gaps': np.zeros((rows, 11), np.float32),
    'valid': np.ones((rows, frames), np.float32),
  }


def test_losses_are_zero_at_the_truth_and_grow_at_closures():
  rng = np.random.default_rng(0)
  basis = np.abs(rng.normal(0, 0.02, (16, 11))).astype(np.float32)
  truth = np.abs(rng.normal(0, 1, (2, 30, 16))).astype(np.float32)
  gaps = truth @ basis
  values = loss_terms(truth, batch_of(truth, gaps), basis)
  for name, value in values.items():
    np.testing.assert_allclose(value, 0, atol=2e-3, err_msg=name)
  # The same error of a gap costs more where lips are closed.
  closed = np.zeros_like(truth)
  error = np.full_like(truth, 0.5)
  at_closure, at_opening = (
    loss_terms(x + error, batch_of(x, x @ basis), basis)
    for x in (closed, 10 * truth)
  )
  assert (at_closure['lip_gap'] > 5 * at_opening['lip_gap']).all()


def test_frames_outside_the_clip_do_not_count():
  rng = np.random.default_rng(1)
  basis = rng.normal(0, 0.02, (16, 11)).astype(np.float32)
  truth = rng.normal(0, 1, (2, 30, 16)).astype(np.float32)
  guess = truth + rng.normal(0, 1, truth.shape).astype(np.float32)
  batch = batch_of(truth, truth @ basis)
  batch['valid'][:, 20:] = 0
  one = loss_terms(guess, batch, basis)
  guess[:, 20:] = 99
  two = loss_terms(guess, batch, basis)
  for name in one:
    np.testing.assert_allclose(one[name], two[name], rtol=1e-5)


def config_for(folder, steps: int = 24):
  config = config_file.get_config().unlock()
  config.data.path = str(folder)
  config.batch_size, config.num_train_steps = 4, steps
  config.articulator.width = 32
  config.optimizer.warmup_steps, config.optimizer.decay_steps = 4, 24
  config.ema_decay = 0.8
  config.validation.every_steps = config.run.save_every_steps = 12
  config.run.log_every_steps = 4
  config.run.fast_compile = True
  return config.lock()


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
  folder = tmp_path_factory.mktemp('shards')
  synthetic.build_dataset(folder)
  return folder


def test_training_learns_resumes_and_exports(shards, tmp_path, capsys):
  """12 + 12 steps are 24 steps, and the file opens as an articulator."""
  whole = train.train_and_evaluate(config_for(shards), tmp_path / 'whole')
  train.train_and_evaluate(config_for(shards, 12), tmp_path / 'parts')
  parts = train.train_and_evaluate(config_for(shards), tmp_path / 'parts')
  assert parts['correlation'] == whole['correlation']
  one, two = (
    articulation.load_articulation(x['weights']) for x in (whole, parts)
  )
  assert one.sha256 == two.sha256
  assert one.basis.shape == (16, 478, 3) and one.width == 32
  assert '24 clips' in one.source and '4 speakers' in one.source
  assert (
    articulator_stage.main(
      [str(shards), '--split=val', f'--weights={whole["weights"]}']
    )
    == 0
  )
  said = dict(line.split() for line in capsys.readouterr().out.splitlines())
  assert float(said['correlation']) == pytest.approx(
    whole['correlation'], abs=0.01
  )
  # The mouth opening of the synthetic faces is the loudness of their sound.
  assert whole['correlation'] > 0.6
  lines = (tmp_path / 'whole/metrics.jsonl').read_text().splitlines()
  first, last = (
    [json.loads(x) for x in lines if '"validation"' in x][i] for i in (0, -1)
  )
  assert last['correlation'] >= first['correlation'] - 0.05
  assert {'closure_f1', 'lag/+0', 'correlation/val0'} <= set(last)


def test_first_weights_are_refused(shards):
  config = config_for(shards).unlock()
  config.init_weights = 'some.safetensors'
  with pytest.raises(ValueError, match='basis comes from the data'):
    stages.build_stage(config.lock())


def test_missing_split_is_one_line(tmp_path):
  synthetic.build_dataset(tmp_path)
  config = config_for(tmp_path).unlock()
  config.data.validation_split = 'nothing'
  with pytest.raises(ValueError, match='nothing'):
    stages.build_stage(config.lock())


def test_sharded_step_is_the_step_of_one_device(shards):
  """Gradients of a batch over a mesh equal those of one device."""
  stage = stages.build_stage(config_for(shards))
  assert stage.faces == 32 and stage.flops > 0
  from lipsync_jax.training import sharding, state

  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  first, where = state.create_state(mesh, 0, **stage.init)
  from lipsync_jax.data.motion_batches import MotionSampler

  batch = MotionSampler(stage.motion.train, 4)[0]
  plain, values = jax.jit(stage.train_step)(first, batch, None)
  step = sharding.jit_train_step(
    lambda s, b, e, d: stage.train_step(s, b, e), mesh, where, None
  )
  sharded, again = step(first, jax.device_put(batch), None, None)
  assert float(values['total']) == pytest.approx(float(again['total']))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    plain.params,
    sharded.params,
  )


def test_closure_loss_is_optax_cross_entropy():
  """Oracle: optax."""
  import optax

  rng = np.random.default_rng(3)
  logit = jnp.asarray(rng.normal(0, 4, (2, 9)).astype(np.float32))
  label = jnp.asarray(rng.random((2, 9)) < 0.5)
  expected = optax.sigmoid_binary_cross_entropy(
    logit, label.astype(jnp.float32)
  )
  ours = losses.binary_cross_entropy(logit, label)
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_lips_that_are_too_open_cost_more():
  basis = np.full((16, 11), 0.02, np.float32)
  closed = np.zeros((1, 9, 16), np.float32)
  batch = batch_of(closed, closed @ basis)
  over, under = (
    loss_terms(closed + change, batch, basis)['lip_gap']
    for change in (0.1, -0.1)
  )
  ratio = losses.TOO_OPEN / losses.TOO_CLOSED
  np.testing.assert_allclose(over / under, ratio, rtol=1e-4)


def test_measurement_of_a_missing_split_is_one_line(shards, capsys):
  assert articulator_stage.main([str(shards), '--split=nothing']) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1
