"""Pairs of frames: their choice, their file, their batches."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax.data.augmentation import Augmentation
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.faces import mesh
from lipsync_jax.refinement import (
  face_frames,
  pair_batches,
  pair_choice,
  pair_file,
  prepare,
)
from tests.helpers import mesh_clips

SIZE = 64
MARGIN = pair_file.margin_of(SIZE)
STILL = Augmentation(
  **dict.fromkeys((f.name for f in dataclasses.fields(Augmentation)), 0)
)


def on_device(batch: dict) -> dict:
  return jax.tree.map(jnp.asarray, batch)


def shapes_of(key: str = 'ann/0') -> np.ndarray:
  return mesh.unpack(mesh_clips.clip(key).mesh)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('pairs')
  mesh_clips.build(out / 'shards', {'ann': 4, 'bob': 1})
  prepare.prepare(str(out / 'shards'), str(out), 'train', SIZE, 5)
  return out


@pytest.fixture(scope='module')
def split(folder):
  return pair_file.load_pairs(folder, 'train')


def test_references_are_not_near_the_target_and_in_their_order():
  shapes = shapes_of()
  opening = mesh.lip_opening(shapes)
  pairs = pair_choice.choose_pairs(shapes, 12, np.random.default_rng(0), 0.0)
  assert len({p.target for p in pairs}) == len(pairs) >= 8
  for pair in pairs:
    used = [pair.source, *pair.references]
    used += [pair.interior] * (pair.interior >= 0)
    apart = np.abs(np.array(used) - pair.target)
    assert apart.min() >= pair_choice.NEAR and not pair.photo
    high, middle, low = opening[list(pair.references)]
    assert high >= middle >= low


def test_targets_prefer_open_mouths():
  rng, opening = np.random.default_rng(1), mesh.lip_opening(shapes_of())
  chosen = [
    opening[pair.target]
    for _ in range(20)
    for pair in pair_choice.choose_pairs(shapes_of(), 6, rng)
  ]
  assert np.mean(chosen) > opening.mean()
  assert min(chosen) < np.quantile(opening, 0.3)


def test_a_photo_has_one_closed_mouth_and_a_drawn_interior():
  shapes = shapes_of()
  pairs = pair_choice.choose_pairs(shapes, 8, np.random.default_rng(2), 1.0)
  opening = mesh.lip_opening(shapes)
  assert pairs and all(p.photo and p.interior == -1 for p in pairs)
  assert all(opening[p.source] <= pair_choice.PHOTO_OPENING for p in pairs)


def test_a_clip_that_never_closes_is_no_photo():
  shapes = shapes_of()
  wide = shapes[mesh.lip_opening(shapes) > 0.08]
  assert len(wide) > 8
  pairs = pair_choice.choose_pairs(wide, 6, np.random.default_rng(3), 1.0)
  assert pairs == []


def test_a_short_clip_gives_no_pair():
  shapes = shapes_of()[:4]
  assert pair_choice.choose_pairs(shapes, 3, np.random.default_rng(0)) == []


def test_pairs_are_those_of_the_clips(split, folder):
  """The target's crop is the canvas of its frame."""
  assert split.names == ('ann', 'bob') and len(split.keys) == 5
  clips = ClipDataset(folder / 'shards', 'train')
  batch = pair_file.gather_pairs(split.arrays, np.arange(len(split)))
  key = split.keys[batch['clip'][0]]
  face = face_frames.read_face_clip(clips[clips.keys.index(key)], SIZE)
  crops = [prepare.middle(face.canvas(k).rgb, SIZE) for k in range(len(face))]
  assert (
    min(np.abs(batch['mouth'][0] - c.astype(int)).mean() for c in crops) < 1
  )
  side = SIZE + 2 * MARGIN
  assert batch['warp'].shape[1:] == (side, side, 4)
  assert batch['others'].shape[1:] == (3, side, side, 3)
  photo = batch['photo'] > 0
  assert photo.any() and not photo.all()
  same = (batch['others'][:, :1] == batch['others']).all((1, 2, 3, 4))
  assert same[photo].all() and not same[~photo].all()


def test_pairs_depend_on_the_seed_only(folder, tmp_path):
  one, two, three = (
    prepare.clip_pairs(mesh_clips.clip('ann/0'), SIZE, 4, seed)
    for seed in (0, 0, 5)
  )
  for a, b in zip(one[0], two[0], strict=True):
    assert (a.warped == b.warped).all() and a.frames == b.frames
  assert [p.frames for p in one[0]] != [p.frames for p in three[0]]
  shards = str(folder / 'shards')
  prepare.prepare(shards, str(tmp_path), 'train', SIZE, 5, workers=1)
  for name in ('warps', 'mouths', 'mels', 'table'):
    made = (tmp_path / 'train' / f'{name}.bin').read_bytes()
    assert made == (folder / 'train' / f'{name}.bin').read_bytes()


def test_an_object_covers_target_and_warp_alike():
  pairs, mouths = prepare.clip_pairs(
    mesh_clips.clip('ann/0'), SIZE, 12, 3, occluded=1.0
  )
  plain, _ = prepare.clip_pairs(mesh_clips.clip('ann/0'), SIZE, 12, 3)
  same = {p.frames[0]: p for p in plain}
  covered = 0
  assert all(p.frames[0] >= 24 for p in pairs)
  for pair in pairs:
    before = next(p for p in same.values() if p.frames[1:] == pair.frames[1:])
    change = np.abs(pair.warped[..., :3] - before.warped[..., :3].astype(int))
    hidden = change.max(-1) > 60
    if hidden.sum() < 100:
      continue
    covered += 1
    error = np.abs(pair.warped[..., :3] - mouths[pair.frames[0]].astype(int))
    assert np.median(error[hidden]) < 12
  assert covered


