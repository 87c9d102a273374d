"""Window samples become examples, examples become sharded batches.

An iterator's state is one number; restoring it gives the same batches, since
order and randomness depend on the batch number alone (`sampler`).

Pictures travel as uint8. `to_model_inputs` turns a batch, on the device, into
what the networks take.

Shapes: b batch, k windows of an example, t frames of a window, h w pixels.
"""

import functools
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import Int, UInt8

from lipsync_jax import audio
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import augmentation, sampler, windows
from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.data.clip import Clip, ClipDataset
from lipsync_jax.data.windows import WindowIndex, WindowSample, WindowSpec
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import crop_from_row, extract_crop

FRAMES = audio.FRAMES_PER_WINDOW
Batch = dict  # arrays by name, numpy or jax


class DataError(LipSyncError):
  """A batch that cannot be made from these clips or settings."""


def index_dataset(
  dataset: ClipDataset, spec: WindowSpec, **values
) -> WindowIndex:
  """`windows.index_windows` for all clips of a data set."""
  return windows.index_windows(
    dataset.frames, dataset.columns, dataset.speakers, spec, **values
  )


def decode_crops(
  clip: Clip,
  frames: Int[np.ndarray, 't'],
  size: int,
  jitter: tuple | None = None,
) -> UInt8[np.ndarray, 't h w 3']:
  """Decode frames and extract their face crops.

  Args:
    size: side of the square result, pixels.
    jitter: of the crops, see `augmentation.crop_jitter`.

  Raises:
    DataError: a frame is not a picture.
  """
  import cv2

  out = np.empty((len(frames), size, size, 3), np.uint8)
  for i, frame in enumerate(frames):
    crop = crop_from_row(clip.crops[frame])
    if jitter:
      crop = augmentation.jitter_crop(crop, *jitter)
    data = np.frombuffer(clip.frames[frame], np.uint8)
    rgb = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if rgb is None:
      raise DataError(
        f'{clip.key}: expected a JPEG as frame {frame}, found other bytes; '
        'build the data set again'
      )
    out[i] = extract_crop(rgb, crop, size)
  return out


def frame_indices(spec: WindowSpec, frame):
  """The frames of the window that starts at `frame`; a pair names its own.

  [...] -> [..., 5], or [..., 2] unchanged for pairs.
  """
  if spec.is_pair:
    return frame
  return frame[..., None] + windows.arange_along_last(FRAMES, frame.ndim + 1)


def picture_windows(
  spec: WindowSpec, sample: WindowSample, xnp: ModuleType = np
):
  """The windows whose pictures an example holds.

  With references: the reference window, then the target window. With labels:
  the window that the label is about. Else all windows of the clip.

  Returns:
    clips `[..., k]` and frames `[..., k, t]`.
  """
  if spec.is_contrastive:
    frame = sample['frame']
    clip = xnp.broadcast_to(sample['clip'][..., None], frame.shape)
    return clip, frame_indices(spec, frame)
  clips, starts = [sample['other_clip']], [sample['other_frame']]
  if spec.has_reference:
    clips, starts = [*clips, sample['clip']], [*starts, sample['frame']]
  frames = [frame_indices(spec, start) for start in starts]
  return xnp.stack(clips, -1), xnp.stack(frames, -2)


def example_window_starts(
  spec: WindowSpec, frame, lead: Fraction, xnp: ModuleType = np
):
  """First columns and mask origins of an example's mel windows.

  With references: the windows of the target frames, then the one that they
  share if `spec.shared_mel`. Else the window of each frame in `frame`.

  Args:
    frame: [...], or [..., k] for contrastive examples and pairs.
    lead: seconds, see `audio.CENTERED_LEAD`.

  Returns:
    Two int arrays `[..., k]`.
  """
  if not spec.has_reference:
    frame = frame if spec.is_contrastive else frame[..., None]
    starts = audio.frame_columns(frame, Fraction(0))
    return starts, starts
  starts = audio.frame_columns(frame_indices(spec, frame), lead)
  if not spec.shared_mel:
    return starts, starts
  shared = audio.frame_columns(frame[..., None], Fraction(0))
  starts = xnp.concatenate([starts, shared], -1)  # [..., 6]
  return starts, xnp.broadcast_to(shared, starts.shape)


def read_example(
  sample: WindowSample,
  dataset: ClipDataset,
  spec: WindowSpec,
  size: int,
  lead: Fraction = audio.CENTERED_LEAD,
  change: Augmentation | None = None,
) -> Batch:
  """Read one example.

  Args:
    size: side of the square crops, pixels.
    lead: seconds, see `audio.CENTERED_LEAD`.
    change: the augmentation; None for none.

  Returns:
    syncnet: mel [80, 16, 1], frames uint8 [h/2, w, 15] (the lower halves of
      five frames, frame by frame), label. contrastive: [k, ...] of each
      without label, and opening [k, 5] of the lips. generator: mels
      [5, 80, 16, 1] centered on each frame, mel [80, 16, 1] of all five,
      target and reference uint8 [5, h, w, 3]. pair: the same with 2 for 5, and
      without mel. All with the sample's clip and frame.

  Raises:
    DataError: the clip has another frame rate, or a damaged frame.
  """
  clip = dataset[int(sample['clip'])]
  if clip.fps != audio.FPS:
    raise DataError(
      f'{clip.key}: expected {audio.FPS} frames/s, found {clip.fps:g}; build '
      'the data set with data_prep'
    )
  opening = None
  if spec.is_pair or spec.is_contrastive:
    opening = landmarks.lip_openings(clip.points, clip.crops)
  if spec.is_pair:
    opened = opening[sample['frame']]
    sample = windows.select_most_different(sample, opened)
  clips, frames = picture_windows(spec, sample)
  pictures = _decode_windows(dataset, clips, frames, size, sample, change)
  starts, _ = example_window_starts(spec, sample['frame'], lead)
  mels = _mel_windows(clip, sample, starts, change)
  opening = opening[frames] if spec.is_contrastive else None
  return finish_example(spec, sample, mels, pictures, opening, lead, change)


