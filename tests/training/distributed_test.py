"""Two processes train as one: losses, checkpoints, an orderly end."""

import pathlib
import shutil
import signal
import socket
import subprocess

import pytest

from lipsync_jax.data import synthetic
from lipsync_jax.training import checkpoint, metric_writer
from tests.helpers import train_command

pytestmark = pytest.mark.slow
LONG = 900  # s; seconds where two cores are free


def free_port() -> int:
  with socket.socket() as file:
    file.bind(('localhost', 0))
    return file.getsockname()[1]


class Pair:
  """Two processes of one run, started; `wait` for both."""

  def __init__(self, compiled, command):
    port, self.logs, self.parts = free_port(), [], []
    for i in range(2):
      log = pathlib.Path(compiled) / f'log-{port}-{i}'
      self.logs.append(log)
      flags = [f'--coordinator=localhost:{port}', f'--process={i}']
      with log.open('w') as file:
        self.parts.append(
          subprocess.Popen(
            [*command, '--distributed', '--processes=2', *flags],
            cwd=train_command.ROOT,
            env=train_command.environment(compiled),
            stdout=file,
            stderr=subprocess.STDOUT,
          )
        )

  def wait(self) -> list[int]:
    try:
      return [part.wait(LONG) for part in self.parts]
    finally:
      for part in self.parts:
        part.kill()

  def said(self) -> str:
    return '\n'.join(log.read_text() for log in self.logs)


def alone(compiled, command, devices: int):
  subprocess.run(
    command,
    cwd=train_command.ROOT,
    env=train_command.environment(compiled, devices),
    check=True,
    timeout=LONG,
  )


def losses(workdir) -> list[float]:
  return [line['sync'] for line in metric_writer.read_metrics(workdir)]


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cartoons')
  synthetic.build_dataset(folder, seed=0, speakers=2, frames=40)
  return folder


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def pair(clips, compiled, tmp_path_factory):
  """Two steps by two processes."""
  workdir = tmp_path_factory.mktemp('pair')
  run = Pair(
    compiled,
    train_command.command(workdir, clips, '--config.num_train_steps=2'),
  )
  assert run.wait() == [0, 0], run.said()
  return workdir


@pytest.fixture(scope='module')
def single(clips, compiled, tmp_path_factory):
  """Three steps by one process that has two devices."""
  workdir = tmp_path_factory.mktemp('single')
  alone(
    compiled,
    train_command.command(workdir, clips, '--config.num_train_steps=3'),
    2,
  )
  return workdir


def test_two_processes_equal_one(pair, single):
  """The first loss is the forward pass alone. After Adam's first updates,
  which are signs of gradients, any difference would soon be seen; two parts
  of a sum, though, add up alike in either order."""
  found, expected = losses(pair), losses(single)
  assert found[0] == pytest.approx(expected[0], abs=1e-5)
  assert found[1] == pytest.approx(expected[1], abs=1e-4)
  looks = [
    metric_writer.read_metrics(x, 'validation')[0] for x in (pair, single)
  ]
  assert looks[0]['sync'] == pytest.approx(looks[1]['sync'], abs=1e-4)


@pytest.mark.parametrize('processes', [2, 1])
def test_checkpoint_of_two_goes_on(
  processes, pair, single, clips, compiled, tmp_path
):
  """By two or by one, with the batch that comes next."""
  workdir = tmp_path / 'on'
  shutil.copytree(pair, workdir)
  command = train_command.command(workdir, clips, '--config.num_train_steps=3')
  if processes == 2:
    run = Pair(compiled, command)
    assert run.wait() == [0, 0], run.said()
  else:
    alone(compiled, command, 2)
  with checkpoint.CheckpointManager(workdir) as store:
    assert store.steps() == [1, 2, 3]
    assert store.newest() == 3
  assert losses(workdir)[:2] == losses(pair)
  assert losses(workdir)[2] == pytest.approx(losses(single)[2], abs=1e-4)


def test_one_told_to_end_ends_both(pair, clips, compiled, tmp_path):
  workdir = tmp_path / 'told'
  shutil.copytree(pair, workdir)
  changes = (
    '--config.num_train_steps=100000',
    '--config.run.save_every_steps=100000',
  )
  run = Pair(compiled, train_command.command(workdir, clips, *changes))
  while len(losses(workdir)) < 4 and run.parts[0].poll() is None:
    signal.sigtimedwait([], 0.2)
  run.parts[1].send_signal(signal.SIGTERM)
  assert run.wait() == [0, 0], run.said()
  with checkpoint.CheckpointManager(workdir) as store:
    assert store.newest() >= len(losses(workdir)) > 3
