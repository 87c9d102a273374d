"""Adversarial losses of the refiner, and of its discriminator. Pure.

The discriminator sees the mouth box of a crop and the hole between the lips.

Shapes: b batch, h w height and width of a crop.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.models.mouth_discriminator import MouthDiscriminator
from lipsync_jax.refinement.refiner_losses import mouth_box
from lipsync_jax.training import losses

NAME = 'mouth_discriminator'

Crop = Float[Array, 'b h w 3']
Hole = Float[Array, 'b h w 1']
Scalar = Float[Array, '']


def judge(net: MouthDiscriminator, params: dict, crop: Crop, hole: Hole):
  """Logits and features of a crop's mouth box."""
  picture = mouth_box(jnp.concatenate([crop, hole], -1))
  return net.apply({'params': params}, picture, train=True)


def refiner_terms(
  net: MouthDiscriminator, params: dict, refined: Crop, inputs: dict
) -> dict[str, Scalar]:
  """Losses of the refiner by name.

  adversarial: non-saturating loss of the refined mouth.
  features: L1 of the discriminator's features to those of the truth, relative
    to their size (Wang et al. 2018, equation 4).

  Args:
    net, params: of the discriminator, which gets no gradient.
    refined: crops.
    inputs: of `pair_batches`.
  """
  hole = inputs['hole']
  logits, found = judge(net, params, refined, hole)
  _, real = judge(net, params, inputs['truth'], hole)
  apart = [
    jnp.abs(a - b).mean() / (jnp.abs(b).mean() + 1e-6)
    for a, b in zip(found, jax.lax.stop_gradient(real), strict=True)
  ]
  return {
    'adversarial': losses.generator_adversarial_loss(logits).mean(),
    'features': sum(apart) / len(apart),
  }


def discriminator_loss(
  params: dict,
  net: MouthDiscriminator,
  refined: Crop,
  inputs: dict,
  r1_gamma: float,
) -> tuple[Scalar, dict[str, Scalar]]:
  """The discriminator's loss, and its terms by name.

  See `losses.discriminator_terms`.

  Args:
    params, net: of the discriminator.
    refined: crops of the refiner, which gets no gradient.
    inputs: of `pair_batches`.
    r1_gamma: weight of the penalty.
  """

  def logit(crop):
    return judge(net, params, crop, inputs['hole'])[0]

  fake = jax.lax.stop_gradient(refined)
  return losses.discriminator_terms(logit, inputs['truth'], fake, r1_gamma)
