"""LSE: how far lips and sound are apart, and at which shift least.

Distances between the vectors of windows, as Wav2Lip defined its scores on
SyncNet v2; `judge` asks the same questions of a network of ours. Source:
spec sections 8.1-8.3.

Alphabet: `v` windows of a clip, `d` length of a vector, `s` shifts from
-reach to reach; at shift k the sound of window v + k is tried, so the
nearest shift is the number of frames by which the sound is late.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int16, UInt8

from lipsync_jax import audio
from lipsync_jax.audio import FRAMES_PER_WINDOW as FRAMES
from lipsync_jax.audio import SAMPLES_PER_FRAME
from lipsync_jax.faces.crop import Crop

MAX_SHIFT = 15  # frames to either side
SYNCNET_V2_SIZE = 224  # pixels of SyncNet v2's picture
MFCC_COLUMNS = 20  # of MFCC a window, 100 a second
BATCH = 20
RETRIEVAL_STRIDE = 3  # frames between two candidates of `retrieval_rate`
MIN_WINDOWS = 5  # windows that must overlap for a shift to count


@dataclasses.dataclass(frozen=True)
class SyncScores:
  """What the distances of one clip say."""

  curve: Float[np.ndarray, 's']  # mean distance at each shift; NaN: unknown
  distance: float  # the smallest: LSE-D
  confidence: float  # median minus smallest: LSE-C
  # Frames, positive where the sound is early (`audio.published_offset`).
  offset: int
  fine: float  # the same to parts of a frame


def distance_table(
  face: Float[np.ndarray, 'v d'],
  heard: Float[np.ndarray, 'v d'],
  reach: int = MAX_SHIFT,
  zeros: bool = False,
) -> Float[np.ndarray, 'v s']:
  """Euclidean distance of every face to the sounds about it.

  Args:
    reach: frames, the farthest shift.
    zeros: take zero vectors for the sound beyond the ends, as the original
      does, where they are real candidates; else it is NaN.
  """
  count = min(len(face), len(heard))
  face, heard = (x[:count].astype(np.float64) for x in (face, heard))
  fill = 0.0 if zeros else np.nan
  padded = np.pad(heard, ((reach, reach), (0, 0)), constant_values=fill)
  rows = [padded[k : k + count] for k in range(2 * reach + 1)]
  # 1e-6: the epsilon that PyTorch adds to every difference.
  return np.stack(
    [np.linalg.norm(face - row + 1e-6, axis=1) for row in rows], 1
  )


def sync_scores(table: Float[np.ndarray, 'v s']) -> SyncScores:
  """Scores of a clip; NaN where it is too short."""
  known = np.isfinite(table).sum(0)
  usable = known >= max(min(MIN_WINDOWS, len(table)), 1)
  curve = np.full(table.shape[1], np.nan)
  if usable.any():
    curve[usable] = np.nanmean(table[:, usable], axis=0)
    best = int(np.nanargmin(curve))
    least = float(curve[best])
    reach = table.shape[1] // 2
    confidence = float(np.nanmedian(curve) - least)
    late, fine = best - reach, subframe_minimum(curve) - reach
    return SyncScores(
      curve,
      least,
      confidence,
      audio.published_offset(late),
      audio.published_offset(fine),
    )
  return SyncScores(curve, np.nan, np.nan, 0, 0.0)


def subframe_minimum(curve: Float[np.ndarray, 's']) -> float:
  """Where a curve is least, between its points too.

  The vertex of the parabola through the least point and its neighbors: a
  clip is not late by whole frames, and halves would fall to either side.
  """
  best = int(np.nanargmin(curve))
  about = curve[best - 1 : best + 2] if best else curve[:0]
  if len(about) < 3 or not np.isfinite(about).all():
    return float(best)
  left, least, right = about
  bend = left - 2 * least + right
  return best + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def retrieval_rate(table: Float[np.ndarray, 'v s']) -> float:
  """Share of the windows whose own sound is nearer than every third other.

  Candidates stand STEP frames apart, 11 at the usual reach, so chance is
  1 in 11; windows without all of them do not count. Ties are no success.
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
  """SyncNet v2, compiled for BATCH windows: (mfcc, frames) -> vectors."""
  import jax

  from lipsync_jax import models

  net = models.build_model('syncnet_v2')
  run = jax.jit(lambda v, mfcc, x: net.apply(v, mfcc, x))
  held = jax.device_put(variables)
  return lambda mfcc, frames: run(held, mfcc, frames)


def syncnet_v2_crop(crop: Crop) -> Crop:
  """What SyncNet v2 sees of a face: 2.8 half sides, mostly below (8.4)."""
  s = max(crop.w, crop.h) / 2
  return Crop(crop.cx, crop.cy + 0.4 * s, 2.8 * s, 2.8 * s, 0.0)


def syncnet_v2_embeddings(
  pictures: Sequence[UInt8[np.ndarray, '224 224 3']],
  wave: Int16[np.ndarray, 'n'],
  run: Callable,
) -> tuple[Float[np.ndarray, 'v d'], Float[np.ndarray, 'v d']]:
  """Vectors of the faces and of the sound of every window.

  Args:
    pictures: RGB, 25 a second, see `syncnet_v2_crop`.
    wave: 16 kHz; begins with the first picture.
    run: of `syncnet_v2_predictor`.
  """
  count = min(len(pictures), len(wave) // SAMPLES_PER_FRAME) - FRAMES
  if count < 1:
    return np.zeros((0, 1)), np.zeros((0, 1))
  mfcc = audio.mfcc(wave).T.astype(np.float32)  # [13, t]
  bgr = np.stack(pictures)[..., ::-1]
  face, heard = [], []
  for low in range(0, count, BATCH):
    rows = np.minimum(np.arange(low, low + BATCH), count - 1)
    sounds = np.stack([mfcc[:, 4 * v : 4 * v + MFCC_COLUMNS] for v in rows])
    frames = np.stack(
      [np.concatenate(list(bgr[v : v + FRAMES]), -1) for v in rows]
    )  # [b, 224, 224, 15]
    out = run(sounds[..., None], frames.astype(np.float32))
    heard.append(np.asarray(out[0]))
    face.append(np.asarray(out[1]))
  return np.concatenate(face)[:count], np.concatenate(heard)[:count]
