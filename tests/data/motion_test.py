"""motion.py and motion_batches.py: the articulator's examples."""

import dataclasses

import numpy as np
import pytest

from lipsync_jax import audio
from lipsync_jax.data import motion, motion_batches, synthetic
from lipsync_jax.data.clip import ClipDataset, write_clips
from lipsync_jax.data.motion import MotionError
from lipsync_jax.data.motion_batches import (
  MotionAugmentation,
  MotionClips,
  MotionSampler,
)
from lipsync_jax.faces import mesh


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp('motion')
  synthetic.build_dataset(folder)
  return folder


@pytest.fixture(scope='module')
def loaded(clips):
  return motion.load_motion(ClipDataset(clips, 'train'))


def test_basis_reproduces_displacements(clips, loaded):
  """Oracle: shapes of the records against neutral + coefficients * basis."""
  data, basis = loaded
  dataset = ClipDataset(clips, 'train')
  for number in (0, 7):
    shapes = mesh.unpack(dataset[number].mesh)
    here = slice(*data.frames[number : number + 2])
    moved = np.tensordot(data.coefficients[here], basis.displacements, 1)
    gaps = data.neutral_gaps[data.speakers[number]] + mesh.lip_gaps(moved)
    np.testing.assert_allclose(gaps, mesh.lip_gaps(shapes), atol=2e-3)
    np.testing.assert_allclose(data.gaps[here], mesh.lip_gaps(shapes))


def test_coefficients_have_unit_scale_and_a_sign(loaded):
  data, basis = loaded
  first = np.sqrt(np.square(data.coefficients[:, 0]).mean())
  assert first == pytest.approx(1, abs=0.05)
  assert (mesh.lip_opening(basis.displacements) >= 0).all()
  assert (np.diff(basis.explained) <= 1e-12).all()
  assert basis.explained.sum() == pytest.approx(1, abs=0.01)


def test_upper_face_does_not_move(loaded):
  _, basis = loaded
  still = mesh.displacement_weights() == 0
  assert np.abs(basis.displacements[:, still]).max() == 0


def test_clips_without_mesh_are_refused(tmp_path):
  clip = synthetic.synthetic_clip('a/1', 20, 0)
  bare = dataclasses.replace(clip, mesh=clip.mesh[:0])
  write_clips(tmp_path / 'lipsync_clips-train.tfrecord-00000-of-00001', [bare])
  with pytest.raises(MotionError, match='a clip with a mesh'):
    motion.load_motion(ClipDataset(tmp_path, 'train'))


def test_speech_frames_are_the_loud_ones():
  clip = synthetic.synthetic_clip('a/1', 20, 0)
  wave = np.zeros(20 * audio.SAMPLES_PER_FRAME, np.int16)
  wave[: 10 * audio.SAMPLES_PER_FRAME] = 9000
  quiet = dataclasses.replace(clip, wave=wave)
  np.testing.assert_array_equal(motion.speech_frames(quiet), np.arange(20) < 10)


def sampler(loaded, **values):
  return MotionSampler(loaded[0], 6, **values)


def test_batches_depend_on_seed_and_number_only(loaded):
  one, two = (sampler(loaded, change=MotionAugmentation()) for _ in range(2))
  _ = two[3]  # the order of reads does not matter
  for name, value in one[5].items():
    np.testing.assert_array_equal(value, two[5][name])
  assert not np.array_equal(one[5]['mel'], one[6]['mel'])
  other = sampler(loaded, change=MotionAugmentation(), seed=1)
  assert not np.array_equal(one[5]['mel'], other[5]['mel'])


def test_processes_share_a_batch(loaded):
  whole = sampler(loaded)[2]
  parts = [sampler(loaded, process=(i, 2))[2] for i in range(2)]
  for name, value in whole.items():
    joined = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(value, joined)
  with pytest.raises(MotionError, match='share'):
    sampler(loaded, process=(0, 4))


