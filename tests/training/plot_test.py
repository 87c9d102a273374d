"""The plot of training metrics."""

import json

import cv2
import pytest

from lipsync_jax.training import plot


def write_run(folder, names, steps=3):
  folder.mkdir()
  lines = [
    {'step': step, 'kind': kind, **dict.fromkeys(names, 1 / (step + 1))}
    for step in range(steps)
    for kind in ('train', 'validation')
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)
  return str(folder)


def test_plot_has_a_panel_for_every_run_and_metric(tmp_path, capsys):
  pytest.importorskip('matplotlib')
  runs = [
    write_run(tmp_path / 'syncnet', ['sync', 'accuracy', 'unknown']),
    write_run(tmp_path / 'generator', ['l1', 'temporal', 'sync']),
  ]
  wide, narrow = str(tmp_path / 'wide.png'), str(tmp_path / 'narrow.png')
  assert plot.main([*runs, '--out', wide]) == 0
  assert plot.main([runs[0], '--out', narrow]) == 0
  assert capsys.readouterr().out.split() == [wide, narrow]
  sizes = [cv2.imread(path).shape[1] for path in (wide, narrow)]
  assert sizes[0] == 5 * sizes[1] / 2


def test_run_without_metrics_is_one_line(tmp_path, capsys):
  pytest.importorskip('matplotlib')
  out = str(tmp_path / 'a.png')
  assert plot.main([str(tmp_path), '--out', out]) == 1
  error = capsys.readouterr().err
  assert error.count('\n') == 1 and 'expected metrics.jsonl' in error
