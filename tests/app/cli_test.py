"""The commands of the page and the server, before they start."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('command', ['cli', 'serve_cli'])
@pytest.mark.parametrize('given, kept', [(None, 'false'), ('true', 'true')])
def test_memory_is_not_reserved_unless_the_user_says_so(
  command, given, kept, tmp_path
):
  """The setting is made before jax is imported."""
  code = (
    'import os, sys\n'
    f'from lipsync_jax.app import cli, {command}\n'
    'assert "jax" not in sys.modules\n'
    f'args = {command}.build_parser().parse_args(["--cpu"])\n'
    'with cli.open_runner(args, "x-"):\n'
    '  print(os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"])\n'
    '  assert "jax" in sys.modules\n'
  )
  name = 'XLA_PYTHON_CLIENT_PREALLOCATE'
  env = {k: v for k, v in os.environ.items() if k != name}
  env |= {'PYTHONPATH': str(ROOT), 'TMPDIR': str(tmp_path)}
  env |= {} if given is None else {name: given}
  found = subprocess.run(
    [sys.executable, '-c', code], env=env, capture_output=True, text=True
  )
  assert found.stdout.split() == [kept], found.stderr
  assert list(tmp_path.iterdir()) == []
