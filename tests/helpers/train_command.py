"""The training command on a tiny network, for tests that start processes."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(workdir, clips, *changes: str) -> list[str]:
  """`python -m lipsync_jax.main` for synthetic clips; later flags win."""
  given = {
    'stage': 'syncnet',
    'batch_size': 2,
    'data.path': clips,
    'data.num_workers': 1,
    'model.width_multiplier': 0.05,
    'optimizer.learning_rate': 1e-3,
    'run.log_every_steps': 1,
    'run.save_every_steps': 1,
    'validation.every_steps': 2,
  }
  start = [sys.executable, '-m', 'lipsync_jax.main', f'--workdir={workdir}']
  start += ['--config=configs/debug.py']
  return [*start, *(f'--config.{k}={v}' for k, v in given.items()), *changes]


def environment(compiled, devices: int = 1) -> dict[str, str]:
  """Environment with the persistent compilation cache `compiled`."""
  return os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(compiled),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
  }


def debug(clips, stage: str = 'syncnet', **changes):
  """The debug config, made tiny.

  Args:
    changes: fields by their dotted names.
  """
  sys.path.insert(0, str(ROOT))
  from configs import debug as configs

  config = configs.get_config()
  config.update_from_flattened_dict(
    {
      'stage': stage,
      'batch_size': 2,
      'num_train_steps': 4,
      'data.path': str(clips),
      'model.width_multiplier': 0.05,
      'run.log_every_steps': 1,
      'run.save_every_steps': 2,
      'validation.every_steps': 2,
    }
    | changes
  )
  return config
