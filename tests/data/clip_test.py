"""examples.py, shards.py, records.py: round trips, oracles, damage."""

import contextlib
import dataclasses
import pathlib
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax.data import tf_example, tfrecord
from lipsync_jax.data.clip import (
  DATASET_NAME,
  Clip,
  ClipDataset,
  RecordError,
  clip_info,
  decode_clip,
  encode_clip,
  rebuild_index,
  write_clips,
  write_encoded_clips,
  write_tfds_info,
)
from tests.helpers import synthetic_speech


def same(a: Clip, b: Clip) -> None:
  for field in dataclasses.fields(Clip):
    one, two = getattr(a, field.name), getattr(b, field.name)
    np.testing.assert_array_equal(one, two, err_msg=field.name)
    if isinstance(one, np.ndarray):
      assert one.dtype == two.dtype


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp('built')
  made = synthetic_speech.build(
    folder, {'ann': 4, 'bob': 3}, frames=17, side=48
  )
  return folder, made


def test_clip_comes_back():
  clip = dataclasses.replace(
    synthetic_speech.clip('ann/1#2'), offset=-2.0, confidence=5.5
  )
  same(clip, decode_clip(encode_clip(clip), 'ann/1#2'))
  assert encode_clip(clip) == encode_clip(clip)


def test_clip_without_mesh_comes_back():
  clip = synthetic_speech.clip('ann/1')
  clip = dataclasses.replace(clip, mesh=clip.mesh[:0])
  same(clip, decode_clip(encode_clip(clip)))


def test_mesh_of_another_length_is_refused():
  clip = synthetic_speech.clip('ann/1')
  short = dataclasses.replace(clip, mesh=clip.mesh[:-1])
  with pytest.raises(RecordError, match='a mesh of 20 frames, or none'):
    encode_clip(short)


def test_records_of_version_1_name_the_command():
  """They have all fields but the mesh."""
  fields = tf_example.decode_example(
    encode_clip(synthetic_speech.clip('ann/1'))
  )
  old = tf_example.encode_example(
    {name: value for name, value in fields.items() if name != 'mesh'}
  )
  with pytest.raises(RecordError, match=r'version 2.*build_tfrecords'):
    decode_clip(old, 'ann/1')


fields = st.dictionaries(
  st.text(min_size=1, max_size=9),
  st.one_of(
    st.lists(st.binary(max_size=300), max_size=4),
    st.lists(st.floats(width=32), min_size=1, max_size=40).map(
      lambda values: np.array(values, np.float32)
    ),
  ),
  max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(fields)
def test_example_is_the_standards(given_fields):
  """Oracle: Google's protobuf reads ours, and we read Google's."""
  proto = pytest.importorskip(
    'tensorflow_datasets.proto.tf_example_generated_pb2'
  )
  ours = tf_example.encode_example(given_fields)
  message = proto.Example.FromString(ours)
  theirs = message.SerializeToString()
  for decoded in (
    tf_example.decode_example(ours),
    tf_example.decode_example(theirs),
  ):
    assert decoded.keys() == given_fields.keys()
    for name, values in given_fields.items():
      kind = 'bytes_list' if isinstance(values, list) else 'float_list'
      read = getattr(message.features.feature[name], kind).value
      np.testing.assert_array_equal(np.array(list(read)), np.array(values))
      np.testing.assert_array_equal(np.array(decoded[name]), np.array(values))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(data):
  with contextlib.suppress(tf_example.ExampleError, UnicodeDecodeError):
    tf_example.decode_example(data)


def test_crc_is_the_published_one():
  # RFC 3720 B.4: crc32c of 32 zero bytes is 8A9136AA; then TFRecord's mask.
  crc = 0x8A9136AA
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
  assert tfrecord.masked_crc(bytes(32)) == masked


def test_source_reads_every_clip(built):
  folder, made = built
  source = ClipDataset(folder, 'train')
  assert len(source) == 7
  by_key = {clip.key: clip for clip in made}
  assert set(source.keys) == set(by_key)
  for i in reversed(range(7)):
    same(source[i], by_key[source.keys[i]])
    assert source.frames[i] == len(by_key[source.keys[i]].frames)
    assert source.columns[i] == by_key[source.keys[i]].mel.shape[1]
    assert source.speakers[i] == by_key[source.keys[i]].speaker
  assert np.isnan(source.offset).all()
  same(pickle.loads(pickle.dumps(source))[3], source[3])
  with pytest.raises(IndexError):
    source[7]


def flip(path, bit: int) -> bytes:
  before = path.read_bytes()
  data = bytearray(before)
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)
  return before


