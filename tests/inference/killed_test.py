"""The command killed, interrupted, starved of disk, and eight at once.

Nothing but a whole file ever stands under the output's name, and what a
killed run leaves beside it is swept by the next.

LIPSYNC_JAX_KILLS=50 sets the number of kills (default 15), a fifth of which
is that of interrupts.
"""

import contextlib
import hashlib
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from lipsync_jax import models
from lipsync_jax.common import atomic_file
from lipsync_jax.weights import convert
from tests.helpers import test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get('LIPSYNC_JAX_KILLS', '15'))
LINUX = pytest.mark.skipif(sys.platform != 'linux', reason='needs /proc')
pytestmark = [pytest.mark.slow, LINUX]


class Job:
  """The command on a small clip with a box given by hand."""

  def __init__(self, folder):
    self.folder, self.dice = folder, random.Random(3)
    width = 0.125
    module = models.build_model('generator', width=width)
    zeros = models.dummy_inputs('generator')
    shapes = jax.eval_shape(
      lambda key: module.init(key, *zeros, train=False), jax.random.key(0)
    )
    numpy = jax.tree.map(
      lambda x: np.full(x.shape, 0.01, np.float32), dict(shapes)
    )
    net = convert.Weights('generator', 96, width, numpy, 'an untrained network')
    convert.save(folder / 'tiny.safetensors', net)
    count = 120
    self.face = test_clips.write_video(
      folder / 'face.mp4',
      [i / 25 for i in range(count)],
      (160, 120),
      lambda i: np.random.default_rng(i).integers(0, 255, (120, 160, 3), 'u1'),
    )
    noise = np.random.default_rng(0).normal(0, 0.2, count * 640)
    self.voice = test_clips.write_wav(folder / 'voice.wav', noise.clip(-1, 1))
    # To be interrupted: such a job does not end first, however idle the
    # machine has become.
    much = np.tile(noise.clip(-1, 1), 20)
    self.endless = test_clips.write_wav(folder / 'endless.wav', much)
    self.env = {
      **os.environ,
      'PYTHONPATH': str(ROOT),
      'JAX_PLATFORMS': 'cpu',
      'LIPSYNC_JAX_CACHE': str(folder / 'cache'),
    }

  def start(self, out, *words, limit=None, **env):
    command = [sys.executable, '-m', 'lipsync_jax.sync', '--quiet']
    command += ['--face', self.face, '--audio', self.voice, '--outfile', out]
    command += ['--checkpoint-path', self.folder / 'tiny.safetensors']
    command += ['--no-noise-gate', '--box', '20', '100', '40', '120', *words]

    process = subprocess.Popen(
      [str(word) for word in command],
      env={**self.env, **env},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    if limit is not None:
      resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    return process

  def run(self, out, *words, **more):
    """(exit status, lines on standard error)."""
    process = self.start(out, *words, **more)
    _, told = process.communicate(timeout=600)
    return process.returncode, told.splitlines()


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  return Job(tmp_path_factory.mktemp('job'))


def digest(path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope='module')
def whole(job):
  """The output of a run that nobody disturbs, and how long it is written."""
  out = job.folder / 'whole.mp4'
  assert job.run(out) == (0, [])  # fills the cache of compiled programs
  process = job.start(out)
  begun = written(process, job.folder)
  assert process.wait(600) == 0
  return out.read_bytes(), time.monotonic() - begun


def written(process, folder) -> float:
  """Wait until the output is being written; the time at which that began."""
  while process.poll() is None:
    with contextlib.suppress(FileNotFoundError):
      if any(
        p.stat().st_size for p in folder.glob(f'*{atomic_file.PART_SUFFIX}')
      ):
        break
    time.sleep(0.01)
  return time.monotonic()


def children(pid: int) -> list[int]:
  with contextlib.suppress(FileNotFoundError, ProcessLookupError):
    path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
    return [int(word) for word in path.read_text().split()]
  return []


def gone(pid: int) -> bool:
  with contextlib.suppress(FileNotFoundError, ProcessLookupError):
    return pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2] == 'Z'
  return True


