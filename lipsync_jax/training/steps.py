"""Steps: what the device does with one batch. Pure functions.

`step(state, batch, frozen, *, …) -> (state, metrics)` where batches are as
`batches.to_model_inputs` lays them out and `frozen` holds the expert's variables. If
a loss or gradient is not finite, the state comes back as it was but for
`step`, and the metric 'finite' is 0: the loop then stops.

Computation is in the networks' dtype; parameters, statistics, losses and
gradients are float32. Normalization sees the global batch on any mesh.

Alphabet: `b` batch, `t` five frames, `k` windows of a clip, `d` embedding.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lipsync_jax.training import losses
from lipsync_jax.training.state import (
  Networks,
  Optimizers,
  TrainState,
  eval_variables,
  update_ema,
)

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, '']]


def merge_time(x: Float[Array, 'b t *rest']) -> Float[Array, 'bt *rest']:
  """Frames as a batch.  [b, t, ...] -> [b*t, ...]

  Differs from Wav2Lip, which folds time first: no network sees the order,
  and this way a device's rows stay on that device.
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
  """What SyncNet looks at: lower halves, channels frame by frame."""
  half = jnp.moveaxis(frames[:, :, frames.shape[2] // 2 :], 1, 3)
  return half.reshape(*half.shape[:3], -1)  # [b, h/2, w, 3*t]


def apply_network(net, variables: dict, *x, train: bool):
  """A network's output and its statistics after this batch."""
  if not train:
    out = net.apply(variables, *x, train=False)
    return out, variables.get('batch_stats', {})
  out, new = net.apply(variables, *x, train=True, mutable=['batch_stats'])
  return out, new.get('batch_stats', {})


# --- the expert


def embed_windows(net, variables: dict, batch: Batch, train: bool):
  """Unit vectors (audio, face), each [b, d] or [b, k, d], and statistics."""
  mel, frames = batch['mel'], batch['frames']
  b, grouped = mel.shape[0], mel.ndim == 5
  if grouped:
    mel, frames = merge_time(mel), merge_time(frames)
  vectors, stats = apply_network(net, variables, mel, frames, train=train)
  if grouped:
    vectors = tuple(split_time(x, b) for x in vectors)
  return vectors, stats


def syncnet_metrics(audio, face, batch: Batch, log_scale, across: bool) -> dict:
  """Named values [b] of the expert's loss and of how often it is right.

  Pairs with labels give the published loss, groups of windows the
  contrastive one: within each clip, or `across` all of the batch.
  """
  if 'label' in batch:
    label = batch['label']
    right = (losses.cosine_similarity(audio, face) > 0.5) == (label > 0.5)
    values = {'sync': losses.cosine_bce(audio, face, label), 'accuracy': right}
  else:
    b = audio.shape[0]
    if across:
      audio, face = (
        merge_time(audio)[None],
        merge_time(face)[None],
      )  # [1, b*k, d]
    values = {
      'sync': losses.info_nce(audio, face, log_scale),
      'accuracy': losses.retrieval_accuracy(audio, face),
    }
    values = {k: v.reshape(b, -1).mean(-1) for k, v in values.items()}
  return {k: v.astype(jnp.float32) for k, v in values.items()}


def syncnet_train_step(
  state: TrainState,
  batch: Batch,
  frozen: dict,
  *,
  networks: Networks,
  optimizers: Optimizers,
  across: bool = False,
  opening_weight: float = 0.0,
  ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
  """Teach the expert (spec 3.4). `batch`: 'syncnet' or 'contrastive'.

  With an `opening_weight` its vectors shall also tell the lip opening.
  """
  del frozen
  batch_stats = state.batch_stats['syncnet']

  def loss(params):
    given = {'params': params['syncnet'], 'batch_stats': batch_stats}
    (audio, face), stats = embed_windows(
      networks['syncnet'], given, batch, True
    )
    scale = params.get('temperature')
    values = syncnet_metrics(audio, face, batch, scale, across)
    total = values['sync'].mean()
    if opening_weight:
      both = jnp.stack([audio, face])
      true = jnp.broadcast_to(batch['opening'], (2, *batch['opening'].shape))
      values['opening'] = losses.lip_opening_regression(both, true)
      total += opening_weight * values['opening'].mean()
    values = {name: x.mean() for name, x in values.items()}
    return total, (values | {'total': total}, stats)

  grads, (metrics, stats) = jax.grad(loss, has_aux=True)(state.params)
  if 'temperature' in state.params:
    metrics['log_scale'] = state.params['temperature']
  stats = {'syncnet': stats}
  return apply_updates(state, grads, stats, metrics, optimizers, ema_decay)


# --- the generator


def run_generator(net, variables: dict, batch: Batch, train: bool):
  """The faces [b, t, h, w, 3] that a generator makes, and its statistics."""
  made, stats = apply_network(
    net,
    variables,
    merge_time(batch['mels']),
    merge_time(batch['face']),
    train=train,
  )
  return split_time(made, batch['mels'].shape[0]), stats


def generated_sync_loss(
  expert, variables: dict, batch: Batch, made, train: bool
):
  """The sync loss [b] of generated frames; `variables` do not change.

  Differs from Wav2Lip by default: stored statistics. There the frozen
  expert was left in training mode (spec 4.5), which `train` repeats.
  """
  given = batch | {'frames': lower_half_stack(made)}
  (audio, face), _ = embed_windows(expert, variables, given, train)
  return losses.sync_loss(audio, face)


def generator_loss(
  params,
  state: TrainState,
  batch: Batch,
  frozen: dict,
  *,
  networks: Networks,
  weights: dict,
  expert_batch_stats: bool,
):
  """The generator's total loss; aux: losses by name, faces, statistics."""
  given = {'params': params, 'batch_stats': state.batch_stats['generator']}
  made, stats = run_generator(networks['generator'], given, batch, True)
  true, bump = batch['target'], losses.mouth_weight_map(made.shape[-2])
  values = {'l1': losses.l1_loss(made, true)}
  if 'lips' in weights:
    values['lips'] = losses.l1_loss(made, true, bump)
  if 'motion' in weights:
    values['motion'] = losses.temporal_difference_loss(made, true, bump)
  if 'sync' in weights:
    values['sync'] = generated_sync_loss(
      networks['syncnet'], frozen['syncnet'], batch, made, expert_batch_stats
    )
  if 'discriminator' in networks:
    logit = networks['discriminator'].apply(
      {'params': state.params['discriminator']}, merge_time(made), train=True
    )
    values['adversarial'] = losses.generator_adversarial_loss(logit)
  values = {name: x.mean() for name, x in values.items()}
  assert values.keys() == weights.keys(), (values.keys(), weights.keys())
  total = sum(weights[name] * values[name] for name in values)
  return total, (values | {'total': total}, made, stats)


def generator_train_step(
  state: TrainState,
  batch: Batch,
  frozen: dict,
  *,
  networks: Networks,
  optimizers: Optimizers,
  adversarial_weight: float = 0.0,
  calm: float = 0.0,
  lips_weight: float = 0.0,
  motion_weight: float = 0.0,
  sync_rate: float = 1.0,
  ema_decay: float = 0.0,
  expert_batch_stats: bool = False,
) -> tuple[TrainState, Metrics]:
  """Teach the generator (spec 4.2), and a discriminator if there is one.

  In the order of spec 4.4: the discriminator judges for the generator
  with its old parameters, and learns from faces that the old generator
  made.

  Args:
    frozen: {'syncnet': variables of the expert}, or empty without one.
    networks: 'generator', 'syncnet' if an expert teaches, and for HQ
      'discriminator'.
    calm: how much the discriminator's slope at photographs costs it
      (`discriminator_loss_and_grad`); 0 as published.
    lips_weight: share of the pictures' part of the loss that counts the
      lips alone; 0 as published.
    motion_weight: of how lips move within a window, beside the rest.
    sync_rate: by which the sync weight moves towards its goal, a step.
    expert_batch_stats: the expert normalizes by the batch (spec 4.5).
  """
  weights = {}
  if 'syncnet' in networks:
    sync = losses.move_towards(state.sync_weight, state.sync_goal, sync_rate)
    state = state.replace(sync_weight=sync)
    weights['sync'] = sync
  if 'discriminator' in networks:
    weights['adversarial'] = adversarial_weight
  rest = 1.0 - sum(weights.values())
  weights['l1'] = (1.0 - lips_weight) * rest
  if lips_weight:
    weights['lips'] = lips_weight * rest
  if motion_weight:
    weights['motion'] = motion_weight
  teach = functools.partial(
    generator_loss,
    state=state,
    batch=batch,
    frozen=frozen,
    networks=networks,
    weights=weights,
    expert_batch_stats=expert_batch_stats,
  )
  grads, (metrics, made, stats) = jax.grad(teach, has_aux=True)(
    state.params['generator']
  )
  grads, stats = {'generator': grads}, {'generator': stats}
  if 'discriminator' in networks:
    grads['discriminator'], judged = discriminator_loss_and_grad(
      networks['discriminator'], state, batch['target'], made, calm
    )
    metrics, stats['discriminator'] = metrics | judged, {}
  metrics['sync_weight'] = state.sync_weight
  return apply_updates(state, grads, stats, metrics, optimizers, ema_decay)


def hq_train_step(
  state: TrainState, batch: Batch, frozen: dict, *, networks, **values
):
  """`generator_train_step` with a discriminator, which must be there."""
  assert 'discriminator' in networks, networks.keys()
  return generator_train_step(state, batch, frozen, networks=networks, **values)


def discriminator_loss_and_grad(
  net, state: TrainState, true, made, calm: float = 0.0
):
  """The discriminator's gradients, and its two losses, which are added.

  `calm` times the squared slope of its logit at photographs is added (R1,
  Mescheder, Geiger, Nowozin 2018), so that it stays beatable.
  """
  true, made = merge_time(true), jax.lax.stop_gradient(merge_time(made))

  def loss(params):
    def logit(faces):
      return net.apply({'params': params}, faces, train=True)

    values = {
      'real': losses.discriminator_real_loss(logit(true)).mean(),
      'fake': losses.discriminator_fake_loss(logit(made)).mean(),
    }
    total = values['real'] + values['fake']
    if calm:
      slope = jax.grad(lambda faces: logit(faces).sum())(true)
      values['slope'] = jnp.square(slope).sum((1, 2, 3)).mean()
      total += calm * values['slope']
    return total, values

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
  """Update all networks, or none if anything is not finite."""
  params, opt = {}, {}
  for name, grad in grads.items():
    norm = optax.tree.norm(grad)
    metrics[f'grad_norm/{name}'] = norm
    update, opt[name] = optimizers[name].update(
      grad, state.opt[name], state.params[name]
    )
    params[name] = optax.apply_updates(state.params[name], update)
  ema = update_ema(state.ema, params, stats, ema_decay, state.step)
  new = state.replace(params=params, batch_stats=stats, opt=opt, ema=ema)
  finite = functools.reduce(
    jnp.logical_and, [jnp.isfinite(x) for x in metrics.values()]
  )
  kept = jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, state)
  metrics['finite'] = finite.astype(jnp.float32)
  return kept.replace(step=state.step + 1), metrics


# --- measuring


def masked_sums(values: dict, mask: Float[Array, 'b']) -> Metrics:
  """Sums over the rows that count, and their number as 'count'."""
  # where, not a product: what fills up a batch may be anything.
  totals = {name: jnp.where(mask > 0, x, 0).sum() for name, x in values.items()}
  return totals | {'count': mask.sum()}


def syncnet_eval_step(
  state: TrainState, batch: Batch, frozen: dict, *, networks: Networks
) -> Metrics:
  """Sums of the expert's loss and accuracy over a batch with 'mask'."""
  del frozen
  variables = eval_variables(state, 'syncnet')
  vectors, _ = embed_windows(networks['syncnet'], variables, batch, False)
  scale = state.params.get('temperature')
  return masked_sums(
    syncnet_metrics(*vectors, batch, scale, False), batch['mask']
  )


def generator_eval_step(
  state: TrainState, batch: Batch, frozen: dict, *, networks: Networks
) -> Metrics:
  """Sums of the averaged generator's losses over a batch.

  L1 of all and of the lips, the motion of the lips beside that of the real
  ones (what a generator that keeps still would get), and with an expert the
  sync loss beside that of the real lips.
  """
  variables = eval_variables(state, 'generator')
  made, _ = run_generator(networks['generator'], variables, batch, False)
  true, bump = batch['target'], losses.mouth_weight_map(made.shape[-2])
  values = {
    'l1': losses.l1_loss(made, true).mean(-1),
    'lips': losses.l1_loss(made, true, bump).mean(-1),
    'motion': losses.temporal_difference_loss(made, true, bump),
    'motion_of_truth': losses.temporal_difference_loss(
      jnp.zeros_like(true), true, bump
    ),
  }
  if 'syncnet' in networks:
    for name, frames in (('sync', made), ('sync_of_truth', true)):
      values[name] = generated_sync_loss(
        networks['syncnet'], frozen['syncnet'], batch, frames, False
      )
  return masked_sums(values, batch['mask'])


def generate(
  state: TrainState, batch: Batch, frozen: dict, *, networks: Networks
):
  """The averaged generator's faces for a batch.  -> [b, t, h, w, 3]"""
  del frozen
  variables = eval_variables(state, 'generator')
  return run_generator(networks['generator'], variables, batch, False)[0]
