"""Command line of `lipsync finetune`."""

import argparse
import os
import sys
from collections.abc import Sequence

from lipsync_jax.common.cli import run_command
from lipsync_jax.inference import cli


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command's flags."""
  parser = cli.OneLineParser(
    'lipsync finetune',
    description='Fit the articulator to one person: `lipsync --profile FILE` '
    "then moves that person's lips in their own way.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('video', help='the person speaks in it, with sound; a minute is good')
  add('--out', metavar='FILE', help='default: NAME.profile.safetensors')
  add('--person', default='auto', help='as for lipsync')
  add(
    '--seconds',
    type=float,
    help='of the video that are used at most (default 180)',
  )
  add('--seed', type=int, default=0, help='of the fit (default 0)')
  add('--quiet', action='store_true', help='no progress bars')
  add('--cpu', action='store_true', help='do not use a GPU')
  return parser


def run(argv: Sequence[str]) -> str:
  """Make a profile; returns what was found, in lines.

  Raises:
    LipSyncError: see `profile.finetune`.
  """
  args = build_parser().parse_args(list(cli.with_hyphens(argv)))
  if args.cpu:
    os.environ['JAX_PLATFORMS'] = 'cpu'
  from lipsync_jax.finetuning import profile

  out = args.out or os.path.splitext(args.video)[0] + '.profile.safetensors'
  facts = profile.finetune(
    args.video,
    out,
    person=args.person,
    seconds=profile.SECONDS if args.seconds is None else args.seconds,
    seed=args.seed,
    quiet=args.quiet,
  )
  return (
    f'{facts["seconds"]:g} s of speech; correlation of the lips on speech '
    f'that was left out: {facts["before"]:.2f} before, {facts["after"]:.2f} '
    f'after\n{out}'
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  return run_command(lambda: run(words))
