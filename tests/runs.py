"""The training command on a tiny network, for tests that start processes."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def command(workdir, clips, *changes: str) -> list[str]:
  """`python -m lipsync_jax.main` for drawn clips; the last change counts."""
  given = {'stage': 'syncnet', 'data.folder': clips, 'net.width': 0.05}
  given |= {'batch': 2, 'log_steps': 1, 'save_steps': 1}
  given |= {'validate_steps': 2, 'data.threads': 1, 'optimiser.rate': 1e-3}
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


def toy(config, network: str):
  """In place of SyncNet where only what is round it is tested."""
  del config, network
  import flax.linen as nn
  import jax.numpy as jnp

  class Toy(nn.Module):
    size: int = 96

    @nn.compact
    def __call__(self, mel, frames, *, train):
      del train
      vectors = []
      for x in (mel, frames.mean(1)):
        x = nn.Dense(8)(x.reshape(x.shape[0], -1))  # [b, 8]
        vectors.append(x / jnp.sqrt(1e-6 + (x * x).sum(-1, keepdims=True)))
      return tuple(vectors)

  return Toy()


def train_toy(workdir, clips, changes: dict) -> None:
  """Train in this process, which was started to be killed."""
  from lipsync_jax import recipe, train

  recipe._build, recipe.export = toy, lambda path, *_: path.write_text('toy')
  train.train_and_evaluate(debug(clips, **changes), workdir)
