"""Command line of `python -m lipsync_jax.evaluate`."""

import argparse
from collections.abc import Sequence

from lipsync_jax.common.cli import with_new_names

PROTOCOLS = ('reconstruction', 'cross', 'silence')
RENDERERS = ('mesh', 'network')
# Renamed flags of earlier versions, and their new names.
RENAMED = {
  '--rival': '--baseline',
  '--judge': '--syncnet',
  '--ridge': '--ridge-scorer',
  '--least': '--min-seconds',
  '--seconds': '--max-seconds',
}


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command."""
  parser = argparse.ArgumentParser(
    'python -m lipsync_jax.evaluate',
    description='Score lip-sync beside the ground truth.',
    allow_abbrev=False,
  )
  _add_systems(parser.add_argument)
  _add_scorers(parser.add_argument)
  _add_cases(parser.add_argument)
  add = parser.add_argument
  add('--dtype', default='auto', choices=('auto', 'float32', 'bfloat16'))
  add('--out', required=True, metavar='DIR')
  add('--quiet', action='store_true', help='no progress bars')
  return parser


def _add_systems(add) -> None:
  add(
    '--renderer',
    nargs='+',
    choices=RENDERERS,
    default=list(RENDERERS),
    help='ours that are scored: mesh (videos only), network; default: both',
  )
  add(
    '--checkpoint',
    action='append',
    default=[],
    metavar='[NAME=]FILE',
    help='a generator; repeatable (default: the bundled weights)',
  )
  add(
    '--baseline',
    action='append',
    default=[],
    metavar='NAME=DIR',
    help="another system's outputs for --videos, or one file; repeatable",
  )


def _add_scorers(add) -> None:
  add(
    '--syncnet',
    metavar='FILE',
    help='held-out SyncNet that scores (default: the bundled one)',
  )
  add('--syncnet-v2', metavar='FILE', help='the published weights, for LSE')
  add(
    '--ridge-scorer',
    metavar='FILE',
    help='coefficients (default: the bundled ones)',
  )


def _add_cases(add) -> None:
  add('--shards', metavar='DIR', help='clips of data_prep')
  add('--split', default='test', help='of the shards (test)')
  add(
    '--videos',
    action='append',
    default=[],
    metavar='DIR',
    help='a folder of videos, or one video; repeatable',
  )
  add(
    '--protocol',
    nargs='+',
    choices=PROTOCOLS,
    help='default: all three; with --pairs alone cross',
  )
  add(
    '--pairs',
    metavar='LIST',
    help='pairs for cross, also published lists; other protocols take their '
    'faces',
  )
  add('--root', default='', metavar='DIR', help='of the names in --pairs')
  seconds = {'type': float, 'metavar': 'SECONDS'}
  add(
    '--min-seconds',
    default=2.0,
    help="a speaker's short clips are joined to this length (2)",
    **seconds,
  )
  add(
    '--max-seconds',
    default=10.0,
    help='of a clip or video that are scored (10)',
    **seconds,
  )
  add('--limit', type=int, metavar='N', help='clips of the shards, at most')


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
  """Parse the command line; a renamed flag prints one line.

  Returns:
    The arguments, with `words`, the command line as it was given.
  """
  args = build_parser().parse_args(with_new_names(argv, RENAMED))
  args.words = list(argv)
  return args
