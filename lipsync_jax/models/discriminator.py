"""The visual-quality discriminator: is the lower half of a face real?

Layers have no normalization and LeakyReLU 0.01. At 96 pixels and width 1 it
is the published network (14.1 M parameters, 1.26 GMAC a frame).

Differs from Wav2Lip: returns the logit instead of its sigmoid, so that losses
do not saturate.

Shapes: b batch, h w height and width of the face.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.models import layers
from lipsync_jax.models.layers import ConvSpec, scale_channels


@functools.cache
def layer_specs(size: int = 96, width: float = 1.0):
  """Stages of layers by part, from [h/2, w, 3] to one logit.

  Args:
    size: pixels of the square face crop.
    width: multiplier of the channels.
  """
  halvings, side = layers.downsampling(size)
  plain = functools.partial(ConvSpec, norm=False, act='leaky')
  name, cin = 'face_encoder_blocks', scale_channels(32, width)
  stages = [(plain(f'{name}_0_0', 3, cin, (7, 7), pad=(3, 3)),)]
  plan = [(64, 5, (1, 2)), (128, 5, (2, 2)), (256, 5, (2, 2))]
  plan += [(512, 3, (2, 2))] * (halvings - 3)
  for channels, k, stride in plan:
    prefix, c = f'{name}_{len(stages)}', scale_channels(channels, width)
    pad = (k // 2, k // 2)
    stages.append(
      (
        plain(f'{prefix}_0', cin, c, (k, k), stride, pad),
        plain(f'{prefix}_1', c, c, (k, k), pad=pad),
      )
    )
    cin = c
  prefix = f'{name}_{len(stages)}'
  stages.append(
    (
      plain(f'{prefix}_0', cin, cin, (side, side), pad=(0, 0)),
      plain(f'{prefix}_1', cin, cin, (1, 1), pad=(0, 0)),
    )
  )
  last = ConvSpec(
    'binary_pred_0', cin, 1, (1, 1), pad=(0, 0), norm=False, act='none'
  )
  return {'encoder': tuple(stages), 'output': ((last,),)}


class Discriminator(nn.Module):
  """Quality discriminator (Prajwal et al. 2020, section 3.3)."""

  size: int = 96  # pixels of the square crop
  width: float = 1.0  # multiplier of the channels
  dtype: jnp.dtype = jnp.float32  # of activations
  cpu_gradients: bool = True  # see `convolution.conv`

  @nn.compact
  def __call__(
    self, face: Float[Array, 'b h w 3'], *, train: bool
  ) -> Float[Array, 'b']:
    """The logit of "real" for rows h/2 … h of each face, in float32."""
    x = face[:, face.shape[1] // 2 :]
    for stages in layer_specs(self.size, self.width).values():
      for stage in stages:
        for layer in stage:
          block = layers.ConvBlock(
            layer, self.dtype, self.cpu_gradients, name=layer.name
          )
          x = block(x, train=train)
    return x.reshape(x.shape[0]).astype(jnp.promote_types(x.dtype, jnp.float32))
