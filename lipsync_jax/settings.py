"""Settings: a run's config as its checkpoints keep it, and compared."""

import json

# Fields that a resumed run may change; all others shape what is learnt.
FREE = {'steps', 'keep', 'keep_best', 'log_steps', 'save_steps', 'strips'}
FREE |= {'export', 'video', 'quick_compile', 'stuck_steps', 'init', 'expert'}
FREE |= {'mesh.data', 'mesh.fsdp'}
FREE |= {'data.folder', 'data.threads', 'data.resident'}


class SettingsError(ValueError):
  """A config that is not that of its checkpoints; one line says where."""


def plain(config) -> dict:
  """A config as JSON gives it back."""
  return json.loads(json.dumps(config.to_dict()))


def flat(tree: dict, prefix: str = '') -> dict:
  """Fields by their dotted names."""
  rows = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      rows |= flat(value, f'{prefix}{key}.')
    else:
      rows[f'{prefix}{key}'] = value
  return rows


def agree(mine: dict, saved: dict, folder) -> None:
  """Raise SettingsError if a run's config is not that of its checkpoints."""
  one, two = flat(mine), flat(saved)
  for name in sorted((one.keys() | two.keys()) - FREE):
    if one.get(name) != two.get(name):
      raise SettingsError(
        f'{folder}: expected {name}={two.get(name)!r} as it was trained, '
        f'found {one.get(name)!r}; set --config.{name}={two.get(name)} or '
        'choose another --workdir'
      )
