"""Alternating timings of candidates, and tables of them."""

import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable

import jax
import numpy as np

from lipsync_jax.models import runtime

Candidates = dict[str, Callable[[int], None]]  # name -> run n calls, then wait


def has_torch() -> bool:
  """Whether PyTorch is installed."""
  return importlib.util.find_spec('torch') is not None


def time_candidates(
  rivals: Candidates, rounds: int, seconds: float = 0
) -> dict[str, np.ndarray]:
  """Seconds a call in each round; a sample takes at least `seconds`."""
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


def machine_name() -> str:
  """The accelerator or processor, and its cores."""
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return f'one {device.device_kind}'  # of however many there are
  name, cores = platform.processor() or platform.machine(), os.cpu_count()
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      named = [line for line in file if line.startswith('model name')]
    name = named[0].partition(':')[2].strip() if named else name
  except OSError:
    pass
  low = 'with' if runtime.has_native_bfloat16() else 'without'
  return f'{cores} cores of {name} {low} bf16'


def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
  """Lines of a Markdown table with aligned columns."""
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  lines = []
  for row in (head, ['-' * width for width in widths], *rows):
    cells = [cell.ljust(w) for cell, w in zip(row, widths, strict=True)]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return lines
