"""The nodes for ComfyUI, against a stand-in of its interface."""

import asyncio
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from tests.helpers import test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'integrations/comfyui'
EXAMPLES = ROOT / 'lipsync_jax/app/examples'


class Output(tuple):
  """ComfyUI's NodeOutput."""

  def __new__(cls, *values):
    return super().__new__(cls, values)


class Kind:
  """A type such as io.Video."""

  class Input:
    def __init__(self, id, options=None, **_):
      self.id, self.options = id, options

  class Output:
    pass


class VideoFromFile:
  """ComfyUI's VIDEO."""

  def __init__(self, path):
    self.path = path

  def save_to(self, path):
    shutil.copy(self.path, path)


def stand_in() -> dict:
  """The modules `comfy_api` and `comfy_api.latest`."""
  latest = types.ModuleType('comfy_api.latest')
  kinds = ('Video', 'Audio', 'Image', 'Float', 'String', 'Combo')
  latest.io = types.SimpleNamespace(
    ComfyNode=type('ComfyNode', (), {}),
    Schema=types.SimpleNamespace,
    NodeOutput=Output,
    **dict.fromkeys(kinds, Kind),
  )
  latest.ComfyExtension = type('ComfyExtension', (), {})
  latest.InputImpl = types.SimpleNamespace(VideoFromFile=VideoFromFile)
  package = types.ModuleType('comfy_api')
  package.latest = latest
  return {'comfy_api': package, 'comfy_api.latest': latest}


def load_nodes():
  """The folder as ComfyUI loads it: by its path."""
  spec = importlib.util.spec_from_file_location(
    'lipsync_jax_nodes',
    FOLDER / '__init__.py',
    submodule_search_locations=[str(FOLDER)],
  )
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module
  spec.loader.exec_module(module)
  extension = asyncio.run(module.comfy_entrypoint())
  return asyncio.run(extension.get_node_list())


@pytest.fixture
def nodes(monkeypatch, tmp_path):
  for name, module in stand_in().items():
    monkeypatch.setitem(sys.modules, name, module)
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  found = load_nodes()
  yield found
  sys.modules['lipsync_jax_nodes.worker'].WORKER.close()
  for name in [n for n in sys.modules if n.startswith('lipsync_jax_nodes')]:
    del sys.modules[name]


