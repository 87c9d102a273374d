"""LSE: distances of lips and sound over shifts of the sound.

Distances are those between SyncNet's vectors of face and sound windows, as
Wav2Lip defines its scores on SyncNet v2. `SyncNetScorer` computes the same
scores with a SyncNet of ours that trained no generator
(`configs/syncnet_heldout.py`).

Shapes: v windows of a clip, d length of a vector, s shifts from -reach to
reach. Shift k compares face window v with sound window v + k, so that the
minimum is the number of frames by which the sound is late.
Source: spec sections 8.1-8.3.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int16, UInt8

from lipsync_jax import audio
from lipsync_jax.audio import FRAMES_PER_WINDOW as FRAMES
from lipsync_jax.audio import SAMPLES_PER_FRAME, frame_columns, log_mel
from lipsync_jax.common.assets import asset_path
from lipsync_jax.evaluation.clip import EvalClip, face_crops, valid_windows
from lipsync_jax.faces.crop import Crop
from lipsync_jax.weights import convert

MAX_SHIFT = 15  # frames to either side
SYNCNET_V2_SIZE = 224  # pixels of SyncNet v2's input
MFCC_COLUMNS = 20  # columns of a window, 100 a second
BATCH = 20
DEFAULT_SCORER = asset_path('judge.safetensors')
SCORER_BATCH = 32  # windows of a SyncNetScorer at a time
RETRIEVAL_STRIDE = 3  # frames between two candidates of `retrieval_rate`
MIN_WINDOWS = 5  # overlapping windows that a shift needs


@dataclasses.dataclass(frozen=True)
class SyncScores:
  """Sync scores of one clip."""

  curve: Float[np.ndarray, 's']  # mean distance at each shift; NaN: unknown
  distance: float  # the smallest: LSE-D
  confidence: float  # median minus smallest: LSE-C
  # Frames, positive where the sound is early (`audio.published_offset`).
  offset: int
  fine: float  # the same to fractions of a frame


def distance_table(
  face: Float[np.ndarray, 'v d'],
  audio_vectors: Float[np.ndarray, 'v d'],
  reach: int = MAX_SHIFT,
  zeros: bool = False,
) -> Float[np.ndarray, 'v s']:
  """Euclidean distances of every face window to the sounds around it.

  Args:
    face: vectors of the face windows.
    audio_vectors: vectors of the sound windows.
    reach: frames, the farthest shift.
    zeros: compare with zero vectors beyond the ends of the sound, as the
      original does; otherwise these distances are NaN.
  """
  count = min(len(face), len(audio_vectors))
  face = face[:count].astype(np.float64)
  audio_vectors = audio_vectors[:count].astype(np.float64)
  fill = 0.0 if zeros else np.nan
  padded = np.pad(audio_vectors, ((reach, reach), (0, 0)), constant_values=fill)
  rows = [padded[k : k + count] for k in range(2 * reach + 1)]
  # PyTorch adds an epsilon of 1e-6 to every difference.
  return np.stack(
    [np.linalg.norm(face - row + 1e-6, axis=1) for row in rows], 1
  )


def sync_scores(table: Float[np.ndarray, 'v s']) -> SyncScores:
  """Sync scores from `distance_table`; NaN for a clip that is too short."""
  known = np.isfinite(table).sum(0)
  usable = known >= max(min(MIN_WINDOWS, len(table)), 1)
  curve = np.full(table.shape[1], np.nan)
  if usable.any():
    curve[usable] = np.nanmean(table[:, usable], axis=0)
    best = int(np.nanargmin(curve))
    minimum = float(curve[best])
    reach = table.shape[1] // 2
    confidence = float(np.nanmedian(curve) - minimum)
    late, fine = best - reach, subframe_minimum(curve) - reach
    return SyncScores(
      curve,
      minimum,
      confidence,
      audio.published_offset(late),
      audio.published_offset(fine),
    )
  return SyncScores(curve, np.nan, np.nan, 0, 0.0)


def subframe_minimum(curve: Float[np.ndarray, 's']) -> float:
  """Position of a curve's minimum to fractions of a point.

  It is the vertex of the parabola through the smallest point and its neighbors.
  Whole frames would round a delay of half a frame to either side.
  """
  best = int(np.nanargmin(curve))
  about = curve[best - 1 : best + 2] if best else curve[:0]
  if len(about) < 3 or not np.isfinite(about).all():
    return float(best)
  left, middle, right = about
  bend = left - 2 * middle + right
  return best + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def retrieval_rate(table: Float[np.ndarray, 'v s']) -> float:
  """Share of the windows whose own sound is the nearest of 11.

  The candidates are RETRIEVAL_STRIDE frames apart: 11 at the default reach, so
  that chance is 1 in 11. Windows without all candidates do not count; a tie is
  a failure.
  """
  middle = table.shape[1] // 2
  others = np.arange(
    middle % RETRIEVAL_STRIDE, table.shape[1], RETRIEVAL_STRIDE
  )
  others = others[others != middle]
  whole = np.isfinite(table[:, others]).all(1)
  if not whole.any():
    return float('nan')
  return float((table[whole, middle] < table[whole][:, others].min(1)).mean())


def syncnet_v2_predictor(variables: dict) -> Callable:
  """Compiled SyncNet v2: (mfcc, frames) of BATCH windows -> vectors."""
  import jax

  from lipsync_jax import models

  net = models.build_model('syncnet_v2')
  run = jax.jit(lambda v, mfcc, x: net.apply(v, mfcc, x))
  held = jax.device_put(variables)
  return lambda mfcc, frames: run(held, mfcc, frames)


def syncnet_v2_crop(crop: Crop) -> Crop:
  """SyncNet v2's crop: a square of 2.8 half sides, shifted down (8.4)."""
  s = max(crop.w, crop.h) / 2
  return Crop(crop.cx, crop.cy + 0.4 * s, 2.8 * s, 2.8 * s, 0.0)


