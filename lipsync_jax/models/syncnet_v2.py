"""SyncNet v2 of Chung and Zisserman, which defines LSE-D and LSE-C.

It is used for scoring only. Its weights belong to their authors; the user
imports them. Inputs are MFCC (`audio.mfcc`) and BGR pixels in 0-255. The
first convolution of the lip encoder spans all five frames, so it is a 2-D
convolution over 15 channels. 13.6 M parameters.

Shapes: b batch, h w height and width, c channels.

Source: "Out of Time: Automated Lip Sync in the Wild", ACCV 2016 workshop.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.models import layers
from lipsync_jax.models.layers import ConvSpec


@dataclasses.dataclass(frozen=True)
class PoolSpec:
  """A max-pool between layers, padded with -inf."""

  window: tuple[int, int]
  stride: tuple[int, int]
  pad: tuple[int, int] = (0, 0)


def conv_spec(name, cin, cout, kernel, stride=(1, 1), pad=(0, 0)) -> ConvSpec:
  """A `ConvSpec` without padding by default, as in the published table."""
  return ConvSpec(name, cin, cout, kernel, stride, pad)


def encoder_specs(conv_prefix: str, fc_prefix: str, rows: tuple) -> tuple:
  """An encoder: `rows`, then two fully connected layers as 1x1 convolutions.

  Args:
    conv_prefix: published name of the convolutions' container.
    fc_prefix: the same of the fully connected layers.
    rows: `ConvSpec`s, whose names lack the prefix, and `PoolSpec`s.
  """
  fully_connected = (
    conv_spec(f'{fc_prefix}_0', 512, 512, (1, 1)),
    ConvSpec(
      f'{fc_prefix}_3', 512, 1024, (1, 1), pad=(0, 0), norm=False, act='none'
    ),
  )
  convolutions = tuple(
    dataclasses.replace(row, name=f'{conv_prefix}_{row.name}')
    if isinstance(row, ConvSpec)
    else row
    for row in rows
  )
  return convolutions + fully_connected


# Published names count all modules, also pools and activations.
AUDIO = encoder_specs(
  'netcnnaud',
  'netfcaud',
  (
    conv_spec('0', 1, 64, (3, 3), pad=(1, 1)),
    conv_spec('4', 64, 192, (3, 3), pad=(1, 1)),
    PoolSpec((3, 3), (1, 2)),
    conv_spec('8', 192, 384, (3, 3), pad=(1, 1)),
    conv_spec('11', 384, 256, (3, 3), pad=(1, 1)),
    conv_spec('14', 256, 256, (3, 3), pad=(1, 1)),
    PoolSpec((3, 3), (2, 2)),
    conv_spec('18', 256, 512, (5, 4)),
  ),
)
LIP = encoder_specs(
  'netcnnlip',
  'netfclip',
  (
    conv_spec('0', 15, 96, (7, 7), (2, 2)),
    PoolSpec((3, 3), (2, 2)),
    conv_spec('4', 96, 256, (5, 5), (2, 2), (1, 1)),
    PoolSpec((3, 3), (2, 2), (1, 1)),
    conv_spec('8', 256, 256, (3, 3), pad=(1, 1)),
    conv_spec('11', 256, 256, (3, 3), pad=(1, 1)),
    conv_spec('14', 256, 256, (3, 3), pad=(1, 1)),
    PoolSpec((3, 3), (2, 2)),
    conv_spec('18', 256, 512, (6, 6)),
  ),
)


def apply_pool(
  row: PoolSpec, x: Float[Array, 'b h w c']
) -> Float[Array, 'b h2 w2 c']:
  """Max-pool with -inf outside the image."""
  pads = ((0, 0), *((p, p) for p in row.pad), (0, 0))
  window, stride = (1, *row.window, 1), (1, *row.stride, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, pads)


class SyncNetV2(nn.Module):
  """SyncNet v2; its vectors are not normalized, distances are Euclidean."""

  @nn.compact
  def __call__(
    self,
    mfcc: Float[Array, 'b 13 20 1'],
    frames: Float[Array, 'b 224 224 15'],
    *,
    train: bool = False,
  ) -> tuple[Float[Array, 'b 1024'], Float[Array, 'b 1024']]:
    """The (audio, lip) vectors.

    Args:
      mfcc: 13 coefficients of 20 steps, see `audio.mfcc`.
      frames: five frames in 0-255, channels frame by frame: b0 g0 r0 b1 …
      train: whether norms use and update batch statistics.
    """
    vectors = []
    for rows, x in ((AUDIO, mfcc), (LIP, frames)):
      for row in rows:
        if isinstance(row, PoolSpec):
          x = apply_pool(row, x)
        else:
          x = layers.ConvBlock(row, name=row.name)(x, train=train)
      vectors.append(x.reshape(x.shape[0], -1))  # [b, 1024]
    return tuple(vectors)