def test_every_flipped_bit_is_found(built):
  """200 flips at random bits of random records, frame and data alike."""
  folder, _ = built
  rng, found = np.random.default_rng(0), 0
  source = tfrecord.TFRecordReader(folder, 'train')
  for trial in range(200):
    i = trial % len(source)
    path, at = source.where(i)
    path = folder / path.rpartition('/')[2]
    length = len(source.read(i)) + 16
    # Every fifth flip hits the few bytes of the frame.
    edge = [*range(12), *range(length - 4, length)]
    byte = rng.choice(edge) if trial % 5 == 0 else rng.integers(length)
    before = flip(path, 8 * (at + int(byte)) + int(rng.integers(8)))
    with pytest.raises(tfrecord.ShardError) as error:
      tfrecord.TFRecordReader(folder, 'train').read(i)
    assert str(path) in str(error.value) and f'byte {at}' in str(error.value)
    assert source.keys[i] in str(error.value)
    found += 1
    path.write_bytes(before)
  assert found == 200


def test_truncated_shard_is_an_error(built, tmp_path):
  folder, _ = built
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  whole = tfrecord.TFRecordReader(tmp_path, 'train')
  path, at = whole.where(2)
  file = pathlib.Path(path)
  data = file.read_bytes()
  for size in (0, at, at + 5, at + 12, at + 400, len(data) - 1):
    file.write_bytes(data[:size])
    with pytest.raises(tfrecord.ShardError, match=f'ends at byte {size}'):
      ClipDataset(tmp_path, 'train')
    if at <= size < at + 400:  # cut while it is open
      with pytest.raises(tfrecord.ShardError, match=f'byte {at}.*ends inside'):
        whole.read(2)
    read = []
    if 0 < size != at:
      with pytest.raises(tfrecord.ShardError, match='ends inside'):
        read.extend(tfrecord.scan_records(path))
  file.write_bytes(data + b'x')
  with pytest.raises(tfrecord.ShardError, match='another build'):
    ClipDataset(tmp_path, 'train')


def test_scan_gives_whole_records_then_fails(built, tmp_path):
  folder, _ = built
  path = pathlib.Path(tfrecord.find_shards(folder, 'train')[0])
  offsets = tfrecord.read_index(path).offsets
  cut = tmp_path / 'cut'
  cut.write_bytes(path.read_bytes()[: offsets[2] + 50])
  read = []
  with pytest.raises(tfrecord.ShardError, match=f'byte {offsets[2]}'):
    for at, data in tfrecord.scan_records(cut):
      read.append((at, decode_clip(data).key))
  assert [at for at, _ in read] == [*offsets[:2]]
  huge = struct.pack('<Q', 2**64 - 1)  # with a right checksum, not allocated
  cut.write_bytes(huge + struct.pack('<I', tfrecord.masked_crc(huge)))
  with pytest.raises(tfrecord.ShardError, match='ends inside'):
    list(tfrecord.scan_records(cut))


def test_damaged_index_is_found_and_rebuilt(built, tmp_path):
  folder, _ = built
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  path = tfrecord.find_shards(tmp_path, 'train')[1]
  index = tmp_path / (path.rpartition('/')[2] + '.index')
  good, rng = index.read_bytes(), np.random.default_rng(1)
  for _ in range(50):
    flip(index, int(rng.integers(8 * len(good))))
    with pytest.raises(tfrecord.ShardError, match='index is damaged'):
      ClipDataset(tmp_path, 'train')
    index.write_bytes(good)
  for damage in (b'', good[:10], good[:-1], good + b'x'):
    index.write_bytes(damage)
    with pytest.raises(tfrecord.ShardError, match='index is damaged'):
      ClipDataset(tmp_path, 'train')
  rebuild_index(path)
  assert index.read_bytes() == good
  index.unlink()
  with pytest.raises(tfrecord.ShardError, match='no such file'):
    ClipDataset(tmp_path, 'train')


