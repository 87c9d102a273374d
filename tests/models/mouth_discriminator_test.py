"""The discriminator of the refiner: shapes, reach and operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax import models
from lipsync_jax.models import flops, mouth_discriminator


def initialized(width: float = 0.25):
  net = mouth_discriminator.MouthDiscriminator(width)
  key = jax.random.key(0)
  return net, models.init_variables('mouth_discriminator', net, key)


@pytest.mark.parametrize('size', [(32, 44), (64, 64)])
def test_one_logit_for_each_eighth(size):
  net, variables = initialized()
  picture = jnp.ones((3, *size, mouth_discriminator.CHANNELS))
  logits, features = net.apply(variables, picture, train=True)
  grid = tuple(-(-n // 8) for n in size)
  assert logits.shape == (3, *grid) and logits.dtype == jnp.float32
  layers = mouth_discriminator.layer_specs(0.25)
  assert len(features) == len(layers) - 1
  assert [x.shape[-1] for x in features] == [row.cout for row in layers[:-1]]


def test_a_logit_sees_49_pixels():
  net, variables = initialized()
  picture = jax.random.uniform(jax.random.key(1), (1, 128, 128, 4))

  def middle(x):
    return net.apply(variables, x, train=True)[0][0, 8, 8]

  slope = np.abs(np.asarray(jax.grad(middle)(picture))).sum((0, 3))
  for axis in (0, 1):
    seen = np.flatnonzero(slope.sum(axis))
    assert seen[-1] - seen[0] + 1 == 49


def test_operations_are_those_of_the_layers():
  """Oracle: products of the convolutions, counted here."""
  size, total = 64, 0
  for row in mouth_discriminator.layer_specs(1.0):
    size //= row.stride[0]
    total += 2 * size * size * 9 * row.cin * row.cout
  plain, judged = (
    flops.refiner_step_flops(64, 1.0, flag) for flag in (False, True)
  )
  assert judged - plain == 9 * total
  assert plain == 3 * flops.refiner_flops(64, 1.0)
