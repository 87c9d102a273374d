"""Reading: windows a second out of shards, streamed and device-resident.

Streaming reads records, checks their CRCs, decodes JPEGs and cuts faces on
the host; resident samples a split that lies on the device. Both with the
augmentation that the configs use.
"""

import functools
import time
from collections.abc import Callable

import jax

from lipsync_jax.benchmark import timing
from lipsync_jax.data import augmentation, batches, device_dataset, sampler
from lipsync_jax.data.clip import ClipDataset

KINDS = ('generator', 'syncnet', 'contrastive')
WINDOWS_PER_CLIP = (
  6  # windows of a contrastive example, as in configs/syncnet.py
)
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


def augmentation_for(kind: str) -> augmentation.Augmentation:
  """The augmentation of the configs: the generator hears all of the sound."""
  if kind == 'generator':
    return augmentation.Augmentation(mask_columns=0, mask_bins=0)
  return augmentation.Augmentation()


def streaming_rate(source, plan, size, batch, threads, seconds) -> float:
  change = augmentation_for(plan.kind)
  stream = batches.example_batches(
    source, plan, batch, size, change=change, threads=threads
  )
  iterator, windows = iter(stream), batch * windows_per_example(plan.kind)
  return windows_per_second(lambda: next(iterator), windows, seconds)


def device_rate(store, plan, batch, seconds) -> float:
  """Of a split on the device. Its picks are made in the time, too."""
  sample = jax.jit(
    functools.partial(
      device_dataset.sample_batch,
      kind=plan.kind,
      change=augmentation_for(plan.kind),
    )
  )
  iterator, windows = (
    iter(sampler.sample_batches(plan, batch)),
    windows_per_example(plan.kind),
  )
  return windows_per_second(
    lambda: sample(store, next(iterator)), batch * windows, seconds
  )


def windows_per_example(kind: str) -> int:
  """Windows of an example."""
  return WINDOWS_PER_CLIP if kind == 'contrastive' else 1


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
    more = {'group': WINDOWS_PER_CLIP} if kind == 'contrastive' else {}
    plans[kind] = batches.index_dataset(source, kind, **more)
  # Before the split is loaded: streaming is to have the memory to itself.
  stream = {
    k: streaming_rate(source, p, size, batch, threads, seconds)
    for k, p in plans.items()
  }
  # The movement is the same for all kinds, and so is the margin.
  store = device_dataset.load_dataset(
    source, size, augmentation_for('syncnet'), threads=threads
  )
  held = {k: device_rate(store, p, batch, seconds) for k, p in plans.items()}
  size_of = sum(x.nbytes for x in jax.tree.leaves(store)) / 1e9
  head = ['kind', 'streamed, windows/s', 'resident, windows/s']
  head += ['streamed, x 160', 'resident, x 160']
  rows = []
  for kind in KINDS:
    found = stream[kind], held[kind]
    row = [kind, *(f'{x:.0f}' for x in found)]
    rows.append(row + [f'{x / SHOWN:.1f}' for x in found])
  title = (
    f'{len(source)} clips of {folder} ({split}), {size} px, batch {batch}, '
    f'{threads} threads, {size_of:.2g} GB resident\non {timing.machine_name()}\n'
  )
  tail = 'x 160: against 10 batches of 16 a second, see data_prep/README.md.'
  return '\n'.join([title, *timing.markdown_table(head, rows), '', tail])
