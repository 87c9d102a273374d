"""Data: picks become examples, examples become sharded batches.

The state of an iterator is one number, and restoring it gives the very same
batches (`picks` says why).

On the wire pictures are uint8; `to_model_inputs` makes of a batch, on the device,
what the networks take. Alphabet: `b` batch, `t` five frames, `h w` pixels.
"""

import functools
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import Int, UInt8

from lipsync_jax import audio
from lipsync_jax.audio import FPS, FRAMES_PER_WINDOW, frame_columns
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import augmentation, sampler, windows
from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.data.clip import Clip, ClipDataset
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import crop_from_row, extract_crop

FRAMES = FRAMES_PER_WINDOW
Batch = dict  # arrays by name, numpy or jax


class DataError(LipSyncError):
  """A batch that cannot be made; one line says what to change."""


def index_dataset(
  source: ClipDataset, kind: str, **values
) -> windows.WindowIndex:
  """`windows.index_windows` for all clips of a source."""
  return windows.index_windows(
    source.frames, source.columns, source.speakers, kind, **values
  )


def decode_crops(
  clip: Clip,
  frames: Int[np.ndarray, 't'],
  size: int,
  movement: tuple | None = None,
) -> UInt8[np.ndarray, 't h w 3']:
  """Decode frames and cut their faces.

  Args:
    size: side of the square result, pixels.
    movement: of the crops, see `augmentation.crop_jitter`.
  """
  import cv2

  out = np.empty((len(frames), size, size, 3), np.uint8)
  for i, frame in enumerate(frames):
    crop = crop_from_row(clip.crops[frame])
    if movement:
      crop = augmentation.jitter_crop(crop, *movement)
    data = np.frombuffer(clip.frames[frame], np.uint8)
    rgb = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if rgb is None:
      raise DataError(
        f'{clip.key}: frame {frame} is not a picture; build it again'
      )
    out[i] = extract_crop(rgb, crop, size)
  return out


def frame_indices(kind: str, frame):
  """The frames of the window at `frame`; those of a pair are named already.

  [...] -> [..., 5], or [..., 2] as it is.
  """
  if kind == 'pair':
    return frame
  return frame[..., None] + windows.arange_along_last(FRAMES, frame.ndim + 1)


def example_window_starts(
  kind: str, frame, lead: Fraction, xnp: ModuleType = np
):
  """First columns and mask origins of an example's mel windows.

  [..., k] windows: for the generator those of the five frames and then the
  one they share, for a pair their own, else the one of each frame in `frame`
  ([...] or [..., k]).
  """
  if kind in ('syncnet', 'contrastive'):
    frame = frame if kind == 'contrastive' else frame[..., None]
    starts = frame_columns(frame, Fraction(0))
    return starts, starts
  starts = frame_columns(frame_indices(kind, frame), lead)
  if kind == 'pair':
    return starts, starts
  shared = frame_columns(frame[..., None], Fraction(0))
  starts = xnp.concatenate([starts, shared], -1)  # [..., 6]
  return starts, xnp.broadcast_to(shared, starts.shape)


def _mel_windows(clip, pick, kind, lead, change: Augmentation | None):
  """Mel windows [k, 80, 16] of one pick."""
  starts, origins = example_window_starts(kind, pick['frame'], lead)
  level = (
    augmentation.noise_snr_db(change, int(pick['seed'])) if change else None
  )
  if level is None:
    found = audio.mel_windows(clip.mel, starts)
  else:
    # Noise must be the same wherever windows overlap: one stretch of it.
    low, high = int(starts.min()), int(starts.max()) + audio.WINDOW_COLUMNS
    seed = int(pick['seed'])
    strip = augmentation.noisy_log_mel(clip.wave, low, high, level, seed)
    found = audio.mel_windows(strip, starts - low)
  if change:
    found = augmentation.perturb_voice(found, change, pick['dice'])
    found = augmentation.mask_mel(found, starts, origins, change, pick['dice'])
  return found


