"""Resident: a whole split on the device, sampled inside the jitted step.

Face crops as uint8 and mels are loaded once; a step then needs only the
picks of its batch, a few integers a row, and no host work. 29 hours at 96
pixels are 72 GB. Without augmentation the batches equal the streamed ones
to the bit; noise on the sound needs the waveform and is streaming only.

Alphabet: `n` frames of all clips in a row, `t` mel columns of all clips in
a row, `c` clips, `b` batch, `s` side of a stored crop.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from lipsync_jax import audio, augment, data, records, windows
from lipsync_jax.augment import Augment
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import crop_from_row, extract_crop

CHUNK = 2048  # frames sent to the device at once


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=[
    *('images', 'aspects', 'openings'),
    *('mel', 'firsts', 'mel_firsts', 'columns'),
  ],
  meta_fields=['size'],
)
@dataclasses.dataclass(frozen=True)
class Resident:
  """A split on the device."""

  images: UInt8[Array, 'n s s 3']  # crops with `(s - size) / 2` px of margin
  aspects: Float[Array, 'n']  # height over width of each crop
  openings: Float[Array, 'n']  # of the lips, see `landmarks.lip_openings`
  mel: Float[Array, 't 80']
  firsts: Int[Array, 'c']  # row of each clip's first frame
  mel_firsts: Int[Array, 'c']  # row of each clip's first column
  columns: Int[Array, 'c']  # of each clip's mel
  size: int  # side of a network's crop, pixels


def cut(
  clip: records.Clip, size: int, margin: int
) -> UInt8[np.ndarray, 'n s s 3']:
  """All crops of a clip, each with `margin` pixels of its surroundings.

  The middle is exactly what streaming cuts.
  """
  import cv2

  side = size + 2 * margin
  out = np.empty((len(clip.frames), side, side, 3), np.uint8)
  middle = slice(margin, margin + size)
  for i, jpeg in enumerate(clip.frames):
    rgb = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    crop = crop_from_row(clip.crops[i])
    if margin:
      wide = augment.moved(crop, 0, 0, side / size, 0)
      out[i] = extract_crop(rgb, wide, side)
    # Cut again: a wider crop's coordinates round differently.
    out[i, middle, middle] = extract_crop(rgb, crop, size)
  return out


def load(
  source: records.Source,
  size: int,
  change: Augment | None = None,
  progress: Callable[[int], object] | None = None,
  threads: int = 8,
) -> Resident:
  """Read a whole split to the default device.

  Args:
    size: side of the network's crop, pixels.
    change: the augmentation to come; its movement needs a margin.
    progress: hears how many clips were read.
    threads: that decode.
  """
  margin = change.margin(size) if change else 0
  side, total = size + 2 * margin, int(source.frames.sum())
  images = jnp.zeros((total, side, side, 3), jnp.uint8)
  put = jax.jit(
    lambda all, part, at: lax.dynamic_update_slice(all, part, (at, 0, 0, 0)),
    donate_argnums=0,  # so that memory holds the split once
  )
  held, at, aspects, openings, mels = [], 0, [], [], []
  for i, clip, crops in _clips(source, size, margin, threads):
    held.append(crops)
    aspects.append(clip.crops[:, 3] / clip.crops[:, 2])
    openings.append(landmarks.lip_openings(clip.points, clip.crops))
    mels.append(clip.mel.T)
    # Equal blocks, so that `put` is compiled twice at most.
    rows = np.concatenate(held)
    while len(rows) >= CHUNK or (i == len(source) - 1 and len(rows)):
      images = put(images, rows[:CHUNK], at)
      at, rows = at + len(rows[:CHUNK]), rows[CHUNK:]
    held = [rows]
    if progress:
      progress(i + 1)
  return Resident(
    images=images,
    aspects=jnp.asarray(np.concatenate(aspects)),
    openings=jnp.asarray(np.concatenate(openings)),
    mel=jnp.asarray(np.concatenate(mels)),
    firsts=_starts(source.frames),
    mel_firsts=_starts(source.columns),
    columns=jnp.asarray(source.columns, jnp.int32),
    size=size,
  )


def _clips(source: records.Source, size: int, margin: int, threads: int):
  """(number, clip, crops) of all clips, decoded side by side, in order."""

  def one(i: int):
    clip = source[i]
    return i, clip, cut(clip, size, margin)

  step = 4 * threads  # clips that wait in memory, at most
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for start in range(0, len(source), step):
      yield from pool.map(one, range(start, min(start + step, len(source))))


def _starts(counts: Int[np.ndarray, 'c']) -> Int[Array, 'c']:
  return jnp.asarray(np.cumsum(counts) - counts, jnp.int32)


def sample(
  store: Resident,
  picks: dict[str, Array | np.ndarray],
  *,
  kind: str,
  lead: Fraction = audio.CENTERED_LEAD,
  change: Augment | None = None,
) -> dict[str, Array]:
  """The batch of `data.batches` for the same picks; pure, to be jitted.

  Args:
    picks: of `picks.batches`.
    kind, lead, change: as for the plan and `data.batches`.
  """
  clip = picks['clip']
  if kind == 'pair':
    rows = store.firsts[clip][:, None, None] + picks['frame']
    picks = windows.chosen(picks, store.openings[rows], jnp)
  frame = picks['frame']
  if change and change.noise:
    raise data.DataError(
      'expected no noise with device-resident data, found '
      f'noise={change.noise}: set it to 0 or stream'
    )
  if kind == 'contrastive':
    sets = [(clip[:, None], frame)]
  else:
    sets = [(picks['other'], picks['start'])]
    sets += [] if kind == 'syncnet' else [(clip, frame)]
  wanted = [
    store.firsts[c][..., None] + data.moments(kind, at) for c, at in sets
  ]
  wanted = wanted[0] if kind == 'contrastive' else jnp.stack(wanted, 1)
  pictures = _pictures(store, wanted, picks['dice'], change)
  starts, origins = data.window_starts(kind, frame, lead, jnp)
  mels = _mels(store, clip, starts)
  if change:
    mels = augment.voiced(mels, change, picks['dice'], jnp)
    mels = augment.masked(mels, starts, origins, change, picks['dice'], jnp)
  batch = data.laid_out(kind, mels, pictures, jnp)
  if kind == 'contrastive':
    batch['opening'] = store.openings[wanted]
  names = ('clip', 'frame', 'label', 'mask')
  return batch | {name: picks[name] for name in names if name in picks}


def _mels(
  store: Resident, clip: Int[Array, 'b'], starts: Int[Array, 'b k']
) -> Float[Array, 'b k 80 16']:
  at = starts[..., None] + windows.along(audio.WINDOW_COLUMNS, 3)  # [b, k, 16]
  ends = store.columns[clip][:, None, None]
  inside = (at >= 0) & (at < ends)
  rows = store.mel_firsts[clip][:, None, None] + jnp.clip(at, 0, ends - 1)
  found = jnp.where(inside[..., None], store.mel[rows], audio.SILENCE)
  return found.swapaxes(-1, -2)  # [b, k, 80, 16]


def _pictures(
  store: Resident,
  wanted: Int[Array, 'b k t'],
  dice: Float[Array, 'b 14'],
  change: Augment | None,
) -> UInt8[Array, 'b k t h w 3']:
  stored, size = store.images[wanted], store.size  # [b, k, t, s, s, 3]
  margin = (stored.shape[-2] - size) // 2
  if change and change.moves:
    pictures = _moved(stored, store.aspects[wanted], dice, change, size)
  else:
    middle = slice(margin, margin + size)
    pictures = stored[..., middle, middle, :]
  if change and change.flip:
    mirrored = augment.flips(change, dice).reshape(-1, 1, 1, 1, 1, 1)
    pictures = jnp.where(mirrored, pictures[..., ::-1, :], pictures)
  if change and change.colours:
    matrix, offset = augment.colour(change, dice, jnp)
    pictures = augment.coloured(pictures, matrix, offset, jnp)
  return pictures


def _moved(stored, aspects, dice, change: Augment, size: int):
  """Sample moved crops out of the stored ones, bilinear.

  Streaming cuts them from the JPEG instead, so the two differ a little in
  sharpness, not in place.
  """
  side = stored.shape[-2]
  dx, dy, scale, roll = (
    value.reshape(-1, 1, 1, 1, 1) for value in augment.movement(change, dice)
  )
  aspects = aspects[..., None, None]  # [b, k, t, 1, 1]
  grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
  u, v = grid.reshape(1, 1, 1, 1, -1), grid.reshape(1, 1, 1, -1, 1)
  c, s = scale * jnp.cos(roll), scale * jnp.sin(roll)
  x = side / 2 + size * (dx + c * u - s * v * aspects) - 0.5
  y = side / 2 + size * (dy + s * u / aspects + c * v) - 0.5
  x, y = jnp.clip(x, 0, side - 1), jnp.clip(y, 0, side - 1)

  def one(image, x, y):  # [s, s, 3], [h, w], [h, w]
    left, top = (jnp.minimum(q.astype(jnp.int32), side - 2) for q in (x, y))
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    taps = [image[top + j, left + i] for j in (0, 1) for i in (0, 1)]
    upper = taps[0] * (1 - fx) + taps[1] * fx
    lower = taps[2] * (1 - fx) + taps[3] * fx
    return jnp.rint(upper * (1 - fy) + lower * fy).astype(jnp.uint8)

  for _ in range(3):
    one = jax.vmap(one)
  return one(stored, x, y)
