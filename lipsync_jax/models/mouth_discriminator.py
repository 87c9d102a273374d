"""The discriminator of the refiner: are the patches of a mouth real?

Layers have no normalization and LeakyReLU 0.01, as those of the quality
discriminator. Every logit judges a patch of 49 pixels (Isola et al. 2017), so
that the network learns what teeth and lips look like, not where a mouth is.

Shapes: b batch, h w height and width of the picture, g of the grid of logits.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.models import layers
from lipsync_jax.models.layers import ConvSpec, scale_channels

CHANNELS = 3 + 1  # picture, hole between the lips


@functools.cache
def layer_specs(width: float = 1.0) -> tuple[ConvSpec, ...]:
  """Consecutive layers; the last gives the logits.

  Args:
    width: multiplier of the channels.
  """
  plain = functools.partial(ConvSpec, norm=False, act='leaky')
  first, *deeper = (scale_channels(c, width) for c in (32, 64, 128, 128))
  rows, cin = [plain('patch_0', CHANNELS, first)], first
  for c in deeper:
    rows.append(plain(f'patch_{len(rows)}', cin, c, stride=(2, 2)))
    cin = c
  rows.append(plain(f'patch_{len(rows)}', cin, cin))
  rows.append(ConvSpec('logit', cin, 1, norm=False, act='none'))
  return tuple(rows)


class MouthDiscriminator(nn.Module):
  """The network."""

  width: float = 1.0  # multiplier of the channels
  dtype: jnp.dtype = jnp.dtype('float32')  # of activations
  cpu_gradients: bool = True  # see `convolution.conv`

  @nn.compact
  def __call__(
    self, picture: Float[Array, 'b h w 4'], *, train: bool
  ) -> tuple[Float[Array, 'b g g2'], tuple[Array, ...]]:
    """Logits of "real", float32, and the features of every other layer.

    Args:
      picture: in [0, 1], and the hole.
      train: without effect, as there are no norms.
    """
    x, features = picture, []
    for layer in layer_specs(self.width):
      block = layers.ConvBlock(
        layer, self.dtype, self.cpu_gradients, name=layer.name
      )
      x = block(x, train=train)
      features.append(x)
    logits = features.pop().astype(jnp.float32)
    return logits[..., 0], tuple(features)
