"""Networks of a few numbers, for tests of what is round the networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipsync_jax import models
from lipsync_jax.training import stages, train
from tests.helpers import train_command


class Toy(nn.Module):
  """Takes and gives what the network of that name does."""

  network: str
  size: int = 96
  width: float = 1.0

  @nn.compact
  def __call__(self, *x, train):
    del train
    if self.network == 'discriminator':
      return nn.Dense(1)(x[0].mean((1, 2)))[:, 0]  # [b]
    mel = x[0].reshape(x[0].shape[0], -1)  # [b, 80*16]
    if self.network == 'generator':
      shade = nn.Dense(3)(mel)[:, None, None]  # [b, 1, 1, 3]
      return nn.sigmoid(nn.Dense(3)(x[1]) + shade)
    face = x[1].mean(1).reshape(mel.shape[0], -1)  # [b, w*15]
    vectors = [nn.Dense(8)(part) for part in (mel, face)]
    return tuple(
      v / jnp.sqrt(1e-6 + (v * v).sum(-1, keepdims=True)) for v in vectors
    )


def build(config, network: str) -> Toy:
  return Toy(network, config.net.size)


def expert(config):
  net = build(config, 'syncnet')
  return net, models.init_variables('syncnet', net, jax.random.key(1))


def export(path, *_) -> None:
  path.write_text('a toy')


PARTS = {
  '_build_network': build,
  'load_expert_syncnet': expert,
  'export_weights': export,
}


def run(workdir, clips, changes: dict) -> None:
  """Train in this process, which was started to be killed."""
  for name, part in PARTS.items():
    setattr(stages, name, part)
  train.train_and_evaluate(train_command.debug(clips, **changes), workdir)
