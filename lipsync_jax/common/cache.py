"""Folders for results that are kept between runs and can be recomputed."""

import os
import pathlib


def cache_dir(what: str) -> pathlib.Path:
  """The cache folder of one kind of results, which may not exist yet.

  It lies in the folder that LIPSYNC_JAX_CACHE names, by default in the user's
  cache folder. It can be deleted at any time.
  """
  root = os.environ.get('LIPSYNC_JAX_CACHE')
  if root:
    return pathlib.Path(root) / what
  import platformdirs

  return pathlib.Path(platformdirs.user_cache_dir('lipsync_jax')) / what
