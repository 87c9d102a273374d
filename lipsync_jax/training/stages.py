"""Training stages: the networks, optimizers and steps that a config describes.

The only place that unpacks the parts of a config that shape learning; `train`
unpacks those of the run and of its data. A new stage is one more builder.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax

from lipsync_jax import models
from lipsync_jax.audio import CENTERED_LEAD, FRAMES_PER_WINDOW
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import motion_batches
from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.data.windows import WINDOW_SPECS, WindowSpec
from lipsync_jax.models import flops
from lipsync_jax.training import (
  articulator_stage,
  distributed,
  losses,
  objective,
  steps,
)
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.articulator_stage import MotionData
from lipsync_jax.training.objective import LossWeights
from lipsync_jax.training.state import TrainState
from lipsync_jax.weights import convert, safetensors_file

STAGES = ('syncnet', 'generator', 'hq')  # of one after the other
ALL_STAGES = (*STAGES, 'articulator')


class StageError(LipSyncError):
  """A config that describes no trainable stage."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of training, without its data."""

  network: str  # the network that is trained and exported
  spec: WindowSpec | None  # the kind of training example, of pictures
  init: dict[str, Any]  # arguments of `state.init_state`
  train_step: Callable  # (state, batch, expert_variables) -> (state, metrics)
  eval_step: Callable  # (state, batch, expert_variables) -> sums
  generate: Callable | None  # (state, batch) -> columns of `sample_grid`
  expert_variables: dict[str, Any] | None  # of the expert SyncNet
  learning_rate: Callable  # of an update
  augmentation: Augmentation | None
  windows: dict[str, Any]  # arguments of `batches.index_dataset`
  flops: int  # operations of a step, for one row of its batch
  motion: MotionData | None = None  # the articulator's data
  # From the means of the evaluation sums to the metrics of a validation.
  summarize: Callable[[dict], dict] = dict
  # Of stages of other packages, in place of what this package does:
  pipeline: Callable | None = None  # (config, mesh) -> InputPipeline
  select: Callable | None = None  # (metrics) -> number, less is better
  export: Callable | None = None  # as of `NetworkFactory`
  load_weights: Callable | None = None  # (path, state) -> state, first weights

  @property
  def faces(self) -> int:
    """Faces that one row of a batch trains on."""
    if self.motion:
      return motion_batches.WINDOW_FRAMES
    return self.spec.faces if self.spec else 1


@dataclasses.dataclass(frozen=True)
class NetworkFactory:
  """How a stage gets its networks; tests put small ones here.

  Attributes:
    build: (model config, network name) -> Linen module.
    load_expert: (config) -> (module, variables) of the expert SyncNet.
    export: (path, stage, state, config, meta) writes the trained network.
    stages: builders (config) -> Stage of stages of other packages, by name.
  """

  build: Callable
  load_expert: Callable
  export: Callable
  stages: Mapping[str, Callable] = dataclasses.field(default_factory=dict)


def build_stage(config, networks: NetworkFactory | None = None) -> Stage:
  """Build the stage that a locked config describes.

  Raises:
    StageError: an unknown stage, or an expert that does not fit.
  """
  others = networks.stages if networks else {}
  if config.stage in others:
    return others[config.stage](config)
  if config.stage not in ALL_STAGES:
    known = (*ALL_STAGES, *others)
    raise StageError(
      f'expected a stage of {known}, found {config.stage!r}; set --config.stage'
    )
  if config.stage == 'articulator':
    return motion_stage(config)
  is_syncnet = config.stage == 'syncnet'
  name = config.data.kind if is_syncnet else _generator_kind(config)
  if name not in WINDOW_SPECS:
    raise StageError(
      f'expected a kind of window of {tuple(WINDOW_SPECS)}, found {name!r}; '
      'set --config.data.kind'
    )
  spec, data = WINDOW_SPECS[name], config.data
  values = {
    'sampling': data.sampling,
    'min_offset': data.min_offset or None,
    'max_offset': data.max_offset or None,
    'pad_audio': data.pad_audio,
  }
  if spec.is_contrastive:
    count = data.windows_per_clip
    spec = dataclasses.replace(spec, windows_per_clip=count)
  else:
    values['cross_clip_probability'] = data.cross_clip_probability
  fields = config.optimizer
  rate = state_lib.learning_rate_schedule(
    fields.learning_rate, fields.warmup_steps, fields.decay_steps
  )
  optimizer = state_lib.adam_optimizer(
    rate,
    b1=fields.b1,
    b2=fields.b2,
    grad_clip_norm=fields.grad_clip_norm,
    accumulate_steps=fields.accumulate_steps,
  )
  augment = config.augment.to_dict()
  enabled = augment.pop('enabled')
  common = {
    'spec': spec,
    'learning_rate': rate,
    'augmentation': Augmentation(**augment) if enabled else None,
    'windows': values,
  }
  build = syncnet_stage if is_syncnet else generator_stage
  return build(config, optimizer, common, networks or DEFAULT_NETWORKS)


