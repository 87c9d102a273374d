"""Sync scores by a held-out SyncNet.

The scores are those of `sync_metrics`, by a SyncNet that trained no generator
(`configs/syncnet_heldout.py`).

Shapes: v windows of a clip, d length of a vector.
"""

import dataclasses
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from lipsync_jax import audio
from lipsync_jax.audio import FRAMES_PER_WINDOW, frame_columns, log_mel
from lipsync_jax.common.assets import asset_path
from lipsync_jax.evaluation import sync_metrics
from lipsync_jax.evaluation.clip import EvalClip, face_crops, valid_windows
from lipsync_jax.weights import convert

FRAMES = FRAMES_PER_WINDOW
DEFAULT_SCORER = asset_path('judge.safetensors')
BATCH = 32  # windows at a time


@dataclasses.dataclass(frozen=True)
class SyncNetScorer:
  """A compiled SyncNet."""

  run: Callable  # (mel [b 80 16 1], frames [b h/2 w 15]) -> vectors
  size: int  # pixels of its square crop
  sha256: str  # of its tensors
  source: str  # for the report


def load_scorer(path: str | os.PathLike) -> SyncNetScorer:
  """Load a SyncNet; raises WeightsError for another file."""
  import jax

  from lipsync_jax import models

  weights = convert.load_any(path, 'syncnet')
  net = models.build_model('syncnet', weights.size, weights.width)
  run = jax.jit(lambda v, mel, x: net.apply(v, mel, x, train=False))
  held = jax.device_put(weights.variables)
  return SyncNetScorer(
    run=lambda mel, x: run(held, mel, x),
    size=weights.size,
    sha256=weights.sha256,
    source=f'{os.path.basename(path)}, width {weights.width:g}',
  )


def window_embeddings(
  clip: EvalClip, scorer: SyncNetScorer
) -> tuple[Float[np.ndarray, 'v d'], Float[np.ndarray, 'v d']]:
  """Unit vectors of the face and of the sound of every window."""
  count = len(clip) - FRAMES + 1
  if count < 1:
    return np.zeros((0, 1)), np.zeros((0, 1))
  lower = face_crops(clip, scorer.size)[:, scorer.size // 2 :]
  mel = log_mel(audio.int16_to_float(clip.wave))
  starts = frame_columns(np.arange(count), Fraction(0))
  mels = audio.mel_windows(mel, starts)[..., None]  # [v 80 16 1]
  face, audio_vectors = [], []
  for low in range(0, count, BATCH):
    rows = np.minimum(np.arange(low, low + BATCH), count - 1)
    images = np.stack(
      [np.concatenate(list(lower[r : r + FRAMES]), -1) for r in rows]
    )  # [b, h/2, w, 15]
    out = scorer.run(mels[rows], images.astype(np.float32) / 255)
    audio_vectors.append(np.asarray(out[0]))
    face.append(np.asarray(out[1]))
  face, audio_vectors = np.concatenate(face), np.concatenate(audio_vectors)
  return face[:count], audio_vectors[:count]


def window_distances(
  clip: EvalClip, scorer: SyncNetScorer
) -> Float[np.ndarray, 'v s']:
  """`sync_metrics.distance_table` of the windows within one piece."""
  table = sync_metrics.distance_table(*window_embeddings(clip, scorer))
  return table[valid_windows(clip)[: len(table)]]
