"""The command line of training."""

import os

from lipsync_jax import main


def test_a_relative_workdir_becomes_absolute(tmp_path, monkeypatch):
  """Orbax refuses relative ones, after the first steps are learnt."""
  monkeypatch.chdir(tmp_path)
  assert main.absolute('runs/expert') == os.path.join(tmp_path, 'runs/expert')
  assert main.absolute('/runs/expert') == '/runs/expert'
  assert main.absolute('gs://bucket/run') == 'gs://bucket/run'
