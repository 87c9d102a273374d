"""SyncNet v2 of Chung and Zisserman, by which LSE-D and LSE-C are defined.

Used only to score: its weights belong to their authors and are imported
by the user. Features are MFCC and raw BGR pixels (`audio.mfcc`; 0-255).
The lip tower's first convolution spans all five frames, so it is written
as a 2-D one over 15 channels. 13.6 M parameters.

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
  """A max-pool between layers; padding is filled with -inf."""

  window: tuple[int, int]
  stride: tuple[int, int]
  pad: tuple[int, int] = (0, 0)


def conv_spec(name, cin, cout, kernel, stride=(1, 1), pad=(0, 0)) -> ConvSpec:
  return ConvSpec(name, cin, cout, kernel, stride, pad)


def encoder_specs(tail: str, head: str, rows: tuple) -> tuple:
  """Convolutions, then two fully connected layers (as 1x1 ones)."""
  rest = (
    conv_spec(f'{head}_0', 512, 512, (1, 1)),
    ConvSpec(
      f'{head}_3', 512, 1024, (1, 1), pad=(0, 0), norm=False, act='none'
    ),
  )
  named = tuple(
    dataclasses.replace(row, name=f'{tail}_{row.name}')
    if isinstance(row, ConvSpec)
    else row
    for row in rows
  )
  return named + rest


# Names count the published modules, pools and activations included.
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
  """Max-pool with -inf outside the picture."""
  pads = ((0, 0), *((p, p) for p in row.pad), (0, 0))
  window, stride = (1, *row.window, 1), (1, *row.stride, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, pads)


class SyncNetV2(nn.Module):
  """Distances between its vectors are Euclidean; they are not normalized."""

  @nn.compact
  def __call__(
    self,
    mfcc: Float[Array, 'b 13 20 1'],
    frames: Float[Array, 'b 224 224 15'],
    *,
    train: bool = False,
  ) -> tuple[Float[Array, 'b 1024'], Float[Array, 'b 1024']]:
    """(audio, lip) vectors; frames are frame-major B G R in 0-255."""
    vectors = []
    for rows, x in ((AUDIO, mfcc), (LIP, frames)):
      for row in rows:
        if isinstance(row, PoolSpec):
          x = apply_pool(row, x)
        else:
          x = layers.ConvBlock(row, name=row.name)(x, train=train)
      vectors.append(x.reshape(x.shape[0], -1))  # [b, 1024]
    return tuple(vectors)
