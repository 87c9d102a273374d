"""Networks with a few parameters, for tests of the training loop."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipsync_jax import models
from lipsync_jax.training import stages, train
from tests.helpers import train_command


class Toy(nn.Module):
  """Inputs and outputs of the network of that name."""

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


def build(model, network: str) -> Toy:
  return Toy(network, model.image_size)


def expert(config):
  net = build(config.model, 'syncnet')
  return net, models.init_variables('syncnet', net, jax.random.key(1))


def export(path, *_) -> None:
  path.write_text('a toy')


NETWORKS = stages.NetworkFactory(build, expert, export)


def run(workdir, clips, changes: dict) -> None:
  """Train in this process, which a test will kill."""
  config = train_command.debug(clips, **changes)
  train.train_and_evaluate(config, workdir, NETWORKS)
