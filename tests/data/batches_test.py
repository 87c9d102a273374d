"""data.py, resident.py: contents, order, resuming, sharing, both modes."""

import dataclasses
import json
import pickle
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax import audio
from lipsync_jax.data import (
  augmentation,
  batches,
  device_dataset,
  sampler,
  tfrecord,
  windows,
)
from lipsync_jax.data.clip import DATASET_NAME, ClipDataset, write_clips
from lipsync_jax.faces import crop, landmarks
from tests.helpers import synthetic_speech

SPECS = windows.WINDOW_SPECS
CONTRASTIVE = dataclasses.replace(SPECS['contrastive'], windows_per_clip=3)
STILL = augmentation.Augmentation(
  flip=1, brightness=0, contrast=0, saturation=0, hue=0, shift=0, scale=0,
  roll=0, time_mask=0, frequency_mask=0,
)  # fmt: skip


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('split')
  synthetic_speech.build(folder, {'ann': 4, 'bob': 3, 'cy': 1}, frames=24)
  return ClipDataset(folder, 'train')


@pytest.fixture(scope='module')
def big(tmp_path_factory):
  """200 records in 4 shards."""
  folder = tmp_path_factory.mktemp('big')
  clip = synthetic_speech.clip('ann/0', 17, side=16)
  made = [dataclasses.replace(clip, key=f'ann/{i}') for i in range(200)]
  for i in range(4):
    name = tfrecord.shard_name(DATASET_NAME, 'train', i, 4)
    write_clips(folder / name, made[i::4])
  return ClipDataset(folder, 'train')


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    x, y = np.asarray(a[name]), np.asarray(b[name])
    assert x.dtype == y.dtype and x.shape == y.shape, name
    np.testing.assert_array_equal(x, y, err_msg=name)


def face(clip, frame, size):
  import cv2

  jpeg = np.frombuffer(clip.frames[frame], np.uint8)
  rgb = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
  return crop.extract_crop(
    np.ascontiguousarray(rgb), crop.crop_from_row(clip.crops[frame]), size
  )


def test_generator_example_is_what_inference_sees(source):
  plan = batches.index_dataset(source, SPECS['generator'])
  rng = np.random.default_rng(0)
  for item in range(len(plan)):
    pick = synthetic_speech.pick(item, rng, plan)
    clip = source[int(pick['clip'])]
    got = batches.read_example(pick, source, SPECS['generator'], 32)
    f, r = int(pick['frame']), int(pick['other_frame'])
    for k in range(5):
      np.testing.assert_array_equal(got['target'][k], face(clip, f + k, 32))
      np.testing.assert_array_equal(got['reference'][k], face(clip, r + k, 32))
      start = (16 * (f + k - 2)) // 5
      want = clip.mel[:, start : start + 16]
      np.testing.assert_array_equal(got['mels'][k, ..., 0], want)
    start = 16 * f // 5
    np.testing.assert_array_equal(
      got['mel'][..., 0], clip.mel[:, start : start + 16]
    )


def test_syncnet_example(source):
  plan = batches.index_dataset(
    source, SPECS['syncnet'], cross_clip_probability=0.5
  )
  rng, labels = np.random.default_rng(0), set()
  for item in [*range(len(plan))] * 3:
    pick = synthetic_speech.pick(item, rng, plan)
    got = batches.read_example(pick, source, SPECS['syncnet'], 32)
    f, s = int(pick['frame']), int(pick['other_frame'])
    clip, other = source[int(pick['clip'])], source[int(pick['other_clip'])]
    assert got['frames'].shape == (16, 32, 15)
    for k in range(5):
      want = face(other, s + k, 32)[16:]
      np.testing.assert_array_equal(got['frames'][..., 3 * k : 3 * k + 3], want)
    start = 16 * f // 5
    want = clip.mel[:, start : start + 16]
    np.testing.assert_array_equal(got['mel'][..., 0], want)
    together = (f, int(pick['clip'])) == (s, int(pick['other_clip']))
    assert got['label'] == together
    labels.add(float(got['label']))
  assert labels == {0.0, 1.0}


