"""Ridge: a judge without a network, from the mel to how far lips are open.

A linear regression from 0.3 s of sound about a frame to the opening of the
inner lips that landmarks measure. It hears little, but nobody trains on it,
so no generator can please it alone. Its coefficients, fitted on real
clips, come with the package (assets/ridge.npz); to fit others:

    python -m lipsync_jax.evaluation.ridge_scorer --data SHARDS --out ridge.npz

Alphabet: `n` frames, `k` features of a frame, `s` shifts.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from lipsync_jax import audio
from lipsync_jax.audio import log_mel
from lipsync_jax.common import atomic_file
from lipsync_jax.common.assets import asset_path
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.evaluation import image_metrics
from lipsync_jax.evaluation.clip import (
  FPS,
  SAMPLES_PER_FRAME,
  EvalClip,
  piece_ranges,
)

DEFAULT_RIDGE = asset_path('ridge.npz')
LOOK_BACK = Fraction(14, 100)  # seconds that the sound begins before its frame
GROUPS, GROUP_COLUMNS = 8, 3  # mel columns, averaged so many at a time
BANDS = 20  # of 80 mel bins, averaged four at a time
MAX_SHIFT = 15  # frames, the farthest shift
MIN_FRAMES = 10  # frames that a correlation needs


class RidgeError(LipSyncError):
  """Coefficients that cannot be fitted or read; one line says why."""


@dataclasses.dataclass(frozen=True)
class RidgeScorer:
  """A fitted regression."""

  weights: Float[np.ndarray, 'k']  # of standardised features
  source: str  # what it was fitted on


def audio_features(mel: Float[np.ndarray, '80 t'], count: int):
  """What is heard about each of `count` frames.  [n, k]"""
  times = [Fraction(f, FPS) for f in range(count)]
  starts = audio.window_starts(times, LOOK_BACK)
  at = starts[:, None] + np.arange(GROUPS * GROUP_COLUMNS)  # [n, 24]
  found = mel[:, np.clip(at, 0, mel.shape[1] - 1)]  # [80, n, 24]
  bands = found.reshape(BANDS, -1, count, GROUPS, GROUP_COLUMNS).mean((1, 4))
  return bands.transpose(1, 0, 2).reshape(count, -1)  # [n, 20*8]


def fit_ridge(
  examples: Iterator[tuple[Float[np.ndarray, 'n k'], np.ndarray, float]],
  source: str,
  penalty: float = 3e-3,
) -> RidgeScorer:
  """Fit to (features, opening, weight) of clips.

  Means of a clip are taken out: who speaks says nothing. `penalty` is a
  share of the features' variance, all of them together.
  """
  size = GROUPS * BANDS
  square, product = np.zeros((size, size)), np.zeros(size)
  for x, gap, weight in examples:
    good = np.isfinite(gap)
    if good.sum() < MIN_FRAMES or np.std(gap[good]) < 1e-6:
      continue
    x, y = x[good] - x[good].mean(0), gap[good] - gap[good].mean()
    y = y / y.std()
    square += weight * (x.T @ x)
    product += weight * (x.T @ y)
  if not square.any():
    raise RidgeError('expected clips with open and closed mouths, found none')
  load = penalty * np.trace(square) * np.eye(size)
  found = np.linalg.solve(square + load, product)
  return RidgeScorer(found.astype(np.float32), source)


def correlation_curve(
  x: Float[np.ndarray, 'n k'],
  gap: Float[np.ndarray, 'n'],
  ridge: RidgeScorer,
  pieces: list[slice] | None = None,
) -> Float[np.ndarray, 's']:
  """Correlation of heard and seen opening at each shift; NaN: unknown.

  At shift k the sound of frame f + k is heard, so the highest is at the
  number of frames by which the sound is late. Each piece of a joined take
  keeps to its own mean.
  """
  heard, seen = x @ ridge.weights, gap.astype(np.float64).copy()
  for piece in pieces or [slice(None)]:
    heard[piece] = heard[piece] - heard[piece].mean()
    known = seen[piece][np.isfinite(seen[piece])]
    seen[piece] = seen[piece] - (known.mean() if known.size else np.nan)
  count = len(seen)
  out = np.full(2 * MAX_SHIFT + 1, np.nan)
  for i, k in enumerate(range(-MAX_SHIFT, MAX_SHIFT + 1)):
    if count - abs(k) < MIN_FRAMES:
      continue
    a, b = seen[max(0, -k) : count - max(0, k)], heard[max(0, k) :]
    b = b[: len(a)]
    good = np.isfinite(a)
    if good.sum() >= MIN_FRAMES and a[good].std() > 0 and b[good].std() > 0:
      out[i] = np.corrcoef(a[good], b[good])[0, 1]
  return out


def score_clip(
  take: EvalClip, gap: Float[np.ndarray, 'n'], ridge: RidgeScorer
) -> Float[np.ndarray, 's']:
  """`correlation_curve` of a take and the opening of its lips."""
  mel = log_mel(audio.int16_to_float(take.wave)).astype(np.float64)
  x = audio_features(mel, len(take))
  return correlation_curve(x, gap, ridge, list(piece_ranges(take)))


def best_offset(found: Float[np.ndarray, 's']) -> int:
  """Frames by which the sound is early (`audio.published_offset`)."""
  known = np.isfinite(found).any()
  late = int(np.nanargmax(found)) - MAX_SHIFT if known else 0
  return audio.published_offset(late)


def load_ridge(path: str | os.PathLike = DEFAULT_RIDGE) -> RidgeScorer:
  """Read coefficients; raises RidgeError where the file holds none."""
  try:
    with np.load(path, allow_pickle=False) as file:
      ridge = RidgeScorer(file['weights'], str(file['source']))
  except (OSError, ValueError, KeyError) as error:
    raise RidgeError(
      f'{path}: expected coefficients of the ridge judge ({error}); fit them '
      'with python -m lipsync_jax.evaluation.ridge_scorer'
    ) from None
  if ridge.weights.shape != (GROUPS * BANDS,):
    raise RidgeError(
      f'{path}: expected {GROUPS * BANDS} coefficients, found '
      f'{ridge.weights.shape}; fit them again'
    )
  return ridge


def save_ridge(path: str | os.PathLike, ridge: RidgeScorer) -> None:
  """Write coefficients; the file appears only when whole."""
  with atomic_file.atomic_write(path) as part, open(part, 'wb') as file:
    np.savez(file, weights=ridge.weights, source=np.array(ridge.source))


def training_rows(source: ClipDataset) -> Iterator[tuple]:
  """(features, opening, weight, speaker); all speakers weigh alike."""
  frames = {name: 0 for name in source.speakers}
  for name, count in zip(source.speakers, source.frames, strict=True):
    frames[name] += int(count)
  for i in range(len(source)):
    clip = source[i]
    count = min(len(clip.points), len(clip.wave) // SAMPLES_PER_FRAME)
    width = clip.crops[:count, 2].astype(np.float64)
    gap = image_metrics.lip_opening(
      clip.points[:count].astype(np.float64), width
    )
    x = audio_features(clip.mel.astype(np.float64), count)
    yield x, gap, 1e4 / frames[clip.speaker], clip.speaker


def mean_correlation(
  source: ClipDataset, ridge: RidgeScorer
) -> dict[str, float]:
  """Mean correlation in step and four frames out of it, over clips."""
  middle, found = MAX_SHIFT, []
  for x, gap, _, _ in training_rows(source):
    c = correlation_curve(x, gap, ridge)
    found.append((c[middle], np.nanmean([c[middle - 4], c[middle + 4]])))
  inside, outside = np.nanmean(found, axis=0)
  return {'in step': float(inside), '4 frames out': float(outside)}


def main(argv: list[str] | None = None) -> int:
  """Fit on one split, try on another; 1 and one line on an error."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--data', required=True, help='folder of shards')
  parser.add_argument('--fit', default='train', help='split (train)')
  parser.add_argument('--try', dest='trial', default='val', help='split (val)')
  parser.add_argument('--out', required=True, help='.npz to write')
  args = parser.parse_args(argv)
  try:
    source = ClipDataset(args.data, args.fit)
    people = len(set(source.speakers))
    words = f'{len(source)} clips of {people} speakers'
    ridge = fit_ridge((row[:3] for row in training_rows(source)), words)
    save_ridge(args.out, ridge)
    found = mean_correlation(ClipDataset(args.data, args.trial), ridge)
  except (ValueError, OSError) as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  values = ', '.join(f'{name} {value:.3f}' for name, value in found.items())
  print(f'{args.out}: fitted on {words}; correlation {values}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
