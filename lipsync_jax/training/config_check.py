"""Checks of a training config: renamed fields, and what may change on resume.

Imports nothing heavy: the command line checks flags before it loads jax.
"""

import json
from collections.abc import Mapping, Sequence

from lipsync_jax.common.errors import LipSyncError

# Fields that may differ from those of the checkpoint that a run resumes:
# all of these groups, and these fields. All others shape what is learned.
RESUMABLE_GROUPS = ('run.', 'mesh.')
# Fields of the stages whose names begin so.
STAGE_GROUPS = ('articulator', 'refiner')
RESUMABLE_FIELDS = frozenset(
  {'num_train_steps', 'init_weights', 'syncnet_weights'}
  | {'data.path', 'data.num_workers', 'data.device_resident'}
)

# Names of fields in versions before 0.2. Checkpoints keep their config, so
# these are also read from older checkpoints.
RENAMED_FIELDS = {
  'steps': 'num_train_steps',
  'batch': 'batch_size',
  'expert': 'syncnet_weights',
  'init': 'init_weights',
  'ears': 'init_audio_encoder',
  'across': 'contrastive_negatives',
  'net.size': 'model.image_size',
  'net.width': 'model.width_multiplier',
  'net.dtype': 'model.dtype',
  'optimiser.rate': 'optimizer.learning_rate',
  'optimiser.b1': 'optimizer.b1',
  'optimiser.b2': 'optimizer.b2',
  'optimiser.clip': 'optimizer.grad_clip_norm',
  'optimiser.every': 'optimizer.accumulate_steps',
  'optimiser.warmup_steps': 'optimizer.warmup_steps',
  'optimiser.decay_steps': 'optimizer.decay_steps',
  'lips_weight': 'loss.mouth_l1',
  'motion_weight': 'loss.temporal',
  'opening_weight': 'loss.lip_opening',
  'adversarial_weight': 'loss.adversarial',
  'calm': 'loss.r1_gamma',
  'sync.weight': 'loss.sync',
  'sync.until_real': 'sync.stop_below_ground_truth',
  'expert_batch_stats': 'sync.use_batch_statistics',
  'data.folder': 'data.path',
  'data.train': 'data.train_split',
  'data.val': 'data.validation_split',
  'data.part': 'data.speaker_fold',
  'data.parts': 'data.num_speaker_folds',
  'data.resident': 'data.device_resident',
  'data.threads': 'data.num_workers',
  'data.order': 'data.sampling',
  'data.apart': 'data.min_offset',
  'data.most': 'data.max_offset',
  'data.elsewhere': 'data.cross_clip_probability',
  'data.group': 'data.windows_per_clip',
  'data.edges': 'data.pad_audio',
  'data.frames': 'data.frames_per_window',
  'augmented': 'augment.enabled',
  'augment.mask_columns': 'augment.time_mask',
  'augment.mask_bins': 'augment.frequency_mask',
  'augment.warp': 'augment.vtlp',
  'augment.quiet': 'augment.max_snr_db',
  'augment.loud': 'augment.min_snr_db',
  'validate_steps': 'validation.every_steps',
  'validate_rounds': 'validation.passes',
  'quick_compile': 'run.fast_compile',
  'log_steps': 'run.log_every_steps',
  'save_steps': 'run.save_every_steps',
  'stuck_steps': 'run.chance_report_step',
  'keep': 'run.max_to_keep',
  'keep_best': 'run.keep_best',
  'export': 'run.export_policy',
  'strips': 'run.num_sample_rows',
  'video': 'run.sample_video',
}


class ConfigError(LipSyncError):
  """A config field that is unknown, or differs from the checkpoint's."""


def to_json(config) -> dict:
  """A config as plain JSON types, as checkpoints keep it."""
  return json.loads(json.dumps(config.to_dict()))


def flatten_fields(tree: Mapping, prefix: str = '') -> dict:
  """Fields by their dotted names."""
  fields = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      fields |= flatten_fields(value, f'{prefix}{key}.')
    else:
      fields[f'{prefix}{key}'] = value
  return fields


def check_flags(argv: Sequence[str]) -> None:
  """Refuse `--config.FIELD` flags with a name of an older version.

  Raises:
    ConfigError: names the new field.
  """
  for word in argv:
    name = word.lstrip('-').partition('=')[0]
    field = name.removeprefix('config.')
    if name != field and field in RENAMED_FIELDS:
      raise ConfigError(
        f'--config.{field} has a new name: use '
        f'--config.{RENAMED_FIELDS[field]}'
        + (' (clip or batch)' if field == 'across' else '')
      )


def check_fields(config) -> None:
  """Refuse a config file that sets fields with names of an older version.

  Raises:
    ConfigError: names the new field.
  """
  for field in flatten_fields(to_json(config)):
    if field in RENAMED_FIELDS:
      raise ConfigError(
        f'the config field {field} has a new name: set '
        f'{RENAMED_FIELDS[field]} instead'
      )


def upgrade_fields(fields: Mapping[str, object]) -> dict[str, object]:
  """The fields of an older checkpoint under their present names."""
  upgraded = {
    RENAMED_FIELDS.get(name, name): value for name, value in fields.items()
  }
  if 'across' in fields:
    upgraded['contrastive_negatives'] = 'batch' if fields['across'] else 'clip'
    upgraded['freeze_audio_encoder'] = True
  return upgraded


def check_resumable(mine: dict, saved: dict, folder) -> None:
  """Compare a run's config with that of its checkpoints.

  Args:
    mine: config of this run, of `to_json`.
    saved: config that the checkpoint holds, of any version.
    folder: named in the error.

  Raises:
    ConfigError: a field differs that shapes what is learned.
  """
  one, two = flatten_fields(mine), upgrade_fields(flatten_fields(saved))
  stage = str(mine.get('stage'))
  unused = tuple(f'{s}.' for s in STAGE_GROUPS if not stage.startswith(s))
  one, two = (  # older configs lack these fields
    {k: v for k, v in part.items() if not k.startswith(unused)}
    for part in (one, two)
  )
  for name in sorted(one.keys() | two.keys()):
    free = name.startswith(RESUMABLE_GROUPS) or name in RESUMABLE_FIELDS
    if not free and one.get(name) != two.get(name):
      raise ConfigError(
        f'{folder}: expected {name}={two.get(name)!r} as it was trained, '
        f'found {one.get(name)!r}; set --config.{name}={two.get(name)} or '
        'choose another --workdir'
      )
