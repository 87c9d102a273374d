"""Batches of pairs: their order, and the augmentation inside the step.

Order and randomness are functions of (seed, number of the batch) alone. Every
speaker is drawn equally often. The pictures are gathered on the host, or inside
the step from arrays on the device; both give the same batches.

Shapes: b batch, s side of a crop with its margin, h w of a crop, k references.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from lipsync_jax.data import augmentation, windows
from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.refinement import pair_file
from lipsync_jax.refinement.face_frames import RefinementError
from lipsync_jax.refinement.pair_file import PairSplit

Batch = dict[str, Any]
SHIFT, REFERENCE_SHIFT = 1.0, 0.4  # of the margin, at most


@dataclasses.dataclass(frozen=True)
class PairSampler:
  """This process's rows of every global batch, a source for grain.

  Attributes:
    split: pairs of the training split.
    batch: pairs of a global batch.
    seed: of the order and of the augmentation.
    process: index and count.
    resident: give numbers of pairs only; the step gathers the pictures.

  Raises:
    RefinementError: `batch` is not a multiple of the process count.
  """

  split: PairSplit
  batch: int
  seed: int = 0
  process: tuple[int, int] = (0, 1)
  resident: bool = False

  def __post_init__(self):
    if self.batch % self.process[1]:
      raise RefinementError(
        f'expected a batch that {self.process[1]} processes can share, found '
        f'{self.batch}; choose a multiple'
      )

  def __len__(self) -> int:
    return sys.maxsize // (2 * self.batch)

  @functools.cached_property
  def owned(self) -> list[np.ndarray]:
    """The pairs of each speaker that has any."""
    speakers = self.split.column('speaker')
    return [np.flatnonzero(speakers == i) for i in np.unique(speakers)]

  def __getitem__(self, number: int) -> Batch:
    """The rows of batch `number`."""
    count = self.batch // self.process[1]
    pairs, uniforms = [], []
    for row in range(count):
      at = self.process[0] * count + row
      rng = np.random.default_rng([self.seed, int(number), at])
      owned = self.owned[rng.integers(len(self.owned))]
      pairs.append(owned[rng.integers(len(owned))])
      uniforms.append(rng.random(2 * windows.NUM_UNIFORMS, np.float32))
    numbers = np.array(pairs, np.int32)
    out = {'pair': numbers, 'uniforms': np.stack(uniforms)}
    if self.resident:
      return out | {'clip': self.split.column('clip')[numbers]}
    return out | pair_file.gather_pairs(self.split.arrays, numbers)


@dataclasses.dataclass(frozen=True)
class WholeSplit:
  """All pairs of the validation split, a source for grain.

  The rows that fill up the last batch have `mask` 0.
  """

  split: PairSplit
  batch: int
  process: tuple[int, int] = (0, 1)

  def __len__(self) -> int:
    return -(-len(self.split) // self.batch)

  def __getitem__(self, number: int) -> Batch:
    count = self.batch // self.process[1]
    first = int(number) * self.batch + self.process[0] * count
    rows = np.arange(first, first + count)
    pairs = np.minimum(rows, len(self.split) - 1).astype(np.int32)
    batch = pair_file.gather_pairs(self.split.arrays, pairs)
    mask = (rows < len(self.split)).astype(np.float32)
    return batch | {'pair': pairs, 'mask': mask}


def sample_resident(arrays: dict[str, Array], batch: Batch) -> Batch:
  """The batch of a `resident` sampler with its pictures, in the step."""
  return batch | pair_file.gather_pairs(arrays, batch['pair'])


def to_inputs(batch: Batch, size: int) -> dict[str, Float[Array, '...']]:
  """A batch without augmentation as the network takes it, in [0, 1]."""
  margin = pair_file.margin_of(size)
  inside = slice(margin, margin + size)
  warp, mouth, others = (
    batch[name][..., inside, inside, :].astype(jnp.float32) / 255
    for name in ('warp', 'mouth', 'others')
  )
  return _inputs(batch, warp, mouth, others)


def augmented_inputs(
  batch: Batch, size: int, change: Augmentation
) -> dict[str, Float[Array, '...']]:
  """`to_inputs` with moved crops, mirrored, in other light.

  All crops of a pair move by the same whole pixels; the references move a
  little more, each on its own way, since poses have errors.

  Args:
    batch: with 'uniforms' [b, 28].
    size: pixels of the crop.
    change: its flip and colors are used.
  """
  uniforms = batch['uniforms']
  margin = pair_file.margin_of(size)
  shift = (2 * uniforms[:, 14:16] - 1) * SHIFT * margin  # [b, 2]
  own = 2 * uniforms[:, 16:22].reshape(-1, 3, 2) - 1  # [b, k, 2]
  near = shift[:, None] + own * REFERENCE_SHIFT * margin
  cut = functools.partial(_cut, size=size, margin=margin)
  warp, mouth = (cut(batch[name], shift) for name in ('warp', 'mouth'))
  others = jax.vmap(cut, (1, 1), 1)(batch['others'], near)
  matrix, offset = augmentation.color_transform(
    change, uniforms[:, : windows.NUM_UNIFORMS], jnp
  )
  color = functools.partial(_color, matrix=matrix, offset=offset)
  warp = jnp.concatenate([color(warp[..., :3]), warp[..., 3:] / 255], -1)
  mouth, others = color(mouth), color(others)
  flip = augmentation.flip_mask(change, uniforms)
  warp, mouth, others = (_flip(x, flip) for x in (warp, mouth, others))
  return _inputs(batch, warp, mouth, others)


def _inputs(batch: Batch, warp, mouth, others) -> dict:
  return {
    'mel': batch['mel'].astype(jnp.float32)[..., None],
    'warped': warp[..., :3],
    'hole': warp[..., 3:],
    'references': others,
    'truth': mouth,
  }


def _cut(
  x: UInt8[Array, 'b s s c'], shift: Float[Array, 'b 2'], size: int, margin: int
) -> Float[Array, 'b h w c']:
  """Crops without their margins, moved by whole pixels."""
  start = jnp.clip(jnp.round(margin + shift), 0, 2 * margin).astype(jnp.int32)

  def one(picture, corner):
    sizes = (size, size, picture.shape[-1])
    return lax.dynamic_slice(picture, (corner[0], corner[1], 0), sizes)

  return jax.vmap(one)(x, start).astype(jnp.float32)


def _color(
  x: Float[Array, 'b *n h w 3'],
  matrix: Float[Array, 'b 3 3'],
  offset: Float[Array, 'b 1'],
) -> Float[Array, 'b *n h w 3']:
  """Pictures in 0..255 in other light, in [0, 1]."""
  flat = x.reshape(len(x), -1, 3) / 255
  flat = jnp.matmul(flat, jnp.swapaxes(matrix, -1, -2)) + offset[:, None]
  return jnp.clip(flat, 0, 1).reshape(x.shape)


def _flip(
  x: Float[Array, 'b *n h w c'], flip: Array
) -> Float[Array, 'b *n h w c']:
  where = flip.reshape(-1, *[1] * (x.ndim - 1))
  return jnp.where(where, x[..., ::-1, :], x)
