"""Command line of `lipsync serve`."""

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence

from lipsync_jax.app.cli import prepare_environment
from lipsync_jax.common.cli import run_command
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.inference import cli

LOOPBACK = ('127.0.0.1', '::1', 'localhost')


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command's flags."""
  parser = cli.OneLineParser('lipsync serve', description='Jobs over HTTP.')
  add = parser.add_argument
  add('--host', default='127.0.0.1', help='default: this computer only')
  add('--port', type=int, default=8000)
  add('--root-path', default='', help='path of the server behind a proxy')
  add('--max-megabytes', type=int, default=500, help='of an uploaded file')
  add('--max-minutes', type=float, default=10, help='of a video or sound')
  add('--max-jobs', type=int, default=100, help='that wait, and that are kept')
  add('--cpu', action='store_true', help='do not use a GPU')
  return parser


def run(argv: Sequence[str]) -> None:
  """Serve until Ctrl-C. LIPSYNC_TOKEN is the token of every request.

  Raises:
    LipSyncError: a library is missing, or a public server has no token.
  """
  args = build_parser().parse_args(list(cli.with_hyphens(argv)))
  token = os.environ.get('LIPSYNC_TOKEN', '')
  for name in ('starlette', 'uvicorn', 'python_multipart'):
    if importlib.util.find_spec(name) is None:
      raise LipSyncError(
        f'lipsync serve: expected {name}, found none: pip install '
        '"lipsync-jax[app]"'
      )
  if args.host not in LOOPBACK and not token:
    raise LipSyncError(
      f'lipsync serve --host {args.host}: expected a token for other '
      'computers in LIPSYNC_TOKEN, found none'
    )
  folder = tempfile.mkdtemp(prefix='lipsync-serve-')
  prepare_environment(folder, args.cpu)
  # Uploads that are too large for memory are written here, not elsewhere.
  tempfile.tempdir = folder
  import uvicorn

  from lipsync_jax.app import jobs, server

  limits = jobs.Limits(args.max_megabytes, args.max_minutes)
  runner = jobs.JobRunner(limits, os.path.join(folder, 'jobs'))
  table = server.JobTable(runner, args.max_jobs)
  try:
    uvicorn.run(
      server.build_app(table, token),
      host=args.host,
      port=args.port,
      root_path=args.root_path,
      log_level='warning',
    )
  finally:
    runner.close()
    shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  return run_command(lambda: run(words), 'stopped')
