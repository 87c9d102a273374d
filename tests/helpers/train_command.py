"""The training command on a tiny network, for tests that start processes."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(workdir, clips, *changes: str) -> list[str]:
  """`python -m lipsync_jax.main` for drawn clips; the last change counts."""
  given = {'stage': 'syncnet', 'data.folder': clips, 'net.width': 0.05}
  given |= {'batch': 2, 'log_steps': 1, 'save_steps': 1}
  given |= {'validate_steps': 2, 'data.threads': 1, 'optimizer.rate': 1e-3}
  start = [sys.executable, '-m', 'lipsync_jax.main', f'--workdir={workdir}']
  start += ['--config=configs/debug.py']
  return [*start, *(f'--config.{k}={v}' for k, v in given.items()), *changes]


def environment(compiled, devices: int = 1) -> dict[str, str]:
  """Programs that were compiled once are found again in `compiled`."""
  return os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(compiled),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
  }


def debug(clips, stage: str = 'syncnet', **changes):
  """The debug config, made tiny."""
  sys.path.insert(0, str(ROOT))
  from configs import debug as configs

  config = configs.get_config()
  config.update({'stage': stage, 'batch': 2, 'steps': 4})
  config.update({'log_steps': 1, 'validate_steps': 2, 'save_steps': 2})
  config.net.width = 0.05
  config.data.folder = str(clips)
  config.update(changes)
  return config
