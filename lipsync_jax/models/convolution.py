"""Convolutions whose gradients are also fast on a CPU.

On a CPU, XLA computes some gradients many times slower than the forward
convolution. These replacements give the same numbers:
  kernel: a convolution over the batch axis. It runs in slices of the batch
    that are summed. A 7x7 layer at batch 96 takes 0.13 s instead of 2.1 s.
    Where the output is large and the layer wide, matrix products of one image
    after the other are up to 4 times as fast (docs/benchmarks.md).
  input of a strided convolution: one convolution for each phase of the
    stride instead of one over zero-stuffed gradients. 5x5 at stride (1, 2)
    is 5 times as fast.
  kernel of a transposed convolution: see `conv_transpose`.
Every other platform uses XLA's gradients, and so does every platform where
`cpu_gradients` is False. A batch sharded over a mesh needs False: slices of
the batch would move between devices.

Shapes: b batch, h w height and width, i input channels, o output channels,
kh kw height and width of the kernel.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

CHANNELS_LAST = ('NHWC', 'HWIO', 'NHWC')
LARGE_OUTPUT = 400  # pixels; kernels of larger outputs are summed by image
WIDE_LAYER = 32 * 32  # input times output channels, at least, for the same
MIN_SLICE = 8  # images in a slice of the batch
MAX_SLICES = 16  # each slice is compiled separately

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # (before, after) for rows and columns
Kernel = Float[Array, 'kh kw i o']
Image = Float[Array, 'b h w i']
Output = Float[Array, 'b h2 w2 o']


def lax_conv(
  stride: Pair, padding: Padding, kernel: Kernel, x: Image
) -> Output:
  """Convolve (correlate) with XLA's own gradients."""
  return jax.lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=CHANNELS_LAST
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def conv(
  stride: Pair, padding: Padding, cpu_gradients: bool, kernel: Kernel, x: Image
) -> Output:
  """Convolve (correlate), with a stride or without.

  Args:
    stride: for rows and columns.
    padding: zeros (before, after) for rows and columns.
    cpu_gradients: compute gradients as in the module docstring where the
      program runs on a CPU. False takes XLA's gradients on every platform.
    kernel: weights.
    x: input.
  """
  del cpu_gradients  # used by the gradients only
  return lax_conv(stride, padding, kernel, x)


def _conv_forward(stride, padding, cpu_gradients, kernel, x):
  return conv(stride, padding, cpu_gradients, kernel, x), (kernel, x)


def _conv_backward(stride, padding, cpu_gradients, residuals, output_grad):
  """The gradients of the kernel and of the input."""
  convolution = functools.partial(lax_conv, stride, padding)

  def xla_grads(kernel, x, output_grad):
    return jax.vjp(convolution, kernel, x)[1](output_grad)

  def cpu_grads(kernel, x, output_grad):
    if math.prod(stride) == 1:
      _, vjp = jax.vjp(functools.partial(convolution, kernel), x)
      (input_grad,) = vjp(output_grad)
    else:
      input_grad = input_grad_by_phase(
        stride, padding, kernel, x.shape, output_grad
      )
    size = math.prod(output_grad.shape[1:3])
    if size >= LARGE_OUTPUT and math.prod(kernel.shape[2:]) >= WIDE_LAYER:
      kernel_grad = kernel_grad_by_image(
        stride, padding, kernel, x, output_grad
      )
    else:
      kernel_grad = kernel_grad_in_slices(convolution, kernel, x, output_grad)
    return kernel_grad, input_grad

  if not cpu_gradients:
    return xla_grads(*residuals, output_grad)
  return jax.lax.platform_dependent(
    *residuals, output_grad, cpu=cpu_grads, default=xla_grads
  )


conv.defvjp(_conv_forward, _conv_backward)


