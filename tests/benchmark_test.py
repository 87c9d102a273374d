"""The benchmark measures what it says, of networks that agree."""

import pathlib
import types

import numpy as np
import pytest

from lipsync_jax import benchmark
from lipsync_jax.models import engine


def test_published_size_in_flops():
  """3.97 GMAC a face (spec 2), two operations each."""
  assert benchmark.frame_flops(96, 1.0) == 2 * 3_966_984_192


@pytest.mark.parametrize('low', [False, True])
def test_twin_is_the_same_network(low):
  pytest.importorskip('torch', reason='needs PyTorch: pip install -e .[torch]')
  variables = benchmark.random_variables(96, 0.25)
  mel, face = benchmark.random_inputs(96, 2)
  want, _ = engine.predictor(variables, 96, 0.25, 'float32', 2, 'xla')
  got = benchmark.torch_twin(variables, 96, 0.25, low)(mel, face).numpy()
  error = np.abs(got.astype(int) - np.asarray(want(mel, face)))
  assert error.max() <= (12 if low else 1)
  assert error.mean() < (1 if low else 0.01)


def test_measure_takes_turns():
  order = []

  def rival(name):
    return lambda n: order.append((name, n))

  times = benchmark.measure({n: rival(n) for n in 'ab'}, 3)
  assert order[-6:] == [('a', 1), ('b', 1)] * 3
  assert [len(spent) for spent in times.values()] == [3, 3]


def test_measure_repeats_short_calls():
  calls = []

  def run(n):
    calls.append(n)
    benchmark.time.sleep(0.002 * n)

  spent = benchmark.measure({'a': run}, 2, seconds=0.02)['a']
  assert 3 <= calls[-1] <= 10
  assert 0.002 <= spent.min() < 0.01  # of one call, not of the sample


def test_table_of_the_generator(monkeypatch, capsys):
  monkeypatch.setattr(benchmark, 'has_torch', lambda: False)
  command = 'generator --width 0.25 --batch 2 --rounds 1'
  assert benchmark.main(command.split()) == 0
  out = capsys.readouterr().out
  assert '| XLA f32 ' in out and '| XLA bf16 ' in out and 'batch 2' in out
  assert ('| OpenVINO bf16 ' in out) == engine.has_openvino()
  assert '0.2853' in out
  rows = [line for line in out.splitlines() if line.startswith('|')]
  assert len({len(row) for row in rows}) == 1, 'columns do not line up'


def test_table_of_sync(monkeypatch, capsys):
  """Two runs, one cache between them, weights made when none are given."""
  runs = []

  def sync(face, audio, outfile, checkpoint_path, **rest):
    assert pathlib.Path(checkpoint_path).stat().st_size > 1e8
    runs.append(benchmark.os.environ['LIPSYNC_JAX_CACHE'])
    spent = 2.0 / len(runs)
    return {
      'frames': 50, 'width': 640, 'height': 360, 'seconds_of_sound': 2.0,
      'engine': 'XLA f32', 'batch': 16,
      'seconds': {'find faces': spent, 'total': spent},
    }  # fmt: skip

  monkeypatch.setattr(benchmark, 'sync', types.SimpleNamespace(sync=sync))
  before = benchmark.os.environ['LIPSYNC_JAX_CACHE']
  assert benchmark.main(['sync', '--face', 'a.mp4', '--audio', 'b.wav']) == 0
  assert len(runs) == 2 and runs[0] == runs[1] != before
  assert benchmark.os.environ['LIPSYNC_JAX_CACHE'] == before
  out = capsys.readouterr().out
  assert '640x360, 50 frames' in out and '25.0' in out and '50.0' in out


def test_bad_input_is_one_line(capsys):
  assert (
    benchmark.main(['sync', '--face', 'none.mp4', '--audio', 'none.wav']) == 1
  )
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1
