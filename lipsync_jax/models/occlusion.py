"""The occlusion network: which pixels of a face crop an object covers.

A small encoder-decoder with skip connections. It reads the 96-pixel face crop
of the generator (`faces.crop`), because the whole face tells its own color from
that of an object, and answers on a grid of 48 by 48.

Shapes: b batch, h w height and width.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

SIZE = 96  # pixels of a face crop
GRID = 48  # cells of the answer
MEAN, DEVIATION = 0.4, 0.25  # of the pixels, for the input


@dataclasses.dataclass(frozen=True)
class Level:
  """One resolution: two convolutions, the first with stride 2 on the way in.

  Attributes:
    channels: in the encoder.
    decoder_channels: in the decoder, 0 at the coarsest level.
  """

  channels: int
  decoder_channels: int


LEVELS = (Level(16, 16), Level(24, 24), Level(40, 40), Level(64, 0))


class OcclusionNetwork(nn.Module):
  """Logits of covered pixels, positive where covered."""

  levels: tuple[Level, ...] = LEVELS

  @nn.compact
  def __call__(
    self, pixels: Float[Array, 'b h w 3']
  ) -> Float[Array, 'b h//2 w//2']:
    def conv(x, name, channels, stride=1):
      layer = nn.Conv(
        channels,
        (3, 3),
        (stride, stride),
        padding=((1, 1), (1, 1)),
        kernel_init=nn.initializers.he_normal(),
        name=name,
      )
      return nn.relu(layer(x))

    x = (pixels - MEAN) / DEVIATION
    skips = []
    for i, level in enumerate(self.levels):
      x = conv(x, f'down_{i}', level.channels, 2)
      x = conv(x, f'encode_{i}', level.channels)
      skips.append(x)
    for i in reversed(range(len(self.levels) - 1)):
      skip = skips[i]
      x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
      x = jnp.concatenate([x, skip], -1)
      x = conv(x, f'decode_{i}', self.levels[i].decoder_channels)
    return nn.Conv(1, (1, 1), name='output')(x)[..., 0]


def build_occlusion(variables: dict):
  """Compile `face uint8 [96 96 3] -> probabilities float32 [48 48]`."""
  network = OcclusionNetwork()

  @jax.jit
  def run(face: UInt8[Array, 'h w 3']) -> Float[Array, 'h2 w2']:
    pixels = face.astype(jnp.float32)[None] / 255
    return jax.nn.sigmoid(network.apply(variables, pixels))[0]

  def covered(
    face: UInt8[np.ndarray, '96 96 3'],
  ) -> Float32[np.ndarray, '48 48']:
    return np.asarray(run(face))

  return covered
