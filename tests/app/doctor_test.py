"""`lipsync doctor`: every probe, with libraries missing or broken."""

import json
import sys

import pytest

from lipsync_jax import __main__, __version__
from lipsync_jax.app import doctor


@pytest.fixture(scope='module')
def healthy() -> dict:
  """The results here, in this process."""
  return {name: doctor.run_probe(name) for name in doctor.probes()}


def report(monkeypatch, capsys, found, *words) -> tuple[int, str, str]:
  """Exit code, output and errors of the command for these results."""
  monkeypatch.setattr(doctor, 'run_isolated', found.get)
  return (__main__.main(['doctor', *words]), *capsys.readouterr())


def test_this_installation_can_run(healthy, monkeypatch, capsys):
  assert not [n for n, facts in healthy.items() if 'error' in facts], healthy
  assert healthy['versions']['lipsync_jax'] == __version__
  assert healthy['encoders']['h264'] and healthy['devices']['devices']
  assert len(healthy['weights']['articulator']) == 64
  code, out, error = report(monkeypatch, capsys, healthy)
  assert (code, error) == (0, '')
  assert 'mesh warp' in out and healthy['av']['ffmpeg'] in out
  code, out, _ = report(monkeypatch, capsys, healthy, '--json')
  facts = json.loads(out)
  assert code == 0 and facts['can_run'] and facts['av'] == healthy['av']


@pytest.mark.parametrize('library', doctor.NEEDED)
def test_a_missing_library_is_one_problem(
  healthy, monkeypatch, capsys, library
):
  monkeypatch.setitem(sys.modules, library, None)  # its import fails
  lost = doctor.run_probe(library)
  assert 'Error' in lost['error'] and '\n' not in lost['error']
  found = healthy | {library: lost}
  if library == 'jax':
    found |= {name: doctor.run_probe(name) for name in ('devices', 'engines')}
    assert 'error' in found['devices'] and 'error' in found['engines']
  if library == 'av':
    found['encoders'] = doctor.run_probe('encoders')
  code, out, error = report(monkeypatch, capsys, found)
  problems = [line for line in out.splitlines() if line.startswith('problem')]
  assert code == 1 and len(error.splitlines()) == 1
  fatal = [line for line in problems if doctor.REINSTALL in line]
  assert len(fatal) == 1 and doctor.NEEDED[library] in fatal[0], problems


@pytest.mark.parametrize(
  'probe, change, word, code',
  [
    ('encoders', {'h264': False}, 'h264', 1),
    ('encoders', {'prores': False}, 'prores', 0),
    ('weights', {'articulator': 'error: damaged'}, 'articulator: error', 1),
    ('weights', {'face detector': 'error: gone'}, 'face detector', 1),
    ('weights', {'generator': 'error: gone'}, 'generator', 0),
    ('machine', {'disk_free_gb': 0.2}, '0.2 GB of disk', 0),
    ('machine', {'memory_available_gb': 0.5}, '0.5 GB of memory', 0),
    ('cache', {'writable': False}, 'LIPSYNC_JAX_CACHE', 0),
    ('versions', {'openvino': None}, '[openvino]', 0),
    ('devices', {'nvidia': True}, '[cuda12]', 0),
    ('devices', {'error': 'crashed'}, 'devices: crashed', 1),
  ],
)
def test_each_problem_has_a_line_and_a_remedy(
  healthy, monkeypatch, capsys, probe, change, word, code
):
  base = {'backend': 'cpu', 'nvidia': False, 'devices': ['cpu:0']}
  found = healthy | {'devices': base}
  found |= {probe: found[probe] | change}
  got, out, _ = report(monkeypatch, capsys, found)
  lines = [line for line in out.splitlines() if line.startswith('problem')]
  assert got == code and any(word in line for line in lines), out


def test_nothing_found_at_all_is_still_a_report(monkeypatch, capsys):
  found = {name: {'error': 'no\nanswer'} for name in doctor.probes()}
  for words in ((), ('--json',)):
    code, out, error = report(monkeypatch, capsys, found, *words)
    assert code == 1 and out and error.count('\n') == 1


def test_a_crash_of_a_library_costs_one_probe(tmp_path, monkeypatch):
  (tmp_path / 'cv2.py').write_text('import os\nos.abort()\n')
  (tmp_path / 'mediapipe.py').write_text('raise SystemExit("no licence")\n')
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  assert 'code -6' in doctor.run_isolated('cv2')['error']
  assert 'no licence' in doctor.run_isolated('mediapipe')['error']
  assert doctor.run_isolated('versions')['lipsync_jax'] == __version__


def test_a_hanging_library_costs_one_probe(tmp_path, monkeypatch):
  (tmp_path / 'cv2.py').write_text('import time\ntime.sleep(60)\n')
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.setattr(doctor, 'PROBE_SECONDS', 0.5)
  assert 'no answer' in doctor.run_isolated('cv2')['error']
