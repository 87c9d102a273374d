"""SIGTERM ends the servers, with a job that runs, and leaves no file."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.helpers import browser

pytest.importorskip('gradio', reason='needs the extra [app]')
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs signals')
ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / 'lipsync_jax/app/examples'
HANG = 60  # seconds; a process that ends later hangs


@contextlib.contextmanager
def started(command: str, folder: pathlib.Path):
  """A server; yields its address and process."""
  port = browser.free_port()
  process = subprocess.Popen(
    [sys.executable, '-m', 'lipsync_jax', command, '--port', str(port)],
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'TMPDIR': str(folder)},
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  address = f'http://127.0.0.1:{port}'
  known = {'app': '/config', 'serve': '/health'}[command]
  try:
    while True:
      with contextlib.suppress(urllib.error.URLError):
        urllib.request.urlopen(address + known, timeout=60).read()
        break
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.1)
    yield address, process
  finally:
    process.kill()
    process.communicate()


def end(process, folder: pathlib.Path) -> None:
  """Send SIGTERM; the process ends well and its files are gone."""
  assert list(folder.iterdir())
  began = time.monotonic()
  process.send_signal(signal.SIGTERM)
  assert process.wait(HANG) == 0, process.stderr.read()
  print(f'ended after {time.monotonic() - began:.2f} s')
  assert list(folder.iterdir()) == []


def submit(address: str) -> str:
  """Start a long job over HTTP, returns its URL."""
  mark = b'--mark\r\nContent-Disposition: form-data; '
  body = b''
  for name, file in (('video', 'mona.jpg'), ('audio', 'jfk.flac')):
    body += mark + f'name="{name}"; filename="{file}"\r\n\r\n'.encode()
    body += (EXAMPLES / file).read_bytes() + b'\r\n'
  request = urllib.request.Request(
    f'{address}/v2/generate',
    body + b'--mark--\r\n',
    {'Content-Type': 'multipart/form-data; boundary=mark'},
  )
  with urllib.request.urlopen(request) as answer:
    return f'{address}/v2/generate/{json.load(answer)["id"]}'


@pytest.mark.parametrize('stage', ['', 'rendering'])
def test_serve(tmp_path, stage):
  with started('serve', tmp_path) as (address, process):
    url = submit(address)
    while stage:
      with urllib.request.urlopen(url) as answer:
        job = json.load(answer)
      assert job['status'] in ('PENDING', 'PROCESSING')
      if job.get('stage') == stage and job['progress']:
        break
      time.sleep(0.02)
    end(process, tmp_path)


def upload(address: str, name: str) -> dict:
  """Upload an example to the page; returns gradio's description of it."""
  head = 'Content-Disposition: form-data; name="files"; filename='
  body = f'--mark\r\n{head}"{name}"\r\n\r\n'.encode()
  body += (EXAMPLES / name).read_bytes() + b'\r\n--mark--\r\n'
  request = urllib.request.Request(
    f'{address}/gradio_api/upload',
    body,
    {'Content-Type': 'multipart/form-data; boundary=mark'},
  )
  with urllib.request.urlopen(request, timeout=HANG) as answer:
    return {'path': json.load(answer)[0], 'meta': {'_type': 'gradio.FileData'}}


def test_app(tmp_path):
  with started('app', tmp_path) as (address, process):
    face, speech = (upload(address, name) for name in ('mona.jpg', 'jfk.flac'))
    values = [face, speech, None, None, None, 1, 'mesh', 0, 0]
    values += ['bounce', 'cut', None]
    request = urllib.request.Request(
      f'{address}/gradio_api/call/whole',
      json.dumps({'data': values}).encode(),
      {'Content-Type': 'application/json'},
    )
    urllib.request.urlopen(request, timeout=HANG).read()
    ends = time.monotonic() + HANG
    while not list(tmp_path.glob('*/jobs/job-*/*/*')):
      assert time.monotonic() < ends, list(tmp_path.rglob('*'))
      time.sleep(0.05)
    end(process, tmp_path)


def test_a_job_that_does_not_end_is_left(tmp_path):
  """A thread in native code hears of no cancellation."""
  folder = tmp_path / 'files'
  folder.mkdir()
  (folder / 'output').write_bytes(b'x')
  code = (
    'import os, signal, sys, time\n'
    'from lipsync_jax.app import termination\n'
    'with termination.stopped_by_sigterm(sys.argv[1]):\n'
    '  try:\n'
    '    os.kill(os.getpid(), signal.SIGTERM)\n'
    '    time.sleep(600)\n'
    '  except KeyboardInterrupt:\n'
    '    time.sleep(600)\n'
  )
  words = [sys.executable, '-c', code, str(folder)]
  assert subprocess.run(words, cwd=ROOT, timeout=HANG).returncode == 0
  assert not folder.exists()


def test_ctrl_c_is_still_an_interrupt(tmp_path):
  from lipsync_jax.app import termination

  before = signal.getsignal(signal.SIGTERM)
  with (
    pytest.raises(KeyboardInterrupt),
    termination.stopped_by_sigterm(str(tmp_path)),
  ):
    raise KeyboardInterrupt
  assert signal.getsignal(signal.SIGTERM) is before and tmp_path.exists()
