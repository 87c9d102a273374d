"""Recipe: what a config asks for, built: networks, optimizers, steps.

The only place that unpacks the parts of a config that shape learning;
`train` unpacks those of the run and of its data.
"""

import dataclasses
import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax

from lipsync_jax import audio, models
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import augmentation
from lipsync_jax.models import flops
from lipsync_jax.training import distributed, losses, optimizer, steps
from lipsync_jax.training.state import TrainState, eval_variables
from lipsync_jax.weights import convert, safetensors_file

STAGES = ('syncnet', 'generator', 'hq')


class StageError(LipSyncError):
  """A config that cannot be trained; one line says which field."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of training, without its data."""

  network: str  # what is trained and exported
  kind: str  # of windows, see `windows.KINDS`
  init: dict[str, Any]  # arguments of `state.init_state`
  step: Callable  # (state, batch, frozen) -> (state, metrics)
  measure: Callable  # (state, batch, frozen) -> sums
  show: Callable | None  # (state, batch, frozen) -> batch and faces
  frozen: dict[str, Any]  # variables of the expert
  rate: Callable  # learning rate of an update
  change: augmentation.Augmentation | None
  windows: dict[str, Any]  # arguments of `batches.index_dataset`
  pictures: int  # faces that a row of a batch teaches
  flops: int  # operations of a step, for a row of its batch


def build_stage(config) -> Stage:
  """Build what a locked config describes.

  Raises:
    RecipeError: an unknown stage, or an expert that does not fit.
  """
  if config.stage not in STAGES:
    raise StageError(
      f'expected a stage of {STAGES}, found {config.stage!r}; set '
      '--config.stage'
    )
  expert = config.stage == 'syncnet'
  kind = config.data.kind if expert else _generator_kind(config)
  change = (
    augmentation.Augmentation(**config.augment) if config.augmented else None
  )
  rate = optimizer.learning_rate_schedule(
    config.optimizer.rate,
    config.optimizer.warmup_steps,
    config.optimizer.decay_steps,
  )
  optimizer = optimizer.adam_optimizer(
    rate,
    b1=config.optimizer.b1,
    b2=config.optimizer.b2,
    clip=config.optimizer.clip,
    every=config.optimizer.every,
  )
  pairs = config.data
  values = {
    'order': pairs.order,
    'apart': pairs.apart or None,
    'most': pairs.most or None,
    'edges': pairs.edges,
  }
  if kind == 'contrastive':
    values['group'] = pairs.group
  else:
    values['elsewhere'] = pairs.elsewhere
  common = {
    'kind': kind,
    'rate': rate,
    'change': change,
    'windows': values,
    'pictures': {'contrastive': 5 * pairs.group, 'pair': 2}.get(kind, 5),
  }
  build = syncnet_stage if expert else generator_stage
  return build(config, optimizer, common)


def _generator_kind(config) -> str:
  """The kind of windows that teach a generator."""
  if config.data.frames not in (2, audio.FRAMES_PER_WINDOW):
    raise StageError(
      f'expected 2 or {audio.FRAMES_PER_WINDOW} frames of a window, found '
      f'{config.data.frames}; set --config.data.frames'
    )
  return 'pair' if config.data.frames == 2 else 'generator'


def _build_network(config, network: str):
  net = config.net
  return models.build_model(network, net.size, net.width, net.dtype)


def syncnet_stage(config, optimizer, common: dict) -> Stage:
  networks = {'syncnet': _build_network(config, 'syncnet')}
  optimizers = {'syncnet': optimizer}
  if common['kind'] == 'contrastive':
    optimizers['temperature'] = optimizer
  elif config.opening_weight:
    raise StageError(
      'expected no opening_weight with published pairs, found '
      f'{config.opening_weight:g}; set --config.data.kind=contrastive'
    )
  init = {
    'networks': networks,
    'optimizers': optimizers,
    'log_scale': losses.LOG_SCALE,
    'averaged': ('syncnet',) if config.ema_decay else (),
  }
  step = functools.partial(
    steps.syncnet_train_step,
    networks=networks,
    optimizers=optimizers,
    across=config.across,
    opening_weight=config.opening_weight,
    ema_decay=config.ema_decay,
  )
  measure = functools.partial(steps.syncnet_eval_step, networks=networks)
  heard = common['pictures'] // audio.FRAMES_PER_WINDOW
  return Stage(
    network='syncnet',
    init=init,
    step=step,
    measure=measure,
    show=None,
    frozen={},
    flops=heard
    * flops.train_window_flops('syncnet', config.net.size, config.net.width),
    **common,
  )


