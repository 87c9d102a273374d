"""Training and evaluation steps: the device's work for one batch. Pure.

A training step is `step(state, batch, expert_variables) -> (state, metrics)`
with batches as `batches.to_model_inputs` lays them out. If a loss or gradient
is not finite, the state comes back unchanged but for `step`, and the metric
'finite' is 0: the loop then stops.

The networks compute in their dtype; parameters, statistics, losses and
gradients are float32. BatchNorm sees the global batch on any mesh.

Shapes: b batch, t frames of a window, k windows of a clip, d embedding.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lipsync_jax.training import losses
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.objective import (
  LossTerm,
  Prediction,
  embed_windows,
  generated_sync_loss,
  merge_time,
  run_generator,
)
from lipsync_jax.training.state import Networks, Optimizers, TrainState

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, '']]


# --- SyncNet


def syncnet_metrics(
  audio, face, batch: Batch, log_scale, negatives: str
) -> dict:
  """Sync loss and accuracy of SyncNet, by name, [b] each.

  Pairs with labels give the published loss. Groups of windows give the
  contrastive loss.

  Args:
    audio, face: unit vectors, [b, d] or [b, k, d].
    log_scale: logarithm of the inverse temperature.
    negatives: 'clip': the windows of a clip compete; 'batch': all windows do.
  """
  if 'label' in batch:
    label = batch['label']
    cosine = losses.cosine_similarity(audio, face)
    right = (cosine > 0.5) == (label > 0.5)
    values = {'sync': losses.cosine_bce(audio, face, label), 'accuracy': right}
  else:
    b = audio.shape[0]
    if negatives == 'batch':
      audio, face = merge_time(audio)[None], merge_time(face)[None]
    values = {
      'sync': losses.info_nce(audio, face, log_scale),
      'accuracy': losses.retrieval_accuracy(audio, face),
    }
    values = {k: v.reshape(b, -1).mean(-1) for k, v in values.items()}
  return {k: v.astype(jnp.float32) for k, v in values.items()}


def syncnet_train_step(
  state: TrainState,
  batch: Batch,
  *,
  networks: Networks,
  optimizers: Optimizers,
  negatives: str = 'clip',
  lip_opening_weight: float = 0.0,
  ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
  """Train SyncNet on one batch (spec 3.4).

  Args:
    batch: of the spec 'syncnet' or 'contrastive'.
    negatives: see `syncnet_metrics`.
    lip_opening_weight: of the lip-opening regression from its vectors.
  """
  batch_stats = state.batch_stats['syncnet']

  def loss(params):
    variables = {'params': params['syncnet'], 'batch_stats': batch_stats}
    (audio, face), stats = embed_windows(
      networks['syncnet'], variables, batch, True
    )
    scale = params.get('temperature')
    values = syncnet_metrics(audio, face, batch, scale, negatives)
    total = values['sync'].mean()
    if lip_opening_weight:
      both = jnp.stack([audio, face])
      opening = batch['opening']
      target = jnp.broadcast_to(opening, (2, *opening.shape))
      values['lip_opening'] = losses.lip_opening_regression(both, target)
      total += lip_opening_weight * values['lip_opening'].mean()
    values = {name: x.mean() for name, x in values.items()}
    return total, (values | {'total': total}, stats)

  grads, (metrics, stats) = jax.grad(loss, has_aux=True)(state.params)
  if 'temperature' in state.params:
    metrics['log_scale'] = state.params['temperature']
  stats = {'syncnet': stats}
  return apply_updates(state, grads, stats, metrics, optimizers, ema_decay)


# --- generator and discriminator


def generator_loss(
  params,
  state: TrainState,
  batch: Batch,
  expert_variables: dict | None,
  *,
  networks: Networks,
  terms: tuple[LossTerm, ...],
):
  """The generator's total loss; aux: losses by name, faces, statistics."""
  batch_stats = state.batch_stats['generator']
  variables = {'params': params, 'batch_stats': batch_stats}
  generated, stats = run_generator(
    networks['generator'], variables, batch, True
  )
  discriminator = state.params.get('discriminator')
  prediction = Prediction(generated, batch, expert_variables, discriminator)
  values = {term.name: term.value(prediction).mean() for term in terms}
  total = sum(
    term.weight(state.sync_weight) * values[term.name] for term in terms
  )
  return total, (values | {'total': total}, generated, stats)