def test_contrastive_example(source):
  plan = batches.index_dataset(source, CONTRASTIVE)
  pick = synthetic_speech.pick(2, np.random.default_rng(0), plan)
  got = batches.read_example(pick, source, CONTRASTIVE, 32)
  assert got['frames'].shape == (3, 16, 32, 15)
  assert got['mel'].shape == (3, 80, 16, 1)
  clip = source[int(pick['clip'])]
  for k, f in enumerate(pick['frame']):
    np.testing.assert_array_equal(
      got['frames'][k, ..., :3], face(clip, int(f), 32)[16:]
    )
    start = 16 * int(f) // 5
    want = clip.mel[:, start : start + 16]
    np.testing.assert_array_equal(got['mel'][k, ..., 0], want)
    opening = landmarks.lip_openings(clip.points, clip.crops)[
      int(f) : int(f) + 5
    ]
    np.testing.assert_array_equal(got['opening'][k], opening)


def test_edges_are_silent(source):
  plan = batches.index_dataset(source, SPECS['generator'], pad_audio=True)
  pick = synthetic_speech.pick(0, np.random.default_rng(0), plan)
  pick |= {'frame': np.int32(0), 'other_frame': np.int32(9)}
  pick = {k: np.asarray(v) for k, v in pick.items()}
  got = batches.read_example(pick, source, SPECS['generator'], 16)['mels'][
    0, ..., 0
  ]
  assert (got[:, :7] == audio.SILENCE).all()  # floor(3.2 * -2) is -7
  np.testing.assert_array_equal(got[:, 7:], source[0].mel[:, :9])


def test_ready_masks_the_lower_half(source):
  plan = batches.index_dataset(source, SPECS['generator'])
  pick = synthetic_speech.pick(0, np.random.default_rng(0), plan)
  wire = batches.read_example(pick, source, SPECS['generator'], 32)
  for xnp in (np, jnp):
    got = batches.to_model_inputs(
      {k: xnp.asarray(v) for k, v in wire.items()}, xnp
    )
    target = wire['target'].astype(np.float32) / 255
    np.testing.assert_allclose(got['target'], target, atol=1e-7)
    assert got['face'].shape == (5, 32, 32, 6) and 'reference' not in got
    assert got['face'].dtype == np.float32
    np.testing.assert_allclose(got['face'][:, :16, :, :3], target[:, :16])
    assert not np.asarray(got['face'][:, 16:, :, :3]).any()
    np.testing.assert_allclose(
      got['face'][..., 3:], wire['reference'].astype(np.float32) / 255
    )


def test_flip_is_the_same_for_all_frames_and_leaves_the_sound(source):
  for kind in SPECS:
    plan = batches.index_dataset(source, SPECS[kind])
    pick = synthetic_speech.pick(1, np.random.default_rng(0), plan)
    plain = batches.read_example(pick, source, SPECS[kind], 32)
    flipped = batches.read_example(pick, source, SPECS[kind], 32, change=STILL)
    for name in plain:
      want = plain[name]
      if name == 'frames':
        want = want[..., ::-1, :]
      if name in ('target', 'reference'):
        want = want[:, :, ::-1]
      np.testing.assert_array_equal(flipped[name], want, err_msg=name)


def test_nothing_changed_is_identity(source):
  zero = dataclasses.replace(STILL, flip=0)
  plan = batches.index_dataset(source, SPECS['generator'])
  pick = synthetic_speech.pick(1, np.random.default_rng(0), plan)
  equal(
    batches.read_example(pick, source, SPECS['generator'], 32),
    batches.read_example(pick, source, SPECS['generator'], 32, change=zero),
  )


def test_noise_changes_sound_alone_and_is_one_stretch(source):
  change = dataclasses.replace(
    STILL, flip=0, noise=1, min_snr_db=0, max_snr_db=1
  )
  plan = batches.index_dataset(source, SPECS['generator'])
  pick = synthetic_speech.pick(1, np.random.default_rng(0), plan)
  plain = batches.read_example(pick, source, SPECS['generator'], 16)
  noisy = batches.read_example(
    pick, source, SPECS['generator'], 16, change=change
  )
  assert np.abs(noisy['mel'] - plain['mel']).mean() > 0.05
  np.testing.assert_array_equal(noisy['target'], plain['target'])
  # The third frame's own window is the shared one.
  np.testing.assert_array_equal(noisy['mels'][2], noisy['mel'])


def test_restored_anywhere_the_rest_is_the_same(big):
  """All 200 positions; state under 10 kB."""
  plan = batches.index_dataset(big, SPECS['generator'])
  made = iter(batches.example_batches(big, plan, 1, 16, seed=7, threads=1))
  states, rows = [], []
  for _ in range(200):
    states.append(json.loads(json.dumps(made.get_state())))
    rows.append(next(made))
  assert len({int(r['clip'][0]) for r in rows}) == 200
  assert max(len(json.dumps(s)) for s in states) < 10_000
  for k in range(200):
    made.set_state(states[k])
    for j in range(k, 200 if k % 100 == 99 else k + 1):
      equal(next(made), rows[j])
  fresh = iter(batches.example_batches(big, plan, 1, 16, seed=7, threads=3))
  fresh.set_state(states[150])
  equal(next(fresh), rows[150])


