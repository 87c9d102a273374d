"""Convolutions whose gradients are quick on a CPU, too.

XLA's own gradients meet paths there that are many times slower than the
forward convolution. The ways round give the same numbers:
  kernel: a convolution whose channels are the batch. At 96 windows a 7x7
    layer took 2.1 s; in pieces of 16, added up, 0.13 s.
  image, at a stride: a convolution of zero-stuffed changes. One for each
    phase of the stride, put together: 5 times as fast for 5x5 at (1, 2).
  kernel of a transposed convolution: see `conv_transpose`.
(96 windows of SyncNet at width 0.3, two Zen 3 cores, jax 0.10, 2026-11-25.)
On other devices the gradients are XLA's.

Alphabet: b batch, h w height and width, i channels in, o channels out.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

CHANNELS_LAST = ('NHWC', 'HWIO', 'NHWC')
MIN_SLICE = 8  # images whose share of a kernel's gradient is found at once
MAX_SLICES = 16  # at most, since each is compiled on its own

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # (before, after) for rows and columns
Kernel = Float[Array, 'kh kw i o']
Image = Float[Array, 'b h w i']
Output = Float[Array, 'b h2 w2 o']


def lax_conv(
  stride: Pair, padding: Padding, kernel: Kernel, x: Image
) -> Output:
  return jax.lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=CHANNELS_LAST
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def conv(stride: Pair, padding: Padding, kernel: Kernel, x: Image) -> Output:
  """A plain convolution (correlation), strided or not."""
  return lax_conv(stride, padding, kernel, x)


def _conv_forward(stride, padding, kernel, x):
  return conv(stride, padding, kernel, x), (kernel, x)


def _conv_backward(stride, padding, kept, change):
  kernel, x = kept
  convolution = functools.partial(lax_conv, stride, padding)
  # A mesh splits the batch itself; cutting it up once more would move it
  # between devices.
  if jax.default_backend() != 'cpu' or jax.device_count() > 1:
    return jax.vjp(convolution, kernel, x)[1](change)
  if math.prod(stride) == 1:
    of_x = jax.vjp(lambda x: convolution(kernel, x), x)[1](change)[0]
  else:
    of_x = input_grad_by_phase(stride, padding, kernel, x.shape, change)
  return kernel_grad_in_slices(convolution, kernel, x, change), of_x


conv.defvjp(_conv_forward, _conv_backward)


def kernel_grad_in_slices(
  convolution, kernel: Kernel, x: Image, change: Output
) -> Kernel:
  """The kernel's gradient, summed over pieces of the batch in float32."""
  size = -(-len(x) // max(1, min(MAX_SLICES, len(x) // MIN_SLICE)))
  total = jnp.zeros(kernel.shape, jnp.promote_types(kernel.dtype, jnp.float32))
  for low in range(0, len(x), size):
    part = x[low : low + size]
    back = jax.vjp(lambda k, part=part: convolution(k, part), kernel)[1]
    total += back(change[low : low + size])[0]
  return total.astype(kernel.dtype)


def input_grad_by_phase(
  stride: Pair,
  padding: Padding,
  kernel: Kernel,
  shape: tuple[int, int, int, int],
  change: Output,
) -> Image:
  """The gradient of an image of that shape.

  Pixel u meets change[q - m] by tap r + m s, where u + padding = q s + r:
  a convolution of its own for every phase r.
  """
  (sh, sw), ((top, _), (left, _)) = stride, padding
  b, h, w, i = shape
  # Positions q that hold every pixel of the padded image.
  rows = -(-(h + sum(padding[0])) // sh)
  columns = -(-(w + sum(padding[1])) // sw)
  found = []
  for r in range(sh):
    for c in range(sw):
      taps = kernel[r::sh, c::sw][::-1, ::-1].swapaxes(2, 3)
      n, m = taps.shape[:2]
      sides = (
        (n - 1, rows - change.shape[1]),
        (m - 1, columns - change.shape[2]),
      )
      found.append(lax_conv((1, 1), sides, taps, change))
  grid = jnp.stack(found, 3).reshape(b, rows, columns, sh, sw, i)
  grid = grid.swapaxes(2, 3).reshape(b, rows * sh, columns * sw, i)
  return grid[:, top : top + h, left : left + w]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def conv_transpose(
  stride: Pair, padding: Padding, kernel: Kernel, x: Image
) -> Output:
  """A transposed convolution: zeros between the pixels of `x`."""
  # XLA does not multiply the stuffed zeros; on CPU this beats sub-pixel
  # convolution and shuffle by 1.5 to 3 times on all layers but the last.
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding=padding,
    lhs_dilation=stride,
    dimension_numbers=CHANNELS_LAST,
  )


def _conv_transpose_forward(stride, padding, kernel, x):
  return conv_transpose(stride, padding, kernel, x), (kernel, x)


def _conv_transpose_backward(stride, padding, kept, change):
  """The gradients, by way of the strided convolution that `conv_transpose` transposes.

  XLA's own gradient of the kernel is a convolution dilated on both sides,
  which takes a path some 30 times slower on a CPU.
  """
  kernel, x = kept
  sides = zip(kernel.shape[:2], padding, strict=True)
  sides = tuple((k - 1 - a, k - 1 - z) for k, (a, z) in sides)

  def turn(array):  # [kh kw i o] <-> [kh kw o i]
    return array[::-1, ::-1].swapaxes(2, 3)

  def whole(turned):
    return conv(stride, sides, turned, change)

  of_x, back = jax.vjp(whole, turn(kernel))
  return turn(*back(x)), of_x


conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)