def test_kill_9_at_any_moment(job, whole, tmp_path):
  content, lasts = whole
  out = tmp_path / 'out' / 'film.mp4'
  out.parent.mkdir()
  out.write_bytes(b'older')
  finished, parts = 0, 0
  for i in range(KILLS):
    process = job.start(out)
    if i % 5:  # four of five while it is written
      written(process, out.parent)
      time.sleep(job.dice.uniform(0, 1.05 * lasts))
    else:
      time.sleep(job.dice.uniform(0, 2))
    helpers = children(process.pid)
    process.kill()
    process.communicate()
    names = os.listdir(out.parent)
    left = [name for name in names if name.endswith(atomic_file.PART_SUFFIX)]
    assert set(names) == {'film.mp4', *left} and len(left) <= 1
    parts += len(left)
    if out.read_bytes() != b'older':
      assert out.read_bytes() == content
      finished += 1
      out.write_bytes(b'older')
      lasts *= 0.8  # the machine is less busy than it was
    end = time.monotonic() + 20
    while not all(gone(pid) for pid in helpers):
      assert time.monotonic() < end, 'a decoder process lives on'
      time.sleep(0.05)
  assert job.run(out) == (0, [])
  assert os.listdir(out.parent) == ['film.mp4'] and out.read_bytes() == content
  print(f'\n{KILLS} kills: {parts} parts left and swept, {finished} had ended')
  assert parts >= KILLS // 3


def test_ctrl_c_at_any_moment(job, whole, tmp_path):
  _, lasts = whole
  out = tmp_path / 'film.mp4'
  slowest = 0.0
  for i in range(max(KILLS // 5, 4)):
    out.write_bytes(b'older')
    process = job.start(out, '--audio', job.endless)
    while not children(process.pid):  # the command has begun
      assert process.poll() is None
      time.sleep(0.01)
    if i % 2:
      written(process, tmp_path)
      time.sleep(job.dice.uniform(0, lasts))
    else:
      time.sleep(job.dice.uniform(0, 0.5))
    helpers = children(process.pid)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    slowest = max(slowest, time.monotonic() - began)
    assert (process.returncode, told.splitlines()) == (130, ['interrupted'])
    assert os.listdir(tmp_path) == ['film.mp4']
    assert out.read_bytes() == b'older'
    assert all(gone(pid) for pid in helpers)
  print(f'\nCtrl-C: exit at most {slowest:.2f} s later')


def one_line(status, told, folder):
  assert status == 1 and len(told) == 1 and told[0].startswith('error: '), told
  assert os.listdir(folder) == []


def test_files_that_may_not_grow(job, whole, tmp_path):
  size = len(whole[0])
  for limit in (0, 1000, size // 10, size // 2, size - 1000):
    one_line(*job.run(tmp_path / 'film.mp4', limit=limit), tmp_path)
  assert job.run(tmp_path / 'film.mp4', limit=2 * size) == (0, [])


def test_a_full_disk(job, whole, tmp_path):
  size = len(whole[0])
  for room in (4096, size // 8, size // 3, size // 2, size - 20_000):
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={room}', 'tmpfs', tmp_path]
    if subprocess.run(mount, capture_output=True).returncode:
      pytest.skip('needs the right to mount a small disk')
    try:
      one_line(*job.run(tmp_path / 'film.mp4'), tmp_path)
    finally:
      subprocess.run(['umount', tmp_path], check=True)


def test_eight_at_once_are_eight_alone(job, whole, tmp_path):
  def names(folder):
    folder.mkdir()
    kinds = ('mp4', 'mkv', 'mov', 'mp4', 'avi', 'mp4', 'mkv', 'mp4')
    return [folder / f'{i}.{kind}' for i, kind in enumerate(kinds)]

  alone, together = names(tmp_path / 'alone'), names(tmp_path / 'together')
  for i, out in enumerate(alone):
    assert job.run(out, '--crf', 10 + 2 * i) == (0, [])
  empty = str(tmp_path / 'cache')  # they also meet there
  running = [
    job.start(out, '--crf', 10 + 2 * i, LIPSYNC_JAX_CACHE=empty)
    for i, out in enumerate(together)
  ]
  for process in running:
    _, told = process.communicate(timeout=900)
    assert (process.returncode, told) == (0, '')
  assert sorted(os.listdir(together[0].parent)) == [p.name for p in together]
  for one, other in zip(alone, together, strict=True):
    assert digest(one) == digest(other), one.name
  assert len({digest(p) for p in alone}) == 8
