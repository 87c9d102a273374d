"""Benchmark: the speed tables of the README, measured on this machine.

  python -m lipsync_jax.benchmark generator [--batch N] [--width 1.0]
  python -m lipsync_jax.benchmark sync --face FILE --audio FILE

Every figure is a ratio within one run: rivals take turns, round by round,
so that whatever else the machine does hits all of them. PyTorch, where it
is installed, runs a twin built from the same table of layers.
"""

import argparse
import importlib.util
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np

from lipsync_jax import models, sync, weights
from lipsync_jax.models import engine, folded, generator

PUBLISHED = 0.2853  # seconds per image, batch 1, Nvidia P40, PaddleGAN's table
PEAKS = {'H200': 790e12}  # FLOP/s of bfloat16 products, measured
SECONDS = 0.5  # of one sample on a GPU, where a call is milliseconds
Rivals = dict[str, Callable[[int], None]]  # name -> run n calls, then wait


def random_variables(size: int, width: float, seed: int = 0) -> dict:
  """Weights of the generator's shapes that keep its signals alive."""
  module = models.build('generator', size, width)
  zeros = models.inputs('generator', size)
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
  """A mel window in its range and noise for a face."""
  rng = np.random.default_rng(seed)
  mel = rng.uniform(-4, 4, (batch, 80, 16)).astype(np.float32)
  return mel, rng.integers(0, 256, (batch, size, size, 3), np.uint8)


def frame_flops(size: int, width: float) -> int:
  """Floating-point operations of one face, two for a multiply-add."""
  total = 0

  def run(layer, shape):
    nonlocal total
    total += 2 * layer.macs(*shape)
    return layer.output(*shape)

  stages = generator.tables(size, width)
  generator.wire(stages, run, lambda parts: parts[0], (80, 16), (size, size))
  return total


