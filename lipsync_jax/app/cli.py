"""Command line of `lipsync app`."""

import argparse
import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence

from lipsync_jax.app import termination
from lipsync_jax.common.cli import run_command
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.inference import cli


def server_parser(
  name: str, description: str, port: int
) -> argparse.ArgumentParser:
  """The flags that the page and the HTTP server share."""
  parser = cli.OneLineParser(name, description=description)
  add = parser.add_argument
  add('--host', default='127.0.0.1', help='default: this computer only')
  add('--port', type=int, default=port)
  add('--root-path', default='', help='path behind a proxy')
  add('--max-megabytes', type=int, default=500, help='of an uploaded file')
  add('--max-minutes', type=float, default=10, help='of a video or sound')
  add('--cpu', action='store_true', help='do not use a GPU')
  return parser


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command's flags."""
  parser = server_parser('lipsync app', 'The web page.', 7860)
  parser.add_argument('--open', action='store_true', help='open the browser')
  parser.add_argument(
    '--mcp', action='store_true', help='a tool for programs that use MCP'
  )
  return parser


@contextlib.contextmanager
def open_runner(args: argparse.Namespace, prefix: str) -> Iterator:
  """A `JobRunner` in a private folder, which is deleted after the block.

  Yields the runner and a `termination.Terminator`; SIGTERM ends the block.

  Args:
    args: of `server_parser`.
    prefix: of the folder's name.
  """
  folder = tempfile.mkdtemp(prefix=prefix)
  before = tempfile.tempdir
  with termination.stopped_by_sigterm(folder) as terminator:
    try:
      prepare_environment(folder, args.cpu)
      # All temporary files end with the command: large uploads, mixed sounds.
      tempfile.tempdir = folder
      from lipsync_jax.app import jobs

      limits = jobs.Limits(args.max_megabytes, args.max_minutes)
      runner = jobs.JobRunner(limits, os.path.join(folder, 'jobs'))
      try:
        yield runner, terminator
      finally:
        runner.close()
    finally:
      tempfile.tempdir = before
      shutil.rmtree(folder, ignore_errors=True)


def prepare_environment(folder: str, cpu: bool = False) -> None:
  """Settings that must precede the import of gradio and jax.

  Args:
    folder: of uploads and outputs.
    cpu: use no GPU.
  """
  if cpu:
    os.environ['JAX_PLATFORMS'] = 'cpu'
  # XLA would take three quarters of a card that other programs share.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
  os.environ['GRADIO_TEMP_DIR'] = folder
  os.environ.setdefault('HF_HUB_OFFLINE', '1')


def run(argv: Sequence[str]) -> None:
  """Serve the page until Ctrl-C or SIGTERM.

  Raises:
    LipSyncError: gradio is missing.
    OSError: the port is taken.
  """
  args = build_parser().parse_args(list(cli.with_hyphens(argv)))
  if importlib.util.find_spec('gradio') is None:
    raise LipSyncError(
      'lipsync app: expected gradio, found none: pip install "lipsync-jax[app]"'
    )
  if args.mcp and importlib.util.find_spec('mcp') is None:
    raise LipSyncError(
      'lipsync app --mcp: expected mcp, found none: pip install '
      '"lipsync-jax[mcp]"'
    )
  with open_runner(args, 'lipsync-app-') as (runner, _):
    from lipsync_jax.app import page

    page.build_page(runner, args.mcp).launch(
      mcp_server=args.mcp,
      server_name=args.host,
      server_port=args.port,
      root_path=args.root_path or None,
      max_file_size=f'{args.max_megabytes}mb',
      inbrowser=args.open,
      **page.launch_options(),
    )


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  return run_command(lambda: run(words), 'stopped')
