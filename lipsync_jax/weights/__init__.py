"""Weight files: ours (safetensors) and the published ones.

Published pickles are read without executing anything in them.
Command line: `python -m lipsync_jax.weights --help`.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'convert': ['DEFAULT_GENERATOR', 'load_any'],
    'pickle_types': ['UnsafeFile'],
    'safetensors_file': ['Weights', 'WeightsError', 'load', 'save'],
  },
)
