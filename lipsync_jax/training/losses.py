"""Losses: what training makes small. Pure, per example, in float32.

Every loss keeps its leading axes; means and weights belong to the steps.
Adversarial losses take logits and sync losses unit vectors, so that none
saturates: no probability is ever computed and clamped.

Alphabet: `*b` any leading axes, `n` windows that compete, `d` embedding.
Source: Prajwal et al. 2020, equations 1-5; spec sections 3.4 and 4.2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LOG_FLOOR = 1e-3  # of a likelihood, below which its logarithm goes on straight
LOG_SCALE = 2.659  # log(1 / 0.07), the first inverse temperature (CLIP)
MAX_LOG_SCALE = 4.605  # log 100: beyond, the softmax is an argmax
OPENING_STD = (
  0.015  # deviation of a speaker's lip opening, of the crop's height
)
OPENING_SCALE = (
  4.0  # deviations of it that a unit vector in its direction tells
)
MOUTH_CENTER = (0.5, 0.76)  # their middle in a crop, of its width and height
MOUTH_SIGMA = (0.16, 0.1)  # standard deviations of the bump round it

Vectors = Float[Array, '*b d']


def log_linear_below_floor(x: Float[Array, '*b']) -> Float[Array, '*b']:
  """log x, continued by its tangent below FLOOR.

  Differs from Wav2Lip, whose logarithm is cut off at -100: there a cosine
  of exactly 0, which two ReLU towers reach easily, has no gradient.
  """
  return (
    jnp.log(jnp.maximum(x, LOG_FLOOR))
    + jnp.minimum(x - LOG_FLOOR, 0) / LOG_FLOOR
  )


def cosine_similarity(audio: Vectors, face: Vectors) -> Float[Array, '*b']:
  """Cosine of unit vectors; in [0, 1] for SyncNet's."""
  return jnp.sum(audio * face, -1)


def sync_loss(audio: Vectors, face: Vectors) -> Float[Array, '*b']:
  """-log cosine: how little the lips follow the sound (equation 3)."""
  return -log_linear_below_floor(cosine_similarity(audio, face))


def cosine_bce(
  audio: Vectors, face: Vectors, label: Float[Array, '*b']
) -> Float[Array, '*b']:
  """Binary cross-entropy of the cosine, the expert's published loss.

  Args:
    audio, face: unit vectors.
    label: 1 where they belong together, else 0.
  """
  # 1 - cos of unit vectors, without the cancellation where they agree.
  apart = jnp.sum(jnp.square(audio - face), -1) / 2
  wrong = -log_linear_below_floor(apart)
  return label * sync_loss(audio, face) + (1 - label) * wrong


def info_nce(
  audio: Float[Array, '*b n d'],
  face: Float[Array, '*b n d'],
  log_scale: Float[Array, ''],
) -> Float[Array, '*b n']:
  """Cross-entropy of finding each window's partner among n, both ways.

  Chance is log n. The windows of one clip compete, so that the person
  never gives the answer away; `log_scale` is learned (InfoNCE).
  """
  scale = jnp.exp(jnp.minimum(log_scale, MAX_LOG_SCALE))
  logits = scale * jnp.einsum('...id,...jd->...ij', audio, face)
  hit = jnp.diagonal(logits, axis1=-2, axis2=-1)  # [*b, n]
  logsumexp = jax.nn.logsumexp
  return (logsumexp(logits, -1) + logsumexp(logits, -2)) / 2 - hit


def lip_opening_regression(
  vectors: Float[Array, '*b n d'], opening: Float[Array, '*b n t']
) -> Float[Array, '*b']:
  """How badly vectors tell how far the lips are apart, frame by frame.

  Read off along fixed directions, `t` cosines, against the mean of the `n`
  windows. Sound and faces then agree on some of what they say before they
  begin to compete, which takes an expert of few speakers off log n.
  """
  d, t = vectors.shape[-1], opening.shape[-1]
  waves = np.pi / d * np.outer(np.arange(d) + 0.5, np.arange(t) + 1)
  read = vectors @ jnp.float32(OPENING_SCALE * np.sqrt(2 / d) * np.cos(waves))
  read -= read.mean(-2, keepdims=True)
  true = (opening - opening.mean(-2, keepdims=True)) / OPENING_STD
  return jnp.square(read - jnp.clip(true, -3, 3)).mean((-2, -1))