def _decode_windows(dataset, clips, frames, size, sample, change):
  """Augmented crops of an example.  -> uint8 [k, t, h, w, 3]"""
  uniforms, jitter = sample['uniforms'], None
  if change and change.moves:
    jitter = augmentation.crop_jitter(change, uniforms)
  pictures = np.stack(
    [
      decode_crops(dataset[int(clip)], numbers, size, jitter)
      for clip, numbers in zip(clips, frames, strict=True)
    ]
  )
  if change and augmentation.flip_mask(change, uniforms):
    pictures = pictures[:, :, :, ::-1]
  if change and change.colors:
    matrix, offset = augmentation.color_transform(change, uniforms)
    pictures = augmentation.apply_color(pictures, matrix[None], offset[None])
  return pictures


def _mel_windows(clip: Clip, sample, starts, change: Augmentation | None):
  """Mel windows of an example, with noise if drawn.  -> [k, 80, 16]"""
  seed = int(sample['seed'])
  level = augmentation.noise_snr_db(change, seed) if change else None
  if level is None:
    return audio.mel_windows(clip.mel, starts)
  # Noise is computed once over the whole stretch, since windows overlap.
  low, high = int(starts.min()), int(starts.max()) + audio.WINDOW_COLUMNS
  noisy = augmentation.noisy_log_mel(clip.wave, low, high, level, seed)
  return audio.mel_windows(noisy, starts - low)


def finish_example(
  spec: WindowSpec,
  sample: WindowSample,
  mels,
  pictures,
  opening,
  lead: Fraction,
  change: Augmentation | None,
  xnp: ModuleType = np,
) -> Batch:
  """Augment mel windows and lay out an example; host and device share it.

  Args:
    mels: [..., k, 80, 16], see `example_window_starts`.
    pictures: uint8 [..., k, t, h, w, 3], see `picture_windows`.
    opening: lip openings [..., k, t], for contrastive examples.
  """
  if change:
    uniforms = sample['uniforms']
    starts, origins = example_window_starts(spec, sample['frame'], lead, xnp)
    mels = augmentation.perturb_voice(mels, change, uniforms, xnp)
    mels = augmentation.mask_mel(mels, starts, origins, change, uniforms, xnp)
  batch = assemble_example(spec, mels, pictures, xnp)
  if spec.is_contrastive:
    batch['opening'] = opening
  names = ('clip', 'frame', 'label', 'mask')
  return batch | {name: sample[name] for name in names if name in sample}


def assemble_example(
  spec: WindowSpec, mels, pictures, xnp: ModuleType = np
) -> Batch:
  """Mel windows and pictures as an example, see `read_example`.

  Args:
    mels: [..., k, 80, 16].
    pictures: [..., k, t, h, w, 3]; k is reference, target for the generator.
  """
  mels = mels[..., None]
  if spec.has_reference:
    count = spec.frames
    shared = {'mel': mels[..., count, :, :, :]} if spec.shared_mel else {}
    return shared | {
      'mels': mels[..., :count, :, :, :],
      'reference': pictures[..., 0, :, :, :, :],
      'target': pictures[..., 1, :, :, :, :],
    }
  lower = pictures[..., pictures.shape[-3] // 2 :, :, :]
  lower = xnp.moveaxis(lower, -4, -2)  # [..., k, h/2, w, t, 3]
  lower = lower.reshape(*lower.shape[:-2], 3 * FRAMES)  # [..., k, h/2, w, 15]
  if spec.is_contrastive:
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
  dataset: ClipDataset,
  index: WindowIndex,
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
    lead: seconds, see `audio.CENTERED_LEAD`.
    change: the augmentation; None for none.
    threads: that decode; twice the number of cores is enough.
    sharding: give global jax arrays of this sharding instead of local numpy.
  """
  import grain

  samples = sampler.ExampleSampler(
    sampler.BatchSampler(index, batch, seed, process, rounds)
  )
  read = functools.partial(
    read_example,
    dataset=dataset,
    spec=index.spec,
    size=size,
    lead=lead,
    change=change,
  )
  count = batch // process[1]
  options = grain.ReadOptions(threads, max(threads, 2 * count))
  examples = grain.MapDataset.source(samples).map(read)
  examples = examples.to_iter_dataset(options).batch(count)
  if sharding is None:
    return examples
  examples = examples.map(
    functools.partial(to_global_arrays, sharding=sharding)
  )
  return grain.experimental.ThreadPrefetchIterDataset(
    examples, prefetch_buffer_size=2
  )


def to_global_arrays(batch: Batch, sharding) -> dict:
  """This process's rows of a batch as part of global jax arrays."""
  import jax

  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
