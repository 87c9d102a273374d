"""The generator for inference: kernels and biases only.

With stored statistics a BatchNorm is a gain and a shift per channel, which fold
exactly into the kernel and bias of the convolution before it. A residual
connection is a one at the center of its layer's kernel.

Shapes: b batch, h w height and width, c channels (i input, o output).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lipsync_jax.models import generator, layers

Image = Float[Array, 'b h w c']
HostOrDevice = np.ndarray | jax.Array  # on the host or on the device
Folded = dict[str, tuple]  # layer name -> (kernel [kh kw i o], bias [o])


def fold_batch_norm(variables: dict, size: int, width: float) -> Folded:
  """Float32 kernels and biases with norms and residuals folded in."""
  folded = {}
  for layer in generator_rows(size, width):
    params = variables['params'][layer.name]
    kernel = np.asarray(params['kernel'], np.float64)
    bias = np.asarray(params['bias'], np.float64)
    if layer.norm:
      norm = {k: np.asarray(v) for k, v in params['norm'].items()}
      stats = variables['batch_stats'][layer.name]['norm']
      mean, var = np.asarray(stats['mean']), np.asarray(stats['var'])
      gain = norm['scale'] / np.sqrt(var.astype(np.float64) + layers.EPSILON)
      kernel = kernel * gain
      bias = (bias - mean) * gain + norm['bias']
    if layer.residual:
      # One pass over memory less: 4 % of OpenVINO's time. In bfloat16 the
      # rounding of 1 + k costs no more than that of the sum (measured).
      kernel[tuple(k // 2 for k in layer.kernel)] += np.eye(layer.cin)
    folded[layer.name] = kernel.astype(np.float32), bias.astype(np.float32)
  return folded


def generator_rows(size: int, width: float) -> tuple[layers.ConvSpec, ...]:
  """The generator's layers in table order."""
  parts = generator.layer_specs(size, width).values()
  return tuple(layer for part in parts for stage in part for layer in stage)


def apply_folded(
  folded: Folded,
  mel: Float[Array, 'b 80 16 1'],
  face: Float[Array, 'b h w 6'],
  *,
  width: float,
  convolve=layers.apply_conv,
) -> Float[Array, 'b h w 3']:
  """Apply the folded generator, in the dtype of its biases."""

  def run(layer, x):
    kernel, bias = folded[layer.name]
    y = convolve(layer, kernel, x) + bias.reshape(1, 1, 1, -1)
    return layers.activate(layer.act, y)

  dtype = folded['output_block_1'][1].dtype
  stages = generator.layer_specs(face.shape[1], width)
  concat = functools.partial(jnp.concatenate, axis=-1)
  mel, face = mel.astype(dtype), face.astype(dtype)
  return generator.connect(stages, run, concat, mel, face)


def build_predictor(
  variables: dict, size: int, width: float, dtype: str, batch: int
):
  """Compile `(mel [b 80 16], face uint8 [b h w 3]) -> uint8 [b h w 3]`.

  The lower half of the crop is masked, the crop is its own reference (spec
  7.2), and the result is rounded on the device, so that uint8 is transferred.
  The batch is fixed. 'bfloat16' on a CPU is a mixture, see
  `prefers_bf16_product`.
  """
  folded = fold_batch_norm(variables, size, width)
  convolve = layers.apply_conv
  if dtype == 'bfloat16' and jax.default_backend() == 'cpu':
    convolve = conv_bf16
    for layer in filter(prefers_bf16_product, generator_rows(size, width)):
      kernel, bias = folded[layer.name]
      folded[layer.name] = kernel.astype(dtype), bias
  else:
    folded = jax.tree.map(lambda a: a.astype(dtype), folded)
  folded = jax.device_put(folded)

  @jax.jit
  def generate(folded, mel, face):
    face = face.astype(jnp.float32) / 255
    masked = face.at[:, size // 2 :].set(0)
    both = jnp.concatenate([masked, face], axis=-1)  # [b, h, w, 6]
    out = apply_folded(
      folded, mel[..., None], both, width=width, convolve=convolve
    )
    # Differs from Wav2Lip, which truncates and is half a level darker.
    return jnp.round(out.astype(jnp.float32) * 255).astype(jnp.uint8)

  def predict(mel: HostOrDevice, face: HostOrDevice) -> jax.Array:
    assert mel.shape == (batch, 80, 16), (mel.shape, batch)
    assert face.shape == (batch, size, size, 3), (face.shape, batch)
    return generate(folded, mel.astype(np.float32), face)

  return predict


def prefers_bf16_product(layer: layers.ConvSpec) -> bool:
  """Whether a bfloat16 matrix product is faster than XLA's CPU convolution.

  XLA's convolutions gain nothing from bfloat16; its products with float32 sums
  double their speed. Gathering their operands costs this gain for large maps
  with few channels, except for transposed layers of stride 2. Small layers stay
  convolutions, since each product takes 0.3 s to compile.
  """
  doubling = layer.up and layer.stride == (2, 2)
  return doubling or (layer.residual and layer.cin >= 256)


def conv_bf16(
  layer: layers.ConvSpec, kernel: Float[Array, 'kh kw i o'], x: Image
):
  """Convolve by bfloat16 products if `prefers_bf16_product`; float32 output."""
  if not prefers_bf16_product(layer):
    return layers.apply_conv(layer, kernel, x)
  x = x.astype(kernel.dtype)
  return conv_transpose_bf16(kernel, x) if layer.up else conv3x3_bf16(kernel, x)


def conv3x3_bf16(kernel: Float[Array, '3 3 i o'], x: Image):
  """A 3x3 convolution of stride 1 as three products, [b, h, w, o]."""
  h, w = x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  x = jnp.concatenate([x[:, :, u : u + w] for u in range(3)], axis=-1)
  return sum(matmul_bf16(x[:, v : v + h], kernel[v]) for v in range(3))


def conv_transpose_bf16(kernel: Float[Array, '3 3 i o'], x: Image):
  """A transposed 3x3 convolution of stride 2, [b, 2h, 2w, o].

  Along an axis, output 2n is x[n] times tap 1; output 2n + 1 is x[n] times tap
  0 plus x[n + 1] times tap 2. Columns are computed in pairs, with one zero tap
  of four.
  """
  b, h, w, _ = x.shape
  x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
  x = jnp.concatenate([x[:, :, :-1], x[:, :, 1:]], axis=-1)  # [b, h+1, w, 2i]
  near = jnp.concatenate([kernel[:, 1], kernel[:, 0]], axis=-1)
  far = jnp.concatenate([jnp.zeros_like(kernel[:, 2]), kernel[:, 2]], axis=-1)
  pairs = jnp.concatenate([near, far], axis=1)  # [3, 2i, 2o]
  even = matmul_bf16(x[:, :-1], pairs[1])  # [b, h, w, 2o]
  odd = matmul_bf16(x[:, :-1], pairs[0]) + matmul_bf16(x[:, 1:], pairs[2])
  rows = [row.reshape(b, h, 1, -1) for row in (even, odd)]
  y = jnp.concatenate(rows, axis=2)  # [b, h, 2, 2w*o]
  return y.reshape(b, 2 * h, 2 * w, -1)


def matmul_bf16(x: Image, kernel: Float[Array, '*taps o']):
  """Pixels times a matrix, summed in float32, [b, h, w, o]."""
  kernel = kernel.reshape(x.shape[-1], -1)
  return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
