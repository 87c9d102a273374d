"""Import, export, inspect and combine weight files.

python -m lipsync_jax.weights import FILE OUT.safetensors
python -m lipsync_jax.weights export W.safetensors OUT.pth|OUT.pdparams
python -m lipsync_jax.weights half FILE OUT.safetensors
python -m lipsync_jax.weights interpolate A B 0.6 OUT.safetensors
python -m lipsync_jax.weights info W
"""

import argparse
import sys

from lipsync_jax.weights import convert, interpolate
from lipsync_jax.weights.pickle_types import UnsafeFile
from lipsync_jax.weights.safetensors_file import WeightsError


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command."""
  parser = argparse.ArgumentParser(
    prog='python -m lipsync_jax.weights',
    description='Import, export, inspect and combine weight files.',
  )
  commands = parser.add_subparsers(dest='command', required=True)
  add = commands.add_parser('import', help='published file to ours')
  add.add_argument('src', metavar='FILE')
  add.add_argument('dst', metavar='OUT.safetensors')
  add.add_argument(
    '--network', choices=convert.NETWORKS, help='of a file with several'
  )
  add.add_argument('--verbose', action='store_true', help='list every fault')
  out = commands.add_parser('export', help='ours to .pth or .pdparams')
  out.add_argument('src', metavar='W.safetensors')
  out.add_argument('dst', metavar='OUT')
  half = commands.add_parser('half', help='ours or published to float16')
  half.add_argument('src', metavar='FILE')
  half.add_argument('dst', metavar='OUT.safetensors')
  mix = commands.add_parser('interpolate', help='weights between two files')
  mix.add_argument('first', metavar='A')
  mix.add_argument('second', metavar='B')
  mix.add_argument('share', type=float, help='of B, 0 to 1')
  mix.add_argument('dst', metavar='OUT.safetensors')
  info = commands.add_parser('info', help='print what a file holds')
  info.add_argument('src', metavar='W')
  return parser


def run(args: argparse.Namespace) -> str:
  """Run a command; returns the text to print."""
  if args.command == 'info':
    return convert.describe_file(args.src)
  if args.command == 'import':
    convert.import_file(args.src, args.dst, args.network)
  elif args.command == 'export':
    convert.export_file(args.src, args.dst)
  elif args.command == 'half':
    convert.halve_file(args.src, args.dst)
  else:
    interpolate.interpolate_files(args.first, args.second, args.share, args.dst)
  return args.dst


def main(argv: list[str] | None = None) -> int:
  """Run the command line.

  Returns:
    0, or 1 after one line on standard error.
  """
  args = build_parser().parse_args(argv)
  try:
    print(run(args))
  except (WeightsError, UnsafeFile) as error:
    print(f'weights: {error}', file=sys.stderr)
    if getattr(args, 'verbose', False):
      print(*getattr(error, 'problems', ()), sep='\n', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
