"""A trained generator made small for inference: BatchNorm is folded in.

With stored statistics a norm is a gain and a shift per channel, so it
moves into the kernel and bias of the convolution before it, exactly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lipsync_jax.models import blocks, generator

Folded = dict[str, tuple]  # layer name -> (kernel [kh kw i o], bias [o])


def fold(variables: dict, size: int, width: float) -> Folded:
  """Kernels and biases, float32 numpy, with every norm folded in."""
  folded = {}
  for layer in rows(size, width):
    params = variables['params'][layer.name]
    kernel = np.asarray(params['kernel'], np.float64)
    bias = np.asarray(params['bias'], np.float64)
    if layer.norm:
      norm = {k: np.asarray(v) for k, v in params['norm'].items()}
      stats = variables['batch_stats'][layer.name]['norm']
      mean, var = np.asarray(stats['mean']), np.asarray(stats['var'])
      gain = norm['scale'] / np.sqrt(var.astype(np.float64) + blocks.EPSILON)
      kernel = kernel * gain
      bias = (bias - mean) * gain + norm['bias']
    folded[layer.name] = kernel.astype(np.float32), bias.astype(np.float32)
  return folded


def rows(size: int, width: float) -> tuple[blocks.Layer, ...]:
  """The generator's layers in table order."""
  parts = generator.tables(size, width).values()
  return tuple(layer for part in parts for stage in part for layer in stage)


def apply(
  folded: Folded,
  mel: Float[Array, 'b 80 16 1'],
  face: Float[Array, 'b h w 6'],
  *,
  width: float,
) -> Float[Array, 'b h w 3']:
  """The folded generator, in the dtype of its kernels."""

  def run(layer, x):
    kernel, bias = folded[layer.name]
    y = blocks.convolve(layer, kernel, x) + bias.reshape(1, 1, 1, -1)
    return blocks.activate(layer.act, y + x if layer.residual else y)

  dtype = folded['output_block_1'][0].dtype
  stages = generator.tables(face.shape[1], width)
  concat = functools.partial(jnp.concatenate, axis=-1)
  mel, face = mel.astype(dtype), face.astype(dtype)
  return generator.wire(stages, run, concat, mel, face)


def predictor(variables: dict, size: int, width: float, dtype: str, batch: int):
  """Compile `(mel [b 80 16], face uint8 [b h w 3]) -> uint8 [b h w 3]`.

  `face` is the crop of the source; masking its lower half, pairing it with
  itself as reference (spec 7.2) and rounding happen on the device, so that
  bytes, not floats, cross to it and back. The batch must be `batch`.
  """
  folded = fold(variables, size, width)
  folded = jax.tree.map(lambda a: jax.device_put(a.astype(dtype)), folded)

  @jax.jit
  def generate(folded, mel, face):
    face = face.astype(jnp.float32) / 255
    masked = face.at[:, size // 2 :].set(0)
    both = jnp.concatenate([masked, face], axis=-1)  # [b, h, w, 6]
    out = apply(folded, mel[..., None], both, width=width)
    # Differs from Wav2Lip, which truncates: half a level darker.
    return jnp.round(out.astype(jnp.float32) * 255).astype(jnp.uint8)

  def predict(mel: np.ndarray, face: np.ndarray) -> np.ndarray:
    assert mel.shape == (batch, 80, 16), (mel.shape, batch)
    assert face.shape == (batch, size, size, 3), (face.shape, batch)
    return generate(folded, mel.astype(np.float32), face)

  return predict
