"""Weights, compiled networks and the face detector, shared by jobs."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np

from lipsync_jax.common import cache, threads
from lipsync_jax.common.errors import reason_of
from lipsync_jax.faces import detector
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.models import articulator, occlusion, runtime
from lipsync_jax.weights import articulation, convert, occlusion_weights


def use_compilation_cache() -> None:
  """Keep compiled programs for later runs, unless a folder is set."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    compiled = str(cache.cache_dir('compiled'))
    jax.config.update('jax_compilation_cache_dir', compiled)


def engine_names() -> dict[str, str]:
  """What draws the mouths on this machine, for each renderer."""
  import jax

  dtype, backend = runtime.resolve_backend()
  names = {'xla': 'XLA', 'openvino': 'OpenVINO'}
  return {
    'mesh': f'mesh warp, articulator in XLA on {jax.default_backend()}',
    'network': f'{names[backend]} {runtime.DTYPE_LABELS[dtype]}',
  }


def check_bundled() -> dict[str, str]:
  """Load the bundled models: SHA-256 of the tensors, or 'error: ' and why."""
  checks = {
    'articulator': lambda: articulation.load_articulation().sha256,
    'generator': lambda: convert.load(convert.DEFAULT_GENERATOR).sha256,
    'face detector': lambda: detector.FaceDetector().close() or 'loaded',
  }
  found = {}
  for name, check in checks.items():
    try:
      found[name] = check()
    except Exception as error:
      found[name] = f'error: {reason_of(error)}'
  return found


class NetworkCache:
  """Weights, compiled networks and the face detector of several jobs.

  Safe for threads: each is loaded once, and a network that serves one call at
  a time is locked.
  """

  def __init__(self):
    self._lock = threading.RLock()
    self._weights: dict[str, convert.Weights] = {}
    self._predictors: dict[tuple, tuple[Callable, str]] = {}
    self._articulations: dict[str, articulation.Articulation] = {}
    self._articulators: dict[str, Callable] = {}
    self._occlusion: Callable | None = None
    self._detector: detector.FaceDetector | None = None

  def close(self) -> None:
    """Free the detector; a later job opens another."""
    with self._lock:
      closing, self._detector = self._detector, None
    if closing is not None:
      closing.close()

  def weights(self, path: str | os.PathLike) -> convert.Weights:
    """The generator in a file; read once, also if the file changes."""
    key = os.path.abspath(path)
    with self._lock:
      if key not in self._weights:
        self._weights[key] = convert.load_any(path, 'generator')
      return self._weights[key]

  def articulation(
    self, profile: str | os.PathLike | None = None
  ) -> articulation.Articulation:
    """The articulator of a profile, by default the bundled one.

    It is read once, also if the file changes.
    """
    key = os.path.abspath(profile or articulation.DEFAULT_ARTICULATOR)
    with self._lock:
      if key not in self._articulations:
        self._articulations[key] = articulation.load_articulation(key)
      return self._articulations[key]

  def articulator(
    self, profile: str | os.PathLike | None = None
  ) -> Callable[[np.ndarray], np.ndarray]:
    """`articulator.build_articulator` of `articulation(profile)`."""
    with self._lock:
      weights = self.articulation(profile)
      if weights.sha256 not in self._articulators:
        use_compilation_cache()
        self._articulators[weights.sha256] = articulator.build_articulator(
          weights.variables, weights.width
        )
      return self._articulators[weights.sha256]

  def occlusion(self) -> Callable[[np.ndarray], np.ndarray]:
    """`occlusion.build_occlusion` of the bundled network."""
    with self._lock:
      if self._occlusion is None:
        use_compilation_cache()
        self._occlusion = occlusion.build_occlusion(
          occlusion_weights.load_occlusion()
        )
      return self._occlusion

  @contextlib.contextmanager
  def open_detector(self) -> Iterator[detector.FaceDetector]:
    """The face detector, which stays open for the next job."""
    with self._lock:
      if self._detector is None:
        self._detector = detector.FaceDetector()
    yield self._detector

  def predictor(
    self, weights: convert.Weights, dtype: str, batch: int
  ) -> tuple[Callable, str]:
    """`runtime.build_predictor` for weights of this cache."""
    key = (weights.sha256, weights.size, weights.width, dtype, batch)
    with self._lock:
      if key not in self._predictors:
        use_compilation_cache()
        predict, engine = runtime.build_predictor(
          weights.variables,
          weights.size,
          weights.width,
          dtype=dtype,
          batch=batch,
        )
        self._predictors[key] = threads.one_at_a_time(predict), engine
      return self._predictors[key]


def load_weights(
  options: SyncOptions, networks: NetworkCache
) -> convert.Weights | articulation.Articulation:
  """The weights of the renderer that the options choose."""
  if options.uses_mesh:
    return networks.articulation(options.profile)
  return load_generator(options, networks)


def load_generator(
  options: SyncOptions, networks: NetworkCache
) -> convert.Weights:
  """The weights of the options; the bundled ones, with a note, by default."""
  if options.checkpoint_path is not None:
    return networks.weights(options.checkpoint_path)
  if not convert.DEFAULT_GENERATOR.is_file():
    raise convert.WeightsError(
      '--checkpoint_path is needed: no weights come with this copy; give '
      'wav2lip.pth, wav2lip_hq.pdparams or a .safetensors file of your own'
    )
  weights = networks.weights(convert.DEFAULT_GENERATOR)
  if not options.quiet:
    print(
      f'note: no --checkpoint_path, using {weights.source}', file=sys.stderr
    )
  return weights
