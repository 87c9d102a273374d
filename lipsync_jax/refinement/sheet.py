"""A sheet of mouths: what a refiner makes of the warps of a split.

  python -m lipsync_jax.refinement.sheet PAIRS --weights FILE --out SHEET.png

A row shows the most closed reference, the most open one, the warp, the refined
crop, the mask and the truth. Videos come first, then photos.

Shapes: h w rows and columns of a picture.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from lipsync_jax.models import refiner
from lipsync_jax.refinement import pair_file
from lipsync_jax.refinement.pair_file import PairSplit
from lipsync_jax.weights import refiner_weights

SHOWN = 128  # pixels of a picture, at least


def choose_rows(split: PairSplit, count: int, seed: int) -> np.ndarray:
  """Pairs of each kind, in equal shares of the speakers."""
  rng = np.random.default_rng(seed)
  chosen = []
  for photo in (0, 1):
    here = split.column('photo') == photo
    for speaker in range(len(split.names)):
      rows = np.flatnonzero(here & (split.column('speaker') == speaker))
      share = -(-count // (2 * len(split.names)))
      chosen += rng.permutation(rows)[:share].tolist()
  return np.array(chosen, np.int64)


def draw_sheet(
  value: refiner_weights.RefinerWeights, split: PairSplit, rows: np.ndarray
) -> UInt8[np.ndarray, 'h w 3']:
  """The sheet of some pairs."""
  import cv2

  margin = pair_file.margin_of(split.size)
  inside = np.s_[..., margin:-margin, margin:-margin, :]
  batch = pair_file.gather_pairs(split.arrays, rows)
  warp, truth, others = (
    np.asarray(batch[name][inside]) for name in ('warp', 'mouth', 'others')
  )
  run = refiner.build_refiner(value.variables, value.size, value.width)
  rgb, mask = run(batch['mel'], warp[..., :3], warp[..., 3], others)
  mask = mask[..., None]
  refined = warp[..., :3] + mask * (rgb - warp[..., :3])
  shown = np.repeat(255 * mask, 3, -1)
  columns = others[:, -1], others[:, 0], warp[..., :3], refined, shown, truth
  wide = np.concatenate([np.rint(x).astype(np.uint8) for x in columns], -2)
  sheet = np.concatenate(list(wide))  # [b*h, 6*w, 3]
  scale = max(1, SHOWN // split.size)
  return cv2.resize(sheet, None, fx=scale, fy=scale)


def main(argv: Sequence[str] | None = None) -> int:
  """Write a sheet; 2 on an error."""
  import cv2

  parser = argparse.ArgumentParser(
    prog='python -m lipsync_jax.refinement.sheet',
    description='Draw what a refiner makes of the pairs of a split.',
  )
  parser.add_argument('pairs', help='folder of lipsync_jax.refinement.prepare')
  parser.add_argument('--split', default='test', help='of the pairs')
  parser.add_argument('--weights', required=True, help='refiner')
  parser.add_argument('--out', required=True, help='PNG to write')
  parser.add_argument('--rows', type=int, default=8, help='pairs')
  parser.add_argument('--seed', type=int, default=0, help='of their choice')
  args = parser.parse_args(argv)
  try:
    value = refiner_weights.load_refiner(args.weights)
    split = pair_file.load_pairs(args.pairs, args.split, value.size)
  except ValueError as error:  # every error of ours is one line
    print(f'sheet: {error}', file=sys.stderr)
    return 2
  rows = choose_rows(split, args.rows, args.seed)
  sheet = draw_sheet(value, split, rows)
  cv2.imwrite(args.out, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
  return 0


if __name__ == '__main__':
  sys.exit(main())
