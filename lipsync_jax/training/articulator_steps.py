"""Losses, metrics, training and evaluation steps of the articulator. Pure.

Shapes: b batch, f frames, n coefficients, k inner lip pairs.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lipsync_jax.data.motion import CLOSED_OPENING
from lipsync_jax.models import articulator
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.state import Networks, Optimizers, TrainState
from lipsync_jax.training.steps import apply_updates, masked_sums

NAME = 'articulator'
GAP_SCALE = 0.02  # canonical units; the size of a typical error of a gap
CLOSED_GAP = CLOSED_OPENING  # canonical units of lip opening
CLOSURE_TOLERANCE = 1  # frames between a predicted and a true closure
MAX_LAG = 5  # frames, of the lag histogram
TOO_OPEN, TOO_CLOSED = 1.6, 0.7  # weights of the sides of a gap's error
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class ArticulatorLossWeights:
  """Weights of the terms, `config.articulator.loss`.

  Attributes:
    position: of the coefficients, weighted by their share of the variance.
    motion: of the coefficients' differences in time.
    correlation: of one minus the correlation of the lip opening.
    lip_gap: of the gaps of the inner lip pairs; small gaps count most, and
      lips that are too open count more than lips that are too closed.
    gap_decay: rate per canonical unit at which the weight of a gap falls.
    amplitude: of the logarithm of the ratio of standard deviations.
    closure: of the cross-entropy of closed lips.
  """

  position: float = 1.0
  motion: float = 2.0
  correlation: float = 0.3
  lip_gap: float = 0.15
  gap_decay: float = 40.0
  amplitude: float = 0.05
  closure: float = 0.1


def smooth_l1(x: Float[Array, '...']) -> Float[Array, '...']:
  """Huber's loss with its bend at 1."""
  size = jnp.abs(x)
  return jnp.where(size < 1, 0.5 * x * x, size - 0.5)


def binary_cross_entropy(
  logit: Float[Array, 'b f'], label: Bool[Array, 'b f']
) -> Float[Array, 'b f']:
  """Cross-entropy of a logit and its label."""
  return jnp.logaddexp(0, logit) - logit * label


def weighted_mean(
  x: Float[Array, 'b f'], weight: Float[Array, 'b f']
) -> Float[Array, 'b']:
  """Mean over the frames of each window."""
  return (x * weight).sum(-1) / (weight.sum(-1) + EPSILON)


def moments(
  x: Float[Array, 'b f'], y: Float[Array, 'b f'], weight: Float[Array, 'b f']
) -> tuple:
  """Standard deviations of x and y, and their correlation, per window."""
  x = x - weighted_mean(x, weight)[:, None]
  y = y - weighted_mean(y, weight)[:, None]
  xx, yy = weighted_mean(x * x, weight), weighted_mean(y * y, weight)
  dx, dy = jnp.sqrt(xx + EPSILON**2), jnp.sqrt(yy + EPSILON**2)
  return dx, dy, weighted_mean(x * y, weight) / (dx * dy + 1e-7)


def loss_terms(
  predicted: Float[Array, 'b f n'],
  logit: Float[Array, 'b f'],
  batch: dict,
  basis_gaps: Float[Array, 'n k'],
  importance: Float[Array, 'n'],
  gap_decay: float,
) -> dict[str, Float[Array, 'b']]:
  """Unweighted losses of each window, by name.

  Args:
    predicted: coefficients.
    logit: of closed lips.
    batch: of `motion_batches`.
    basis_gaps: of `motion.MotionBasis`.
    importance: of each coefficient, mean 1.
    gap_decay: see `ArticulatorLossWeights`.
  """
  weight, true = batch['valid'], batch['coefficients']
  error = (predicted - true) * importance[None, None]
  step = error[:, 1:] - error[:, :-1]
  pair = weight[:, 1:] * weight[:, :-1]
  neutral = batch['neutral_gaps'][:, None]
  gaps, true_gaps = predicted @ basis_gaps + neutral, batch['gaps']
  near = jnp.exp(-gap_decay * jnp.maximum(true_gaps, 0))
  excess = (gaps - true_gaps) / GAP_SCALE
  tilt = jnp.where(excess > 0, TOO_OPEN, TOO_CLOSED)
  apart = near * tilt * smooth_l1(excess)
  opening, true_opening = gaps.mean(-1), true_gaps.mean(-1)
  dx, dy, correlation = moments(opening, true_opening, weight)
  # Windows without motion have no correlation and no amplitude.
  moving = dy > 0.1 * GAP_SCALE
  return {
    'position': weighted_mean(smooth_l1(error).mean(-1), weight),
    'motion': weighted_mean(smooth_l1(step).mean(-1), pair),
    'correlation': jnp.where(moving, 1 - correlation, 0),
    'lip_gap': weighted_mean(apart[..., 1:-1].mean(-1), weight),
    'closure': weighted_mean(
      binary_cross_entropy(logit, true_opening < CLOSED_GAP), weight
    ),
    'amplitude': jnp.where(
      moving, jnp.square(jnp.log((dx + 1e-3) / (dy + 1e-3))), 0
    ),
  }


def dilate(x: Float[Array, 'b f'], reach: int) -> Float[Array, 'b f']:
  """The maximum over neighboring frames."""
  padded = jnp.pad(x, ((0, 0), (reach, reach)))
  size = x.shape[1]
  parts = [padded[:, i : i + size] for i in range(2 * reach + 1)]
  return jnp.stack(parts).max(0)