def generator_train_step(
  state: TrainState,
  batch: Batch,
  expert_variables: dict | None,
  *,
  networks: Networks,
  optimizers: Optimizers,
  terms: tuple[LossTerm, ...],
  r1_gamma: float = 0.0,
  sync_rate: float = 1.0,
  ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
  """Train the generator (spec 4.2), and a discriminator if there is one.

  In the order of spec 4.4: the generator's adversarial loss uses the
  discriminator's old parameters, and the discriminator learns from faces of
  the old generator.

  Args:
    expert_variables: of the expert SyncNet; None without one.
    networks: 'generator', 'syncnet' if there is an expert, and for HQ
      'discriminator'.
    terms: of `objective.generator_terms` for the same networks.
    r1_gamma: see `discriminator_loss_and_grad`.
    sync_rate: by which the sync weight approaches its target, a step.
  """
  if 'syncnet' in networks:
    weight = losses.move_towards(state.sync_weight, state.sync_goal, sync_rate)
    state = state.replace(sync_weight=weight)
  loss = functools.partial(
    generator_loss,
    state=state,
    batch=batch,
    expert_variables=expert_variables,
    networks=networks,
    terms=terms,
  )
  grads, (metrics, generated, stats) = jax.grad(loss, has_aux=True)(
    state.params['generator']
  )
  grads, stats = {'generator': grads}, {'generator': stats}
  if 'discriminator' in networks:
    grads['discriminator'], values = discriminator_loss_and_grad(
      networks['discriminator'], state, batch['target'], generated, r1_gamma
    )
    metrics, stats['discriminator'] = metrics | values, {}
  metrics['sync_weight'] = state.sync_weight
  return apply_updates(state, grads, stats, metrics, optimizers, ema_decay)


def discriminator_loss_and_grad(
  net, state: TrainState, target, generated, r1_gamma: float = 0.0
):
  """The discriminator's gradients, and its losses by name.

  See `losses.discriminator_terms`.
  """
  target = merge_time(target)
  generated = jax.lax.stop_gradient(merge_time(generated))

  def loss(params):
    def logit(faces):
      return net.apply({'params': params}, faces, train=True)

    return losses.discriminator_terms(logit, target, generated, r1_gamma)

  return jax.grad(loss, has_aux=True)(state.params['discriminator'])


# --- both


def apply_updates(
  state: TrainState,
  grads: dict,
  stats: dict,
  metrics: Metrics,
  optimizers: Optimizers,
  ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
  """Update all networks, or none if a metric is not finite."""
  params, opt = {}, {}
  for name, grad in grads.items():
    metrics[f'grad_norm/{name}'] = optax.tree.norm(grad)
    update, opt[name] = optimizers[name].update(
      grad, state.opt[name], state.params[name]
    )
    params[name] = optax.apply_updates(state.params[name], update)
  ema = state_lib.update_ema(state.ema, params, stats, ema_decay, state.step)
  new = state.replace(params=params, batch_stats=stats, opt=opt, ema=ema)
  finite = functools.reduce(
    jnp.logical_and, [jnp.isfinite(x) for x in metrics.values()]
  )
  chosen = jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, state)
  metrics['finite'] = finite.astype(jnp.float32)
  return chosen.replace(step=state.step + 1), metrics


# --- evaluation


def masked_sums(values: dict, mask: Float[Array, 'b']) -> Metrics:
  """Sums over the rows with mask 1, and their number as 'count'."""
  # where, not a product: rows that fill up a batch may hold anything.
  totals = {name: jnp.where(mask > 0, x, 0).sum() for name, x in values.items()}
  return totals | {'count': mask.sum()}


def syncnet_eval_step(
  state: TrainState, batch: Batch, *, networks: Networks
) -> Metrics:
  """Sums of SyncNet's loss and accuracy over a batch with 'mask'."""
  variables = state_lib.eval_variables(state, 'syncnet')
  vectors, _ = embed_windows(networks['syncnet'], variables, batch, False)
  scale = state.params.get('temperature')
  values = syncnet_metrics(*vectors, batch, scale, 'clip')
  return masked_sums(values, batch['mask'])


def generator_eval_step(
  state: TrainState,
  batch: Batch,
  expert_variables: dict | None,
  *,
  networks: Networks,
) -> Metrics:
  """Sums of the averaged generator's losses over a batch with 'mask'.

  L1 of the crop and of the mouth; the temporal difference loss beside that of
  motionless lips ('temporal/static_baseline'); with an expert, the sync loss
  beside that of real lips ('sync/ground_truth').
  """
  variables = state_lib.eval_variables(state, 'generator')
  generated, _ = run_generator(networks['generator'], variables, batch, False)
  target = batch['target']
  mouth = losses.mouth_weight_map(generated.shape[-2])
  temporal = losses.temporal_difference_loss
  values = {
    'l1': losses.l1_loss(generated, target).mean(-1),
    'mouth_l1': losses.l1_loss(generated, target, mouth).mean(-1),
    'temporal': temporal(generated, target, mouth),
    'temporal/static_baseline': temporal(jnp.zeros_like(target), target, mouth),
  }
  if 'syncnet' in networks:
    for name, frames in (('sync', generated), ('sync/ground_truth', target)):
      values[name] = generated_sync_loss(
        networks['syncnet'], expert_variables, batch, frames, False
      )
  return masked_sums(values, batch['mask'])


def generate(
  state: TrainState, batch: Batch, *, networks: Networks
) -> Float[Array, 'b t h w 3']:
  """Faces of the averaged generator for a batch."""
  variables = state_lib.eval_variables(state, 'generator')
  return run_generator(networks['generator'], variables, batch, False)[0]
