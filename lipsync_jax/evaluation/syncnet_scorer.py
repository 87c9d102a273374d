"""Judge: a SyncNet of ours asked by how much lips and sound disagree.

The same questions as `lse`, put to a network that must not have taught the
generator it judges (configs/judge.py keeps it apart).

Alphabet: `v` windows of a take, `d` length of a vector.
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
  """A trained SyncNet, compiled."""

  run: Callable  # (mel [b 80 16 1], frames [b h/2 w 15]) -> vectors
  size: int  # pixels of its square crop
  sha256: str  # of its tensors
  source: str  # for people


def load_scorer(path: str | os.PathLike) -> SyncNetScorer:
  """Read a judge; raises WeightsError where the file is none."""
  import jax

  from lipsync_jax import models

  found = convert.load_any(path, 'syncnet')
  net = models.build_model('syncnet', found.size, found.width)
  run = jax.jit(lambda v, mel, x: net.apply(v, mel, x, train=False))
  held = jax.device_put(found.variables)
  return SyncNetScorer(
    run=lambda mel, x: run(held, mel, x),
    size=found.size,
    sha256=found.sha256,
    source=f'{os.path.basename(path)}, width {found.width:g}',
  )


def window_embeddings(
  take: EvalClip, judge: SyncNetScorer
) -> tuple[Float[np.ndarray, 'v d'], Float[np.ndarray, 'v d']]:
  """Unit vectors of the faces and of the sound of every window."""
  count = len(take) - FRAMES + 1
  if count < 1:
    return np.zeros((0, 1)), np.zeros((0, 1))
  lower = face_crops(take, judge.size)[:, judge.size // 2 :]
  mel = log_mel(audio.int16_to_float(take.wave))
  starts = frame_columns(np.arange(count), Fraction(0))
  mels = audio.mel_windows(mel, starts)[..., None]  # [v 80 16 1]
  face, heard = [], []
  for low in range(0, count, BATCH):
    rows = np.minimum(np.arange(low, low + BATCH), count - 1)
    images = np.stack(
      [np.concatenate(list(lower[r : r + FRAMES]), -1) for r in rows]
    )  # [b, h/2, w, 15]
    out = judge.run(mels[rows], images.astype(np.float32) / 255)
    heard.append(np.asarray(out[0]))
    face.append(np.asarray(out[1]))
  return np.concatenate(face)[:count], np.concatenate(heard)[:count]


def window_distances(
  take: EvalClip, judge: SyncNetScorer
) -> Float[np.ndarray, 'v s']:
  """`sync_metrics.distance_table` of the windows that no joint runs through."""
  table = sync_metrics.distance_table(*window_embeddings(take, judge))
  return table[valid_windows(take)[: len(table)]]
