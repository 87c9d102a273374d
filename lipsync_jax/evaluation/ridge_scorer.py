"""Sync score without a network: ridge regression from mel to lip opening.

The regression maps 0.3 s of sound around a frame to the opening of the inner
lips, measured by landmarks. It is coarse, but no training optimizes it. The
bundled coefficients (assets/ridge.npz) are fitted on real clips. To fit others:

    python -m lipsync_jax.evaluation.ridge_scorer --data SHARDS --out ridge.npz

Shapes: n frames, k features of a frame, s shifts.
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
from lipsync_jax.common import atomic_file, cli
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
LOOK_BACK = Fraction(
  14, 100
)  # seconds from the start of the sound to its frame
GROUPS, GROUP_COLUMNS = 8, 3  # groups of mel columns, each averaged
BANDS = 20  # groups of four mel bins, each averaged
MAX_SHIFT = 15  # frames, the farthest shift
MIN_FRAMES = 10  # of a correlation


class RidgeError(LipSyncError):
  """Coefficients that cannot be fitted or read."""


@dataclasses.dataclass(frozen=True)
class RidgeScorer:
  """A fitted regression."""

  weights: Float[np.ndarray, 'k']  # of the features
  source: str  # data of the fit


def audio_features(mel: Float[np.ndarray, '80 t'], count: int):
  """Features of the sound around each of `count` frames, [n, k]."""
  times = [Fraction(f, FPS) for f in range(count)]
  starts = audio.window_starts(times, LOOK_BACK)
  at = starts[:, None] + np.arange(GROUPS * GROUP_COLUMNS)  # [n, 24]
  columns = mel[:, np.clip(at, 0, mel.shape[1] - 1)]  # [80, n, 24]
  bands = columns.reshape(BANDS, -1, count, GROUPS, GROUP_COLUMNS).mean((1, 4))
  return bands.transpose(1, 0, 2).reshape(count, -1)  # [n, 20*8]


def fit_ridge(
  examples: Iterator[tuple[Float[np.ndarray, 'n k'], np.ndarray, float]],
  source: str,
  penalty: float = 3e-3,
) -> RidgeScorer:
  """Fit the regression.

  The mean of each clip is subtracted, so that the speaker does not matter.

  Args:
    examples: (features, opening, weight) of clips.
    source: description of the data.
    penalty: relative to the total variance of the features.

  Raises:
    RidgeError: no clip has enough lip motion.
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
  weights = np.linalg.solve(square + load, product)
  return RidgeScorer(weights.astype(np.float32), source)


def correlation_curve(
  x: Float[np.ndarray, 'n k'],
  gap: Float[np.ndarray, 'n'],
  ridge: RidgeScorer,
  pieces: list[slice] | None = None,
) -> Float[np.ndarray, 's']:
  """Correlation of predicted and measured opening at each shift.

  Shift k predicts frame f from the sound of frame f + k, so that the maximum is
  the number of frames by which the sound is late. NaN: unknown.

  Args:
    x: features.
    gap: lip opening, NaN where unknown.
    ridge: the regression.
    pieces: frame ranges of a joined clip, each with its own mean.
  """
  predicted, measured = x @ ridge.weights, gap.astype(np.float64).copy()
  for piece in pieces or [slice(None)]:
    predicted[piece] = predicted[piece] - predicted[piece].mean()
    known = measured[piece][np.isfinite(measured[piece])]
    mean = known.mean() if known.size else np.nan
    measured[piece] = measured[piece] - mean
  count = len(measured)
  out = np.full(2 * MAX_SHIFT + 1, np.nan)
  for i, k in enumerate(range(-MAX_SHIFT, MAX_SHIFT + 1)):
    if count - abs(k) < MIN_FRAMES:
      continue
    a = measured[max(0, -k) : count - max(0, k)]
    b = predicted[max(0, k) :][: len(a)]
    good = np.isfinite(a)
    if good.sum() >= MIN_FRAMES and a[good].std() > 0 and b[good].std() > 0:
      out[i] = np.corrcoef(a[good], b[good])[0, 1]
  return out


def score_clip(
  clip: EvalClip, gap: Float[np.ndarray, 'n'], ridge: RidgeScorer
) -> Float[np.ndarray, 's']:
  """`correlation_curve` of a clip, given the opening of its lips."""
  mel = log_mel(audio.int16_to_float(clip.wave)).astype(np.float64)
  x = audio_features(mel, len(clip))
  return correlation_curve(x, gap, ridge, list(piece_ranges(clip)))


def best_offset(curve: Float[np.ndarray, 's']) -> int:
  """Frames by which the sound is early (`audio.published_offset`)."""
  known = np.isfinite(curve).any()
  late = int(np.nanargmax(curve)) - MAX_SHIFT if known else 0
  return audio.published_offset(late)


def load_ridge(path: str | os.PathLike = DEFAULT_RIDGE) -> RidgeScorer:
  """Read coefficients; raises RidgeError for another file."""
  try:
    with np.load(path, allow_pickle=False) as file:
      ridge = RidgeScorer(file['weights'], str(file['source']))
  except (OSError, ValueError, KeyError) as error:
    raise RidgeError(
      f'{path}: expected coefficients of the ridge scorer ({error}); fit them '
      'with python -m lipsync_jax.evaluation.ridge_scorer'
    ) from None
  if ridge.weights.shape != (GROUPS * BANDS,):
    raise RidgeError(
      f'{path}: expected {GROUPS * BANDS} coefficients, found '
      f'{ridge.weights.shape}; fit them again'
    )
  return ridge


def save_ridge(path: str | os.PathLike, ridge: RidgeScorer) -> None:
  """Write coefficients atomically."""
  with atomic_file.atomic_write(path) as part, open(part, 'wb') as file:
    np.savez(file, weights=ridge.weights, source=np.array(ridge.source))


def training_rows(source: ClipDataset) -> Iterator[tuple]:
  """(features, opening, weight, speaker) of every clip.

  All speakers have the same total weight.
  """
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
  """Mean correlation over clips, in sync and four frames out of sync."""
  middle, pairs = MAX_SHIFT, []
  for x, gap, _, _ in training_rows(source):
    c = correlation_curve(x, gap, ridge)
    pairs.append((c[middle], np.nanmean([c[middle - 4], c[middle + 4]])))
  inside, outside = np.nanmean(pairs, axis=0)
  return {'in sync': float(inside), '4 frames out': float(outside)}


def main(argv: list[str] | None = None) -> int:
  """Fit on one split, test on another; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--data', required=True, help='folder of shards')
  parser.add_argument('--fit', default='train', help='split (train)')
  parser.add_argument('--try', dest='trial', default='val', help='split (val)')
  parser.add_argument('--out', required=True, help='.npz to write')
  args = parser.parse_args(argv)
  return cli.run_command(lambda: fit_file(args))


def fit_file(args: argparse.Namespace) -> str:
  """Fit coefficients, write them, and describe the result in one line."""
  source = ClipDataset(args.data, args.fit)
  people = len(set(source.speakers))
  facts = f'{len(source)} clips of {people} speakers'
  ridge = fit_ridge((row[:3] for row in training_rows(source)), facts)
  save_ridge(args.out, ridge)
  trial = mean_correlation(ClipDataset(args.data, args.trial), ridge)
  values = ', '.join(f'{name} {value:.3f}' for name, value in trial.items())
  return f'{args.out}: fitted on {facts}; correlation {values}'


if __name__ == '__main__':
  sys.exit(main())
