"""Settings: a run's config as its checkpoints keep it, and compared."""

import json

from lipsync_jax.common.errors import LipSyncError

# Fields that a resumed run may change; all others shape what is learned.
RESUMABLE_FIELDS = {
  'steps',
  'keep',
  'keep_best',
  'log_steps',
  'save_steps',
  'strips',
}
RESUMABLE_FIELDS |= {
  'export',
  'video',
  'quick_compile',
  'stuck_steps',
  'init',
  'expert',
}
RESUMABLE_FIELDS |= {'mesh.data', 'mesh.fsdp'}
RESUMABLE_FIELDS |= {'data.folder', 'data.threads', 'data.resident'}


class ConfigError(LipSyncError):
  """A config that is not that of its checkpoints; one line says where."""


def to_json(config) -> dict:
  """A config as JSON gives it back."""
  return json.loads(json.dumps(config.to_dict()))


def flatten_fields(tree: dict, prefix: str = '') -> dict:
  """Fields by their dotted names."""
  rows = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      rows |= flatten_fields(value, f'{prefix}{key}.')
    else:
      rows[f'{prefix}{key}'] = value
  return rows


def check_resumable(mine: dict, saved: dict, folder) -> None:
  """Raise SettingsError if a run's config is not that of its checkpoints."""
  one, two = flatten_fields(mine), flatten_fields(saved)
  for name in sorted((one.keys() | two.keys()) - RESUMABLE_FIELDS):
    if one.get(name) != two.get(name):
      raise ConfigError(
        f'{folder}: expected {name}={two.get(name)!r} as it was trained, '
        f'found {one.get(name)!r}; set --config.{name}={two.get(name)} or '
        'choose another --workdir'
      )
