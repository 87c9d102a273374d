"""lipsync_jax: lip-sync any face to any speech.

Public names are imported on first use, so that `import lipsync_jax` is fast.
"""

from typing import TYPE_CHECKING

from lipsync_jax.common.lazy import lazy_exports

if TYPE_CHECKING:
  from lipsync_jax.common.errors import Cancelled as Cancelled
  from lipsync_jax.common.errors import LipSyncError as LipSyncError
  from lipsync_jax.faces.detector import FaceDetector as FaceDetector
  from lipsync_jax.inference.options import SyncError as SyncError
  from lipsync_jax.inference.options import SyncOptions as SyncOptions
  from lipsync_jax.inference.report import Progress as Progress
  from lipsync_jax.inference.report import SyncReport as SyncReport
  from lipsync_jax.inference.session import Session as Session
  from lipsync_jax.models.registry import build_model as build_model
  from lipsync_jax.sync import sync as sync_video  # noqa: F401
  from lipsync_jax.weights.convert import (  # noqa: F401
    load_any as load_weights,
  )
  from lipsync_jax.weights.safetensors_file import Weights as Weights

__version__ = '0.1.0'

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'common.errors': ['Cancelled', 'LipSyncError'],
    'faces.detector': ['FaceDetector'],
    'inference.options': ['SyncError', 'SyncOptions'],
    'inference.report': ['Progress', 'SyncReport'],
    'inference.session': ['Session'],
    'models.registry': ['build_model'],
    'sync': ['sync', 'sync_video=sync'],
    'weights.convert': ['load_weights=load_any'],
    'weights.safetensors_file': ['Weights'],
  },
)
