"""Losses, metrics, training and evaluation steps of the refiner. Pure.

Shapes: b batch, h w height and width of a crop.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.models import refiner
from lipsync_jax.refinement import pair_batches
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.state import Networks, Optimizers, TrainState
from lipsync_jax.training.steps import apply_updates, masked_sums

NAME = 'refiner'
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
  """

  l1: float = 1.0
  gradient: float = 1.0
  painted: float = 0.3
  mask: float = 0.03
  mouth: float = 4.0
  hole: float = 4.0


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


def network_input(inputs: dict) -> tuple[Array, Array]:
  """Mel window and stacked pictures of a batch."""
  picture = refiner.stack_inputs(
    inputs['warped'], inputs['hole'], inputs['references']
  )
  return inputs['mel'], picture


def train_step(
  state: TrainState,
  batch: dict,
  *,
  networks: Networks,
  optimizers: Optimizers,
  weights: RefinerLossWeights,
  change: Augmentation,
  ema_decay: float = 0.0,
):
  """Train the refiner on one batch of `pair_batches`."""
  net, stats = networks[NAME], state.batch_stats[NAME]
  inputs = pair_batches.augmented_inputs(batch, net.size, change)

  def loss(params):
    (rgb, mask), changed = net.apply(
      {'params': params, 'batch_stats': stats},
      *network_input(inputs),
      train=True,
      mutable=['batch_stats'],
    )
    terms = loss_terms(rgb, mask, inputs, weights)
    values = {name: x.mean() for name, x in terms.items()}
    total = total_loss(values, weights)
    return total, (values | {'total': total}, changed['batch_stats'])

  grads, (metrics, changed) = jax.grad(loss, has_aux=True)(state.params[NAME])
  return apply_updates(
    state, {NAME: grads}, {NAME: changed}, metrics, optimizers, ema_decay
  )


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


def mouth_box(x: Crop) -> Part:
  """The part of crops that the lips can reach."""
  size = x.shape[1]
  x0, y0, x1, y1 = (round(size * side) for side in MOUTH_BOX)
  return x[:, y0:y1, x0:x1]


def sharpness(x: Crop) -> Float[Array, 'b']:
  """Mean size of the differences of neighboring pixels of the mouth box."""
  return sum(jnp.abs(d).mean((1, 2, 3)) for d in differences(mouth_box(x)))


def picture_metrics(
  x: Crop, truth: Crop, hole: Float[Array, 'b h w 1']
) -> dict[str, Float[Array, 'b']]:
  """Errors of crops against the truth, in [0, 1], by name."""
  a, b = mouth_box(x), mouth_box(truth)
  return {
    'l1': jnp.abs(a - b).mean((1, 2, 3)),
    'hole_l1': weighted_l1(x, truth, hole + 1e-6),
    'ssim': ssim(a, b),
    'sharpness': sharpness(x) / (sharpness(truth) + 1e-6),
  }


def eval_step(state: TrainState, batch: dict, *, networks: Networks):
  """Sums of the metrics over a batch with 'mask'."""
  variables = state_lib.eval_variables(state, NAME)
  return evaluate(variables, batch, networks[NAME])


def evaluate(variables: dict, batch: dict, net: refiner.Refiner):
  """`eval_step` for the variables of a refiner.

  Metrics of the refined crop and of the warp alone ('warp/'), for pairs that
  stand for videos ('video/') and for photos ('photo/').
  """
  inputs = pair_batches.to_inputs(batch, net.size)
  rgb, mask = net.apply(variables, *network_input(inputs), train=False)
  refined = refiner.blend(inputs['warped'], rgb, mask)
  values = picture_metrics(refined, inputs['truth'], inputs['hole'])
  plain = picture_metrics(inputs['warped'], inputs['truth'], inputs['hole'])
  values |= {f'warp/{name}': x for name, x in plain.items()}
  values['mask'] = mask.mean((1, 2, 3))
  photo = batch['photo'].astype(jnp.float32)
  out = {}
  for kind, here in (('video', 1 - photo), ('photo', photo)):
    out[f'{kind}/count'] = here
    out |= {f'{kind}/{name}': here * x for name, x in values.items()}
  return masked_sums(out, batch['mask'])


def summarize(means: dict[str, float]) -> dict[str, float]:
  """Metrics of the whole split from the means of `eval_step`."""
  shares = {kind: means[f'{kind}/count'] for kind in ('video', 'photo')}
  out = {}
  for name, x in means.items():
    kind, _, rest = name.partition('/')
    if shares[kind] and rest != 'count':
      out[name] = x / shares[kind]
  return out


def selection(metrics: dict[str, float]) -> float:
  """The number by which checkpoints are compared; less is better.

  The mean over the kinds of the errors relative to those of the warp, and of
  what the mouth lacks of the truth's sharpness: L1 and SSIM alone prefer a
  blurred mouth.
  """
  kinds = [kind for kind in ('video', 'photo') if f'{kind}/l1' in metrics]
  costs = []
  for kind in kinds:
    l1, similar = metrics[f'{kind}/l1'], metrics[f'{kind}/ssim']
    plain = max(metrics[f'{kind}/warp/l1'], 1e-6)
    unlike = max(1 - metrics[f'{kind}/warp/ssim'], 1e-6)
    soft = max(1 - metrics[f'{kind}/sharpness'], 0)
    costs.append((l1 / plain + (1 - similar) / unlike) / 2 + soft)
  return sum(costs) / len(costs)
