"""Command line of the benchmarks; see the package."""

import argparse
import os
import sys

from lipsync_jax.common.cli import run_command


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command."""
  top = argparse.ArgumentParser('lipsync_jax.benchmark')
  tasks = top.add_subparsers(dest='task', required=True)
  task = tasks.add_parser('generator', help='the network alone')
  _add_network(task, '16, or 256 on a GPU')
  task.add_argument('--rounds', type=int, default=7)
  task = tasks.add_parser('sync', help='the command, stage by stage')
  task.add_argument('--face', required=True)
  task.add_argument('--audio', required=True)
  task.add_argument('--checkpoint_path', '--checkpoint-path')
  task.add_argument(
    '--random-weights',
    action='store_true',
    help='time the published architecture with random weights',
  )
  task.add_argument('--batch', type=int)
  task = tasks.add_parser('train', help='training steps against PyTorch')
  _add_network(task, 'windows, 2, or 80 on a GPU')
  task.add_argument('--steps', type=int, help='timed, 5, or 30 on a GPU')
  task.add_argument(
    '--eager', action='store_true', help='no torch.compile: minutes on a CPU'
  )
  task.add_argument('--stages', nargs='+', default=STAGES, choices=STAGES)
  task = tasks.add_parser('data', help='windows a second from shards')
  task.add_argument('folder', metavar='SHARDS')
  task.add_argument('--split', default='train')
  task.add_argument('--size', type=int, default=96)
  task.add_argument('--batch', type=int, default=16, help='examples')
  task.add_argument('--threads', type=int, default=os.cpu_count())
  task.add_argument('--seconds', type=float, default=10, help='of each row')
  return top


STAGES = ('syncnet', 'generator', 'hq')


def _add_network(task: argparse.ArgumentParser, batch: str) -> None:
  task.add_argument('--size', type=int, default=96)
  task.add_argument('--width', type=float, default=1.0)
  task.add_argument('--batch', type=int, help=batch)


def main(argv: list[str] | None = None) -> int:
  """Run the command; returns its exit code."""
  args = build_parser().parse_args(argv)
  # Leaves memory to PyTorch; jax reads it before it opens a device.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  return run_command(lambda: report(args))


def report(args: argparse.Namespace) -> str:
  """The table of a task."""
  import jax

  gpu = jax.default_backend() != 'cpu'
  if args.task == 'generator':
    from lipsync_jax.benchmark import generator

    batch = args.batch or (256 if gpu else 16)
    return generator.report(args.size, args.width, batch, args.rounds)
  if args.task == 'sync':
    from lipsync_jax.benchmark import end_to_end

    path = args.checkpoint_path
    return end_to_end.report(
      args.face, args.audio, path, args.batch, args.random_weights
    )
  if args.task == 'train':
    from lipsync_jax.benchmark import training

    batch = args.batch or (80 if gpu else 2)
    turns = args.steps or (30 if gpu else 5)
    shape = args.size, args.width, batch
    return training.report(*shape, turns, args.stages, args.eager)
  from lipsync_jax.benchmark import input_pipeline

  return input_pipeline.report(
    args.folder,
    args.split,
    args.size,
    args.batch,
    args.threads,
    args.seconds,
  )


if __name__ == '__main__':
  sys.exit(main())
