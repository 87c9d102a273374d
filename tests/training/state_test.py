"""state.py: first weights, optimizers, averages and where arrays lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lipsync_jax import models
from lipsync_jax.training import sharding, state

WIDTH = 0.05


def made(**values):
  networks = {'syncnet': models.build_model('syncnet', width=WIDTH)}
  tx = state.adam_optimizer(state.learning_rate_schedule(1e-3))
  optimizers = {'syncnet': tx, 'temperature': tx}
  return dict(networks=networks, optimizers=optimizers) | values


def test_init_is_a_function_of_the_seed_and_never_reuses_a_key():
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  with jax.debug_key_reuse(True):
    one, where = state.create_state(mesh, 1, **made(log_scale=2.0))
  two, _ = state.create_state(mesh, 1, **made(log_scale=2.0))
  three, _ = state.create_state(mesh, 2, **made())
  jax.tree.map(np.testing.assert_array_equal, one, two)
  kernel = [
    s.params['syncnet']['audio_encoder_0']['kernel'] for s in (one, three)
  ]
  assert (kernel[0] != kernel[1]).any()
  assert one.params['temperature'] == 2
  assert jax.tree.structure(where) == jax.tree.structure(one)


def test_networks_without_an_optimizer_are_refused():
  values = made()
  del values['optimizers']['syncnet']
  with pytest.raises(AssertionError):
    jax.eval_shape(lambda k: state.init_state(k, **values), jax.random.key(0))


@pytest.mark.parametrize(
  ('shape', 'parts', 'expected'),
  [
    ((3, 3, 64, 128), 4, P(None, None, None, 'fsdp')),
    ((3, 3, 512, 128), 4, P(None, None, 'fsdp')),
    ((4096, 4), 1, P()),
    ((127, 129), 2, P()),
    ((64,), 2, P()),
    ((), 2, P()),
  ],
)
def test_largest_divisible_axis_is_split(shape, parts, expected):
  assert sharding.fsdp_spec(shape, parts) == expected


def test_mesh_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='found 2 x 3'):
    sharding.make_mesh(2, 3, jax.devices()[:1])


def test_schedule_warms_up_and_decays():
  rate = state.learning_rate_schedule(1.0, warmup_steps=4)
  np.testing.assert_allclose(
    [rate(i) for i in range(6)], [0.25, 0.4375, 0.625, 0.8125, 1, 1]
  )
  rate = state.learning_rate_schedule(1.0, decay_steps=10)
  np.testing.assert_allclose(
    [rate(0), rate(5), rate(10)], [1, 0.5, 0], atol=1e-6
  )


def test_optimizer_is_adam_with_clipping_and_accumulation():
  """Two half batches with `every` 2 are one whole batch."""
  params = {'w': jnp.array([1.0, -2.0])}
  grads = [{'w': jnp.array([30.0, 0])}, {'w': jnp.array([0, 40.0])}]
  mean = {'w': jnp.array([15.0, 20.0])}
  rate = state.learning_rate_schedule(0.1)
  once = state.adam_optimizer(rate, b1=0.5, grad_clip_norm=1.0)
  update, opt = once.update(mean, once.init(params), params)
  clipped = optax.tree_utils.tree_get(opt, 'mu')['w'] / 0.5
  np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-5)
  twice = state.adam_optimizer(
    rate, b1=0.5, grad_clip_norm=1.0, accumulate_steps=2
  )
  opt = twice.init(params)
  first, opt = twice.update(grads[0], opt, params)
  second, opt = twice.update(grads[1], opt, params)
  np.testing.assert_array_equal(first['w'], 0)
  np.testing.assert_allclose(second['w'], update['w'], rtol=1e-5)


def test_average_starts_short_and_grows_long():
  params, stats = {'g': {'w': jnp.ones(2)}}, {'g': {'m': jnp.ones(2)}}
  ema = {
    'g': {'params': {'w': jnp.zeros(2)}, 'batch_stats': {'m': jnp.zeros(2)}}
  }
  early = state.update_ema(ema, params, stats, 0.99, jnp.int32(0))
  late = state.update_ema(ema, params, stats, 0.99, jnp.int32(10**6))
  np.testing.assert_allclose(early['g']['params']['w'], 0.9, rtol=1e-6)
  np.testing.assert_allclose(late['g']['batch_stats']['m'], 0.01, rtol=1e-5)
