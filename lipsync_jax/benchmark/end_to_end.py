"""Speed of the command `sync`, stage by stage."""

import os
import tempfile
from unittest import mock

from lipsync_jax import sync
from lipsync_jax.benchmark import generator, timing
from lipsync_jax.weights import convert


def report(
  face: str,
  audio: str,
  checkpoint: str | None = None,
  batch: int | None = None,
  random_weights: bool = False,
) -> str:
  """Seconds and frames/s of each stage of `sync`, without and with a cache.

  Stages run in parallel, so that their seconds add up to more than the total.

  Args:
    face, audio: inputs.
    checkpoint: weights; None takes the bundled ones.
    batch: faces at a time; None is the default.
    random_weights: time the published architecture (36 M parameters) instead.
  """
  reports = []
  with tempfile.TemporaryDirectory() as folder:
    if random_weights:
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