def retrieval_accuracy(
  audio: Float[Array, '*b n d'], face: Float[Array, '*b n d']
) -> Float[Array, '*b n']:
  """1 where a sound's nearest face among n is its own, else 0."""
  cosines = jnp.einsum('...id,...jd->...ij', audio, face)
  hit = jnp.diagonal(cosines, axis1=-2, axis2=-1)
  others = jnp.where(jnp.eye(cosines.shape[-1], dtype=bool), -jnp.inf, cosines)
  # Strictly nearer: equal cosines, as of dead towers, are no success.
  return (hit > others.max(-1)).astype(jnp.float32)


def l1_loss(
  made: Float[Array, '*b h w c'],
  true: Float[Array, '*b h w c'],
  where: Float[np.ndarray, 'h w 1'] | None = None,
) -> Float[Array, '*b']:
  """Mean absolute difference of pictures in [0, 1] (equation 1).

  Args:
    where: what each pixel counts, 1 on average; None for all the same.
  """
  apart = jnp.abs(made - true)
  if where is not None:
    apart = apart * jnp.broadcast_to(where, apart.shape)
  return apart.mean((-3, -2, -1))


@functools.cache
def mouth_weight_map(size: int) -> Float[np.ndarray, 'h w 1']:
  """Where lips are in a crop: a bump of mean 1, for `l1_loss`.

  The crops of `faces` are steady, so one place serves everybody.
  """
  at = (np.arange(size) + 0.5) / size
  (u, v), (du, dv) = MOUTH_CENTER, MOUTH_SIGMA
  rows = np.exp(-(((at - v) / dv) ** 2) / 2)
  columns = np.exp(-(((at - u) / du) ** 2) / 2)
  bump = np.outer(rows, columns)[..., None]
  return (bump / bump.mean()).astype(np.float32)


def temporal_difference_loss(
  made: Float[Array, '*b t h w c'],
  true: Float[Array, '*b t h w c'],
  where: Float[np.ndarray, 'h w 1'],
) -> Float[Array, '*b']:
  """Mean squared difference of how the frames of a window differ.

  What is the same in all of them (the person, the light, how soft a young
  generator paints) cancels, and what is left to learn from is what the
  sound tells. Squared, since its mean moves where its median would not.
  Not in Wav2Lip, whose generator learns to listen last of all.
  """
  apart = made - true
  apart = apart - apart.mean(-4, keepdims=True)
  where = jnp.broadcast_to(where, apart.shape)
  return (jnp.square(apart) * where).mean((-4, -3, -2, -1))


def discriminator_real_loss(logit: Float[Array, '*b']) -> Float[Array, '*b']:
  """-log probability that what has this logit is a photograph."""
  return jax.nn.softplus(-logit)


def discriminator_fake_loss(logit: Float[Array, '*b']) -> Float[Array, '*b']:
  """-log probability that what has this logit was generated."""
  return jax.nn.softplus(logit)


# The generator wants its pictures taken for photographs (equation 4;
# "perceptual" in the originals' logs, though it is the plain GAN term).
generator_adversarial_loss = discriminator_real_loss


def sync_weight_target(
  measured: float, weight: float, high: float, low: float, before: float = 0.0
) -> float:
  """The weight that the sync loss should have, from its validation loss.

  Zero above `high`, `weight` at `low` and below, straight between. The
  step walks towards it (`move_towards`).

  Args:
    measured: mean sync loss of the whole validation split.
    high, low: equal for the originals' hard rule, 0.75 there: then the
      weight is never lowered again (spec 4.2). Their 0.75 belongs to an
      expert that normalizes by the batch (spec 4.5).
    before: the goal so far.
  """
  if high == low:
    return weight if measured < high or before else 0.0
  return weight * min(max((high - measured) / (high - low), 0.0), 1.0)


def move_towards(
  now: Float[Array, ''], goal: Float[Array, ''], most: float
) -> Float[Array, '']:
  """`now` moved towards `goal` by `most` at most."""
  return now + jnp.clip(goal - now, -most, most)
