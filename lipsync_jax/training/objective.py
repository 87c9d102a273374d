"""The generator's objective: a list of weighted loss terms.

A new term is one more `LossTerm` in `generator_terms`. The weights come from
`config.loss`; the sync weight changes during training and is part of the state.

Shapes: b batch, t frames of a window, k windows of a clip, d dimension of an
embedding, h w pixels.
Source: Prajwal et al. 2020, equations 1-5; spec section 4.2.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.training import losses

Networks = dict[str, nn.Module]
Batch = dict[str, Array]


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
    return generated_sync_loss(
      nets['syncnet'],
      prediction.expert_variables,
      prediction.batch,
      prediction.generated,
      use_batch_statistics,
    )

  def adversarial(prediction: Prediction):
    logit = nets['discriminator'].apply(
      {'params': prediction.discriminator_params},
      merge_time(prediction.generated),
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


# --- the networks applied to a batch of windows


def merge_time(x: Float[Array, 'b t *rest']) -> Float[Array, 'bt *rest']:
  """Frames as a batch.  [b, t, ...] -> [b*t, ...]

  Differs from Wav2Lip: it merges time first. No network depends on the order,
  and this way the rows of a device stay on that device.
  """
  return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def split_time(
  x: Float[Array, 'bt *rest'], b: int
) -> Float[Array, 'b t *rest']:
  """The inverse of `merge_time`.  [b*t, ...] -> [b, t, ...]"""
  return x.reshape(b, -1, *x.shape[1:])


def lower_half_stack(
  frames: Float[Array, 'b t h w 3'],
) -> Float[Array, 'b h2 w 15']:
  """SyncNet's input: lower halves, channels frame by frame."""
  half = jnp.moveaxis(frames[:, :, frames.shape[2] // 2 :], 1, 3)
  return half.reshape(*half.shape[:3], -1)  # [b, h/2, w, 3*t]


def apply_network(net, variables: dict, *x, train: bool):
  """A network's output, and its batch statistics after this batch."""
  if not train:
    out = net.apply(variables, *x, train=False)
    return out, variables.get('batch_stats', {})
  out, new = net.apply(variables, *x, train=True, mutable=['batch_stats'])
  return out, new.get('batch_stats', {})


def embed_windows(net, variables: dict, batch: Batch, train: bool):
  """SyncNet's unit vectors and statistics.

  Returns:
    ((audio, face), statistics); vectors are [b, d], or [b, k, d] where
    several windows of a clip compete.
  """
  mel, frames = batch['mel'], batch['frames']
  b, grouped = mel.shape[0], mel.ndim == 5
  if grouped:
    mel, frames = merge_time(mel), merge_time(frames)
  vectors, stats = apply_network(net, variables, mel, frames, train=train)
  if grouped:
    vectors = tuple(split_time(x, b) for x in vectors)
  return vectors, stats


def run_generator(net, variables: dict, batch: Batch, train: bool):
  """Generated faces [b, t, h, w, 3] and the generator's statistics."""
  generated, stats = apply_network(
    net,
    variables,
    merge_time(batch['mels']),
    merge_time(batch['face']),
    train=train,
  )
  return split_time(generated, batch['mels'].shape[0]), stats


def generated_sync_loss(
  expert, variables: dict, batch: Batch, generated, train: bool
):
  """Sync loss [b] of generated frames; `variables` do not change.

  Differs from Wav2Lip by default: stored batch statistics. There the frozen
  expert was left in training mode (spec 4.5); `train` repeats that.
  """
  inputs = batch | {'frames': lower_half_stack(generated)}
  (audio, face), _ = embed_windows(expert, variables, inputs, train)
  return losses.sync_loss(audio, face)