def test_missing_and_damaged_pairs_are_one_line(folder, tmp_path, capsys):
  with pytest.raises(face_frames.RefinementError, match='prepare SHARDS'):
    pair_file.load_pairs(folder, 'val')
  mesh_clips.build(tmp_path / 'shards', {'ann': 1})
  prepare.prepare(str(tmp_path / 'shards'), str(tmp_path), 'train', SIZE, 3)
  file = tmp_path / 'train' / 'warps.bin'
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(face_frames.RefinementError, match='bytes'):
    pair_file.load_pairs(tmp_path, 'train')
  words = [str(tmp_path / 'nothing'), '--out', str(tmp_path)]
  capsys.readouterr()
  assert prepare.main(words) == 2
  assert capsys.readouterr().err.startswith('prepare: ')


def test_command(folder, tmp_path, capsys):
  words = [str(folder / 'shards'), f'--out={tmp_path}', '--size=64']
  assert prepare.main([*words, '--pairs=2', '--splits', 'train']) == 0
  count = int(capsys.readouterr().out.split()[1])
  facts = json.loads((tmp_path / 'train' / pair_file.FACTS).read_text())
  assert facts['pairs'] == count and facts['size'] == 64


# --- batches


def test_speakers_are_drawn_equally_often(split):
  sampler = pair_batches.PairSampler(split, 40)
  speakers = np.concatenate([sampler[n]['speaker'] for n in range(5)])
  share = (split.column('speaker') == 1).mean()
  assert share < 0.3  # of the pairs; of the draws, half
  assert 0.38 < (speakers == 1).mean() < 0.62


def test_batches_are_the_seeds_and_are_shared_by_processes(split):
  whole = pair_batches.PairSampler(split, 6, 7)[3]
  again = pair_batches.PairSampler(split, 6, 7)[3]
  parts = [pair_batches.PairSampler(split, 6, 7, (i, 2))[3] for i in (0, 1)]
  other = pair_batches.PairSampler(split, 6, 8)[3]
  for name, x in whole.items():
    assert (x == again[name]).all()
    joined = np.concatenate([part[name] for part in parts])
    assert (x == joined).all()
  assert (other['uniforms'] != whole['uniforms']).any()
  with pytest.raises(face_frames.RefinementError, match='processes'):
    pair_batches.PairSampler(split, 5, 0, (0, 2))


def test_pictures_on_the_device_give_the_same_batches(split):
  streamed = pair_batches.PairSampler(split, 6, 1)[2]
  numbers = pair_batches.PairSampler(split, 6, 1, resident=True)[2]
  assert 'warp' not in numbers
  held = jax.device_put(split.arrays)
  sampled = jax.jit(pair_batches.sample_resident)(held, numbers)
  assert sampled.keys() == streamed.keys()
  for name, x in streamed.items():
    assert (np.asarray(sampled[name]) == x).all(), name


def test_every_pair_is_validated_once(split):
  source = pair_batches.WholeSplit(split, 7)
  batches = [source[n] for n in range(len(source))]
  mask = np.concatenate([b['mask'] for b in batches]) > 0
  pairs = np.concatenate([b['pair'] for b in batches])[mask]
  assert pairs.tolist() == list(range(len(split)))


def test_no_augmentation_is_the_plain_input(split):
  batch = pair_batches.PairSampler(split, 4)[0]
  batch['uniforms'][:, 14:] = 0.5
  one = pair_batches.to_inputs(on_device(batch), SIZE)
  two = pair_batches.augmented_inputs(on_device(batch), SIZE, STILL)
  assert one.keys() == two.keys()
  for name in one:
    np.testing.assert_allclose(one[name], two[name], atol=1e-5, err_msg=name)


def test_warp_and_truth_move_together_and_references_a_little_more(split):
  batch = pair_batches.PairSampler(split, 8)[0]
  side = SIZE + 2 * MARGIN
  batch['mouth'] = np.zeros((8, side, side, 3), np.uint8)
  batch['mouth'][:, side // 2, side // 2] = 255
  batch['warp'] = np.concatenate([batch['mouth'], batch['mouth'][..., :1]], -1)
  batch['others'] = np.repeat(batch['mouth'][:, None], 3, 1)
  made = pair_batches.augmented_inputs(on_device(batch), SIZE, STILL)

  def places(x):
    flat = np.asarray(x)[..., 0].reshape(8, -1)
    assert (flat.max(1) == 1).all()
    return np.stack(np.unravel_index(flat.argmax(1), (SIZE, SIZE)), -1)

  truth = places(made['truth'])
  assert (places(made['warped']) == truth).all()
  assert (places(made['hole']) == truth).all()
  assert np.ptp(truth, axis=0).min() > 2
  own = places(made['references'][:, 0]) - truth
  assert 0 < np.abs(own).max() <= MARGIN


def test_light_and_mirror_change_a_pair_as_a_whole(split):
  batch = pair_batches.PairSampler(split, 6)[0]
  batch['uniforms'][:, 14:] = 0.5
  batch['warp'][..., :3] = batch['mouth']
  change = dataclasses.replace(STILL, brightness=0.2, contrast=0.3, flip=1.0)
  plain = pair_batches.to_inputs(on_device(batch), SIZE)
  made = pair_batches.augmented_inputs(on_device(batch), SIZE, change)
  np.testing.assert_allclose(made['warped'], made['truth'], atol=1e-5)
  hole = jnp.flip(plain['hole'], 2)
  np.testing.assert_allclose(made['hole'], hole, atol=1e-5)
  means = np.asarray(made['truth'].mean((1, 2, 3)))
  assert np.abs(means - np.asarray(plain['truth'].mean((1, 2, 3)))).max() > 0.02