def read_example(
  pick: windows.WindowSample,
  source: ClipDataset,
  kind: str,
  size: int,
  lead: Fraction = audio.CENTERED_LEAD,
  change: Augmentation | None = None,
) -> Batch:
  """Read one example.

  Returns:
    syncnet: mel [80, 16, 1], frames uint8 [h/2, w, 15] (the lower halves of
      five frames, frame by frame), label; contrastive: [k, ...] of each
      without label, and opening [k, 5] of the lips; generator: mels
      [5, 80, 16, 1] centerd on each frame, mel [80, 16, 1] of all five, target
      and reference uint8 [5, h, w, 3]; pair: the same with 2 for 5, and
      without mel.
    With the pick's clip and frame, so that an example can be named.
  """
  clip = source[int(pick['clip'])]
  if clip.fps != FPS:
    raise DataError(
      f'{clip.key}: expected {FPS} frames/s, found {clip.fps:g}; '
      'build the data set with data_prep'
    )
  if kind == 'pair':
    opening = landmarks.lip_openings(clip.points, clip.crops)
    pick = windows.select_most_different(pick, opening[pick['frame']])
  if kind == 'contrastive':
    sets = [(clip, frame) for frame in pick['frame']]
  else:
    same = int(pick['other']) == int(pick['clip'])
    other = clip if same else source[int(pick['other'])]
    sets = [(other, pick['start'])]
    sets += [] if kind == 'syncnet' else [(clip, pick['frame'])]
  dice = pick['dice']
  move = (
    augmentation.crop_jitter(change, dice) if change and change.moves else None
  )
  pictures = np.stack(
    [decode_crops(c, frame_indices(kind, at), size, move) for c, at in sets]
  )
  if change and augmentation.flip_mask(change, dice):
    pictures = pictures[:, :, :, ::-1]
  if change and change.colors:
    matrix, offset = augmentation.color_transform(change, dice)
    pictures = augmentation.apply_color(pictures, matrix[None], offset[None])
  batch = assemble_example(
    kind, _mel_windows(clip, pick, kind, lead, change), pictures
  )
  if kind == 'contrastive':
    opening = landmarks.lip_openings(clip.points, clip.crops)
    batch['opening'] = opening[frame_indices(kind, pick['frame'])]
  names = ('clip', 'frame', 'label')
  return batch | {name: pick[name] for name in names if name in pick}


def assemble_example(kind: str, mels, pictures, xnp: ModuleType = np) -> Batch:
  """Mel windows and pictures as an example.

  Args:
    mels: [..., k, 80, 16], see `example_window_starts`.
    pictures: [..., k, t, h, w, 3]; k is reference, target for the generator.
  """
  mels = mels[..., None]
  if kind in ('generator', 'pair'):
    count = pictures.shape[-4]
    shared = {'mel': mels[..., count, :, :, :]} if kind == 'generator' else {}
    return shared | {
      'mels': mels[..., :count, :, :, :],
      'reference': pictures[..., 0, :, :, :, :],
      'target': pictures[..., 1, :, :, :, :],
    }
  lower = pictures[..., pictures.shape[-3] // 2 :, :, :]
  lower = xnp.moveaxis(lower, -4, -2)  # [..., k, h/2, w, t, 3]
  lower = lower.reshape(*lower.shape[:-2], 3 * FRAMES)  # [..., k, h/2, w, 15]
  if kind == 'contrastive':
    return {'mel': mels, 'frames': lower}
  return {'mel': mels[..., 0, :, :, :], 'frames': lower[..., 0, :, :, :]}


def to_model_inputs(batch: Batch, xnp: ModuleType = np) -> Batch:
  """A batch as the networks take it, pictures float32 in [0, 1].

  For the generator: face [..., t, h, w, 6], the target with its lower half
  black and then the reference, and target [..., t, h, w, 3].
  """
  out = dict(batch)
  for name in ('frames', 'target', 'reference'):
    if name in out:
      out[name] = out[name].astype(np.float32) / 255
  if 'target' in out:
    target, reference = out['target'], out.pop('reference')
    upper = np.arange(target.shape[-3]) < target.shape[-3] // 2
    upper = upper.reshape((1,) * (target.ndim - 3) + (-1, 1, 1))
    hidden = xnp.where(upper, target, xnp.zeros_like(target))
    out['face'] = xnp.concatenate([hidden, reference], -1)
  return out


def example_batches(
  source: ClipDataset,
  plan: windows.WindowIndex,
  batch: int,
  size: int,
  *,
  lead: Fraction = audio.CENTERED_LEAD,
  change: Augmentation | None = None,
  seed: int = 0,
  process: tuple[int, int] = (0, 1),
  rounds: int | None = None,
  threads: int = 8,
  sharding=None,
):
  """Batches of examples, read ahead, as a grain IterDataset.

  Its iterators have `get_state()`, a few numbers, and `set_state()`.

  Args:
    batch, seed, process, rounds: see `sampler.BatchSampler`.
    size: side of the network's square crop, pixels.
    change: augmentation, None for none.
    threads: that decode; twice the cores is plenty.
    sharding: give global jax arrays of this sharding instead of local numpy.
  """
  import grain

  rows = sampler.ExampleSampler(
    sampler.BatchSampler(plan, batch, seed, process, rounds)
  )
  read = functools.partial(
    _example, source=source, kind=plan.kind, size=size, lead=lead, change=change
  )
  count = batch // process[1]
  options = grain.ReadOptions(threads, max(threads, 2 * count))
  made = grain.MapDataset.source(rows).map(read)
  made = made.to_iter_dataset(options).batch(count)
  if sharding is None:
    return made
  made = made.map(functools.partial(to_global_arrays, sharding=sharding))
  return grain.experimental.ThreadPrefetchIterDataset(
    made, prefetch_buffer_size=2
  )


def _example(pick, **values):
  made = read_example(pick, **values)
  return made | ({'mask': pick['mask']} if 'mask' in pick else {})


def to_global_arrays(batch: Batch, sharding) -> dict:
  """This process's rows of a batch as part of global jax arrays."""
  import jax

  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