def opening_metrics(
  opening: Float[Array, 'b f'],
  truth: Float[Array, 'b f'],
  valid: Float[Array, 'b f'],
  speech: Float[Array, 'b f'],
) -> dict[str, Float[Array, 'b']]:
  """Sums and means that describe the predicted lip opening of each clip.

  Args:
    opening, truth: canonical units.
    valid, speech: 1 for frames of the clip, and for those with sound.

  Returns:
    'correlation', 'amplitude' (ratio of standard deviations), counts of
    closures in speech, and 'lag/L': 1 for the lag in frames with the highest
    correlation; positive: the prediction is late.
  """
  dx, dy, correlation = moments(opening, truth, valid)
  found = (opening < CLOSED_GAP) * speech
  true = (truth < CLOSED_GAP) * speech
  reach = CLOSURE_TOLERANCE
  out = {
    'correlation': correlation,
    'amplitude': dx / (dy + EPSILON),
    'closures/true': true.sum(-1),
    'closures/predicted': found.sum(-1),
    'closures/recalled': (true * dilate(found, reach)).sum(-1),
    'closures/right': (found * dilate(true, reach)).sum(-1),
  }
  lags = range(-MAX_LAG, MAX_LAG + 1)
  at_lags = jnp.stack(
    [lagged_correlation(opening, truth, valid, lag) for lag in lags], -1
  )
  best = at_lags.argmax(-1)
  return out | {
    f'lag/{lag:+d}': (best == i).astype(jnp.float32)
    for i, lag in enumerate(lags)
  }


def lagged_correlation(
  opening: Float[Array, 'b f'],
  truth: Float[Array, 'b f'],
  valid: Float[Array, 'b f'],
  lag: int,
) -> Float[Array, 'b']:
  """Correlation of the opening `lag` frames later with the truth."""
  count = opening.shape[1] - abs(lag)
  late, early = max(lag, 0), max(-lag, 0)
  x, wx = (v[:, late : late + count] for v in (opening, valid))
  y, wy = (v[:, early : early + count] for v in (truth, valid))
  return moments(x, y, wx * wy)[2]


def predict(
  net: articulator.Articulator, variables: dict, batch: dict, key=None
) -> tuple[Float[Array, 'b f n'], Float[Array, 'b f']]:
  """Coefficients, and the logit of closed lips, at the frames of a batch.

  Args:
    key: of the dropout; None for inference.
  """
  rngs = {} if key is None else {'dropout': key}
  steps, logits = net.apply(
    {'params': variables['params']},
    batch['mel'],
    train=key is not None,
    rngs=rngs,
  )
  positions = articulator.step_positions(batch['times'])
  steps = jnp.concatenate([steps, logits[..., None]], -1)
  out = articulator.interpolate(steps, positions, jnp)
  return out[..., :-1], out[..., -1]


def train_step(
  state: TrainState,
  batch: dict,
  *,
  networks: Networks,
  optimizers: Optimizers,
  weights: ArticulatorLossWeights,
  basis_gaps: Float[Array, 'n k'],
  importance: Float[Array, 'n'],
  ema_decay: float = 0.0,
):
  """Train the articulator on one batch of `motion_batches`."""

  def loss(params):
    key = jax.random.key(batch['seed'][0])
    predicted = predict(networks[NAME], {'params': params}, batch, key)
    values = loss_terms(
      *predicted, batch, basis_gaps, importance, weights.gap_decay
    )
    values = {name: x.mean() for name, x in values.items()}
    total = sum(getattr(weights, name) * x for name, x in values.items())
    return total, values | {'total': total}

  grads, metrics = jax.grad(loss, has_aux=True)(state.params[NAME])
  return apply_updates(
    state, {NAME: grads}, {NAME: {}}, metrics, optimizers, ema_decay
  )


def eval_step(
  state: TrainState,
  batch: dict,
  *,
  networks: Networks,
  basis_gaps: Float[Array, 'n k'],
  speakers: tuple[str, ...],
):
  """Sums of the metrics over a batch of whole clips with 'mask'."""
  variables = state_lib.eval_variables(state, NAME)
  return evaluate(variables, batch, networks[NAME], basis_gaps, speakers)


def evaluate(
  variables: dict,
  batch: dict,
  net: articulator.Articulator,
  basis_gaps: Float[Array, 'n k'],
  speakers: tuple[str, ...],
):
  """`eval_step` for the variables of an articulator."""
  predicted, _ = predict(net, variables, batch)
  gaps = predicted @ basis_gaps + batch['neutral_gaps'][:, None]
  opening, truth = gaps.mean(-1), batch['gaps'].mean(-1)
  values = opening_metrics(opening, truth, batch['valid'], batch['speech'])
  for number, name in enumerate(speakers):
    here = (batch['speaker'] == number).astype(jnp.float32)
    values[f'speaker/{name}/count'] = here
    values[f'speaker/{name}/correlation'] = here * values['correlation']
  return masked_sums(values, batch['mask'])


def summarize(means: dict[str, float]) -> dict[str, float]:
  """Metrics of the whole split from the means of `eval_step`.

  Returns:
    'correlation' and 'amplitude' (means over clips), 'closure_recall',
    'closure_precision', 'closure_f1', the lag histogram, and the correlation of
    each speaker.
  """
  out = {
    name: value
    for name, value in means.items()
    if not name.startswith(('closures/', 'speaker/'))
  }
  recall = means['closures/recalled'] / max(means['closures/true'], 1e-9)
  precision = means['closures/right'] / max(means['closures/predicted'], 1e-9)
  out['closure_recall'], out['closure_precision'] = recall, precision
  out['closure_f1'] = 2 * recall * precision / max(recall + precision, 1e-9)
  for name, count in means.items():
    if name.startswith('speaker/') and name.endswith('/count'):
      stem = name.removesuffix('/count')
      value = means[f'{stem}/correlation']
      out[f'correlation/{stem.removeprefix("speaker/")}'] = value / count
  return out
