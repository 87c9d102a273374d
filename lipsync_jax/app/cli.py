"""Command line of `lipsync app`."""

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence

from lipsync_jax.common.cli import run_command
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.inference import cli


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command's flags."""
  parser = cli.OneLineParser('lipsync app', description='The web page.')
  add = parser.add_argument
  add('--host', default='127.0.0.1', help='default: this computer only')
  add('--port', type=int, default=7860)
  add('--root-path', default='', help='path of the page behind a proxy')
  add('--max-megabytes', type=int, default=500, help='of an uploaded file')
  add('--max-minutes', type=float, default=10, help='of a video or sound')
  add('--open', action='store_true', help='open the browser')
  add('--cpu', action='store_true', help='do not use a GPU')
  return parser


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
  """Serve the page until Ctrl-C.

  Raises:
    LipSyncError: gradio is missing.
    OSError: the port is taken.
  """
  args = build_parser().parse_args(list(cli.with_hyphens(argv)))
  if importlib.util.find_spec('gradio') is None:
    raise LipSyncError(
      'lipsync app: expected gradio, found none: pip install "lipsync-jax[app]"'
    )
  folder = tempfile.mkdtemp(prefix='lipsync-app-')
  prepare_environment(folder, args.cpu)
  from lipsync_jax.app import jobs, page

  limits = jobs.Limits(args.max_megabytes, args.max_minutes)
  runner = jobs.JobRunner(limits, os.path.join(folder, 'jobs'))
  try:
    page.build_page(runner).launch(
      server_name=args.host,
      server_port=args.port,
      root_path=args.root_path or None,
      max_file_size=f'{args.max_megabytes}mb',
      inbrowser=args.open,
      **page.launch_options(),
    )
  finally:
    runner.close()
    shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  return run_command(lambda: run(words), 'stopped')
