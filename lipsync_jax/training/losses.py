"""Loss functions. Pure, one value per example, in float32.

Every loss keeps its leading axes; means and weights belong to `objective`.
Adversarial losses take logits and sync losses take unit vectors, so that no
probability is computed and clamped, and no loss saturates.

Shapes: *b any leading axes, n windows that compete, d embedding, t frames.
Source: Prajwal et al. 2020, equations 1-5; spec sections 3.4 and 4.2.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LOG_FLOOR = 1e-3  # below this value the logarithm continues linearly
LOG_SCALE = 2.659  # log(1 / 0.07), the first inverse temperature (CLIP)
MAX_LOG_SCALE = 4.605  # log 100: beyond, the softmax is an argmax
OPENING_STD = 0.015  # of a speaker's lip opening, of the crop's height
OPENING_SCALE = 4.0  # deviations that a unit vector in its direction predicts
MOUTH_CENTER = (0.5, 0.76)  # in a crop, of its width and height
MOUTH_SIGMA = (0.16, 0.1)  # standard deviations of the mouth weight map

Vectors = Float[Array, '*b d']


def log_linear_below_floor(x: Float[Array, '*b']) -> Float[Array, '*b']:
  """log x, continued by its tangent below LOG_FLOOR.

  Differs from Wav2Lip: its logarithm is cut off at -100, so a cosine of
  exactly 0, which two ReLU encoders reach easily, has no gradient.
  """
  return (
    jnp.log(jnp.maximum(x, LOG_FLOOR))
    + jnp.minimum(x - LOG_FLOOR, 0) / LOG_FLOOR
  )


def cosine_similarity(audio: Vectors, face: Vectors) -> Float[Array, '*b']:
  """Cosine of unit vectors; in [0, 1] for those of SyncNet."""
  return jnp.sum(audio * face, -1)


def sync_loss(audio: Vectors, face: Vectors) -> Float[Array, '*b']:
  """-log cosine of sound and face vectors (equation 3)."""
  return -log_linear_below_floor(cosine_similarity(audio, face))


def cosine_bce(
  audio: Vectors, face: Vectors, label: Float[Array, '*b']
) -> Float[Array, '*b']:
  """Binary cross-entropy of the cosine, the expert's published loss.

  Args:
    audio, face: unit vectors.
    label: 1 where they belong together, else 0.
  """
  # 1 - cos of unit vectors, without cancellation where they agree.
  distance = jnp.sum(jnp.square(audio - face), -1) / 2
  negative = -log_linear_below_floor(distance)
  return label * sync_loss(audio, face) + (1 - label) * negative


def info_nce(
  audio: Float[Array, '*b n d'],
  face: Float[Array, '*b n d'],
  log_scale: Float[Array, ''],
) -> Float[Array, '*b n']:
  """InfoNCE: cross-entropy of each window's partner among n, both ways.

  Chance is log n. The windows of one clip compete, so that the person's looks
  carry no information about the answer.

  Args:
    audio, face: unit vectors.
    log_scale: logarithm of the inverse temperature, a learned parameter.
  """
  scale = jnp.exp(jnp.minimum(log_scale, MAX_LOG_SCALE))
  logits = scale * jnp.einsum('...id,...jd->...ij', audio, face)
  hit = jnp.diagonal(logits, axis1=-2, axis2=-1)  # [*b, n]
  logsumexp = jax.nn.logsumexp
  return (logsumexp(logits, -1) + logsumexp(logits, -2)) / 2 - hit


def lip_opening_regression(
  vectors: Float[Array, '*b n d'], opening: Float[Array, '*b n t']
) -> Float[Array, '*b']:
  """Squared error of the lip opening regressed from SyncNet vectors.

  The regression is linear along `t` fixed cosine directions, relative to the
  mean of the `n` windows. Sound and face vectors then share information before
  the contrastive loss has a gradient, which takes an expert of few speakers off
  chance.
  """
  d, t = vectors.shape[-1], opening.shape[-1]
  waves = np.pi / d * np.outer(np.arange(d) + 0.5, np.arange(t) + 1)
  predicted = vectors @ jnp.float32(
    OPENING_SCALE * np.sqrt(2 / d) * np.cos(waves)
  )
  predicted -= predicted.mean(-2, keepdims=True)
  target = (opening - opening.mean(-2, keepdims=True)) / OPENING_STD
  return jnp.square(predicted - jnp.clip(target, -3, 3)).mean((-2, -1))


def retrieval_accuracy(
  audio: Float[Array, '*b n d'], face: Float[Array, '*b n d']
) -> Float[Array, '*b n']:
  """1 where the nearest of n faces to a sound is its own, else 0."""
  cosines = jnp.einsum('...id,...jd->...ij', audio, face)
  hit = jnp.diagonal(cosines, axis1=-2, axis2=-1)
  others = jnp.where(jnp.eye(cosines.shape[-1], dtype=bool), -jnp.inf, cosines)
  # Strictly nearer: equal cosines, as of dead encoders, do not count.
  return (hit > others.max(-1)).astype(jnp.float32)


def l1_loss(
  generated: Float[Array, '*b h w c'],
  target: Float[Array, '*b h w c'],
  where: Float[np.ndarray, 'h w 1'] | None = None,
) -> Float[Array, '*b']:
  """Mean absolute difference of pictures in [0, 1] (equation 1).

  Args:
    where: weight of each pixel, 1 on average; None for equal weights.
  """
  error = jnp.abs(generated - target)
  if where is not None:
    error = error * jnp.broadcast_to(where, error.shape)
  return error.mean((-3, -2, -1))


@functools.cache
def mouth_weight_map(size: int) -> Float[np.ndarray, 'h w 1']:
  """Gaussian weight map of the mouth in a crop, of mean 1.

  `faces.crop` steadies the crops, so one position fits every person.
  """
  at = (np.arange(size) + 0.5) / size
  (u, v), (du, dv) = MOUTH_CENTER, MOUTH_SIGMA
  rows = np.exp(-(((at - v) / dv) ** 2) / 2)
  columns = np.exp(-(((at - u) / du) ** 2) / 2)
  weights = np.outer(rows, columns)[..., None]
  return (weights / weights.mean()).astype(np.float32)


def temporal_difference_loss(
  generated: Float[Array, '*b t h w c'],
  target: Float[Array, '*b t h w c'],
  where: Float[np.ndarray, 'h w 1'],
) -> Float[Array, '*b']:
  """Mean squared error of each frame's deviation from the window's mean.

  What all frames of a window share (person, light, blur) cancels; what
  remains depends on the sound. The error is squared, since the optimum of a
  squared error is a mean, which changes earlier than the median.
  Differs from Wav2Lip: it has no such term, and its generator responds to the
  sound late in training.

  Args:
    where: weight of each pixel.
  """
  error = generated - target
  error = error - error.mean(-4, keepdims=True)
  where = jnp.broadcast_to(where, error.shape)
  return (jnp.square(error) * where).mean((-4, -3, -2, -1))


def discriminator_real_loss(logit: Float[Array, '*b']) -> Float[Array, '*b']:
  """-log probability that a picture with this logit is real."""
  return jax.nn.softplus(-logit)


def discriminator_fake_loss(logit: Float[Array, '*b']) -> Float[Array, '*b']:
  """-log probability that a picture with this logit is generated."""
  return jax.nn.softplus(logit)


def discriminator_terms(
  logit: Callable[[Array], Array], real: Array, fake: Array, r1_gamma: float
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """The total loss of a discriminator, and its terms by name.

  Adds the R1 penalty: `r1_gamma` times the squared gradient norm of the logit
  at real pictures (Mescheder, Geiger, Nowozin 2018), of its mean where a
  picture has several.

  Args:
    logit: pictures to one logit each, [b], or to one of each patch, [b, …].
    real, fake: pictures, [b h w c].
    r1_gamma: weight of the penalty.
  """
  values = {
    'real': discriminator_real_loss(logit(real)).mean(),
    'fake': discriminator_fake_loss(logit(fake)).mean(),
  }
  total = values['real'] + values['fake']
  if r1_gamma:

    def sum_of_means(pictures):
      return logit(pictures).reshape(len(pictures), -1).mean(-1).sum()

    slope = jax.grad(sum_of_means)(real)
    values['r1'] = jnp.square(slope).sum((1, 2, 3)).mean()
    total += r1_gamma * values['r1']
  return total, values


# Equation 4. The original's logs call it "perceptual", although it is the
# non-saturating GAN loss.
generator_adversarial_loss = discriminator_real_loss


def sync_weight_target(
  validation_loss: float,
  weight: float,
  high: float,
  low: float,
  previous: float = 0.0,
) -> float:
  """The weight of the sync loss, from its validation loss.

  Zero above `high`, `weight` at `low` and below, linear between. Training steps
  approach it (`move_towards`).

  Args:
    validation_loss: mean sync loss of the whole validation split.
    high, low: equal for the original's hard rule, 0.75 there: then the
      weight is never lowered again (spec 4.2). Their 0.75 belongs to an
      expert that normalizes by the batch (spec 4.5).
    previous: the target so far.
  """
  if high == low:
    return weight if validation_loss < high or previous else 0.0
  share = (high - validation_loss) / (high - low)
  return weight * min(max(share, 0.0), 1.0)


def move_towards(
  value: Float[Array, ''], target: Float[Array, ''], max_step: float
) -> Float[Array, '']:
  """`value` moved towards `target` by at most `max_step`."""
  return value + jnp.clip(target - value, -max_step, max_step)
