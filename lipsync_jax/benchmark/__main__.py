"""The command line of the benchmark; see the package."""

import argparse
import os
import sys


def parser() -> argparse.ArgumentParser:
  top = argparse.ArgumentParser('lipsync_jax.benchmark')
  tasks = top.add_subparsers(dest='task', required=True)
  task = tasks.add_parser('generator', help='the network alone')
  network(task, '16, or 256 on a GPU')
  task.add_argument('--rounds', type=int, default=7)
  task = tasks.add_parser('sync', help='the whole, stage by stage')
  task.add_argument('--face', required=True)
  task.add_argument('--audio', required=True)
  task.add_argument('--checkpoint_path', '--checkpoint-path')
  task.add_argument('--batch', type=int)
  task = tasks.add_parser('train', help='training steps against PyTorch')
  network(task, 'windows, 2, or 80 on a GPU')
  task.add_argument('--steps', type=int, help='timed, 5, or 30 on a GPU')
  task.add_argument(
    '--eager', action='store_true', help='no torch.compile: minutes on a CPU'
  )
  task.add_argument('--stages', nargs='+', default=STAGES, choices=STAGES)
  task = tasks.add_parser('data', help='windows a second out of shards')
  task.add_argument('folder', metavar='SHARDS')
  task.add_argument('--split', default='train')
  task.add_argument('--size', type=int, default=96)
  task.add_argument('--batch', type=int, default=16, help='examples')
  task.add_argument('--threads', type=int, default=os.cpu_count())
  task.add_argument('--seconds', type=float, default=10, help='of each row')
  return top


STAGES = ('syncnet', 'generator', 'hq')


def network(task: argparse.ArgumentParser, batch: str) -> None:
  task.add_argument('--size', type=int, default=96)
  task.add_argument('--width', type=float, default=1.0)
  task.add_argument('--batch', type=int, help=batch)


def main(argv: list[str] | None = None) -> int:
  given = parser().parse_args(argv)
  # PyTorch is to have memory too; jax reads this when it first looks for
  # a device.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  try:
    print(report(given))
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


def report(given: argparse.Namespace) -> str:
  """The table that was asked for; each task loads only what it needs."""
  import jax

  gpu = jax.default_backend() != 'cpu'
  if given.task == 'generator':
    from lipsync_jax.benchmark import generator

    batch = given.batch or (256 if gpu else 16)
    return generator.report(given.size, given.width, batch, given.rounds)
  if given.task == 'sync':
    from lipsync_jax.benchmark import end_to_end

    path = given.checkpoint_path
    return end_to_end.report(given.face, given.audio, path, given.batch)
  if given.task == 'train':
    from lipsync_jax.benchmark import training

    batch = given.batch or (80 if gpu else 2)
    turns = given.steps or (30 if gpu else 5)
    shape = given.size, given.width, batch
    return training.report(*shape, turns, given.stages, given.eager)
  from lipsync_jax.benchmark import input_pipeline

  return input_pipeline.report(
    given.folder,
    given.split,
    given.size,
    given.batch,
    given.threads,
    given.seconds,
  )


if __name__ == '__main__':
  sys.exit(main())
