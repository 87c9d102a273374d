"""Training and evaluation steps of the refiner. Pure.

Shapes: b batch, h w height and width of a crop.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.models import refiner
from lipsync_jax.refinement import adversarial, pair_batches, refiner_losses
from lipsync_jax.refinement.refiner_losses import RefinerLossWeights
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.state import Networks, Optimizers, TrainState
from lipsync_jax.training.steps import apply_updates, masked_sums

NAME = 'refiner'


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
  """Train the refiner on one batch of `pair_batches`.

  With a discriminator in `networks`, it learns from the pictures of the old
  refiner, and the refiner from the old discriminator.
  """
  net, stats = networks[NAME], state.batch_stats[NAME]
  judge = networks.get(adversarial.NAME)
  judge_params = state.params.get(adversarial.NAME)
  inputs = pair_batches.augmented_inputs(batch, net.size, change)

  def loss(params):
    (rgb, mask), changed = net.apply(
      {'params': params, 'batch_stats': stats},
      *network_input(inputs),
      train=True,
      mutable=['batch_stats'],
    )
    terms = refiner_losses.loss_terms(rgb, mask, inputs, weights)
    values = {name: x.mean() for name, x in terms.items()}
    refined = refiner.blend(inputs['warped'], rgb, mask)
    if judge:
      values |= adversarial.refiner_terms(judge, judge_params, refined, inputs)
    total = refiner_losses.total_loss(values, weights)
    return total, (values | {'total': total}, changed['batch_stats'], refined)

  found = jax.grad(loss, has_aux=True)(state.params[NAME])
  grads, (metrics, changed, refined) = {NAME: found[0]}, found[1]
  changed = {NAME: changed}
  if judge:
    learn = jax.grad(adversarial.discriminator_loss, has_aux=True)
    grads[adversarial.NAME], values = learn(
      judge_params, judge, refined, inputs, weights.r1_gamma
    )
    metrics, changed[adversarial.NAME] = metrics | values, {}
  return apply_updates(state, grads, changed, metrics, optimizers, ema_decay)


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
  values = refiner_losses.picture_metrics(
    refined, inputs['truth'], inputs['hole']
  )
  values['mask'] = mask.mean((1, 2, 3))
  return _sums_by_kind(values | _warp_metrics(inputs), batch)


def evaluate_warp(batch: dict, size: int):
  """The metrics of the warp alone, as of `evaluate`.

  Args:
    batch: of `pair_batches.WholeSplit`.
    size: pixels of a crop.
  """
  inputs = pair_batches.to_inputs(batch, size)
  return _sums_by_kind(_warp_metrics(inputs), batch)


def _warp_metrics(inputs: dict) -> dict[str, Array]:
  values = refiner_losses.picture_metrics(
    inputs['warped'], inputs['truth'], inputs['hole']
  )
  return {f'warp/{name}': x for name, x in values.items()}


def _sums_by_kind(values: dict[str, Array], batch: dict) -> dict[str, Array]:
  """Sums of metrics over the pairs of videos and over those of photos."""
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
