"""Make the training pairs of the refiner from shards of clips.

  python -m lipsync_jax.refinement.prepare SHARDS --out FOLDER

Every clip gives some pairs (`pair_choice`), which the mesh renderer's functions
warp (`warped_mouths`). The result depends on the shards and the flags only.

Shapes: s side of a crop with its margin.
"""

import argparse
import concurrent.futures
import pathlib
import sys
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm
from jaxtyping import UInt8

from lipsync_jax import audio
from lipsync_jax.data.clip import Clip, ClipDataset
from lipsync_jax.models.refiner import SIZES
from lipsync_jax.occlusion import occluders
from lipsync_jax.refinement import face_frames, pair_choice, warped_mouths
from lipsync_jax.refinement.face_frames import Canvas, FaceClip
from lipsync_jax.refinement.pair_choice import PairChoice
from lipsync_jax.refinement.pair_file import (
  PairRecord,
  PairWriter,
  margin_of,
)

OCCLUDED_SHARE = 0.1  # of the training pairs, with an object before the mouth
SPLITS = ('train', 'val', 'test')

Crop = UInt8[np.ndarray, 's s 3']


def middle(picture: np.ndarray, size: int) -> np.ndarray:
  """The crop with its margin in the middle of a canvas."""
  start = (len(picture) - size) // 2 - margin_of(size)
  end = len(picture) - start
  return np.ascontiguousarray(picture[start:end, start:end])


def clip_pairs(
  clip: Clip, size: int, count: int, seed: int, occluded: float = 0.0
) -> tuple[list[PairRecord], dict[int, Crop]]:
  """The pairs of a clip, and the mouths of the frames they name.

  Args:
    clip: with a mesh.
    size: pixels of the crop.
    count: of the pairs, at most.
    seed: of the choice, with the clip's key.
    occluded: share of the pairs with an object before the mouth.
  """
  rng = np.random.default_rng([seed, zlib.crc32(clip.key.encode())])
  face = face_frames.read_face_clip(clip, size)
  choices = pair_choice.choose_pairs(face.shapes, count, rng) if face else []
  if not choices:
    return [], {}
  canvases = {
    number: face.canvas(number)
    for number in sorted(set().union(*(c.frames for c in choices)))
  }
  mouths: dict[int, Crop] = {}
  records = []
  for choice in choices:
    record, target = warped_pair(face, choice, canvases)
    frames = [choice.target, *choice.references]
    for number in frames:
      mouths.setdefault(number, middle(canvases[number].rgb, size))
    if rng.random() < occluded:
      target, warped = cover_pair(target, record, rng)
      # A frame number of its own: other pairs use the mouth without object.
      frames[0] = len(clip.frames) + len(records)
      mouths[frames[0]] = target
      record = PairRecord(warped, record.mel, tuple(frames), record.photo)
    records.append(record)
  return records, mouths


def warped_pair(
  face: FaceClip, choice: PairChoice, canvases: dict[int, Canvas]
) -> tuple[PairRecord, Crop]:
  """The record of a choice, and the crop of its target."""
  source, goal = canvases[choice.source], canvases[choice.target]
  drawn = choice.interior < 0
  target = warped_mouths.target_mesh(source.points, goal.points, drawn)
  reference = None
  if not drawn:
    reference = warped_mouths.read_reference(canvases[choice.interior])
  rgb, hole = warped_mouths.warp_mouth(source, target, reference)
  code = np.rint(255 * hole).astype(np.uint8)[..., None]
  warped = middle(np.concatenate([rgb, code], -1), face.size)
  start = audio.frame_columns(np.array([choice.target]))
  mel = audio.mel_windows(face.clip.mel, start)[0].astype(np.float16)
  frames = (choice.target, *choice.references)
  record = PairRecord(warped, mel, frames, choice.photo)
  return record, middle(goal.rgb, face.size)


def cover_pair(
  target: Crop, record: PairRecord, rng: np.random.Generator
) -> tuple[Crop, UInt8[np.ndarray, 's s 4']]:
  """Target and warped crop of a pair with the same object before both."""
  picture = target.astype(np.float32) / 255
  covered, mask = occluders.cover(picture, picture[::-1], rng)
  mask = mask[..., None]

  def paste(crop: Crop) -> Crop:
    mixed = crop + mask * (255 * covered - crop)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)

  warped = record.warped.copy()
  warped[..., :3] = paste(warped[..., :3])
  return paste(target), warped


def split_pairs(
  clips: ClipDataset,
  size: int,
  count: int,
  seed: int,
  occluded: float,
  workers: int,
) -> Iterator[tuple[Clip, list[PairRecord], dict[int, Crop]]]:
  """The pairs of all clips in order, made by threads."""

  def one(number: int):
    clip = clips[number]
    return clip, *clip_pairs(clip, size, count, seed, occluded)

  block = 8 * workers  # clips that wait in memory, at most
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    for first in range(0, len(clips), block):
      yield from pool.map(one, range(first, min(first + block, len(clips))))


def prepare(
  shards: str,
  out: str,
  split: str,
  size: int,
  count: int,
  seed: int = 0,
  workers: int = 2,
) -> int:
  """Write the pairs of a split; returns their number."""
  clips = ClipDataset(shards, split)
  occluded = OCCLUDED_SHARE if split == 'train' else 0.0
  with PairWriter(pathlib.Path(out) / split, size) as writer:
    made = split_pairs(clips, size, count, seed, occluded, workers)
    bar = tqdm.tqdm(made, f'pairs {split}', len(clips), unit=' clips')
    for clip, pairs, mouths in bar:
      writer.add(clip.key, clip.speaker, pairs, mouths)
    writer.finish({'split': split, 'seed': seed, 'count': count})
    return len(writer.table)


def main(argv: Sequence[str] | None = None) -> int:
  """Write the pairs of all splits; 2 on an error."""
  parser = argparse.ArgumentParser(
    prog='python -m lipsync_jax.refinement.prepare',
    description=__doc__.split('\n')[0],
  )
  add = parser.add_argument
  add('shards', help='folder of data_prep/build_tfrecords.py')
  add('--out', required=True, help='folder to write')
  add('--size', type=int, default=128, choices=SIZES, help='pixels')
  add('--pairs', type=int, default=4, help='of a clip, at most')
  add('--splits', nargs='+', default=SPLITS, help='of the shards')
  add('--workers', type=int, default=2, help='threads')
  args = parser.parse_args(argv)
  try:
    for split in args.splits:
      found = prepare(
        args.shards,
        args.out,
        split,
        args.size,
        args.pairs,
        workers=args.workers,
      )
      print(f'{split}: {found} pairs')
  except ValueError as error:  # every error of ours is one line
    print(f'prepare: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