def test_missing_shard_and_wrong_split(built, tmp_path):
  folder, _ = built
  with pytest.raises(tfrecord.ShardError, match="split 'val', found train"):
    ClipDataset(folder, 'val')
  for path in folder.glob('*-00001-of-*'):
    (tmp_path / path.name).write_bytes(path.read_bytes())
  with pytest.raises(tfrecord.ShardError, match='shard 0 is missing'):
    ClipDataset(tmp_path, 'train')
  write_clips(tmp_path / tfrecord.shard_name('x', 'train', 0, 3), [])
  with pytest.raises(tfrecord.ShardError, match='two builds'):
    ClipDataset(tmp_path, 'train')


def test_record_of_another_key_is_found(built, tmp_path):
  name = tfrecord.shard_name(DATASET_NAME, 'train', 0, 1)
  clip = synthetic_speech.clip('ann/1', 17, 48)
  wrong = ('ann/2', encode_clip(clip), clip_info(clip))
  write_encoded_clips(tmp_path / name, [wrong])
  with pytest.raises(RecordError, match=r'ann/2.*is of ann/1'):
    ClipDataset(tmp_path, 'train')[0]
  pair = [clip, clip]
  write_clips(tmp_path / name, pair)
  with pytest.raises(tfrecord.ShardError, match='twice'):
    ClipDataset(tmp_path, 'train')


def test_shard_is_whole_or_absent(tmp_path):
  def breaking():
    yield synthetic_speech.clip('ann/1', 17, 48)
    raise RuntimeError('disk full')

  with pytest.raises(RuntimeError):
    write_clips(tmp_path / 'x', breaking())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(key='ann'), 'speaker>/<clip'),
    (dict(speaker='bob'), 'speaker>/<clip'),
    (dict(frames=()), 'at least one frame'),
    (dict(frames=(b'x',) * 20), 'JPEG'),
    (dict(fps=0.0), 'frame rate'),
    (dict(wave=np.zeros(3200, np.int16)), '17 mel columns'),
  ],
)
def test_bad_clips_are_refused(change, message):
  clip = dataclasses.replace(synthetic_speech.clip('ann/1'), **change)
  with pytest.raises(RecordError, match=message):
    encode_clip(clip)


def equal_to_tfds(decoded, clip) -> None:
  import cv2

  for name in ('crops', 'points', 'boxes', 'mel', 'wave'):
    got = np.asarray(decoded[name])
    np.testing.assert_array_equal(got, getattr(clip, name))
    assert got.dtype == getattr(clip, name).dtype
  assert decoded['key'] == clip.key.encode()
  assert decoded['fps'] == 25 and np.isnan(decoded['offset'])
  frames = np.asarray([np.asarray(f) for f in decoded['frames']])
  flag = cv2.IMREAD_COLOR_RGB
  own = [cv2.imdecode(np.frombuffer(f, np.uint8), flag) for f in clip.frames]
  # Two JPEG decoders may differ in rounding and chroma filters.
  assert frames.shape == np.shape(own)
  assert np.abs(frames.astype(int) - np.array(own)).mean() < 2


def test_tfds_opens_it(built):
  """Without TensorFlow: metadata, and TFDS's own decoding of a record."""
  tfds = pytest.importorskip('tensorflow_datasets')
  folder, made = built
  write_tfds_info(folder, ['train'], 'synthetic')
  builder = tfds.builder_from_directory(folder)
  split = builder.info.splits['train']
  assert split.num_examples == 7 and split.shard_lengths == [4, 3]
  by_key = {clip.key: clip for clip in made}
  for path in tfrecord.find_shards(folder, 'train'):
    assert path in [str(p) for p in split.filepaths]
    for _, data in tfrecord.scan_records(path):
      decoded = builder.info.features.deserialize_example_np(data)
      equal_to_tfds(decoded, by_key[decoded['key'].decode()])


def test_tensorflow_iterates_it(built):
  pytest.importorskip('tensorflow')
  tfds = pytest.importorskip('tensorflow_datasets')
  folder, made = built
  write_tfds_info(folder, ['train'], 'synthetic')
  builder = tfds.builder_from_directory(folder)
  by_key = {clip.key: clip for clip in made}
  for decoded in tfds.as_numpy(builder.as_dataset(split='train')):
    equal_to_tfds(decoded, by_key.pop(decoded['key'].decode()))
  assert not by_key


def test_import_is_light():
  code = (
    'import sys, lipsync_jax.data.clip; '
    'heavy = {"jax", "grain", "tensorflow", "tensorflow_datasets", "cv2"}; '
    'sys.exit(bool(heavy & set(sys.modules)))'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
