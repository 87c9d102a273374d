"""Draw the curves of training runs: one picture from their metrics.jsonl.

python scripts/curves.py OUT.png WORKDIR [WORKDIR …]
"""

import json
import pathlib
import sys

CHANCE = {'accuracy': 1 / 6}  # six windows of a clip compete
TRUTH = {'sync': 'real lips', 'motion': 'lips that keep still'}
ACROSS = 5  # panels in a row
NAMES = ('accuracy', 'sync', 'l1', 'lips', 'motion')


def read(workdir: str, kind: str) -> list[dict]:
  """The rows of one kind, 'train' or 'validation', in order."""
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [row for row in rows if row['kind'] == kind]


def draw(axis, workdir: str, name: str) -> None:
  """One number of one run: taught on, and on speakers never seen."""
  for kind, style in (('train', '-'), ('validation', 'o-')):
    rows = [row for row in read(workdir, kind) if name in row]
    steps = [row['step'] for row in rows]
    axis.plot(steps, [row[name] for row in rows], style, ms=4, label=kind)
  for row in read(workdir, 'validation')[-1:]:
    if f'{name}_of_truth' in row:
      truth = row[f'{name}_of_truth']
      axis.axhline(truth, ls=':', c='k', label=TRUTH[name])
  if name in CHANCE:
    axis.axhline(CHANCE[name], ls=':', c='k', label='chance')
  axis.set(title=f'{pathlib.Path(workdir).name}: {name}', xlabel='step')
  axis.legend()


def main(argv: list[str]) -> int:
  """Write the picture; one panel for every run and number."""
  if len(argv) < 2:
    print(__doc__.strip(), file=sys.stderr)
    return 2
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  panels = [
    (workdir, name)
    for workdir in argv[1:]
    for name in NAMES
    if any(name in row for row in read(workdir, 'train'))
  ]
  across = min(len(panels), ACROSS)
  down = -(-len(panels) // across)
  figure, axes = pyplot.subplots(
    down, across, figsize=(4 * across, 3 * down), squeeze=False
  )
  for axis in axes.flat[len(panels) :]:
    axis.remove()
  for axis, panel in zip(axes.flat, panels, strict=False):
    draw(axis, *panel)
  figure.tight_layout()
  figure.savefig(argv[0], dpi=80)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
