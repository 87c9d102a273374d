"""Whole: the command `sync`, stage by stage."""

import os
import tempfile
from unittest import mock

from lipsync_jax import sync
from lipsync_jax.benchmark import generator, timing
from lipsync_jax.weights import convert


def report(
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
      net = convert.Weights(
        'generator', 96, 1.0, generator.random_variables(96, 1.0), 'random'
      )
      convert.save(checkpoint, net)
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
    f'batch {first["batch"]}\non {timing.machine_name()}\n'
  )
  return '\n'.join([title, *timing.markdown_table(head, lines)])
