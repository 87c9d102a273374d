"""`lipsync batch` on Apache Beam: `python -m lipsync_jax.batch.beam`.

  python -m lipsync_jax.batch.beam MANIFEST --out DIR --workers=4
  python -m lipsync_jax.batch.beam MANIFEST --out DIR --runner=DaskRunner

Flags that are not of this command and not of lipsync are Beam's, each as one
word (`--name=value`). See `docs/scale.md`.
"""

import logging
import os
import pathlib
import sys
from collections.abc import Sequence

from lipsync_jax.batch.cli import check_results, read_rows
from lipsync_jax.common.cli import run_command
from lipsync_jax.inference import cli

ROOT = str(pathlib.Path(__file__).resolve().parents[2])


def build_parser() -> cli.OneLineParser:
  """The parser of the command's own flags."""
  parser = cli.OneLineParser(
    'python -m lipsync_jax.batch.beam',
    description='Do all rows of a manifest on Apache Beam; the same command '
    'continues after an interruption.',
    allow_abbrev=False,
    epilog='Every other option of lipsync is a default for all rows. All other '
    "flags are Beam's, each as one word: --runner=DaskRunner.",
  )
  add = parser.add_argument
  add('manifest', help='.csv or .jsonl: face, audio, outfile and any option')
  add('--out', required=True, metavar='DIR', help='folder of the outputs')
  add(
    '--workers',
    type=int,
    default=os.cpu_count() or 1,
    help='processes of the local runner (default: one a core)',
  )
  add('--cpu', action='store_true', help='do not use a GPU')
  return parser


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
  """Words for lipsync, with hyphens in names of flags; words for Beam."""
  actions = cli.build_parser()._actions
  known = {flag for action in actions for flag in action.option_strings}
  known |= cli.RENAMED_FLAGS.keys()
  ours, beams = [], []
  for word, hyphened in zip(words, cli.with_hyphens(words), strict=True):
    if word.startswith('--') and hyphened.partition('=')[0] not in known:
      beams.append(word)
    else:
      ours.append(hyphened)
  return ours, beams


def run(argv: Sequence[str]) -> str:
  """Do the batch; returns the path of its results.

  Raises:
    BatchError: the manifest or a flag cannot be used, or rows failed.
  """
  args, rest = build_parser().parse_known_args(argv)
  ours, beams = split_words(rest)
  rows = read_rows(args, ours, 'workers')
  # Worker processes of this machine import the same copy of the package.
  folders = [ROOT, *filter(None, [os.environ.get('PYTHONPATH')])]
  os.environ['PYTHONPATH'] = os.pathsep.join(folders)
  try:
    from lipsync_jax.batch import beam_runner
  except ImportError as error:
    from lipsync_jax.batch import manifest

    raise manifest.BatchError(
      f'expected Apache Beam, found {error}; do '
      '`pip install "lipsync-jax[scale]"`'
    ) from error
  options = beam_runner.make_options(beams, args.workers, len(rows))
  results = beam_runner.run_batch(rows, args.out, options, args.cpu)
  return check_results(results, args.out)


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = list(sys.argv[1:] if argv is None else argv)
  # Beam writes a warning on each optional library that is absent.
  logging.basicConfig(level=logging.ERROR, format='%(asctime)s %(message)s')
  for name in ('apache_beam', 'distributed'):
    logging.getLogger(name).setLevel(logging.WARNING)
  logging.getLogger('lipsync_jax.batch').setLevel(logging.INFO)
  return run_command(
    lambda: run(words), 'interrupted: the same command continues'
  )


if __name__ == '__main__':
  sys.exit(main())