@pytest.mark.parametrize(
  'batch', [8, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.full])]
)
def test_picks_restored_at_every_position_give_all_the_rest(big, batch):
  """The next batch and, since the state after it is the one that was seen
  there, all that follow; now and then these are drawn as well."""
  plan = batches.index_dataset(big, SPECS['syncnet'])
  made = iter(sampler.sample_batches(plan, batch, seed=3))
  states, rows = [], []
  for _ in range(240 // batch):  # beyond the epoch's end
    states.append(made.get_state())
    rows.append(next(made))
  states.append(made.get_state())
  for k in range(len(rows)):
    made.set_state(states[k])
    for j in range(k, len(rows) if k % (64 // batch) == 0 else k + 1):
      equal(next(made), rows[j])
      assert made.get_state() == states[j + 1]


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_processes_share_an_epoch_exactly(big, processes):
  plan = batches.index_dataset(big, SPECS['generator'])
  alone = sampler.BatchSampler(plan, 8, seed=1)
  parts = [
    sampler.BatchSampler(plan, 8, seed=1, process=(p, processes))
    for p in range(processes)
  ]
  seen = []
  for k in range(50):  # 25 batches an epoch
    got = [part[k] for part in parts]
    got = {name: np.concatenate([x[name] for x in got]) for name in got[0]}
    equal(got, alone[k])
    seen += got['clip'].tolist()
  assert sorted(seen[:200]) == sorted(seen[200:]) == [*range(200)]
  assert seen[:200] != seen[200:] and seen[:200] != [*range(200)]


def test_order_depends_on_the_seed_alone(source):
  plan = batches.index_dataset(source, SPECS['generator'])

  def first(seed, threads):
    change = augmentation.Augmentation(noise=0.5)
    stream = batches.example_batches(
      source, plan, 4, 16, seed=seed, threads=threads, change=change
    )
    return next(iter(stream))

  equal(first(5, 1), first(5, 6))
  assert not np.array_equal(first(5, 1)['target'], first(6, 1)['target'])


@pytest.mark.parametrize('processes', [1, 2])
def test_validation_covers_a_split_once_and_masks_the_rest(source, processes):
  plan = batches.index_dataset(source, SPECS['syncnet'])
  got, mask = [], []
  for p in range(processes):
    made = batches.example_batches(
      source, plan, 6, 16, rounds=1, process=(p, processes), threads=1
    )
    for batch in made:
      assert batch['mask'].shape == (6 // processes,)
      got += [*batch['clip'][batch['mask'] > 0]]
      mask += [*batch['mask']]
  assert sorted(got) == [*range(8)]
  assert len(mask) == 12 and sum(mask) == 8


def test_batches_that_cannot_be_shared(source):
  plan = batches.index_dataset(source, SPECS['syncnet'])
  with pytest.raises(sampler.SamplerError, match='multiple of 4'):
    sampler.BatchSampler(plan, 6, process=(0, 4))


def test_damage_stops_training_with_its_place(big, tmp_path):
  for path in tfrecord.find_shards(big.folder, 'train'):
    for name in (path, tfrecord.index_name(path)):
      target = tmp_path / name.rpartition('/')[2]
      target.write_bytes(open(name, 'rb').read())  # noqa: SIM115
  path, at = tfrecord.TFRecordReader(tmp_path, 'train').where(120)
  content = bytearray(open(path, 'rb').read())  # noqa: SIM115
  content[at + 500] ^= 4
  (tmp_path / path.rpartition('/')[2]).write_bytes(content)
  source = ClipDataset(tmp_path, 'train')
  made = batches.example_batches(
    source, batches.index_dataset(source, SPECS['generator']), 8, 16, rounds=1
  )
  with pytest.raises(tfrecord.ShardError, match=f'byte {at}'):
    for _ in made:
      pass


def test_pair_is_what_the_generator_sees_where_mouths_differ_most(source):
  plan = batches.index_dataset(source, SPECS['pair'])
  pick = synthetic_speech.pick(0, np.random.default_rng(0), plan)
  clip = source[int(pick['clip'])]
  opening = landmarks.lip_openings(clip.points, clip.crops)
  got = batches.read_example(pick, source, SPECS['pair'], 32)
  assert 'mel' not in got
  apart = np.abs(np.diff(opening[pick['frame']], axis=-1)).ravel()
  assert abs(np.diff(opening[got['frame']])[0]) == apart.max()
  for k, f in enumerate(got['frame']):
    at = {'frame': f, 'other_clip': pick['clip'], 'other_frame': np.int32(0)}
    one = batches.read_example(pick | at, source, SPECS['generator'], 32)
    for name in ('mels', 'target'):
      np.testing.assert_array_equal(got[name][k], one[name][0])


def test_global_batches(source):
  mesh = jax.make_mesh((1,), ('data',), (jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec('data')
  )
  plan = batches.index_dataset(source, SPECS['generator'])
  made = iter(
    batches.example_batches(source, plan, 4, 16, seed=1, sharding=sharding)
  )
  plain = iter(batches.example_batches(source, plan, 4, 16, seed=1))
  states = []
  for _ in range(5):
    states.append(made.get_state())
    got = next(made)
    assert all(isinstance(x, jax.Array) for x in got.values())
    assert got['target'].sharding == sharding
    equal(got, next(plain))
  made.set_state(states[2])
  again = iter(batches.example_batches(source, plan, 4, 16, seed=1))
  for _ in range(2):
    next(again)
  equal(next(made), next(again))


def test_sources_travel_to_other_processes(source):
  plan = batches.index_dataset(source, SPECS['generator'])
  made = sampler.BatchSampler(plan, 4, seed=1)
  equal(pickle.loads(pickle.dumps(made))[9], made[9])
  assert len(pickle.dumps(source)) < 10_000


@pytest.mark.parametrize('kind', SPECS)
@pytest.mark.parametrize('lead', [audio.CENTERED_LEAD, Fraction(0)])
def test_resident_equals_streamed(source, kind, lead):
  plan = batches.index_dataset(
    source, SPECS[kind], lead=lead, pad_audio=True, cross_clip_probability=0.9
  )
  store = device_dataset.load_dataset(source, 32)
  run = jax.jit(
    lambda store, row: device_dataset.sample_batch(
      store, row, spec=SPECS[kind], lead=lead
    )
  )
  streamed = iter(
    batches.example_batches(source, plan, 4, 32, lead=lead, seed=2)
  )
  for row, _ in zip(
    sampler.sample_batches(plan, 4, seed=2), range(5), strict=False
  ):
    equal(run(store, row), next(streamed))


def test_resident_augments_alike(source):
  change = augmentation.Augmentation(
    shift=0.05, scale=0.1, roll=8, frequency_mask=20
  )
  plan = batches.index_dataset(source, SPECS['generator'])
  still = device_dataset.load_dataset(source, 32)
  store = device_dataset.load_dataset(source, 32, change)
  assert store.images.shape[1] == 32 + 2 * change.margin(32)
  margin = change.margin(32)
  middle = slice(margin, margin + 32)
  np.testing.assert_array_equal(store.images[:, middle, middle], still.images)
  run = jax.jit(
    lambda p: device_dataset.sample_batch(
      store, p, spec=SPECS['generator'], change=change
    )
  )
  streamed = iter(
    batches.example_batches(source, plan, 4, 32, seed=2, change=change)
  )
  plain = iter(batches.example_batches(source, plan, 4, 32, seed=2))
  for row, _ in zip(
    sampler.sample_batches(plan, 4, seed=2), range(2), strict=False
  ):
    got, want, off = run(row), next(streamed), next(plain)
    for name in ('mel', 'mels', 'clip', 'frame'):
      np.testing.assert_array_equal(got[name], want[name])
    for name in ('target', 'reference'):
      there = want[name].astype(float)
      error = np.abs(np.asarray(got[name]) - there).mean()
      moved = np.abs(off[name] - there).mean()
      assert error < 2.5 and error < moved / 4, (error, moved)


def test_resident_refuses_noise(source):
  store = device_dataset.load_dataset(source, 16)
  plan = batches.index_dataset(source, SPECS['syncnet'])
  row = next(iter(sampler.sample_batches(plan, 2)))
  with pytest.raises(batches.DataError, match='noise'):
    device_dataset.sample_batch(
      store,
      row,
      spec=SPECS['syncnet'],
      change=augmentation.Augmentation(noise=0.1),
    )
