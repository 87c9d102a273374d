"""The adversarial losses of the refiner against independent computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from lipsync_jax import models
from lipsync_jax.models.mouth_discriminator import MouthDiscriminator
from lipsync_jax.refinement import adversarial
from lipsync_jax.refinement.refiner_losses import MOUTH_BOX

SIZE = 64
NET = MouthDiscriminator(0.25)


def crops(seed: int) -> jax.Array:
  x = np.random.default_rng(seed).random((2, SIZE, SIZE, 3))
  return jnp.asarray(ndimage.gaussian_filter(x, (0, 1, 1, 0)), jnp.float32)


@pytest.fixture(scope='module')
def params():
  key = jax.random.key(3)
  return models.init_variables('mouth_discriminator', NET, key)['params']


def inputs_of(truth) -> dict:
  hole = jnp.zeros((2, SIZE, SIZE, 1)).at[:, 28:36, 20:44].set(1)
  return {'truth': truth, 'hole': hole}


def test_features_are_alike_for_the_truth_only(params):
  inputs = inputs_of(crops(0))
  same = adversarial.refiner_terms(NET, params, inputs['truth'], inputs)
  other = adversarial.refiner_terms(NET, params, crops(1), inputs)
  assert float(same['features']) == pytest.approx(0, abs=1e-6)
  assert float(other['features']) > 0.05


def test_losses_are_those_of_the_logits(params):
  """Oracle: cross-entropy of probabilities, in float64."""
  truth, refined = crops(0), crops(1)
  inputs = inputs_of(truth)

  def chance(crop):
    logits, _ = adversarial.judge(NET, params, crop, inputs['hole'])
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))

  terms = adversarial.refiner_terms(NET, params, refined, inputs)
  wanted = -np.log(chance(refined)).mean()
  assert float(terms['adversarial']) == pytest.approx(wanted, rel=1e-4)
  total, values = adversarial.discriminator_loss(
    params, NET, refined, inputs, 0.0
  )
  real, fake = -np.log(chance(truth)), -np.log(1 - chance(refined))
  assert float(values['real']) == pytest.approx(real.mean(), rel=1e-4)
  assert float(values['fake']) == pytest.approx(fake.mean(), rel=1e-4)
  assert float(total) == pytest.approx(real.mean() + fake.mean(), rel=1e-4)


def test_r1_is_the_squared_slope_at_real_crops(params):
  """Oracle: the slope along random directions, by finite differences."""
  inputs = inputs_of(crops(0))
  total, values = adversarial.discriminator_loss(
    params, NET, crops(1), inputs, 2.0
  )
  plain, _ = adversarial.discriminator_loss(params, NET, crops(1), inputs, 0.0)
  assert float(total - plain) == pytest.approx(
    2 * float(values['r1']), rel=1e-3
  )

  @jax.jit
  def mean_logit(crop):
    logits, _ = adversarial.judge(NET, params, crop, inputs['hole'])
    return logits.mean((1, 2))

  rng, step, slopes = np.random.default_rng(0), 1e-2, []
  for _ in range(300):
    way = rng.choice(np.float32([-1, 1]), (2, SIZE, SIZE, 3))
    ahead, behind = (
      mean_logit(inputs['truth'] + sign * step * way) for sign in (1, -1)
    )
    slopes.append((ahead - behind) / (2 * step))
  # The mean square along random signs is the squared norm.
  estimate = float(np.square(slopes).mean())
  assert float(values['r1']) == pytest.approx(estimate, rel=0.25)


def test_only_the_mouth_is_judged(params):
  inputs, x0 = inputs_of(crops(0)), round(SIZE * MOUTH_BOX[0])
  outside = inputs['truth'].at[:, :, : x0 - 1].set(0)
  one, two = (
    adversarial.judge(NET, params, x, inputs['hole'])[0]
    for x in (inputs['truth'], outside)
  )
  np.testing.assert_array_equal(one, two)


def test_the_refiner_learns_from_the_discriminator_not_the_other_way(params):
  inputs = inputs_of(crops(0))

  def through(crop):
    return adversarial.discriminator_loss(params, NET, crop, inputs, 0.0)[0]

  slope = jax.grad(through)(crops(1))
  np.testing.assert_array_equal(slope, 0)

  def terms(crop):
    return adversarial.refiner_terms(NET, params, crop, inputs)['adversarial']

  assert float(jnp.abs(jax.grad(terms)(crops(1))).max()) > 0