def syncnet_v2_embeddings(
  pictures: Sequence[UInt8[np.ndarray, '224 224 3']],
  wave: Int16[np.ndarray, 'n'],
  run: Callable,
) -> tuple[Float[np.ndarray, 'v d'], Float[np.ndarray, 'v d']]:
  """Vectors of the face and of the sound of every window.

  Args:
    pictures: RGB at 25 frames/s, see `syncnet_v2_crop`.
    wave: 16 kHz, beginning with the first picture.
    run: of `syncnet_v2_predictor`.
  """
  count = min(len(pictures), len(wave) // SAMPLES_PER_FRAME) - FRAMES
  if count < 1:
    return np.zeros((0, 1)), np.zeros((0, 1))
  mfcc = audio.mfcc(wave).T.astype(np.float32)  # [13, t]
  bgr = np.stack(pictures)[..., ::-1]
  face, audio_vectors = [], []
  for low in range(0, count, BATCH):
    rows = np.minimum(np.arange(low, low + BATCH), count - 1)
    sounds = np.stack([mfcc[:, 4 * v : 4 * v + MFCC_COLUMNS] for v in rows])
    frames = np.stack(
      [np.concatenate(list(bgr[v : v + FRAMES]), -1) for v in rows]
    )  # [b, 224, 224, 15]
    out = run(sounds[..., None], frames.astype(np.float32))
    audio_vectors.append(np.asarray(out[0]))
    face.append(np.asarray(out[1]))
  face, audio_vectors = np.concatenate(face), np.concatenate(audio_vectors)
  return face[:count], audio_vectors[:count]


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
  for low in range(0, count, SCORER_BATCH):
    rows = np.minimum(np.arange(low, low + SCORER_BATCH), count - 1)
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
  """`distance_table` of the windows within one piece."""
  table = distance_table(*window_embeddings(clip, scorer))
  return table[valid_windows(clip)[: len(table)]]
