"""Command line of `lipsync serve`."""

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence

from lipsync_jax.app import webhooks
from lipsync_jax.app.cli import open_runner, server_parser
from lipsync_jax.common.cli import run_command
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.inference import cli

LOOPBACK = ('127.0.0.1', '::1', 'localhost')


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command's flags."""
  parser = server_parser('lipsync serve', 'Jobs over HTTP.', 8000)
  parser.add_argument(
    '--max-jobs', type=int, default=100, help='that wait, and that are kept'
  )
  parser.add_argument(
    '--allow-webhooks',
    default='',
    metavar='HOST[,HOST]',
    help='addresses that may be called when a job ends; none without',
  )
  return parser


def run(argv: Sequence[str]) -> None:
  """Serve until Ctrl-C or SIGTERM.

  LIPSYNC_TOKEN is the token of every request, LIPSYNC_WEBHOOK_SECRET the key
  that signs webhooks. They are no flags, which every user of the computer can
  read.

  Raises:
    LipSyncError: a library, the token of a public server or the key is missing.
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
  hosts = webhooks.parse_hosts(args.allow_webhooks)
  secret = os.environ.get('LIPSYNC_WEBHOOK_SECRET', '')
  if hosts and secret in ('', token):
    found = 'that of LIPSYNC_TOKEN' if secret else 'none'
    raise LipSyncError(
      'lipsync serve --allow-webhooks: expected a key of its own in '
      f'LIPSYNC_WEBHOOK_SECRET, which signs the calls, found {found}'
    )
  with open_runner(args, 'lipsync-serve-') as (runner, terminator):
    from lipsync_jax.app import server

    table = server.JobTable(runner, args.max_jobs)
    sender = webhooks.WebhookSender(hosts, secret)
    app = server.build_app(table, token, sender)
    _serve(app, args, terminator)


def _serve(app, args: argparse.Namespace, terminator) -> None:
  """Answer requests until Ctrl-C or SIGTERM."""
  import uvicorn

  class Server(uvicorn.Server):
    """uvicorn's, which ends in time after SIGTERM."""

    def handle_exit(self, number, frame) -> None:
      if number == signal.SIGTERM:
        terminator.start_countdown()
      super().handle_exit(number, frame)

  config = uvicorn.Config(
    app,
    host=args.host,
    port=args.port,
    root_path=args.root_path,
    log_level='warning',
    timeout_graceful_shutdown=1,  # seconds for answers that are being sent
  )
  # uvicorn raises the signal again when it has ended.
  with contextlib.suppress(KeyboardInterrupt):
    Server(config).run()


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  return run_command(lambda: run(words), 'stopped')
