"""`lipsync worker`: lines of JSON in and out."""

import json
import os
import pathlib
import queue
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO, SPEECH = ROOT / 'examples/mona.jpg', ROOT / 'examples/jfk.flac'


class Worker:
  """The command, and its answers."""

  def __init__(self, *words: str):
    self.process = subprocess.Popen(
      [sys.executable, '-m', 'lipsync_jax', 'worker', *words],
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.answers: queue.Queue[dict] = queue.Queue()
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self) -> None:
    for line in self.process.stdout:
      self.answers.put(json.loads(line))  # nothing else is written there

  def send(self, **message) -> None:
    self.process.stdin.write(json.dumps(message) + '\n')
    self.process.stdin.flush()

  def wait_for(self, name: str, state: str) -> dict:
    while True:
      found = self.answers.get(timeout=300)
      if (found['id'], found['state']) == (name, state):
        return found


def test_jobs_a_refusal_a_cancel_and_the_end(tmp_path):
  worker = Worker('--cpu')
  given = {'face': str(PHOTO), 'audio': str(SPEECH)}
  for name in '12':
    out = tmp_path / f'{name}.mp4'
    worker.send(id=name, outfile=str(out), options={'preview': 0.4}, **given)
  worker.wait_for('1', 'done')
  worker.wait_for('2', 'started')  # after the end of the first
  worker.wait_for('2', 'done')
  assert (tmp_path / '1.mp4').read_bytes() == (tmp_path / '2.mp4').read_bytes()
  out = str(tmp_path / 'no.mp4')
  worker.send(id='3', outfile=out, options={'strength': 9}, **given)
  assert 'expected 0 to 2' in worker.wait_for('3', 'failed')['reason']
  worker.send(id='4', outfile=out, options={'loudness': 9}, **given)
  assert "found 'loudness'" in worker.wait_for('4', 'failed')['reason']
  worker.send(id='5', outfile=out, **given)
  worker.wait_for('5', 'progress')
  worker.send(cancel='5')
  worker.wait_for('5', 'canceled')
  worker.send(cancel='5')  # has ended
  worker.send(id='6', outfile=out, **given)
  worker.wait_for('6', 'progress')
  _, errors = worker.process.communicate(timeout=60)
  assert worker.process.returncode == 0, errors
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['1.mp4', '2.mp4']


def test_an_idle_worker_ends():
  worker = Worker('--idle-seconds', '0.5')
  assert worker.process.wait(120) == 0


@pytest.mark.parametrize('line', ['no JSON', '3', '{}', '{"id": []}'])
def test_a_line_that_is_no_job_is_one_line(line):
  worker = Worker()
  _, errors = worker.process.communicate(line + '\n', timeout=120)
  assert worker.process.returncode == 1
  assert errors.count('\n') == 1 and 'expected lines of JSON' in errors
