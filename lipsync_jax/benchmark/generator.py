"""Speed of the generator: our runtimes and PyTorch."""

import math
from collections.abc import Callable

import jax
import numpy as np

from lipsync_jax import models
from lipsync_jax.benchmark import timing
from lipsync_jax.benchmark.timing import Candidates
from lipsync_jax.models import flops, generator, runtime, runtime_xla

PADDLEGAN_SECONDS = (
  0.2853  # seconds per image, batch 1, Nvidia P40, PaddleGAN's table
)
SECONDS = 0.5  # of one sample on a GPU, where a call is milliseconds


def random_variables(
  size: int, width: float, seed: int = 0, network: str = 'generator'
) -> dict:
  """Random weights that keep activations in range."""
  module = models.build_model(network, size, width)
  zeros = models.dummy_inputs(network, size)
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *zeros, train=False)
  )
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    if path[-1].key in ('var', 'scale'):
      return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
    gain = 0.1
    if path[-1].key == 'kernel':
      gain = math.sqrt(1.3 / math.prod(shape.shape[:3]))
    return (gain * rng.standard_normal(shape.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_inputs(size: int, batch: int, seed: int = 0):
  """A random mel window and face."""
  rng = np.random.default_rng(seed)
  mel = rng.uniform(-4, 4, (batch, 80, 16)).astype(np.float32)
  return mel, rng.integers(0, 256, (batch, size, size, 3), np.uint8)


def torch_generator(variables: dict, size: int, width: float, low: bool):
  """The folded generator in PyTorch, at its fastest.

  Args:
    low: bfloat16 and channels last; with torch.compile on a GPU.
  """
  import torch
  from torch.nn import functional

  gpu = torch.cuda.is_available()
  dtype = torch.bfloat16 if low else torch.float32
  form = torch.channels_last if low else torch.contiguous_format
  device = torch.device('cuda' if gpu else 'cpu')
  layers = runtime_xla.fold_batch_norm(variables, size, width)
  for layer in runtime_xla.generator_rows(size, width):
    kernel, bias = layers[layer.name]
    axes = (3, 2, 0, 1)  # [o, i, kh, kw]
    if layer.up:
      kernel, axes = kernel[::-1, ::-1], (2, 3, 0, 1)
    kernel = torch.from_numpy(kernel.transpose(axes).copy()).to(device, dtype)
    bias = torch.from_numpy(bias).to(device, dtype)
    layers[layer.name] = kernel.contiguous(memory_format=form), bias

  def run(layer, x):
    kernel, bias = layers[layer.name]
    if layer.up:
      extra = tuple(s - 1 for s in layer.stride)
      where = layer.stride, layer.pad, extra
      x = functional.conv_transpose2d(x, kernel, bias, *where)
    else:
      x = functional.conv2d(x, kernel, bias, layer.stride, layer.pad)
    return x.relu() if layer.act == 'relu' else x.sigmoid()

  def forward(mel, face):
    x = face.permute(0, 3, 1, 2).to(dtype) / 255
    masked = x.clone()
    masked[:, :, size // 2 :] = 0
    x = torch.cat([masked, x], 1).contiguous(memory_format=form)
    mel, stages = mel[:, None].to(dtype), generator.layer_specs(size, width)
    x = generator.connect(stages, run, lambda pair: torch.cat(pair, 1), mel, x)
    return (x.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

  def predict(*arrays):
    with torch.inference_mode():
      return step(*(torch.as_tensor(a, device=device) for a in arrays))

  torch.backends.cudnn.benchmark = True
  step = torch.compile(forward) if gpu and low else forward
  return predict


def torch_candidate(
  variables, size, width, low, inputs
) -> Callable[[int], None]:
  """A runner of the PyTorch generator on inputs that are on its device."""
  import torch

  predict = torch_generator(variables, size, width, low)
  gpu = torch.cuda.is_available()
  if gpu:
    inputs = [torch.as_tensor(a, device='cuda') for a in inputs]

  def run(n):
    for _ in range(n):
      predict(*inputs)
    if gpu:
      torch.cuda.synchronize()

  return run


def own_candidate(variables, size, width, dtype, backend, inputs):
  """Name and runner of one of our runtimes."""
  batch = inputs[0].shape[0]
  predict, name = runtime.build_predictor(
    variables, size, width, dtype, batch, backend
  )
  if backend == 'xla':
    inputs = jax.device_put(inputs)

  def run(n):
    jax.block_until_ready([predict(*inputs) for _ in range(n)])

  return name, run


def candidates(size: int, width: float, batch: int) -> Candidates:
  """All runtimes of the generator here; PyTorch first, if installed."""
  variables = random_variables(size, width)
  inputs = random_inputs(size, batch)
  gpu = jax.default_backend() != 'cpu'
  found = {}
  if timing.has_torch():
    low = 'PyTorch bf16 channels-last' + (' compiled' if gpu else '')
    for name, is_low in (('PyTorch f32', False), (low, True)):
      found[name] = torch_candidate(variables, size, width, is_low, inputs)
  pairs = [('float32', 'xla'), ('bfloat16', 'xla')]
  if not gpu and runtime.has_openvino():
    pairs += [('float32', 'openvino'), ('bfloat16', 'openvino')]
  for dtype, backend in pairs:
    name, run = own_candidate(variables, size, width, dtype, backend, inputs)
    found[name] = run
  return found


def report(size: int, width: float, batch: int, turns: int) -> str:
  """The table of the generator's speed, in Markdown."""
  seconds = 0 if jax.default_backend() == 'cpu' else SECONDS
  many = timing.time_candidates(candidates(size, width, batch), turns, seconds)
  one = timing.time_candidates(candidates(size, width, 1), turns, seconds)
  count = flops.generator_flops(size, width)
  first = next(iter(many))
  peak = flops.peak_flops()
  head = ['engine', 'frames/s', f'x {first}', 'GFLOP/s', 's at batch 1']
  lines = []
  for name, spent in many.items():
    rate = batch / np.median(spent)
    lines.append(
      [
        name,
        f'{rate:.1f}',
        f'{np.median(many[first] / spent):.2f}',
        f'{rate * count / 1e9:.0f}',
        f'{np.median(one[name]):.4f}',
      ]
    )
    if peak:
      lines[-1].append(f'{100 * rate * count / peak:.1f} %')
  if peak:
    head.append(f'of {peak / 1e12:.0f} TFLOP/s')
  title = (
    f'Generator, {size} px, width {width:g}, {count / 1e9:.2f} GFLOP a face, '
    f'batch {batch}, median of {turns} rounds\non {timing.machine_name()}\n'
  )
  tail = (
    f'Published for batch 1: {PADDLEGAN_SECONDS} s (PaddleGAN, Nvidia P40).'
  )
  return '\n'.join([title, *timing.markdown_table(head, lines), '', tail])
