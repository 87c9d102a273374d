"""The benchmark measures what it says, of networks that agree."""

import importlib
import os
import pathlib
import time
import types

import numpy as np
import pytest

from lipsync_jax.benchmark import (
  end_to_end,
  generator,
  input_pipeline,
  timing,
  training,
)
from lipsync_jax.data import synthetic
from lipsync_jax.models import flops, runtime

command = importlib.import_module('lipsync_jax.benchmark.__main__')


def test_published_size():
  """3.97 GMAC a face (spec 2), two operations each."""
  assert flops.generator_flops(96, 1.0) == 2 * 3_966_984_192


@pytest.mark.parametrize('low', [False, True])
def test_twin_is_the_same_network(low):
  pytest.importorskip('torch', reason='needs PyTorch: pip install -e .[torch]')
  variables = generator.random_variables(96, 0.25)
  mel, face = generator.random_inputs(96, 2)
  want, _ = runtime.build_predictor(variables, 96, 0.25, 'float32', 2, 'xla')
  got = generator.torch_generator(variables, 96, 0.25, low)(mel, face).numpy()
  error = np.abs(got.astype(int) - np.asarray(want(mel, face)))
  assert error.max() <= (12 if low else 1)
  assert error.mean() < (1 if low else 0.01)


def test_measure_takes_turns():
  order = []

  def rival(name):
    return lambda n: order.append((name, n))

  times = timing.time_candidates({n: rival(n) for n in 'ab'}, 3)
  assert order[-6:] == [('a', 1), ('b', 1)] * 3
  assert [len(spent) for spent in times.values()] == [3, 3]


def test_measure_repeats_short_calls(monkeypatch):
  calls, now = [], 0.0
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: now)

  def run(n):
    nonlocal now
    calls.append(n)
    now += 0.25 * n

  spent = timing.time_candidates({'a': run}, 2, seconds=2.0)['a']
  assert calls == [1, 1, 8, 8]
  assert spent.tolist() == [0.25, 0.25]  # of one call, not of the sample


def test_table_of_the_generator(monkeypatch, capsys):
  monkeypatch.setattr(timing, 'has_torch', lambda: False)
  line = 'generator --width 0.25 --batch 2 --rounds 1'
  assert command.main(line.split()) == 0
  out = capsys.readouterr().out
  assert '| XLA f32 ' in out and '| XLA bf16 ' in out and 'batch 2' in out
  assert ('| OpenVINO bf16 ' in out) == runtime.has_openvino()
  assert '0.2853' in out
  rows = [line for line in out.splitlines() if line.startswith('|')]
  assert len({len(row) for row in rows}) == 1, 'columns do not line up'


@pytest.mark.parametrize('flags', [[], ['--random-weights']])
def test_table_of_sync(flags, monkeypatch, capsys):
  """Two runs share a cache; the weights are the bundled or random ones."""
  runs = []

  def sync(face, audio, outfile, checkpoint_path, **rest):
    if flags:
      assert pathlib.Path(checkpoint_path).stat().st_size > 1e8
    else:
      assert checkpoint_path is None
    runs.append(os.environ['LIPSYNC_JAX_CACHE'])
    spent = 2.0 / len(runs)
    return {
      'frames': 50, 'width': 640, 'height': 360, 'seconds_of_sound': 2.0,
      'engine': 'XLA f32', 'batch': 16,
      'seconds': {'find faces': spent, 'total': spent},
    }  # fmt: skip

  monkeypatch.setattr(end_to_end, 'sync', types.SimpleNamespace(sync=sync))
  before = os.environ['LIPSYNC_JAX_CACHE']
  words = ['sync', '--face', 'a.mp4', '--audio', 'b.wav', *flags]
  assert command.main(words) == 0
  assert len(runs) == 2 and runs[0] == runs[1] != before
  assert os.environ['LIPSYNC_JAX_CACHE'] == before
  out = capsys.readouterr().out
  assert '640x360, 50 frames' in out and '25.0' in out and '50.0' in out


def test_bad_input_is_one_line(capsys):
  assert (
    command.main(['sync', '--face', 'none.mp4', '--audio', 'none.wav']) == 1
  )
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1


def test_flops_of_the_steps():
  """Tables of spec 2 and 3: 3.97, 1.21 and 1.26 GMAC forward."""
  expert = flops.train_window_flops('syncnet', 96, 1.0)
  assert expert == pytest.approx(3 * 2 * 1.21e9, rel=0.01)
  alone = flops.train_window_flops('generator', 96, 1.0)
  assert alone == 3 * 5 * flops.generator_flops(96, 1.0)
  plain = flops.train_window_flops('generator', 96, 1.0, expert=0.5)
  assert 0 < plain - alone < 0.4 * expert
  critic = flops.train_window_flops('hq', 96, 1.0) - alone
  assert critic == pytest.approx(8 * 5 * 2 * 1.26e9, rel=0.01)


def stand_in(seconds: float):
  return lambda n: time.sleep(seconds * n)


def test_table_of_training(monkeypatch, capsys):
  """The fastest of PyTorch is what ours is measured by."""
  found = {
    'PyTorch f32': stand_in(0.04),
    'PyTorch bf16': stand_in(0.02),
    'ours': stand_in(0.01),
  }
  monkeypatch.setattr(training, 'candidates', lambda *_: found)
  monkeypatch.setattr(flops, 'peak_flops', lambda: 989e12)
  line = 'train --width 0.25 --batch 3 --steps 3 --stages syncnet hq'
  assert command.main(line.split()) == 0
  out = capsys.readouterr().out
  rows = [r.split('|')[1:-1] for r in out.splitlines() if r.startswith('|')]
  cells = [[cell.strip() for cell in row] for row in rows]
  assert [c[0] for c in cells[2:]] == ['syncnet'] * 3 + ['hq'] * 3
  assert 1.3 < float(cells[4][4]) < 3 and float(cells[2][4]) < 1
  assert 60 < float(cells[7][3]) / 15 < 100.1  # faces of 10 ms steps
  assert cells[0][6] == 'of 989' and cells[4][6].endswith('%')


def test_a_chip_is_found_by_its_name(monkeypatch):
  for kind, peak in (
    ('NVIDIA H100 80GB HBM3', 798e12),
    ('NVIDIA H200', 790e12),
    ('TPU v5 lite', 197e12),
    ('TPU v5p', 459e12),
    ('cpu', None),
  ):
    device = types.SimpleNamespace(device_kind=kind)
    monkeypatch.setattr(flops.jax, 'devices', lambda d=device: [d])
    assert flops.peak_flops() == peak


def test_table_of_data(tmp_path, monkeypatch, capsys):
  synthetic.build_dataset(tmp_path, speakers=2)
  monkeypatch.setattr(input_pipeline, 'KINDS', ('generator', 'syncnet'))
  line = f'data {tmp_path} --batch 2 --threads 2 --seconds 0.1'
  assert command.main(line.split()) == 0
  out = capsys.readouterr().out
  rows = [r.split('|')[1:-1] for r in out.splitlines() if r.startswith('|')]
  assert [row[0].strip() for row in rows[2:]] == ['generator', 'syncnet']
  assert all(float(cell) > 0 for row in rows[2:] for cell in row[1:3])


def test_shards_that_are_not_there_are_one_line(tmp_path, capsys):
  assert command.main(['data', str(tmp_path)]) == 1
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1
