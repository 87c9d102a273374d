"""The generator's objective: a list of weighted loss terms.

A new term is one more `LossTerm` in `generator_terms`. The weights come from
`config.loss`; the sync weight changes during training and is part of the state.

Shapes: b batch, t frames of a window, h w pixels.
Source: Prajwal et al. 2020, equations 1-5; spec section 4.2.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from lipsync_jax.training import losses, networks

Networks = dict[str, nn.Module]


@dataclasses.dataclass(frozen=True)
class LossWeights:
  """Weights of the loss terms, `config.loss`.

  Attributes:
    sync: share of the generator's loss, at most; reached step by step.
    adversarial: share of the generator's loss if there is a discriminator.
    mouth_l1: share of the reconstruction loss on the mouth alone; 0 as
      published.
    temporal: of the temporal difference loss, added; 0 as published.
    lip_opening: of SyncNet's lip-opening regression, added; 0 as published.
    r1_gamma: of the discriminator's R1 penalty; 0 as published.
  """

  sync: float = 0.03
  adversarial: float = 0.07
  mouth_l1: float = 0.0
  temporal: float = 0.0
  lip_opening: float = 0.0
  r1_gamma: float = 0.0


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a loss term of the generator may read."""

  generated: Float[Array, 'b t h w 3']
  batch: dict[str, Array]
  expert_variables: dict[str, Any] | None
  discriminator_params: dict[str, Any] | None

  @property
  def target(self) -> Float[Array, 'b t h w 3']:
    return self.batch['target']

  @property
  def mouth_weights(self):
    """Weight map of the mouth, [h, w, 1]."""
    return losses.mouth_weight_map(self.generated.shape[-2])


@dataclasses.dataclass(frozen=True)
class LossTerm:
  """One term of the generator's loss.

  Attributes:
    name: of its metric.
    weight: from the present sync weight to the weight of this term.
    value: from a prediction to the loss per example; its mean counts.
  """

  name: str
  weight: Callable[[Any], Any]
  value: Callable[[Prediction], Float[Array, '...']]


def generator_terms(
  nets: Networks, weights: LossWeights, use_batch_statistics: bool = False
) -> tuple[LossTerm, ...]:
  """The terms of the generator's loss.

  The reconstruction loss gets the share that sync and adversarial loss leave;
  `mouth_l1` divides it between the whole crop and the mouth.

  Args:
    nets: 'generator'; 'syncnet' if an expert trains it; 'discriminator' for HQ.
    weights: of the terms.
    use_batch_statistics: the expert normalizes by the batch (spec 4.5).
  """
  has_sync, is_adversarial = 'syncnet' in nets, 'discriminator' in nets

  def reconstruction(sync_weight):
    shares = [sync_weight] if has_sync else []
    shares += [weights.adversarial] if is_adversarial else []
    return 1.0 - sum(shares)

  def whole(prediction: Prediction):
    return losses.l1_loss(prediction.generated, prediction.target)

  def mouth(prediction: Prediction):
    generated, target = prediction.generated, prediction.target
    return losses.l1_loss(generated, target, prediction.mouth_weights)

  def temporal(prediction: Prediction):
    return losses.temporal_difference_loss(
      prediction.generated, prediction.target, prediction.mouth_weights
    )

  def sync(prediction: Prediction):
    return networks.generated_sync_loss(
      nets['syncnet'],
      prediction.expert_variables,
      prediction.batch,
      prediction.generated,
      use_batch_statistics,
    )

  def adversarial(prediction: Prediction):
    logit = nets['discriminator'].apply(
      {'params': prediction.discriminator_params},
      networks.merge_time(prediction.generated),
      train=True,
    )
    return losses.generator_adversarial_loss(logit)

  share = weights.mouth_l1
  terms = [LossTerm('l1', lambda w: (1.0 - share) * reconstruction(w), whole)]
  if share:
    terms.append(
      LossTerm('mouth_l1', lambda w: share * reconstruction(w), mouth)
    )
  if weights.temporal:
    terms.append(LossTerm('temporal', lambda _: weights.temporal, temporal))
  if has_sync:
    terms.append(LossTerm('sync', lambda w: w, sync))
  if is_adversarial:
    terms.append(
      LossTerm('adversarial', lambda _: weights.adversarial, adversarial)
    )
  return tuple(terms)
