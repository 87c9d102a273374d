"""Plot the metrics of training runs.

python -m lipsync_jax.training.plot WORKDIR [WORKDIR …] --out curves.png
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from lipsync_jax.common.cli import run_command
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.training.metric_writer import read_metrics

METRICS = ('accuracy', 'sync', 'l1', 'mouth_l1', 'temporal')
CHANCE = {'accuracy': 1 / 6}  # six windows of a clip compete
BASELINES = {  # metric -> its baseline, and the baseline's label
  'sync': ('sync/ground_truth', 'ground truth'),
  'temporal': ('temporal/static_baseline', 'static lips'),
}
COLUMNS = 5  # panels of a row


class PlotError(LipSyncError):
  """A run without metrics."""


def draw_metric(axis, workdir: pathlib.Path, name: str) -> None:
  """Draw one metric of one run: training, and validation speakers."""
  for kind, style in (('train', '-'), ('validation', 'o-')):
    rows = [row for row in read_metrics(workdir, kind) if name in row]
    steps = [row['step'] for row in rows]
    axis.plot(steps, [row[name] for row in rows], style, ms=4, label=kind)
  baseline, label = BASELINES.get(name, ('', ''))
  for row in read_metrics(workdir, 'validation')[-1:]:
    if baseline in row:
      axis.axhline(row[baseline], ls=':', c='k', label=label)
  if name in CHANCE:
    axis.axhline(CHANCE[name], ls=':', c='k', label='chance')
  axis.set(title=f'{workdir.name}: {name}', xlabel='step')
  axis.legend()


def plot_runs(workdirs: Sequence[str], out: str) -> str:
  """Write one picture with a panel for every run and metric.

  Args:
    workdirs: folders of the runs.
    out: picture, in any format of matplotlib.

  Returns:
    `out`.

  Raises:
    PlotError: no run has metrics.
  """
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  panels = [
    (pathlib.Path(workdir), name)
    for workdir in workdirs
    for name in METRICS
    if any(name in row for row in read_metrics(workdir, 'train'))
  ]
  if not panels:
    raise PlotError(
      f'expected metrics.jsonl of a run in {", ".join(workdirs)}, found none; '
      'give the --workdir of a training'
    )
  columns = min(len(panels), COLUMNS)
  rows = -(-len(panels) // columns)
  figure, axes = pyplot.subplots(
    rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False
  )
  for axis in axes.flat[len(panels) :]:
    axis.remove()
  for axis, panel in zip(axes.flat, panels, strict=False):
    draw_metric(axis, *panel)
  figure.tight_layout()
  figure.savefig(out, dpi=80)
  return out


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('workdirs', nargs='+', metavar='WORKDIR')
  parser.add_argument('--out', required=True, help='picture to write')
  args = parser.parse_args(argv)
  return run_command(lambda: plot_runs(args.workdirs, args.out))


if __name__ == '__main__':
  sys.exit(main())