def torch_twin(variables: dict, size: int, width: float, low: bool):
  """The folded generator in PyTorch, as quick as it goes: a callable.

  `low` is bfloat16 and channels last, and on a GPU torch.compile.
  """
  import torch
  from torch.nn import functional

  gpu = torch.cuda.is_available()
  dtype = torch.bfloat16 if low else torch.float32
  form = torch.channels_last if low else torch.contiguous_format
  device = torch.device('cuda' if gpu else 'cpu')
  layers = folded.fold(variables, size, width)
  for layer in folded.rows(size, width):
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
    mel, stages = mel[:, None].to(dtype), generator.tables(size, width)
    x = generator.wire(stages, run, lambda pair: torch.cat(pair, 1), mel, x)
    return (x.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

  def predict(*arrays):
    with torch.inference_mode():
      return step(*(torch.as_tensor(a, device=device) for a in arrays))

  torch.backends.cudnn.benchmark = True
  step = torch.compile(forward) if gpu and low else forward
  return predict


def torch_rival(variables, size, width, low, inputs) -> Callable[[int], None]:
  """Run the twin `n` times on inputs that are already on its device."""
  import torch

  predict = torch_twin(variables, size, width, low)
  gpu = torch.cuda.is_available()
  if gpu:
    inputs = [torch.as_tensor(a, device='cuda') for a in inputs]

  def run(n):
    for _ in range(n):
      predict(*inputs)
    if gpu:
      torch.cuda.synchronize()

  return run


def our_rival(variables, size, width, dtype, backend, inputs):
  """The name and the runner of one of our engines."""
  batch = inputs[0].shape[0]
  predict, name = engine.predictor(
    variables, size, width, dtype, batch, backend
  )
  if backend == 'xla':
    inputs = jax.device_put(inputs)

  def run(n):
    jax.block_until_ready([predict(*inputs) for _ in range(n)])

  return name, run


def generators(size: int, width: float, batch: int) -> Rivals:
  """Everything that can run the generator here; PyTorch first if present."""
  variables = random_variables(size, width)
  inputs = random_inputs(size, batch)
  gpu = jax.default_backend() != 'cpu'
  rivals = {}
  if has_torch():
    low = 'PyTorch bf16 channels-last' + (' compiled' if gpu else '')
    for name, is_low in (('PyTorch f32', False), (low, True)):
      rivals[name] = torch_rival(variables, size, width, is_low, inputs)
  pairs = [('float32', 'xla'), ('bfloat16', 'xla')]
  if not gpu and engine.has_openvino():
    pairs += [('float32', 'openvino'), ('bfloat16', 'openvino')]
  for dtype, backend in pairs:
    name, run = our_rival(variables, size, width, dtype, backend, inputs)
    rivals[name] = run
  return rivals


def has_torch() -> bool:
  return importlib.util.find_spec('torch') is not None


def measure(
  rivals: Rivals, rounds: int, seconds: float = 0
) -> dict[str, np.ndarray]:
  """Seconds a call in each round; a sample lasts at least `seconds`."""
  calls = {}
  for name, run in rivals.items():
    run(1)  # compiles
    start = time.perf_counter()
    run(1)
    calls[name] = math.ceil(seconds / (time.perf_counter() - start)) or 1
  times = {name: [] for name in rivals}
  for _ in range(rounds):
    for name, run in rivals.items():
      start = time.perf_counter()
      run(calls[name])
      times[name].append((time.perf_counter() - start) / calls[name])
  return {name: np.array(spent) for name, spent in times.items()}


def bench_generator(size: int, width: float, batch: int, rounds: int) -> str:
  """The table of the generator's speed, in Markdown."""
  seconds = 0 if jax.default_backend() == 'cpu' else SECONDS
  many = measure(generators(size, width, batch), rounds, seconds)
  one = measure(generators(size, width, 1), rounds, seconds)
  flops = frame_flops(size, width)
  first = next(iter(many))
  peak = next((p for chip, p in PEAKS.items() if chip in machine()), None)
  head = ['engine', 'frames/s', f'x {first}', 'GFLOP/s', 's at batch 1']
  lines = []
  for name, spent in many.items():
    rate = batch / np.median(spent)
    lines.append(
      [
        name,
        f'{rate:.1f}',
        f'{np.median(many[first] / spent):.2f}',
        f'{rate * flops / 1e9:.0f}',
        f'{np.median(one[name]):.4f}',
      ]
    )
    if peak:
      lines[-1].append(f'{100 * rate * flops / peak:.1f} %')
  if peak:
    head.append('of peak')
  title = (
    f'Generator, {size} px, width {width:g}, {flops / 1e9:.2f} GFLOP a face, '
    f'batch {batch}, median of {rounds} rounds\non {machine()}\n'
  )
  tail = f'Published for batch 1: {PUBLISHED} s (PaddleGAN, Nvidia P40).'
  return '\n'.join([title, *table(head, lines), '', tail])


def bench_sync(
  face: str, audio: str, checkpoint: str | None = None, batch: int | None = None
) -> str:
  """Seconds and frames/s of each stage of `sync`, without and with a cache.

  Stages run side by side, so that their seconds add up to more than the
  whole. Without a checkpoint the weights are random, which costs the same.
  """
  reports = []
  with tempfile.TemporaryDirectory() as folder:
    if checkpoint is None:
      checkpoint = os.path.join(folder, 'random.safetensors')
      net = weights.Weights(
        'generator', 96, 1.0, random_variables(96, 1.0), 'random'
      )
      weights.save(checkpoint, net)
    cache = {'LIPSYNC_JAX_CACHE': os.path.join(folder, 'cache')}
    with mock.patch.dict(os.environ, cache):
      for name in ('first.mp4', 'second.mp4'):
        out, extra = os.path.join(folder, name), {'checkpoint_path': checkpoint}
        report = sync.sync(face, audio, out, quiet=True, batch=batch, **extra)
        reports.append(report)
  first, second = reports
  frames = first['frames']
  lines = []
  for stage, spent in first['seconds'].items():
    row = [stage]
    for seconds in (spent, second['seconds'].get(stage, 0)):
      rate = f'{frames / seconds:.1f}' if seconds else '-'
      row += [f'{seconds:.2f}', rate]
    lines.append(row)
  head = ['stage', 'first run, s', 'frames/s', 'second run, s', 'frames/s']
  title = (
    f'{first["width"]}x{first["height"]}, {frames} frames, '
    f'{first["seconds_of_sound"]} s of sound, {first["engine"]}, '
    f'batch {first["batch"]}\non {machine()}\n'
  )
  return '\n'.join([title, *table(head, lines)])


def machine() -> str:
  """What this runs on: accelerator or processor, and cores."""
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return f'{jax.device_count()} x {device.device_kind}'
  name, cores = platform.processor() or platform.machine(), os.cpu_count()
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      named = [line for line in file if line.startswith('model name')]
    name = named[0].partition(':')[2].strip() if named else name
  except OSError:
    pass
  low = 'with' if engine.multiplies_bfloat16() else 'without'
  return f'{cores} cores of {name} {low} bf16'


def table(head: list[str], rows: list[list[str]]) -> list[str]:
  """Lines of a Markdown table whose columns line up."""
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  lines = []
  for row in (head, ['-' * width for width in widths], *rows):
    cells = [cell.ljust(w) for cell, w in zip(row, widths, strict=True)]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return lines


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser('lipsync_jax.benchmark')
  tasks = parser.add_subparsers(dest='task', required=True)
  task = tasks.add_parser('generator', help='the network alone')
  task.add_argument('--size', type=int, default=96)
  task.add_argument('--width', type=float, default=1.0)
  task.add_argument('--batch', type=int, help='16, or 256 on a GPU')
  task.add_argument('--rounds', type=int, default=7)
  task = tasks.add_parser('sync', help='the whole, stage by stage')
  task.add_argument('--face', required=True)
  task.add_argument('--audio', required=True)
  task.add_argument('--checkpoint_path', '--checkpoint-path')
  task.add_argument('--batch', type=int)
  given = parser.parse_args(argv)
  if given.task == 'generator':
    batch = given.batch or (16 if jax.default_backend() == 'cpu' else 256)
    print(bench_generator(given.size, given.width, batch, given.rounds))
    return 0
  try:
    checkpoint = given.checkpoint_path
    print(bench_sync(given.face, given.audio, checkpoint, given.batch))
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
