"""Speed of ways to compute a convolution's kernel gradient on a CPU.

  python -m tests.helpers.kernel_gradients

Prints a table for docs/benchmarks.md: GFLOP/s of each way in turn, for layers
like those of the generator, beside PyTorch where it is installed. The ways give
the same numbers; tests/models/networks_test.py tests those that are used.

Shapes: n images, h w of the output, i o channels, k taps.
"""

import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from lipsync_jax.models import convolution

IMAGES, ROUNDS = 10, 5
# Side, input and output channels, taps, stride.
LAYERS = (
  (48, 64, 64, 3, 1),
  (24, 128, 128, 3, 1),
  (12, 256, 256, 3, 1),
  (96, 80, 32, 3, 1),
  (96, 32, 64, 3, 2),
  (96, 16, 16, 3, 1),
  (6, 512, 512, 3, 1),
)


def taps(kernel, x, output_grad, stride: int) -> Iterator[jax.Array]:
  """The input pixels that each tap of the kernel sees, [n, h, w, i]."""
  edge = kernel.shape[0] // 2
  padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
  h, w = output_grad.shape[1:3]
  for row in range(kernel.shape[0]):
    for column in range(kernel.shape[1]):
      yield padded[
        :,
        row : row + stride * (h - 1) + 1 : stride,
        column : column + stride * (w - 1) + 1 : stride,
      ]


def convolve(stride: int, kernel, x):
  edge = kernel.shape[0] // 2
  return convolution.lax_conv(
    (stride, stride), ((edge, edge), (edge, edge)), kernel, x
  )


def by_xla(stride, kernel, x, output_grad):
  """XLA's own gradient."""
  return jax.vjp(lambda k: convolve(stride, k, x), kernel)[1](output_grad)[0]


def in_slices(stride, kernel, x, output_grad):
  """What the project uses for small outputs: XLA's gradient of slices."""
  return convolution.kernel_grad_in_slices(
    functools.partial(convolve, stride), kernel, x, output_grad
  )


def product_for_each_tap(stride, kernel, x, output_grad):
  """A matrix product over all pixels for each tap."""
  flat = output_grad.reshape(-1, kernel.shape[-1])
  out = [
    seen.reshape(-1, kernel.shape[2]).T @ flat
    for seen in taps(kernel, x, output_grad, stride)
  ]
  return jnp.stack(out).reshape(kernel.shape)


def one_product(stride, kernel, x, output_grad):
  """One matrix product of the stacked taps."""
  seen = jnp.concatenate([*taps(kernel, x, output_grad, stride)], -1)
  flat = output_grad.reshape(-1, kernel.shape[-1])
  return (seen.reshape(len(flat), -1).T @ flat).reshape(kernel.shape)


def one_product_for_each_image(stride, kernel, x, output_grad):
  """One matrix product of the stacked taps for each image, summed in turn."""

  def add(total, pair):
    image, grad = (part[None] for part in pair)
    return total + one_product(stride, kernel, image, grad), None

  return jax.lax.scan(add, jnp.zeros_like(kernel), (x, output_grad))[0]


def by_image(stride, kernel, x, output_grad):
  """What the project uses for large outputs."""
  edge = kernel.shape[0] // 2
  sides = ((edge, edge), (edge, edge))
  return convolution.kernel_grad_by_image(
    (stride, stride), sides, kernel, x, output_grad
  )


WAYS = (
  by_xla,
  in_slices,
  product_for_each_tap,
  one_product,
  one_product_for_each_image,
  by_image,
)


def best_seconds(run: Callable[[], object]) -> float:
  """The shortest of some rounds, after one that compiles."""
  run()
  spent = []
  for _ in range(ROUNDS):
    start = time.perf_counter()
    run()
    spent.append(time.perf_counter() - start)
  return min(spent)


def torch_seconds(stride: int, kernel, x, output_grad) -> float:
  """The same gradient in PyTorch; NaN where it is not installed."""
  try:
    import torch
  except ImportError:
    return float('nan')
  x, grad = (
    torch.from_numpy(np.moveaxis(np.array(v), -1, 1).copy())
    for v in (x, output_grad)
  )
  weight = np.transpose(np.array(kernel), (3, 2, 0, 1)).copy()
  weight = torch.from_numpy(weight).requires_grad_()
  edge = weight.shape[-1] // 2
  y = torch.nn.functional.conv2d(x, weight, stride=stride, padding=edge)
  return best_seconds(
    lambda: torch.autograd.grad(y, weight, grad, retain_graph=True)
  )


def rows() -> Iterator[tuple[str, list[float]]]:
  """A layer and the GFLOP/s of each way, PyTorch last."""
  rng = np.random.default_rng(0)
  for side, i, o, k, stride in LAYERS:
    x = jnp.asarray(rng.normal(size=(IMAGES, side, side, i)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(k, k, i, o)), jnp.float32)
    y = convolve(stride, kernel, x)
    grad = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    work = 2 * y.size * k * k * i / 1e9
    found = []
    for way in WAYS:
      run = functools.partial(
        jax.jit(functools.partial(way, stride)), kernel, x, grad
      )
      seconds = best_seconds(lambda run=run: run().block_until_ready())
      found.append(work / seconds)
    found.append(work / torch_seconds(stride, kernel, x, grad))
    yield f'{side}×{side}, {i} to {o}, {k}×{k}, stride {stride}', found


def main() -> None:
  """Print the table."""
  names = [way.__name__.replace('_', ' ') for way in WAYS] + ['PyTorch']
  print('| layer | ' + ' | '.join(names) + ' |')
  print('|---' * (len(names) + 1) + '|')
  for name, values in rows():
    cells = ' | '.join(f'{value:.0f}' for value in values)
    print(f'| {name} | {cells} |', flush=True)


if __name__ == '__main__':
  main()
