"""Training clips: their fields and their form on disk.

A clip is one person's face over consecutive frames at 25 frames/s, with its
sound. It is stored as a `tf.train.Example` in the encoding of TFDS, so that
`tfds.builder_from_directory` opens the data set anywhere. Reading and writing
need neither TensorFlow nor TFDS.

Shapes: n frames, t mel columns, s sound samples.

Version 2 added the mesh. Version 1 records are refused.
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
from lipsync_jax.faces.mesh import NUM_POINTS

DATASET_NAME = 'lipsync_clips'  # first word of every shard's name
NUM_LANDMARKS = 89  # `landmarks.LANDMARK_IDS`
_KEY = re.compile(r'^[^\s/]+/[^\s/]+$')
_ARRAYS = {
  'crops': ('<f4', (-1, 5)),
  'points': ('<f4', (-1, NUM_LANDMARKS, 2)),
  'boxes': ('<f4', (-1, 4)),
  'mesh': ('<i2', (-1, NUM_POINTS, 3)),
  'mel': ('<f4', (MELS, -1)),
  'wave': ('<i2', (-1,)),
}
_TEXTS = ('key', 'speaker', 'source')
_NUMBERS = ('fps', 'offset', 'confidence')


class RecordError(LipSyncError):
  """A clip or record that does not fit the schema."""


@dataclasses.dataclass(frozen=True)
class Clip:
  """One training clip.

  Every frame is a JPEG of the face with a margin, and its crop is a row (cx,
  cy, w, h, roll) in pixels of the JPEG. A network's input is
  `crop.extract_crop(decoded, crop.crop_from_row(row), size)`, as in inference.

  The log-mel is float32: float16 would be off by up to 0.001, where inference
  agrees to 1e-5, and saves a sixth of a record at best. The mesh may be absent
  (0 rows); the articulator cannot be trained on such clips. The log-mel is
  `audio.log_mel(audio.int16_to_float(wave))`, so that augmentation can compute
  it from changed sound.
  """

  key: str  # '<speaker>/<clip>', '#n' is added for several people
  speaker: str  # never in two splits
  frames: tuple[bytes, ...]  # JPEG, all of one size
  crops: Float32[np.ndarray, 'n 5']  # pixels of the JPEG, radians
  points: Float32[np.ndarray, 'n p 2']  # landmarks, pixels of the JPEG
  boxes: Float32[np.ndarray, 'n 4']  # of the JPEG in the source, pixels
  mesh: Int16[np.ndarray, 'm q 3']  # canonical, `mesh.pack`; m = n, or 0
  mel: Float32[np.ndarray, '80 t']  # [-4, 4], 80 columns a second
  wave: Int16[np.ndarray, 's']  # 16 kHz; sample 0 is shown with frame 0
  fps: float = float(FPS)
  offset: float = math.nan  # frames by which the sound was late; NaN: unknown
  confidence: float = math.nan  # of the offset; NaN: unknown
  source: str = ''  # path of the video


@dataclasses.dataclass(frozen=True)
class ClipInfo:
  """Facts of a clip in the index."""

  frames: int
  columns: int  # of the mel
  offset: float  # frames
  confidence: float


def clip_info(clip: Clip) -> ClipInfo:
  """The facts of a clip for the index."""
  columns = clip.mel.shape[1]
  return ClipInfo(len(clip.frames), columns, clip.offset, clip.confidence)


def check_clip(clip: Clip) -> Clip:
  """The clip, unchanged.

  Raises:
    RecordError: it does not fit the schema.
  """
  n, columns = len(clip.frames), 1 + len(clip.wave) // HOP
  rows = len(clip.crops), len(clip.points), len(clip.boxes)
  faults = {
    f'a key "<speaker>/<clip>", found {clip.key!r}': not _KEY.match(clip.key)
    or not clip.key.startswith(f'{clip.speaker}/'),
    'at least one frame': n == 0,
    'frames in JPEG': not all(f[:2] == b'\xff\xd8' for f in clip.frames),
    f'{n} crops, landmarks and boxes, found {rows}': set(rows) != {n},
    f'a mesh of {n} frames, or none, found {len(clip.mesh)}': len(clip.mesh)
    not in (0, n),
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
  """A clip as a serialized `tf.train.Example`, deterministic."""
  check_clip(clip)
  fields = {'frames': list(clip.frames)}
  fields |= {k: [getattr(clip, k).encode()] for k in _TEXTS}
  fields |= {k: np.array([getattr(clip, k)], '<f4') for k in _NUMBERS}
  for name, (kind, _) in _ARRAYS.items():
    fields[name] = [np.ascontiguousarray(getattr(clip, name), kind).tobytes()]
  return tf_example.encode_example(fields)


def decode_clip(data: bytes, key: str | None = None) -> Clip:
  """The clip of a record.

  Raises:
    RecordError: it is not a clip, or not that of `key`.
  """
  fields = tf_example.decode_example(data)
  wanted = {f.name for f in dataclasses.fields(Clip)}
  if missing := sorted(wanted - set(fields)):
    raise RecordError(
      f'{key}: expected a clip of version 2, found a record without '
      f'{", ".join(missing)}; repeat the command of data_prep/'
      'build_tfrecords.py that built the shards: it reuses the detected faces '
      'in its cache'
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
  """Write clips to a shard with its index, atomically."""
  return write_encoded_clips(
    path, ((c.key, encode_clip(c), clip_info(c)) for c in clips)
  )


def write_encoded_clips(
  path: str | os.PathLike, records: Iterable[tuple[str, bytes, ClipInfo]]
) -> tfrecord.Index:
  """`write_clips` for encoded clips: (key, bytes, facts)."""
  return tfrecord.write_shard(
    path, ((key, data, dataclasses.astuple(f)) for key, data, f in records)
  )


def rebuild_index(path: str | os.PathLike) -> tfrecord.Index:
  """Write the index of a shard from its records."""
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
    """Clip `i`; its checksum is verified."""
    return decode_clip(self._shards.read(i), self.keys[i])

  def close(self) -> None:
    """Close the files; a later read opens them again."""
    self._shards.close()


def tfds_features():
  """The schema as TFDS features. Imports TFDS; for data_prep only."""
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
  version: str = '2.0.0',
) -> None:
  """Write `features.json` and `dataset_info.json` beside finished shards.

  Then `tfds.builder_from_directory(folder)` opens the data set. Imports TFDS;
  for data_prep only.
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