def kernel_grad_in_slices(
  convolution, kernel: Kernel, x: Image, output_grad: Output
) -> Kernel:
  """The kernel's gradient, summed over slices of the batch in float32.

  Args:
    convolution: maps (kernel, x) to the output.
    kernel: weights.
    x: input.
    output_grad: gradient of the output.
  """
  size = -(-len(x) // max(1, min(MAX_SLICES, len(x) // MIN_SLICE)))
  total = jnp.zeros(kernel.shape, jnp.promote_types(kernel.dtype, jnp.float32))
  for start in range(0, len(x), size):
    part = x[start : start + size]
    _, vjp = jax.vjp(lambda k, part=part: convolution(k, part), kernel)
    total += vjp(output_grad[start : start + size])[0]
  return total.astype(kernel.dtype)


def kernel_grad_by_image(
  stride: Pair,
  padding: Padding,
  kernel: Kernel,
  x: Image,
  output_grad: Output,
) -> Kernel:
  """The kernel's gradient, summed over the images in float32.

  The gradient of a tap is a matrix product of the pixels that it sees, [i, h2
  w2], and the output's gradient, [h2 w2, o].

  Args:
    stride: for rows and columns.
    padding: zeros (before, after) for rows and columns.
    kernel: weights.
    x: input.
    output_grad: gradient of the output.
  """
  (sh, sw), (kh, kw, cin, cout) = stride, kernel.shape
  h, w = output_grad.shape[1:3]
  wide = jnp.promote_types(kernel.dtype, jnp.float32)

  def add_image(total, pair):
    image, grad = pair
    # Not jnp.pad: the transposed layers have negative padding.
    zero = jnp.zeros((), image.dtype)
    sides = [(*sides, 0) for sides in (*padding, (0, 0))]
    padded = jax.lax.pad(image, zero, sides)
    flat = grad.reshape(-1, cout)
    parts = []
    for row in range(kh):
      for column in range(kw):
        rows = slice(row, row + sh * (h - 1) + 1, sh)
        columns = slice(column, column + sw * (w - 1) + 1, sw)
        seen = padded[rows, columns].reshape(-1, cin)
        parts.append(jnp.matmul(seen.T, flat, preferred_element_type=wide))
    return total + jnp.stack(parts).reshape(kernel.shape), None

  start = jnp.zeros(kernel.shape, wide)
  total, _ = jax.lax.scan(add_image, start, (x, output_grad))
  return total.astype(kernel.dtype)


def input_grad_by_phase(
  stride: Pair,
  padding: Padding,
  kernel: Kernel,
  input_shape: tuple[int, int, int, int],
  output_grad: Output,
) -> Image:
  """The gradient of a strided convolution's input.

  Input pixel u gets output_grad[q - m] times kernel tap r + m s, where
  u + padding = q s + r. Every phase r is a convolution of its own.
  """
  (sh, sw), ((top, _), (left, _)) = stride, padding
  b, h, w, i = input_shape
  # Positions q that cover every pixel of the padded input.
  rows = -(-(h + sum(padding[0])) // sh)
  columns = -(-(w + sum(padding[1])) // sw)
  phases = []
  for r in range(sh):
    for c in range(sw):
      taps = kernel[r::sh, c::sw][::-1, ::-1].swapaxes(2, 3)
      n, m = taps.shape[:2]
      sides = (
        (n - 1, rows - output_grad.shape[1]),
        (m - 1, columns - output_grad.shape[2]),
      )
      phases.append(lax_conv((1, 1), sides, taps, output_grad))
  grid = jnp.stack(phases, 3)  # [b, rows, columns, sh*sw, i]
  grid = grid.reshape(b, rows, columns, sh, sw, i)
  grid = grid.swapaxes(2, 3)  # [b, rows, sh, columns, sw, i]
  grid = grid.reshape(b, rows * sh, columns * sw, i)
  return grid[:, top : top + h, left : left + w]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def conv_transpose(
  stride: Pair, padding: Padding, cpu_gradients: bool, kernel: Kernel, x: Image
) -> Output:
  """Convolve `x` with zeros stuffed between its pixels.

  Args:
    stride: pixels of the zero-stuffed input for each pixel of `x`.
    padding: of the zero-stuffed input.
    cpu_gradients: as for `conv`.
    kernel: weights of the plain convolution over the zero-stuffed input.
    x: input.
  """
  del cpu_gradients  # used by the gradients only
  # XLA skips the stuffed zeros. On a CPU this is 1.5 to 3 times as fast as a
  # sub-pixel convolution and a shuffle, on all layers but the last.
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1, 1),
    padding=padding,
    lhs_dilation=stride,
    dimension_numbers=CHANNELS_LAST,
  )


def _conv_transpose_forward(stride, padding, cpu_gradients, kernel, x):
  y = conv_transpose(stride, padding, cpu_gradients, kernel, x)
  return y, (kernel, x)


def _conv_transpose_backward(
  stride, padding, cpu_gradients, residuals, output_grad
):
  """The gradients, by the strided convolution that `conv_transpose` transposes.

  XLA's own gradient of the kernel is a convolution dilated on both sides,
  which is some 30 times slower on a CPU.
  """
  kernel, x = residuals
  sides = tuple(
    (k - 1 - before, k - 1 - after)
    for k, (before, after) in zip(kernel.shape[:2], padding, strict=True)
  )

  def transpose(kernel):  # [kh kw i o] <-> [kh kw o i]
    return kernel[::-1, ::-1].swapaxes(2, 3)

  def strided_conv(transposed_kernel):
    return conv(stride, sides, cpu_gradients, transposed_kernel, output_grad)

  input_grad, vjp = jax.vjp(strided_conv, transpose(kernel))
  return transpose(*vjp(x)), input_grad


conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)