def test_windows_without_augmentation_are_the_clip(loaded):
  """The mel at a frame's time is the clip's, and so are its coefficients."""
  data, _ = loaded
  batch = sampler(loaded)[0]
  for row, clip in enumerate(batch['clip']):
    low, high = data.frames[clip : clip + 2]
    first, end = data.columns[clip : clip + 2]
    valid = batch['valid'][row] > 0
    whole = data.coefficients[low:high]
    drawn = batch['coefficients'][row][valid]
    starts = [
      i
      for i in range(len(whole) - len(drawn) + 1)
      if np.array_equal(whole[i : i + len(drawn)], drawn)
    ]
    assert len(starts) == 1
    start = starts[0]
    # The window begins CONTEXT columns before the frame `start`.
    column = start * motion_batches.COLUMNS_PER_FRAME
    base = int(np.ceil(column))
    part = batch['mel'][row][motion_batches.CONTEXT :]
    expected = data.mel[first + base : end].astype(np.float32)
    share = base - column
    between = part[:-1] * (1 - share) + part[1:] * share
    size = min(len(between), len(expected)) - 2
    np.testing.assert_allclose(between[:size], expected[:size], atol=1.0)
    if share == 0:
      np.testing.assert_allclose(part[:size], expected[:size], atol=1e-3)


@pytest.mark.parametrize('tempo', [0.0, 0.2])
def test_tempo_keeps_sound_and_motion_together(tempo):
  """A ramp as sound and as motion stays one line at any tempo."""
  count = 100
  columns = int(count * motion_batches.COLUMNS_PER_FRAME) + 1
  ramp = np.arange(columns)[:, None] / motion_batches.COLUMNS_PER_FRAME
  seconds = ramp - motion_batches.FRAME_CENTER  # frame shown at each column
  data = motion.MotionDataset(
    keys=('a/1',),
    speakers=np.array([0]),
    names=('a',),
    frames=np.array([0, count]),
    columns=np.array([0, columns]),
    mel=np.repeat(seconds, 80, 1).astype(np.float16),
    coefficients=np.repeat(np.arange(count)[:, None], 16, 1).astype(np.float32),
    gaps=np.zeros((count, 11), np.float32),
    neutral_gaps=np.zeros((1, 11), np.float32),
    speech=np.ones(count, bool),
  )
  change = dataclasses.replace(motion_batches.NO_CHANGE, tempo=tempo)
  batch = MotionSampler(data, 8, change=change)[0]
  for row in range(8):
    place = batch['times'][row] * audio.COLUMNS_PER_SECOND
    heard = np.interp(
      place, np.arange(len(batch['mel'][row])), batch['mel'][row][:, 0]
    )
    inside = batch['valid'][row] > 0
    shown = batch['coefficients'][row][:, 0]
    np.testing.assert_allclose(heard[inside], shown[inside], atol=0.06)


def test_synthetic_silence_closes_the_lips(loaded):
  change = MotionAugmentation(silence=1.0)
  batch = sampler(loaded, change=change)[1]
  assert np.abs(batch['coefficients']).max() == 0
  assert batch['mel'].max() < 1
  np.testing.assert_array_equal(
    batch['gaps'], np.repeat(batch['neutral_gaps'][:, None], 32, 1)
  )
  assert batch['speech'].max() == 0


def test_sound_of_a_neighbor_surrounds_the_clip(loaded):
  data, _ = loaded
  places = np.arange(-30.0, data.columns[1] + 30)
  alone = motion_batches.window_mel(data, 0, places)
  with_neighbor = motion_batches.window_mel(data, 0, places, other=3)
  assert (alone[:30] == audio.SILENCE).all()
  np.testing.assert_array_equal(with_neighbor[30:-30], alone[30:-30])
  assert not np.array_equal(with_neighbor[:30], alone[:30])


def test_validation_covers_every_clip_once(clips):
  data, _ = motion.load_motion(ClipDataset(clips, 'val'))
  source = MotionClips(data, 4)
  rows = [source[i] for i in range(len(source))]
  mask = np.concatenate([row['mask'] for row in rows])
  numbers = np.concatenate([row['clip'] for row in rows])
  assert mask.sum() == len(data) == 6 and len(mask) == 8
  np.testing.assert_array_equal(numbers[mask > 0], np.arange(6))
  valid = np.concatenate([row['valid'] for row in rows])[mask > 0]
  np.testing.assert_array_equal(valid.sum(1), data.lengths)
