"""SyncNet, the lip-sync expert: do these lips speak this sound?

Two towers end in unit vectors whose cosine is the answer. Their last act
is a ReLU, so the cosine lies in [0, 1]. At 96 pixels and width 1 it is
the published network (16.4 M parameters, 1.21 GMAC a window).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.models import layers
from lipsync_jax.models.layers import ConvSpec, residual_specs, scale_channels

FRAMES = 5  # frames in a window: 200 ms at 25 frames/s, as 16 mel steps


@functools.cache
def layer_specs(size: int = 96, width: float = 1.0):
  """The two towers, 'audio' and 'face', one stage each."""
  return {
    'audio': (layers.audio_encoder_specs(width, last=2),),
    'face': (face_tower(size, width),),
  }


def face_tower(size: int, width: float) -> tuple[ConvSpec, ...]:
  """Lower half of five frames [h/2, w, 15] to [1, 1, 512]."""
  halvings, side = layers.downsampling(size)
  name, cin = 'face_encoder', scale_channels(32, width)
  rows = [ConvSpec(f'{name}_0', 15, cin, (7, 7), pad=(3, 3))]
  for _ in range(halvings - 5):
    rows.append(ConvSpec(f'{name}_{len(rows)}', cin, cin, stride=(2, 2)))
  plan = [(64, 2), (128, 3), (256, 2), (512, 2), (512, 0)]
  for i, (channels, count) in enumerate(plan):
    c = scale_channels(channels, width)
    # The trap of the published table: 5x5 with padding 1, so 46x47 follows.
    kernel, stride = ((5, 5), (1, 2)) if i == 0 else ((3, 3), (2, 2))
    rows.append(ConvSpec(f'{name}_{len(rows)}', cin, c, kernel, stride))
    rows += residual_specs(name, len(rows), c, count)
    cin = c
  n = len(rows)
  rows.append(ConvSpec(f'{name}_{n}', cin, cin, (side, side), pad=(0, 0)))
  rows.append(ConvSpec(f'{name}_{n + 1}', cin, cin, (1, 1), pad=(0, 0)))
  return tuple(rows)


def l2_normalize(x: Float[Array, 'b 1 1 d']) -> Float[Array, 'b d']:
  """Flatten to float32 vectors of length one (zero stays zero)."""
  x = x.reshape(x.shape[0], -1)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  # sqrt after the floor keeps the gradient finite at zero.
  return x / jnp.sqrt(jnp.maximum(square, 1e-24))


class SyncNet(nn.Module):
  """The expert discriminator (Prajwal et al. 2020, section 3.1).

  `frames` holds five consecutive frames, lower half, channels frame-major
  (r0 g0 b0 r1 g1 b1 …), in [0, 1].
  """

  size: int = 96
  width: float = 1.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    mel: Float[Array, 'b 80 16 1'],
    frames: Float[Array, 'b half w 15'],
    *,
    train: bool,
  ) -> tuple[Float[Array, 'b d'], Float[Array, 'b d']]:
    towers = layer_specs(self.size, self.width)
    vectors = []
    for part, x in (('audio', mel), ('face', frames)):
      for layer in towers[part][0]:
        block = layers.ConvBlock(layer, self.dtype, name=layer.name)
        x = block(x, train=train)
      vectors.append(l2_normalize(x))
    return tuple(vectors)