def motion_stage(config) -> Stage:
  """The articulator. Reads its data, since its basis comes from them."""
  fields = config.optimizer
  rate = state_lib.learning_rate_schedule(
    fields.learning_rate, fields.warmup_steps, fields.decay_steps
  )
  return Stage(
    spec=None,
    generate=None,
    expert_variables=None,
    learning_rate=rate,
    augmentation=None,
    windows={},
    **articulator_stage.stage_values(config, rate),
  )


def _generator_kind(config) -> str:
  """The name of the spec whose windows train a generator."""
  count = config.data.frames_per_window
  if count not in (2, FRAMES_PER_WINDOW):
    raise StageError(
      f'expected 2 or {FRAMES_PER_WINDOW} frames of a window, found {count}; '
      'set --config.data.frames_per_window'
    )
  return 'pair' if count == 2 else 'generator'


def build_network(model, network: str):
  """The Linen module of a network.

  Args:
    model: `config.model`.
    network: of `models.NETWORKS`.
  """
  return models.build_model(
    network,
    model.image_size,
    model.width_multiplier,
    model.dtype,
    cpu_gradients=jax.device_count() == 1,
  )


def syncnet_stage(
  config, optimizer, common: dict, factory: NetworkFactory
) -> Stage:
  """The expert SyncNet, or the held-out one."""
  networks = {'syncnet': factory.build(config.model, 'syncnet')}
  optimizers, spec = {'syncnet': optimizer}, common['spec']
  if spec.is_contrastive:
    optimizers['temperature'] = optimizer
  elif config.loss.lip_opening:
    raise StageError(
      'expected loss.lip_opening=0 with published pairs, found '
      f'{config.loss.lip_opening:g}; set --config.data.kind=contrastive'
    )
  if config.contrastive_negatives not in ('clip', 'batch'):
    raise StageError(
      'expected contrastive_negatives of clip or batch, found '
      f'{config.contrastive_negatives!r}; set --config.contrastive_negatives'
    )
  step = functools.partial(
    steps.syncnet_train_step,
    networks=networks,
    optimizers=optimizers,
    negatives=config.contrastive_negatives,
    lip_opening_weight=config.loss.lip_opening,
    ema_decay=config.ema_decay,
  )
  evaluate = functools.partial(steps.syncnet_eval_step, networks=networks)
  model = config.model
  window = flops.train_window_flops(
    'syncnet', model.image_size, model.width_multiplier
  )
  return Stage(
    network='syncnet',
    init={
      'networks': networks,
      'optimizers': optimizers,
      'log_scale': losses.LOG_SCALE,
      'averaged': ('syncnet',) if config.ema_decay else (),
    },
    train_step=_without_expert(step),
    eval_step=_without_expert(evaluate),
    generate=None,
    expert_variables=None,
    flops=spec.windows_per_clip * window,
    **common,
  )


def _without_expert(step: Callable) -> Callable:
  """A step with the signature of all stages, for one without an expert."""

  def run(state: TrainState, batch: dict, expert_variables: None):
    assert expert_variables is None
    return step(state, batch)

  return run


