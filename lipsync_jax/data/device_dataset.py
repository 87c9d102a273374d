"""A whole split on the device, sampled inside the jitted step.

Face crops as uint8 and log-mels are loaded once. A step then needs only the
window samples of its batch, a few integers a row, and no host work. 29 hours at
96 pixels take 72 GB. Without augmentation the batches equal the streamed ones
bit for bit. Noise on the sound needs the waveform and exists in streaming only.

Shapes: n frames of all clips in a row, t mel columns of all clips in a row,
c clips, b batch, k windows of an example, s side of a stored crop.
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

from lipsync_jax import audio
from lipsync_jax.data import augmentation, batches, windows
from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.data.clip import Clip, ClipDataset
from lipsync_jax.data.windows import WindowSpec
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import crop_from_row, extract_crop

UPLOAD_FRAMES = 2048  # frames sent to the device at once


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=[
    *('images', 'aspects', 'openings'),
    *('mel', 'firsts', 'mel_firsts', 'columns'),
  ],
  meta_fields=['size'],
)
@dataclasses.dataclass(frozen=True)
class DeviceDataset:
  """A split on the device."""

  images: UInt8[Array, 'n s s 3']  # crops with `(s - size) / 2` px of margin
  aspects: Float[Array, 'n']  # height over width of each crop
  openings: Float[Array, 'n']  # of the lips, see `landmarks.lip_openings`
  mel: Float[Array, 't 80']
  firsts: Int[Array, 'c']  # row of each clip's first frame
  mel_firsts: Int[Array, 'c']  # row of each clip's first column
  columns: Int[Array, 'c']  # of each clip's mel
  size: int  # side of a network's crop, pixels


def stored_crops(
  clip: Clip, size: int, margin: int
) -> UInt8[np.ndarray, 'n s s 3']:
  """All crops of a clip, each with `margin` pixels of its surroundings.

  The middle is exactly the crop that streaming extracts.
  """
  import cv2

  side = size + 2 * margin
  out = np.empty((len(clip.frames), side, side, 3), np.uint8)
  middle = slice(margin, margin + size)
  for i, jpeg in enumerate(clip.frames):
    rgb = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    crop = crop_from_row(clip.crops[i])
    if margin:
      wide = augmentation.jitter_crop(crop, 0, 0, side / size, 0)
      out[i] = extract_crop(rgb, wide, side)
    # Extracted again: the coordinates of a wider crop round differently.
    out[i, middle, middle] = extract_crop(rgb, crop, size)
  return out


def load_dataset(
  clips: ClipDataset,
  size: int,
  change: Augmentation | None = None,
  progress: Callable[[int], object] | None = None,
  threads: int = 8,
) -> DeviceDataset:
  """Read a whole split to the default device.

  Args:
    size: side of the network's crop, pixels.
    change: the augmentation of `sample_batch`; its crop jitter needs a margin.
    progress: called with the number of clips read so far.
    threads: that decode.
  """
  margin = change.margin(size) if change else 0
  side, total = size + 2 * margin, int(clips.frames.sum())
  images = jnp.zeros((total, side, side, 3), jnp.uint8)
  put = jax.jit(
    lambda all, part, at: lax.dynamic_update_slice(all, part, (at, 0, 0, 0)),
    donate_argnums=0,  # the split is in memory once
  )
  held, at, aspects, openings, mels = [], 0, [], [], []
  for i, clip, crops in _decode_clips(clips, size, margin, threads):
    held.append(crops)
    aspects.append(clip.crops[:, 3] / clip.crops[:, 2])
    openings.append(landmarks.lip_openings(clip.points, clip.crops))
    mels.append(clip.mel.T)
    # Equal blocks, so that `put` is compiled twice at most.
    rows = np.concatenate(held)
    while len(rows) >= UPLOAD_FRAMES or (i == len(clips) - 1 and len(rows)):
      images = put(images, rows[:UPLOAD_FRAMES], at)
      at, rows = at + len(rows[:UPLOAD_FRAMES]), rows[UPLOAD_FRAMES:]
    held = [rows]
    if progress:
      progress(i + 1)
  return DeviceDataset(
    images=images,
    aspects=jnp.asarray(np.concatenate(aspects)),
    openings=jnp.asarray(np.concatenate(openings)),
    mel=jnp.asarray(np.concatenate(mels)),
    firsts=_first_rows(clips.frames),
    mel_firsts=_first_rows(clips.columns),
    columns=jnp.asarray(clips.columns, jnp.int32),
    size=size,
  )


def _decode_clips(clips: ClipDataset, size: int, margin: int, threads: int):
  """Yield (number, clip, crops) of all clips in order, decoded by threads."""

  def one(i: int):
    clip = clips[i]
    return i, clip, stored_crops(clip, size, margin)

  step = 4 * threads  # clips that wait in memory, at most
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for start in range(0, len(clips), step):
      yield from pool.map(one, range(start, min(start + step, len(clips))))


def _first_rows(counts: Int[np.ndarray, 'c']) -> Int[Array, 'c']:
  return jnp.asarray(np.cumsum(counts) - counts, jnp.int32)


def sample_batch(
  dataset: DeviceDataset,
  sample: dict[str, Array | np.ndarray],
  *,
  spec: WindowSpec,
  lead: Fraction = audio.CENTERED_LEAD,
  change: Augmentation | None = None,
) -> dict[str, Array]:
  """The batch of `batches.example_batches` for the same sample; pure.

  Args:
    sample: of `sampler.sample_batches`.
    spec, lead, change: as for `batches.example_batches`.

  Raises:
    DataError: the augmentation adds noise, which needs the waveform.
  """
  if change and change.noise:
    raise batches.DataError(
      'expected no noise with a device-resident data set, found '
      f'noise={change.noise}; set --config.augment.noise=0 or '
      '--config.data.device_resident=False'
    )
  clip = sample['clip']
  if spec.is_pair:
    rows = dataset.firsts[clip][:, None, None] + sample['frame']
    opened = dataset.openings[rows]
    sample = windows.select_most_different(sample, opened, jnp)
  clips, frames = batches.picture_windows(spec, sample, jnp)
  rows = dataset.firsts[clips][..., None] + frames  # [b, k, t]
  pictures = _augmented_crops(dataset, rows, sample['uniforms'], change)
  starts, _ = batches.example_window_starts(spec, sample['frame'], lead, jnp)
  mels = _mel_windows(dataset, clip, starts)
  opening = dataset.openings[rows] if spec.is_contrastive else None
  return batches.finish_example(
    spec, sample, mels, pictures, opening, lead, change, jnp
  )


def _mel_windows(
  dataset: DeviceDataset, clip: Int[Array, 'b'], starts: Int[Array, 'b k']
) -> Float[Array, 'b k 80 16']:
  """Mel windows, silence outside each clip."""
  at = starts[..., None] + windows.arange_along_last(
    audio.WINDOW_COLUMNS, 3
  )  # [b, k, 16]
  ends = dataset.columns[clip][:, None, None]
  inside = (at >= 0) & (at < ends)
  rows = dataset.mel_firsts[clip][:, None, None] + jnp.clip(at, 0, ends - 1)
  columns = jnp.where(inside[..., None], dataset.mel[rows], audio.SILENCE)
  return columns.swapaxes(-1, -2)  # [b, k, 80, 16]


def _augmented_crops(
  dataset: DeviceDataset,
  rows: Int[Array, 'b k t'],
  uniforms: Float[Array, 'b 14'],
  change: Augmentation | None,
) -> UInt8[Array, 'b k t h w 3']:
  """The crops in these rows, augmented."""
  stored, size = dataset.images[rows], dataset.size  # [b, k, t, s, s, 3]
  margin = (stored.shape[-2] - size) // 2
  if change and change.moves:
    pictures = _resample_crops(
      stored, dataset.aspects[rows], uniforms, change, size
    )
  else:
    middle = slice(margin, margin + size)
    pictures = stored[..., middle, middle, :]
  if change and change.flip:
    mirrored = augmentation.flip_mask(change, uniforms).reshape(
      -1, 1, 1, 1, 1, 1
    )
    pictures = jnp.where(mirrored, pictures[..., ::-1, :], pictures)
  if change and change.colors:
    matrix, offset = augmentation.color_transform(change, uniforms, jnp)
    pictures = augmentation.apply_color(pictures, matrix, offset, jnp)
  return pictures


def _resample_crops(stored, aspects, uniforms, change: Augmentation, size: int):
  """Resample jittered crops from the stored ones, bilinear.

  Streaming extracts them from the JPEG instead, so the two differ slightly in
  sharpness, not in position.
  """
  side = stored.shape[-2]
  dx, dy, scale, roll = (
    value.reshape(-1, 1, 1, 1, 1)
    for value in augmentation.crop_jitter(change, uniforms)
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
