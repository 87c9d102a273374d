"""Losses and metrics of refined mouths. Pure.

Shapes: b batch, h w height and width of a crop.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from lipsync_jax.models import refiner

MOUTH_CENTER = (0.5, 0.47)  # of the crop's sides, x and y
MOUTH_SIGMA = (0.22, 0.16)  # deviations of the mouth's weight
MOUTH_BOX = (0.16, 0.26, 0.84, 0.76)  # x0, y0, x1, y1 of the crop's sides
SSIM_WINDOW = 7  # pixels
SSIM_STABILITY = (0.01**2, 0.03**2)  # of pictures in [0, 1]

Crop = Float[Array, 'b h w 3']
Part = Float[Array, 'b _ _ 3']  # of a crop, or differences of its pixels


@dataclasses.dataclass(frozen=True)
class RefinerLossWeights:
  """Weights of the terms, `config.refiner.loss`.

  Attributes:
    l1: of the refined crop.
    gradient: of its differences of neighboring pixels, which keeps it sharp.
    painted: of the painted picture without the mask.
    mask: of the mean mask outside the hole: lips and skin stay a warp, whose
      pixels are sharp, unless paint is much nearer to the truth.
    mouth: weight of the mouth's pixels beside that of the others, 1.
    hole: added weight of the pixels between the lips.
    adversarial, features: of `adversarial.refiner_terms`, with a discriminator.
    r1_gamma: of the discriminator's penalty (`adversarial`).
  """

  l1: float = 1.0
  gradient: float = 1.0
  painted: float = 0.3
  mask: float = 0.03
  mouth: float = 4.0
  hole: float = 4.0
  adversarial: float = 0.02
  features: float = 0.1
  r1_gamma: float = 1.0


@functools.cache
def mouth_weights(size: int) -> Float32[np.ndarray, 'h w 1']:
  """1 at the middle of the mouth, 0 far from it."""
  at = (np.arange(size) + 0.5) / size
  rows, columns = (
    np.exp(-(((at - middle) / sigma) ** 2) / 2)
    for middle, sigma in zip(MOUTH_CENTER[::-1], MOUTH_SIGMA[::-1], strict=True)
  )
  return np.outer(rows, columns)[..., None].astype(np.float32)


def differences(x: Part) -> tuple[Part, Part]:
  """Differences of neighboring rows and of neighboring columns."""
  return x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]


def weighted_l1(
  x: Part, truth: Part, weight: Float[Array, 'b _ _ 1']
) -> Float[Array, 'b']:
  """Mean absolute difference, weighted."""
  error = jnp.abs(x - truth).mean(-1, keepdims=True)
  return (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))


def gradient_l1(
  x: Crop, truth: Crop, weight: Float[Array, 'b h w 1']
) -> Float[Array, 'b']:
  """`weighted_l1` of the differences of neighboring pixels."""
  parts = zip(differences(x), differences(truth), strict=True)
  near = weight[:, 1:], weight[:, :, 1:]
  return sum(
    weighted_l1(a, b, w) for (a, b), w in zip(parts, near, strict=True)
  )


def loss_terms(
  rgb: Crop,
  mask: Float[Array, 'b h w 1'],
  inputs: dict,
  weights: RefinerLossWeights,
) -> dict[str, Float[Array, 'b']]:
  """Unweighted losses of each pair, by name.

  Args:
    rgb, mask: of the network.
    inputs: of `pair_batches`.
    weights: only the weights of pixels are used.
  """
  truth, warped = inputs['truth'], inputs['warped']
  mouth = (weights.mouth - 1) * mouth_weights(truth.shape[1])[None]
  weight = 1 + mouth + weights.hole * inputs['hole']
  refined = refiner.blend(warped, rgb, mask)
  return {
    'l1': weighted_l1(refined, truth, weight),
    'gradient': gradient_l1(refined, truth, weight),
    'painted': weighted_l1(rgb, truth, weight),
    'mask': (mask * (1 - inputs['hole'])).mean((1, 2, 3)),
  }


def total_loss(
  values: dict[str, Float[Array, '']], weights: RefinerLossWeights
) -> Float[Array, '']:
  """The weighted sum of the terms."""
  return sum(getattr(weights, name) * x for name, x in values.items())


def box_mean(x: Part) -> Part:
  """Means of windows of SSIM_WINDOW pixels that lie inside the picture."""
  window = (1, SSIM_WINDOW, SSIM_WINDOW, 1)
  total = jax.lax.reduce_window(
    x, 0.0, jax.lax.add, window, (1, 1, 1, 1), 'VALID'
  )
  return total / SSIM_WINDOW**2


def ssim(x: Part, y: Part) -> Float[Array, 'b']:
  """Structural similarity of pictures in [0, 1] (Wang et al. 2004).

  With uniform windows and the biased covariance.
  """
  a, b = SSIM_STABILITY
  mx, my = box_mean(x), box_mean(y)
  vx, vy = box_mean(x * x) - mx * mx, box_mean(y * y) - my * my
  cross = box_mean(x * y) - mx * my
  value = (2 * mx * my + a) * (2 * cross + b)
  value = value / ((mx * mx + my * my + a) * (vx + vy + b))
  return value.mean((1, 2, 3))


def mouth_box(x: Float[Array, 'b h w c']) -> Float[Array, 'b _ _ c']:
  """The part of crops that the lips can reach."""
  size = x.shape[1]
  x0, y0, x1, y1 = (round(size * side) for side in MOUTH_BOX)
  return x[:, y0:y1, x0:x1]


def sharpness(x: Crop) -> Float[Array, 'b']:
  """Mean size of the differences of neighboring pixels of the mouth box."""
  return sum(jnp.abs(d).mean((1, 2, 3)) for d in differences(mouth_box(x)))


def hole_sharpness(x: Crop, hole: Float[Array, 'b h w 1']) -> Float[Array, 'b']:
  """Mean size of the differences of neighboring pixels between the lips."""
  inside = hole[:, 1:] * hole[:, :-1], hole[:, :, 1:] * hole[:, :, :-1]
  return sum(
    weighted_l1(change, jnp.zeros_like(change), weight + 1e-6)
    for change, weight in zip(differences(x), inside, strict=True)
  )


def picture_metrics(
  x: Crop, truth: Crop, hole: Float[Array, 'b h w 1']
) -> dict[str, Float[Array, 'b']]:
  """Errors of crops against the truth, in [0, 1], by name.

  Sharpness is relative to the truth's.
  """
  a, b = mouth_box(x), mouth_box(truth)
  return {
    'l1': jnp.abs(a - b).mean((1, 2, 3)),
    'hole_l1': weighted_l1(x, truth, hole + 1e-6),
    'ssim': ssim(a, b),
    'sharpness': sharpness(x) / (sharpness(truth) + 1e-6),
    'hole_sharpness': hole_sharpness(x, hole)
    / (hole_sharpness(truth, hole) + 1e-3),
  }


def selection(metrics: dict[str, float]) -> float:
  """The number by which checkpoints are compared; less is better.

  The mean over the kinds of the errors relative to those of the warp, and of
  how far the mouth's sharpness is from the truth's: L1 and SSIM alone prefer a
  blurred mouth.
  """
  kinds = [kind for kind in ('video', 'photo') if f'{kind}/l1' in metrics]
  costs = []
  for kind in kinds:
    l1, similar = metrics[f'{kind}/l1'], metrics[f'{kind}/ssim']
    plain = max(metrics[f'{kind}/warp/l1'], 1e-6)
    unlike = max(1 - metrics[f'{kind}/warp/ssim'], 1e-6)
    soft = abs(1 - metrics[f'{kind}/sharpness'])
    costs.append((l1 / plain + (1 - similar) / unlike) / 2 + soft)
  return sum(costs) / len(costs)