PROGRAM = """
import json, os, pathlib, shutil, sys, time
here = pathlib.Path(__file__).parent
with open(here / 'pids', 'a') as file:
  print(os.getpid(), file=file)
assert sys.argv[1] == 'worker', sys.argv
if (here / 'BROKEN').exists():
  sys.exit('error: expected a library, found none')
for line in sys.stdin:
  job = json.loads(line)
  if 'cancel' in job:
    print(json.dumps({'id': job['cancel'], 'state': 'canceled'}), flush=True)
    continue
  (here / 'job.json').write_text(line)
  if (here / 'IDLE').exists():  # the job comes when it was about to end
    (here / 'IDLE').unlink()
    sys.exit()
  print('no JSON', flush=True)
  answer = {'id': job['id'], 'state': 'started'}
  print(json.dumps(answer), flush=True)
  if (here / 'DIE').exists():
    os._exit(3)
  if (here / 'STUCK').exists():
    time.sleep(600)
  if (here / 'WAIT').exists():
    continue
  if (here / 'FAIL').exists():
    answer |= {'state': 'failed', 'reason': 'expected a face, found none'}
  else:
    shutil.copy(job['face'], job['outfile'])
    answer['state'] = 'done'
  print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def program(monkeypatch, tmp_path):
  """A `lipsync worker` that copies the face; files in its folder change it."""
  path = tmp_path / 'bin' / 'lipsync'
  path.parent.mkdir()
  path.write_text(f'#!{sys.executable}\n{PROGRAM}')
  path.chmod(0o755)
  monkeypatch.delenv('LIPSYNC_JAX_PYTHON', raising=False)
  monkeypatch.setenv('PATH', str(path.parent))
  return path.parent


def pids(program) -> list[int]:
  """Of all workers that were started."""
  return [int(line) for line in (program / 'pids').read_text().split()]


def do_job(nodes) -> None:
  images = np.zeros((2, 32, 32, 3), np.float32)
  nodes[1].execute(images, sound(0.1), 25.0, 'auto', 1.0)


def sound(seconds: float) -> dict:
  rate = 16_000
  times = np.arange(round(seconds * rate)) / rate
  wave = 0.3 * np.sin(2 * np.pi * 200 * times).astype(np.float32)
  return {'waveform': wave[None, None], 'sample_rate': rate}


def test_schemas(nodes):
  video, images = (node.define_schema() for node in nodes)
  assert {video.node_id, images.node_id} == {
    'LipSyncJaxVideo',
    'LipSyncJaxImages',
  }
  for node, schema in zip(nodes, (video, images), strict=True):
    code = node.execute.__func__.__code__
    names = code.co_varnames[1 : code.co_argcount]
    assert [one.id for one in schema.inputs] == list(names)


def test_frames_pass_without_a_change(nodes, program, tmp_path):
  shades = np.arange(7 * 32 * 48 * 3).reshape(7, 32, 48, 3) % 256
  images = (shades / 255).astype(np.float32)
  (found,) = nodes[1].execute(images, sound(1), 25.0, 'left', 1.5)
  np.testing.assert_array_equal(np.round(found * 255), shades)
  options = json.loads((program / 'job.json').read_text())['options']
  assert (options['person'], options['strength']) == ('left', 1.5)
  assert options['when_video_longer'] == 'keep' and options['crf'] == 0
  assert not list(tmp_path.glob('lipsync-*'))


def test_video(nodes, program, tmp_path):
  path = test_clips.write_video(
    tmp_path / 'v.mp4', test_clips.steady(0.2, 25), (64, 48)
  )
  given = VideoFromFile(str(path))
  (found,) = nodes[0].execute(given, sound(1), 'auto', 1.0, 'loop', 'keep')
  assert pathlib.Path(found.path).read_bytes() == path.read_bytes()
  assert list(tmp_path.glob('lipsync-*')) == [pathlib.Path(found.path)]


def test_errors_are_the_workers_line(nodes, program, tmp_path):
  (program / 'FAIL').touch()
  with pytest.raises(RuntimeError, match=r'^lipsync: expected a face'):
    do_job(nodes)
  assert not list(tmp_path.glob('lipsync-*'))
  (program / 'FAIL').unlink()
  do_job(nodes)
  assert len(pids(program)) == 1


def test_one_process_does_all_jobs(nodes, program):
  for _ in range(3):
    do_job(nodes)
  (worker,) = pids(program)
  os.kill(worker, 0)  # it lives
  sys.modules['lipsync_jax_nodes.worker'].WORKER.close()
  with pytest.raises(ProcessLookupError):
    os.kill(worker, 0)


def test_a_worker_that_died_is_started_again(nodes, program):
  do_job(nodes)
  os.kill(pids(program)[0], signal.SIGKILL)
  do_job(nodes)
  (program / 'IDLE').touch()
  do_job(nodes)
  (program / 'DIE').touch()
  with pytest.raises(RuntimeError, match=r'^lipsync: the worker .* code 3$'):
    do_job(nodes)
  (program / 'DIE').unlink()
  do_job(nodes)
  assert len(set(pids(program))) == len(pids(program)) == 4


def test_a_worker_that_cannot_start_is_one_line(nodes, program):
  (program / 'BROKEN').touch()
  with pytest.raises(RuntimeError, match=r'^lipsync: expected a library'):
    do_job(nodes)
  assert len(pids(program)) == 1  # not tried again


@pytest.mark.parametrize('how, workers', [('WAIT', 1), ('STUCK', 2)])
def test_cancel(nodes, program, tmp_path, monkeypatch, how, workers):
  """A worker that cancels stays; one that does not answer is killed."""
  (program / how).touch()

  class Interrupted(Exception):
    pass

  def check():
    if (program / 'job.json').exists():
      raise Interrupted

  comfy = types.ModuleType('comfy')
  comfy.model_management = types.ModuleType('comfy.model_management')
  comfy.model_management.throw_exception_if_processing_interrupted = check
  monkeypatch.setitem(sys.modules, 'comfy', comfy)
  monkeypatch.setitem(
    sys.modules, 'comfy.model_management', comfy.model_management
  )
  monkeypatch.setattr(
    sys.modules['lipsync_jax_nodes.worker'], 'CANCEL_SECONDS', 1.0
  )
  with pytest.raises(Interrupted):
    do_job(nodes)
  assert not list(tmp_path.glob('lipsync-*'))
  (program / how).unlink()
  (program / 'job.json').unlink()
  monkeypatch.delitem(sys.modules, 'comfy.model_management')
  monkeypatch.delitem(sys.modules, 'comfy')
  do_job(nodes)
  assert len(pids(program)) == workers


def test_a_missing_program_is_one_line(nodes, program, monkeypatch):
  monkeypatch.setenv('PATH', '')
  with pytest.raises(RuntimeError, match='LIPSYNC_JAX_PYTHON'):
    do_job(nodes)


def real_python(folder: pathlib.Path) -> str:
  """A program that starts Python where it finds the repository."""
  python = folder / 'python'
  # The worker drops PYTHONPATH, so the program itself names the repository.
  python.write_text(
    f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} "$@"\n', encoding='utf-8'
  )
  python.chmod(0o755)
  return str(python)


@pytest.mark.skipif(os.name != 'posix', reason='needs kill -9')
def test_the_real_worker_ends_with_its_killed_host(tmp_path):
  code = (
    'import worker\n'
    'process = worker.WORKER._running()\n'
    'print(process.popen.pid, flush=True)\n'
    'input()\n'
  )
  given = {**os.environ, 'LIPSYNC_JAX_PYTHON': real_python(tmp_path)}
  given['PYTHONPATH'] = str(FOLDER)
  host = subprocess.Popen(
    [sys.executable, '-c', code],
    env=given,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  worker = int(host.stdout.readline())
  os.kill(worker, 0)
  host.kill()
  host.communicate()
  end = time.monotonic() + 60
  with contextlib.suppress(ProcessLookupError):
    while time.monotonic() < end:
      os.kill(worker, 0)
      time.sleep(0.05)
    pytest.fail('the worker lives on')


def test_a_real_job_without_jax_in_the_host(tmp_path):
  """In a process of its own, which then tells its modules."""
  code = (
    'import os, sys, time\n'
    'import av, numpy as np\n'
    'from tests.integrations import comfyui_test as here\n'
    'sys.modules.update(here.stand_in())\n'
    'node = here.load_nodes()[1]\n'
    'with av.open(str(here.EXAMPLES / "mona.jpg")) as file:\n'
    '  one = next(file.decode(video=0)).to_ndarray(format="rgb24")\n'
    'images = np.repeat(one[None, ::2, ::2], 6, 0).astype(np.float32) / 255\n'
    'with av.open(str(here.EXAMPLES / "jfk.flac")) as file:\n'
    '  stream = file.streams.audio[0]\n'
    '  blocks = [f.to_ndarray()[0] for f in file.decode(stream)]\n'
    '  rate = stream.rate\n'
    'wave = np.concatenate(blocks) / 32768\n'
    'wave = wave[rate // 2:][None, None]\n'
    'audio = {"waveform": wave, "sample_rate": rate}\n'
    'from lipsync_jax_nodes import worker\n'
    'begun, processes = [], set()\n'
    'for _ in range(2):\n'
    '  begun.append(time.monotonic())\n'
    '  found, = node.execute(images, audio, 25.0, "auto", 1.0)\n'
    '  processes.add(worker.WORKER._process.popen.pid)\n'
    'begun.append(time.monotonic())\n'
    'print("seconds of two jobs:", np.diff(begun).round(1))\n'
    'assert len(processes) == 1\n'
    'try:\n'
    '  node.execute(images, audio, 25.0, "nobody", 1.0)\n'
    'except RuntimeError as error:\n'
    '  assert "nobody" in str(error) and str(error).count(chr(10)) == 0\n'
    'else:\n'
    '  raise AssertionError("a wrong person is refused")\n'
    'assert found.shape == images.shape and found.dtype == np.float32\n'
    'moved = np.abs(found - images).mean(-1) > 0.1\n'
    'assert moved.any() and moved.mean() < 0.1, moved.mean()\n'
    'assert not {"jax", "jaxlib", "flax"} & set(sys.modules)\n'
  )
  given = {**os.environ, 'PYTHONPATH': str(ROOT)}
  given['LIPSYNC_JAX_PYTHON'] = real_python(tmp_path)
  result = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    env=given,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  print(result.stdout)