def generator_stage(config, optimizer, common: dict) -> Stage:
  names = ('generator', 'discriminator')[: 1 + (config.stage == 'hq')]
  trained = {name: _build_network(config, name) for name in names}
  if config.ears:
    trained['generator'] = trained['generator'].clone(given_ears=True)
  networks, frozen = dict(trained), {}
  if common['kind'] == 'generator':  # an expert needs all five frames
    networks['syncnet'], frozen['syncnet'] = load_expert_syncnet(config)
  expert = networks['syncnet'].width if 'syncnet' in networks else None
  optimizers = dict.fromkeys(names, optimizer)
  values = {
    'sync_rate': config.sync.weight / max(config.sync.ramp_steps, 1),
    'ema_decay': config.ema_decay,
    'expert_batch_stats': config.expert_batch_stats,
    'lips_weight': config.lips_weight,
    'motion_weight': config.motion_weight,
  }
  step = steps.generator_train_step
  if config.stage == 'hq':
    step, values['adversarial_weight'] = (
      steps.hq_train_step,
      config.adversarial_weight,
    )
    values['calm'] = config.calm
  init = {
    'networks': trained,
    'optimizers': optimizers,
    'averaged': ('generator',) if config.ema_decay else (),
  }
  return Stage(
    network='generator',
    init=init,
    step=functools.partial(
      step, networks=networks, optimizers=optimizers, **values
    ),
    measure=functools.partial(steps.generator_eval_step, networks=networks),
    show=functools.partial(generate_samples, networks=networks),
    frozen=frozen,
    flops=flops.train_window_flops(
      config.stage,
      config.net.size,
      config.net.width,
      common['pictures'],
      expert,
    ),
    **common,
  )


def generate_samples(
  state: TrainState, batch: dict, frozen: dict, *, networks: dict
) -> dict:
  """A batch and the faces made for it, as strips want them."""
  made = steps.generate(state, batch, frozen, networks=networks)
  return {'face': batch['face'], 'made': made, 'true': batch['target']}


def load_expert_syncnet(config):
  """The expert's module and variables, from the file that the config names."""
  if not config.expert:
    raise StageError(
      'expected the weights of an expert, found none: train one with '
      '--config=configs/syncnet.py and set --config.expert=FILE'
    )
  found = convert.load_any(config.expert, 'syncnet')
  if found.size != config.net.size:
    raise StageError(
      f'{config.expert}: expected an expert of {config.net.size} pixels, '
      f'found {found.size}; set --config.net.size or choose another'
    )
  net = models.build_model('syncnet', found.size, found.width, config.net.dtype)
  return net, found.variables


def export_weights(
  path, found: Stage, state: TrainState, config, meta: dict
) -> None:
  """Write what `sync` or the next stage needs, averaged where it is kept.

  All processes bring their parts together, the first one writes.
  """
  variables = distributed.fully_replicate(eval_variables(state, found.network))
  if not distributed.is_process_zero():
    return
  safetensors_file.save(
    path,
    safetensors_file.Weights(
      found.network,
      config.net.size,
      config.net.width,
      jax.device_get(variables),
      source=f'trained by lipsync_jax, stage {config.stage}',
      # Only the generator's window starts before its frame.
      mel_lead=safetensors_file.LEAD
      if found.network == 'generator'
      else Fraction(0),
      meta=meta,
    ),
  )
