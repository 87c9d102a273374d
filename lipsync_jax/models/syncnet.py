"""SyncNet: how well lip movement and speech match.

Two encoders return unit vectors whose cosine is the score. Their last
activation is a ReLU, so the cosine lies in [0, 1]. At 96 pixels and width 1
it is the published network (16.4 M parameters, 1.21 GMAC a window).

Shapes: b batch, w width of the crop, half its lower half's height, d 512
times the width multiplier.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.models import layers
from lipsync_jax.models.layers import ConvSpec, residual_specs, scale_channels

FRAMES = 5  # video frames of a window: 200 ms at 25 frames/s, 16 mel steps


@functools.cache
def layer_specs(size: int = 96, width: float = 1.0):
  """The layers of the two encoders, 'audio' and 'face', one stage each.

  Args:
    size: pixels of the square face crop.
    width: multiplier of the channels.
  """
  return {
    'audio': (layers.audio_encoder_specs(width, last=2),),
    'face': (face_encoder_specs(size, width),),
  }


def face_encoder_specs(size: int, width: float) -> tuple[ConvSpec, ...]:
  """Layers from the lower half of five frames [h/2, w, 15] to [1, 1, 512]."""
  halvings, side = layers.downsampling(size)
  name, cin = 'face_encoder', scale_channels(32, width)
  rows = [ConvSpec(f'{name}_0', 15, cin, (7, 7), pad=(3, 3))]
  for _ in range(halvings - 5):
    rows.append(ConvSpec(f'{name}_{len(rows)}', cin, cin, stride=(2, 2)))
  plan = [(64, 2), (128, 3), (256, 2), (512, 2), (512, 0)]
  for i, (channels, count) in enumerate(plan):
    c = scale_channels(channels, width)
    # Published: this 5x5 layer has padding 1, so its output is 46x47.
    kernel, stride = ((5, 5), (1, 2)) if i == 0 else ((3, 3), (2, 2))
    rows.append(ConvSpec(f'{name}_{len(rows)}', cin, c, kernel, stride))
    rows += residual_specs(name, len(rows), c, count)
    cin = c
  n = len(rows)
  rows.append(ConvSpec(f'{name}_{n}', cin, cin, (side, side), pad=(0, 0)))
  rows.append(ConvSpec(f'{name}_{n + 1}', cin, cin, (1, 1), pad=(0, 0)))
  return tuple(rows)


def l2_normalize(x: Float[Array, 'b 1 1 d']) -> Float[Array, 'b d']:
  """Flatten to float32 vectors of length one; zero vectors stay zero."""
  x = x.reshape(x.shape[0], -1)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  # The floor is inside the square root: the gradient is finite at zero.
  return x / jnp.sqrt(jnp.maximum(square, 1e-24))


class SyncNet(nn.Module):
  """The expert SyncNet (Prajwal et al. 2020, section 3.1).

  `frames` holds the lower halves of five consecutive frames in [0, 1], with
  their channels frame by frame: r0 g0 b0 r1 g1 b1 …
  """

  size: int = 96  # pixels of the square crop
  width: float = 1.0  # multiplier of the channels
  dtype: jnp.dtype = jnp.float32  # of activations
  cpu_gradients: bool = True  # see `convolution.conv`

  @nn.compact
  def __call__(
    self,
    mel: Float[Array, 'b 80 16 1'],
    frames: Float[Array, 'b half w 15'],
    *,
    train: bool,
  ) -> tuple[Float[Array, 'b d'], Float[Array, 'b d']]:
    """The (audio, face) unit vectors, in float32."""
    encoders = layer_specs(self.size, self.width)
    vectors = []
    for part, x in (('audio', mel), ('face', frames)):
      for layer in encoders[part][0]:
        block = layers.ConvBlock(
          layer, self.dtype, self.cpu_gradients, name=layer.name
        )
        x = block(x, train=train)
      vectors.append(l2_normalize(x))
    return tuple(vectors)
