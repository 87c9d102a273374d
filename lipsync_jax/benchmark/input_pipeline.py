"""Speed of the input pipeline: windows a second, streamed and resident.

Streaming reads records, checks their CRCs, decodes JPEGs and extracts crops on
the host. The device-resident data set samples a split on the device. Both use
the augmentation of the configs.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax

from lipsync_jax.benchmark import timing
from lipsync_jax.data import augmentation, batches, device_dataset, sampler
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.data.windows import WINDOW_SPECS, WindowIndex, WindowSpec

KINDS = ('generator', 'syncnet', 'contrastive')
WINDOWS_PER_CLIP = 6  # of a contrastive example, as in configs/syncnet.py
SHOWN = 10 * 16  # windows/s: 10 batches of Wav2Lip's 16 (its issue 263)


def windows_per_second(
  step: Callable[[], object], windows: int, seconds: float
) -> float:
  """Windows a second of a step that makes `windows`; two warm up."""
  for _ in range(2):
    jax.block_until_ready(step())
  count, start = 0, time.perf_counter()
  while time.perf_counter() - start < seconds:
    jax.block_until_ready(step())
    count += 1
  return windows * count / (time.perf_counter() - start)


def augmentation_for(spec: WindowSpec) -> augmentation.Augmentation:
  """The augmentation of the configs: no mel masks for the generator."""
  if spec.has_reference:
    return augmentation.Augmentation(time_mask=0, frequency_mask=0)
  return augmentation.Augmentation()


def streaming_rate(
  source: ClipDataset,
  index: WindowIndex,
  size: int,
  batch: int,
  threads: int,
  seconds: float,
) -> float:
  """Windows a second of streamed batches."""
  change = augmentation_for(index.spec)
  stream = batches.example_batches(
    source, index, batch, size, change=change, threads=threads
  )
  iterator, windows = iter(stream), batch * index.spec.windows_per_clip
  return windows_per_second(lambda: next(iterator), windows, seconds)


def device_rate(
  store: device_dataset.DeviceDataset,
  index: WindowIndex,
  batch: int,
  seconds: float,
) -> float:
  """Windows a second of a device-resident split, window sampling included."""
  spec = index.spec
  sample = jax.jit(
    functools.partial(
      device_dataset.sample_batch,
      spec=spec,
      change=augmentation_for(spec),
    )
  )
  iterator = iter(sampler.sample_batches(index, batch))
  windows = batch * spec.windows_per_clip
  return windows_per_second(
    lambda: sample(store, next(iterator)), windows, seconds
  )


def report(
  folder: str, split: str, size: int, batch: int, threads: int, seconds: float
) -> str:
  """The table of all kinds, in Markdown.

  Raises:
    ValueError: the shards are missing or damaged.
  """
  source = ClipDataset(folder, split)
  plans = {}
  for kind in KINDS:
    spec = WINDOW_SPECS[kind]
    if spec.is_contrastive:
      spec = dataclasses.replace(spec, windows_per_clip=WINDOWS_PER_CLIP)
    plans[kind] = batches.index_dataset(source, spec)
  # Before the split is loaded, so that streaming has the memory to itself.
  stream = {
    k: streaming_rate(source, p, size, batch, threads, seconds)
    for k, p in plans.items()
  }
  # The crop jitter is the same for all kinds, and so is the margin.
  change = augmentation_for(WINDOW_SPECS['syncnet'])
  store = device_dataset.load_dataset(source, size, change, threads=threads)
  held = {k: device_rate(store, p, batch, seconds) for k, p in plans.items()}
  size_of = sum(x.nbytes for x in jax.tree.leaves(store)) / 1e9
  head = ['kind', 'streamed, windows/s', 'resident, windows/s']
  head += ['streamed, x 160', 'resident, x 160']
  rows = []
  for kind in KINDS:
    rates = stream[kind], held[kind]
    row = [kind, *(f'{x:.0f}' for x in rates)]
    rows.append(row + [f'{x / SHOWN:.1f}' for x in rates])
  title = (
    f'{len(source)} clips of {folder} ({split}), {size} px, batch {batch}, '
    f'{threads} threads, {size_of:.2g} GB resident\n'
    f'on {timing.machine_name()}\n'
  )
  tail = 'x 160: relative to 10 batches of 16 a second (docs/benchmarks.md).'
  return '\n'.join([title, *timing.markdown_table(head, rows), '', tail])
