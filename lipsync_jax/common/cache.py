"""Where things are remembered between runs; nothing in it is needed."""

import os
import pathlib


def cache_dir(what: str) -> pathlib.Path:
  """The folder for `what`; LIPSYNC_JAX_CACHE overrules the user's cache.

  It may not exist yet. All of it can be deleted at any time.
  """
  own = os.environ.get('LIPSYNC_JAX_CACHE')
  if own:
    return pathlib.Path(own) / what
  import platformdirs

  return pathlib.Path(platformdirs.user_cache_dir('lipsync_jax')) / what
