"""Records: what a training clip is, and how it lies on disk.

A clip is one person's face over an unbroken run of frames at 25 frames/s
with the sound that belongs to it. It is stored as a `tf.train.Example`
just as TFDS encodes the features of `features()`, so that
`tfds.builder_from_directory` opens the data set anywhere. Reading and
writing need neither TensorFlow nor TFDS.

Alphabet: `n` frames, `t` mel columns, `s` sound samples.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32, Int16

from lipsync_jax.audio import FPS, HOP, MELS
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data import tf_example, tfrecord

DATASET_NAME = (
  'lipsync_clips'  # of the data set, first word of every shard's name
)
NUM_LANDMARKS = 89  # landmarks of a face (`landmarks.LANDMARK_IDS`)
_KEY = re.compile(r'^[^\s/]+/[^\s/]+$')
_ARRAYS = {
  'crops': ('<f4', (-1, 5)),
  'points': ('<f4', (-1, NUM_LANDMARKS, 2)),
  'boxes': ('<f4', (-1, 4)),
  'mel': ('<f4', (MELS, -1)),
  'wave': ('<i2', (-1,)),
}
_TEXTS = ('key', 'speaker', 'source')
_NUMBERS = ('fps', 'offset', 'confidence')


class RecordError(LipSyncError):
  """A clip that is not as the schema wants it; one line says how."""


@dataclasses.dataclass(frozen=True)
class Clip:
  """One training clip.

  Every frame is stored as a JPEG of the face with a margin round it, and
  its crop as a row (cx, cy, w, h, roll) in pixels of that JPEG: a network's
  input is `crop.extract_crop(decoded, faces.crop_of(row), size)`, the function
  that inference uses.

  The log-mel is float32, not float16: half precision would be off by up to
  0.001 where inference agrees to 1e-5, and saves a sixth of a record at
  best. It must be `audio.log_mel(audio.int16_to_float(wave))`, so that an
  augmentation can compute it again from changed sound.
  """

  key: str  # '<speaker>/<clip>', '#n' added where a clip has several people
  speaker: str  # never in two splits
  frames: tuple[bytes, ...]  # JPEG, all of one size
  crops: Float32[np.ndarray, 'n 5']  # pixels of the JPEG, radians
  points: Float32[np.ndarray, 'n p 2']  # landmarks, pixels of the JPEG
  boxes: Float32[np.ndarray, 'n 4']  # of the JPEG in the source, pixels
  mel: Float32[np.ndarray, 'm t']  # [-4, 4], 80 columns a second
  wave: Int16[np.ndarray, 's']  # 16 kHz; sample 0 is shown with frame 0
  fps: float = float(FPS)
  offset: float = math.nan  # frames the sound was late by; NaN: not measured
  confidence: float = math.nan  # of the offset; NaN: not measured
  source: str = ''  # path of the video, for people


@dataclasses.dataclass(frozen=True)
class ClipInfo:
  """What the index knows of a clip without opening it."""

  frames: int
  columns: int  # of the mel
  offset: float  # frames
  confidence: float


def clip_info(clip: Clip) -> ClipInfo:
  """The numbers that go into the index."""
  columns = clip.mel.shape[1]
  return ClipInfo(len(clip.frames), columns, clip.offset, clip.confidence)


def check_clip(clip: Clip) -> Clip:
  """The clip itself; raises RecordError if it breaks the schema."""
  n, columns = len(clip.frames), 1 + len(clip.wave) // HOP
  rows = len(clip.crops), len(clip.points), len(clip.boxes)
  faults = {
    f'a key "<speaker>/<clip>", found {clip.key!r}': not _KEY.match(clip.key)
    or not clip.key.startswith(f'{clip.speaker}/'),
    'at least one frame': n == 0,
    'frames in JPEG': not all(f[:2] == b'\xff\xd8' for f in clip.frames),
    f'{n} crops, landmarks and boxes, found {rows}': set(rows) != {n},
    f'{NUM_LANDMARKS} landmarks': clip.points.shape[1:] != (NUM_LANDMARKS, 2),
    'finite crops with a size': not np.isfinite(clip.crops).all()
    or not (clip.crops[:, 2:4] > 0).all(),
    f'{columns} mel columns for {len(clip.wave)} samples, '
    f'found {clip.mel.shape}': clip.mel.shape != (MELS, columns),
    'a finite mel': not np.isfinite(clip.mel).all(),
    f'a frame rate, found {clip.fps}': not 1 <= clip.fps <= 240,
  }
  fault = next((text for text, found in faults.items() if found), None)
  if fault:
    raise RecordError(f'{clip.key}: expected {fault}; prepare the clip again')
  return clip


def encode_clip(clip: Clip) -> bytes:
  """A clip as the bytes of a `tf.train.Example`; the same clip, same bytes."""
  check_clip(clip)
  fields = {'frames': list(clip.frames)}
  fields |= {k: [getattr(clip, k).encode()] for k in _TEXTS}
  fields |= {k: np.array([getattr(clip, k)], '<f4') for k in _NUMBERS}
  for name, (kind, _) in _ARRAYS.items():
    fields[name] = [np.ascontiguousarray(getattr(clip, name), kind).tobytes()]
  return tf_example.encode_example(fields)


def decode_clip(data: bytes, key: str | None = None) -> Clip:
  """The clip in a record; raises RecordError if it is not `key`."""
  fields = tf_example.decode_example(data)
  wanted = {f.name for f in dataclasses.fields(Clip)}
  if missing := sorted(wanted - set(fields)):
    raise RecordError(
      f'{key}: the record has no {", ".join(missing)}; it is not a clip of '
      'this version: run the build again'
    )
  texts = {k: fields[k][0].decode() for k in _TEXTS}
  if key is not None and texts['key'] != key:
    raise RecordError(
      f'{key}: the record is of {texts["key"]}; run the build again'
    )
  arrays = {
    name: np.frombuffer(fields[name][0], kind).reshape(shape)
    for name, (kind, shape) in _ARRAYS.items()
  }
  numbers = {k: float(fields[k][0]) for k in _NUMBERS}
  return Clip(frames=tuple(fields['frames']), **texts, **arrays, **numbers)


def write_clips(
  path: str | os.PathLike, clips: Iterable[Clip]
) -> tfrecord.Index:
  """Write clips to a shard with its index, whole or not at all."""
  return write_encoded_clips(
    path, ((c.key, encode_clip(c), clip_info(c)) for c in clips)
  )


def write_encoded_clips(
  path: str | os.PathLike, records: Iterable[tuple[str, bytes, ClipInfo]]
) -> tfrecord.Index:
  """`write_clips` for clips that were encoded before, elsewhere perhaps."""
  return tfrecord.write_shard(
    path, ((key, data, dataclasses.astuple(f)) for key, data, f in records)
  )


def rebuild_index(path: str | os.PathLike) -> tfrecord.Index:
  """Write the index of a shard anew from its records."""
  keys, lengths, rows = [], [], []
  for _, data in tfrecord.scan_records(path):
    clip = decode_clip(data)
    keys.append(clip.key)
    lengths.append(len(data))
    rows.append(dataclasses.astuple(clip_info(clip)))
  table = np.array(rows, np.float64).reshape(len(keys), -1 if rows else 0)
  index = tfrecord.Index(tuple(keys), np.array(lengths, np.int64), table)
  tfrecord.write_index(path, index)
  return index


class ClipDataset:
  """All clips of a split, open for random access by any thread.

  Attributes:
    keys, speakers: of all clips, in order.
    frames, columns: int64 [clips], lengths in frames and mel columns.
    offset, confidence: float64 [clips], as measured; NaN: not measured.
  """

  def __init__(self, folder: str | os.PathLike, split: str):
    self.folder, self.split = os.fspath(folder), split
    self._shards = tfrecord.TFRecordReader(folder, split)
    self.keys = self._shards.keys
    self.speakers = tuple(key.rpartition('/')[0] for key in self.keys)
    width = len(dataclasses.fields(ClipInfo))
    table = self._shards.facts.reshape(len(self.keys), width)
    self.frames, self.columns = table[:, :2].astype(np.int64).T
    self.offset, self.confidence = table[:, 2:].T

  def __len__(self) -> int:
    return len(self.keys)

  def __getitem__(self, i: int) -> Clip:
    """Clip `i`, every byte of it checked."""
    return decode_clip(self._shards.read(i), self.keys[i])

  def close(self) -> None:
    """Close the files; a later read opens them again."""
    self._shards.close()


def tfds_features():
  """The schema as TFDS features. Imports TFDS; only data_prep needs it."""
  import tensorflow_datasets as tfds

  types = tfds.features
  picture = types.Image(shape=(None, None, 3), encoding_format='jpeg')
  tensors = {
    name: types.Tensor(
      shape=tuple(None if side < 0 else side for side in shape),
      dtype=np.dtype(kind).newbyteorder('=').type,
      encoding='bytes',
    )
    for name, (kind, shape) in _ARRAYS.items()
  }
  numbers = {k: types.Scalar(np.float32) for k in _NUMBERS}
  texts = {k: types.Text() for k in _TEXTS}
  return types.FeaturesDict(
    {'frames': types.Sequence(picture), **tensors, **numbers, **texts}
  )


def write_tfds_info(
  folder: str | os.PathLike,
  splits: Sequence[str],
  description: str = '',
  version: str = '1.0.0',
) -> None:
  """Write `features.json` and `dataset_info.json` beside finished shards.

  With them `tfds.builder_from_directory(folder)` opens the data set.
  Imports TFDS; only data_prep needs it.
  """
  import tensorflow_datasets as tfds

  infos = []
  for split in splits:
    paths = tfrecord.find_shards(folder, split)
    indices = [tfrecord.read_index(path) for path in paths]
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(index.keys) for index in indices],
        num_bytes=sum(index.size for index in indices),
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=os.fspath(folder),
    features=tfds_features(),
    split_infos=infos,
    version=version,
    description=description,
    check_data=False,  # it would need TensorFlow
  )
