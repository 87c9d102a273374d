"""Every test runs with checked shapes, strict rank promotion and a cache
of its own; what needs ../shared skips with a reason where it is absent."""

import os
import pathlib
import signal

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# A shell that starts the tests in the background makes them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

from jaxtyping import install_import_hook

from tests.helpers import typecheck  # noqa: F401 - the hook names it

# LIPSYNC_JAX_TYPECHECK=0 switches the checks of shapes and types off.
if os.environ.get('LIPSYNC_JAX_TYPECHECK', '1') != '0':
  hook = install_import_hook(
    'lipsync_jax', 'tests.helpers.typecheck.typechecked'
  )
  hook.__enter__()

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')

SHARED = pathlib.Path(__file__).resolve().parents[2] / 'shared'


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The team's folder of media and reference numbers, or a skip."""
  if not SHARED.is_dir():
    pytest.skip(f'needs the media and goldens of {SHARED}, which is absent')
  return SHARED


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  """No test reads or leaves anything in the user's cache."""
  folder = tmp_path_factory.getbasetemp() / 'cache'
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', str(folder))
