"""Layers as data, and the convolution block that all networks share.

A network is a table of `ConvSpec` rows and a function that connects them. The
same rows build the Linen modules (training), the folded network (inference),
the OpenVINO graph, the tensor names in published files and the MAC counts.

Shapes: b batch, h w height and width, c channels (i input, o output).
Source: the tables of Wav2Lip (Prajwal et al. 2020, sections 3.1-3.3).
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.models import convolution

SIZES = (96, 192, 256, 384)  # pixels of the square face crop
EPSILON = 1e-5  # of BatchNorm, as in every published file
MOMENTUM = 0.9  # of the running statistics; 0.1 in PyTorch's definition

ChannelVector = Float[Array, 'c']
Image = Float[Array, 'b h w c']


class ModelError(LipSyncError):
  """A network, size, dtype or backend that does not exist here."""


@dataclasses.dataclass(frozen=True)
class ConvSpec:
  """One convolution and the operations after it.

  Order: convolution and bias, BatchNorm, residual addition, activation.
  """

  # The published name with dots as underscores: `face_encoder_blocks_1_0` is
  # face_encoder_blocks.1.0 of a PyTorch file.
  name: str
  cin: int  # input channels
  cout: int  # output channels
  kernel: tuple[int, int] = (3, 3)
  stride: tuple[int, int] = (1, 1)
  # Symmetric, for rows and columns: SAME would be shifted at stride 2.
  pad: tuple[int, int] = (1, 1)
  up: bool = False  # transposed: the output is `stride` times as large
  residual: bool = False  # add the input before the activation
  norm: bool = True
  act: str = 'relu'  # relu | leaky | sigmoid | none

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """Shape of the kernel: (height, width, input, output channels)."""
    return (*self.kernel, self.cin, self.cout)

  @property
  def fan_in(self) -> int:
    """Inputs of one output value, as PyTorch counts them.

    PyTorch counts the output channels of a transposed convolution.
    """
    return math.prod(self.kernel) * (self.cout if self.up else self.cin)

  @property
  def bound(self) -> float:
    """Initial kernels and biases are uniform in [-bound, bound).

    PyTorch's default, under which a signal loses five sixths of its power in
    a layer. LeakyReLU layers without a norm use the bound of He et al.
    (2015), which preserves the power.
    Differs from Wav2Lip: with PyTorch's bound the first logits of its
    discriminator do not depend on the image, and its loss stays at log 2 for
    thousands of steps.
    """
    gain = math.sqrt(6) if self.act == 'leaky' and not self.norm else 1
    return gain / math.sqrt(self.fan_in)

  @property
  def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros (before, after) for rows and columns, as XLA expects them."""
    if not self.up:
      return tuple((p, p) for p in self.pad)
    # A transposed convolution is a plain one over its zero-stuffed input.
    # At stride 2 the published layers have output_padding 1.
    return tuple(
      (k - 1 - p, k - 1 - p + s - 1)
      for k, p, s in zip(self.kernel, self.pad, self.stride, strict=True)
    )

  def output(self, height: int, width: int) -> tuple[int, int]:
    """Height and width of the output, from those of the input."""
    out = []
    for n, k, s, (a, z) in zip(
      (height, width), self.kernel, self.stride, self.padding, strict=True
    ):
      if self.up:
        out.append((n - 1) * s + 1 + a + z - k + 1)
      else:
        out.append((n + a + z - k) // s + 1)
    return tuple(out)

  def macs(self, height: int, width: int) -> int:
    """Multiply-adds for one example, without the zeros of an `up` layer."""
    area = math.prod((height, width) if self.up else self.output(height, width))
    return area * math.prod(self.kernel) * self.cin * self.cout


def scale_channels(channels: int, width: float) -> int:
  """`channels` times `width`, rounded to a multiple of 8, at least 8."""
  return max(8, round(channels * width / 8) * 8)


def residual_specs(prefix: str, first: int, channels: int, count: int):
  """`count` 3x3 residual layers; their names count up from prefix_first."""
  return [
    ConvSpec(f'{prefix}_{first + i}', channels, channels, residual=True)
    for i in range(count)
  ]


def audio_encoder_specs(width: float, last: int) -> tuple[ConvSpec, ...]:
  """Layers from a mel window [b, 80, 16, 1] to a vector [b, 1, 1, 512 * width].

  Args:
    width: multiplier of the channels.
    last: residual layers at 256 channels: 1 in the generator, 2 in SyncNet.
  """
  name = 'audio_encoder'
  rows = []
  cin = 1
  for channels, stride, count in (
    (32, (1, 1), 2),
    (64, (3, 1), 2),
    (128, (3, 3), 2),
    (256, (3, 2), last),
  ):
    c = scale_channels(channels, width)
    rows.append(ConvSpec(f'{name}_{len(rows)}', cin, c, stride=stride))
    rows += residual_specs(name, len(rows), c, count)
    cin = c
  out, n = scale_channels(512, width), len(rows)
  rows.append(ConvSpec(f'{name}_{n}', cin, out, pad=(0, 0)))
  rows.append(ConvSpec(f'{name}_{n + 1}', out, out, (1, 1), pad=(0, 0)))
  return tuple(rows)


def downsampling(size: int) -> tuple[int, int]:
  """Number of halvings of `size` pixels, and the side of the last map.

  Sizes 96, 192 and 384 end at 3 pixels as published; 256 ends at 4.

  Raises:
    ModelError: `size` is not in SIZES.
  """
  if size not in SIZES:
    raise ModelError(f'expected a size in {SIZES}, found {size}')
  side = 4 if size == 256 else 3
  return int(math.log2(size // side)), side


def activate(act: str, x: Image) -> Image:
  """Apply the activation of that `ConvSpec.act`; sigmoids are float32."""
  if act == 'relu':
    return nn.relu(x)
  if act == 'leaky':
    return nn.leaky_relu(x, 0.01)
  if act == 'sigmoid':
    return nn.sigmoid(x.astype(jnp.float32))
  assert act == 'none', act
  return x


def apply_conv(
  layer: ConvSpec,
  kernel: Float[Array, 'kh kw i o'],
  x: Image,
  cpu_gradients: bool = True,
) -> Float[Array, 'b h2 w2 o']:
  """Apply the convolution of `layer` without its bias.

  Args:
    layer: gives stride, padding and direction.
    kernel: weights, for `up` those over the zero-stuffed input.
    x: input.
    cpu_gradients: see `convolution.conv`.
  """
  run = convolution.conv_transpose if layer.up else convolution.conv
  return run(layer.stride, layer.padding, cpu_gradients, kernel, x)


class BatchNorm(nn.Module):
  """BatchNorm whose running variance is unbiased, as PyTorch stores it.

  nn.BatchNorm stores the biased variance, which is 1.3 % less for the 1x1
  layers at batch 80. Statistics and arithmetic are float32. Under `jit` with
  a sharded batch the statistics are those of the global batch.
  """

  @nn.compact
  def __call__(self, x: Image, *, train: bool) -> Image:
    c = x.shape[-1]
    mean = self.variable('batch_stats', 'mean', jnp.zeros, c, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, c, jnp.float32)
    scale = self.param('scale', nn.initializers.ones, (c,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32)
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    m, v = mean.value, var.value
    if train:
      m = y.mean((0, 1, 2))
      v = jnp.square(y - m.reshape(1, 1, 1, c)).mean((0, 1, 2))
      if not self.is_initializing():
        n = y.size // c
        keep = MOMENTUM
        mean.value = keep * mean.value + (1 - keep) * m
        var.value = keep * var.value + (1 - keep) * v * n / max(n - 1, 1)
    gain = scale * jax.lax.rsqrt(v + EPSILON)
    # Centered first: bias - m * gain would cancel if the mean is large.
    y = (y - m.reshape(1, 1, 1, c)) * gain.reshape(1, 1, 1, c)
    y = y + bias.reshape(1, 1, 1, c)
    return y.astype(x.dtype)


class ConvBlock(nn.Module):
  """Convolution, BatchNorm, residual addition, activation: one table row.

  Parameters are float32; the convolution runs in `dtype`. The bias before
  the norm is redundant but present in published files.
  `cpu_gradients`: see `convolution.conv`.
  """

  layer: ConvSpec
  dtype: jnp.dtype = jnp.float32
  cpu_gradients: bool = True

  @nn.compact
  def __call__(self, x: Image, *, train: bool) -> Float[Array, 'b h2 w2 o']:
    layer = self.layer
    init = uniform_init(layer.bound)
    kernel = self.param('kernel', init, layer.shape, jnp.float32)
    bias = self.param('bias', init, (layer.cout,), jnp.float32)
    kernel, bias, x = (a.astype(self.dtype) for a in (kernel, bias, x))
    y = apply_conv(layer, kernel, x, self.cpu_gradients)
    y = y + bias.reshape(1, 1, 1, -1)
    if layer.norm:
      y = BatchNorm(name='norm')(y, train=train)
    return activate(layer.act, y + x if layer.residual else y)


def uniform_init(bound: float):
  """A Linen initializer that is uniform in [-bound, bound)."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
