"""Command line of `lipsync batch`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lipsync_jax.common.cli import run_command
from lipsync_jax.inference import cli

if TYPE_CHECKING:
  from lipsync_jax.batch.manifest import Row

NOT_FOR_ALL = ('face', 'audio', 'outfile', 'report', 'audio_for')


def build_parser() -> cli.OneLineParser:
  """The parser of the command's own flags."""
  parser = cli.OneLineParser(
    'lipsync batch',
    description='Do all rows of a manifest; the same command continues after '
    'an interruption.',
    allow_abbrev=False,
    epilog='Every other option of lipsync is a default for all rows.',
  )
  add = parser.add_argument
  add('manifest', help='.csv or .jsonl: face, audio, outfile and any option')
  add('--out', required=True, metavar='DIR', help='folder of the outputs')
  add('--jobs', type=int, default=1, help='rows at a time (default 1)')
  add('--quiet', action='store_true', help='no progress bar')
  add('--cpu', action='store_true', help='do not use a GPU')
  return parser


def run(argv: Sequence[str]) -> str:
  """Do the batch; returns the path of its results.

  Raises:
    BatchError: the manifest cannot be used, or rows failed.
  """
  words = list(cli.with_hyphens(argv))
  args, rest = build_parser().parse_known_args(words)
  rows = read_rows(args, rest, 'jobs')
  from lipsync_jax.batch import runner

  results = runner.run_batch(rows, args.out, args.jobs, args.quiet)
  return check_results(results, args.out)


def read_rows(
  args: argparse.Namespace, words: Sequence[str], count: str
) -> 'list[Row]':
  """The rows of the manifest; sets the platform of `--cpu`.

  Args:
    args: manifest, out, cpu and the flag `count`.
    words: options of lipsync, which are defaults for all rows.
    count: name of the flag that says how many rows run at a time.

  Raises:
    BatchError: the manifest or a flag cannot be used.
  """
  defaults = cli.parse_options(['--face=', *words])
  from lipsync_jax.batch import manifest

  given = [name for name in NOT_FOR_ALL if defaults.pop(name, '')]
  if given:
    raise manifest.BatchError(
      f'--{given[0]}: expected in the manifest, found on the command line'
    )
  if getattr(args, count) < 1:
    raise manifest.BatchError(
      f'--{count}: expected at least 1, found {getattr(args, count)}'
    )
  if args.cpu:
    os.environ['JAX_PLATFORMS'] = 'cpu'
  return manifest.read_manifest(args.manifest, args.out, defaults)


def check_results(results: Sequence[dict], out: str) -> str:
  """The path of the results of a batch.

  Raises:
    BatchError: rows failed.
  """
  from lipsync_jax.batch import manifest, runner

  path = os.path.join(out, runner.RESULTS)
  failed = sum(result['status'] == 'failed' for result in results)
  if failed:
    raise manifest.BatchError(
      f'{failed} of {len(results)} rows failed, the others are done; {path} '
      'gives the reasons'
    )
  return path


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  return run_command(
    lambda: run(words), 'interrupted: the same command continues'
  )