def generator_stage(
  config, optimizer, common: dict, factory: NetworkFactory
) -> Stage:
  """The generator, with a discriminator in the stage 'hq'."""
  names = ('generator', 'discriminator')[: 1 + (config.stage == 'hq')]
  trained = {name: factory.build(config.model, name) for name in names}
  if config.init_audio_encoder and config.freeze_audio_encoder:
    generator = trained['generator'].clone(freeze_audio_encoder=True)
    trained['generator'] = generator
  networks, expert_variables, expert_width = dict(trained), None, None
  if common['spec'].shared_mel:  # the expert needs all five frames
    networks['syncnet'], expert_variables = factory.load_expert(config)
    expert_width = networks['syncnet'].width
  weights, sync = LossWeights(**config.loss), config.sync
  optimizers = dict.fromkeys(names, optimizer)
  model = config.model
  return Stage(
    network='generator',
    init={
      'networks': trained,
      'optimizers': optimizers,
      'averaged': ('generator',) if config.ema_decay else (),
    },
    train_step=functools.partial(
      steps.generator_train_step,
      networks=networks,
      optimizers=optimizers,
      terms=objective.generator_terms(
        networks, weights, sync.use_batch_statistics
      ),
      r1_gamma=weights.r1_gamma,
      sync_rate=weights.sync / max(sync.ramp_steps, 1),
      ema_decay=config.ema_decay,
    ),
    eval_step=functools.partial(steps.generator_eval_step, networks=networks),
    generate=functools.partial(generate_samples, networks=networks),
    expert_variables=expert_variables,
    flops=flops.train_window_flops(
      config.stage,
      model.image_size,
      model.width_multiplier,
      common['spec'].faces,
      expert_width,
    ),
    **common,
  )


def generate_samples(state: TrainState, batch: dict, *, networks: dict) -> dict:
  """A batch and its generated faces, as `metric_writer.sample_grid` takes."""
  generated = steps.generate(state, batch, networks=networks)
  return {'face': batch['face'], 'made': generated, 'true': batch['target']}


def load_expert_syncnet(config):
  """Module and variables of the expert SyncNet that the config names.

  Raises:
    StageError: no file is named, or it is of another image size.
  """
  path, model = config.syncnet_weights, config.model
  if not path:
    raise StageError(
      'expected the weights of an expert SyncNet, found none: train one with '
      '--config=configs/syncnet.py and set --config.syncnet_weights=FILE'
    )
  given = convert.load_any(path, 'syncnet')
  if given.size != model.image_size:
    raise StageError(
      f'{path}: expected an expert of {model.image_size} pixels, found '
      f'{given.size}; set --config.model.image_size or choose another'
    )
  net = models.build_model(
    'syncnet',
    given.size,
    given.width,
    model.dtype,
    cpu_gradients=jax.device_count() == 1,
  )
  return net, given.variables


def export_weights(
  path, stage: Stage, state: TrainState, config, meta: dict
) -> None:
  """Write the trained network, averaged if an average is kept.

  All processes gather their parts; process 0 writes.
  """
  if stage.export:
    stage.export(path, stage, state, config, meta)
    return
  if stage.motion:
    articulator_stage.export(path, stage, state, config, meta)
    return
  variables = distributed.fully_replicate(
    state_lib.eval_variables(state, stage.network)
  )
  if not distributed.is_process_zero():
    return
  # Only the generator's mel window starts before its frame.
  lead = CENTERED_LEAD if stage.network == 'generator' else Fraction(0)
  safetensors_file.save(
    path,
    safetensors_file.Weights(
      stage.network,
      config.model.image_size,
      config.model.width_multiplier,
      jax.device_get(variables),
      source=f'trained by lipsync_jax, stage {config.stage}',
      mel_lead=lead,
      meta=meta,
    ),
  )


DEFAULT_NETWORKS = NetworkFactory(
  build_network, load_expert_syncnet, export_weights
)
