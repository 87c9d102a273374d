"""The audio-visual offset of synthetic and real clips."""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest
from jaxtyping import install_import_hook

from lipsync_jax.audio import log_mel
from lipsync_jax.data.clip import Clip, check_clip
from lipsync_jax.media import video_reader
from tests.helpers.training_videos import (
  analysis,
  film,
  results,
)

with install_import_hook('data_prep', 'tests.helpers.typecheck.typechecked'):
  from data_prep import av_offset, extract

ROOT = pathlib.Path(__file__).resolve().parents[2]


def vectors(count, late, noise=0.5, seed=0):
  """Faces and sound of which every moment has its own direction."""
  rng = np.random.default_rng(seed)
  truth = rng.normal(size=(count + 60, 64))
  face = truth[30 : 30 + count] + noise * rng.normal(size=(count, 64))
  heard = truth[30 - late : 30 - late + count]
  heard = heard + noise * rng.normal(size=(count, 64))
  return tuple(
    (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
    for v in (face, heard)
  )


@pytest.mark.parametrize('late', range(-15, 16))
def test_offset_is_found(late):
  for count in (40, 120):
    found, sure = av_offset.find_offset(*vectors(count, late))
    assert found == late and sure > 0.2


def test_short_and_foreign_sound():
  assert av_offset.find_offset(*vectors(26, 5))[0] == 5
  assert av_offset.find_offset(*vectors(26, -5))[0] == -5
  assert av_offset.find_offset(*vectors(5, 0)) == (0, 0.0)
  face, _ = vectors(100, 0)
  _, other = vectors(100, 0, seed=1)
  assert av_offset.find_offset(face, other)[1] < 0.1


def test_verdicts():
  limits = av_offset.Limits(6, 0.3)

  def reason(*values):
    return av_offset.rejection_reason(*values, limits, 14)[0]

  nan = float('nan')
  assert reason(14, nan, nan) == '' == reason(30, 6, 0.3) == reason(30, -6, 1.0)
  assert reason(30, 0, 0.29) == extract.UNSURE == reason(30, 0, nan)
  assert reason(60, 7, 0.5) == extract.OFFSET == reason(60, -7, 0.5)
  assert reason(18, 5, 0.5) == extract.SHORT


def test_corrected_sound_is_in_step(tmp_path):
  (clip,) = results(film(tmp_path / 'a.mkv'), analysis(60))
  assert np.flatnonzero(clip.wave > 15000).tolist() == [0, 16000, 32000]
  late = check_clip(av_offset.correct_offset(clip, 4, 0.5))
  early = check_clip(av_offset.correct_offset(clip, -4, 0.5))
  # A click heard at frame 25 belongs to frame 21, or to frame 29.
  assert late.frames == clip.frames[:56] and early.frames == clip.frames[4:]
  assert np.flatnonzero(late.wave > 15000).tolist() == [21 * 640, 46 * 640]
  assert np.flatnonzero(early.wave > 15000).tolist() == [0, 16000, 32000]
  assert (late.offset, early.offset) == (4.0, -4.0)
  still = av_offset.correct_offset(clip, 0, 0.5)
  assert still.frames == clip.frames and still.offset == 0.0


@pytest.fixture(scope='module')
def expert_file(tmp_path_factory):
  """A SyncNet of random weights: it knows nothing of offsets."""
  import jax

  from lipsync_jax import models
  from lipsync_jax.weights import convert

  net = models.build_model('syncnet', 96, 0.125)
  init = functools.partial(net.init, train=False)
  shapes = jax.eval_shape(
    init, jax.random.key(0), *models.dummy_inputs('syncnet')
  )
  rng = np.random.default_rng(0)
  tensors = jax.tree.map(
    lambda x: np.abs(rng.normal(0.02, 0.1, x.shape)).astype(np.float32), shapes
  )
  path = tmp_path_factory.mktemp('expert') / 'w.safetensors'
  convert.save(
    path, convert.Weights('syncnet', 96, 0.125, dict(tensors), 'test')
  )
  return str(path)


def test_expert_reads_every_window(tmp_path, expert_file):
  (clip,) = results(film(tmp_path / 'a.mkv', 20), analysis(20))
  expert = av_offset.OffsetEstimator(expert_file)
  face, heard = expert.vectors(clip)
  assert len(face) == len(heard) == 16
  np.testing.assert_allclose(np.linalg.norm(face, axis=1), 1, atol=1e-4)
  first = av_offset.lower_half(clip.frames[3], clip.crops[3], 96)
  assert first.shape == (48, 96, 3)
  same, _ = expert.vectors(av_offset.correct_offset(clip, -3, 0.0))
  np.testing.assert_allclose(same, face[3:], atol=1e-4)


EXPERT = ROOT / 'lipsync_jax/assets/expert.safetensors'


def clip_of(path):
  """The longest clip of a video."""
  from lipsync_jax.faces import detector

  with detector.FaceDetector(workers=1) as finder:
    seen = extract.analyze(video_reader.probe_video(path), finder)
  made = [
    found
    for found in results(path, seen, single=False)
    if isinstance(found, Clip)
  ]
  return max(made, key=lambda found: len(found.frames))


def delayed(clip, seconds):
  """The clip with its sound later by so much."""
  count = round(abs(seconds) * 16000)
  wave = np.pad(clip.wave, (count, count))
  wave = wave[2 * count :] if seconds < 0 else wave[: -2 * count]
  wave = wave[: len(clip.wave)]
  mel = log_mel(wave / np.float32(32768))
  return dataclasses.replace(clip, wave=wave, mel=mel)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['grid_pwij3p.mpg', 'retalking3.mp4', 'hd_1080p30.mp4']
)
def test_our_expert_finds_200_ms(shared, name):
  expert = av_offset.OffsetEstimator(str(EXPERT))
  clip = clip_of(shared / 'media/clips' / name)
  before, _ = expert.offset(clip)
  for seconds in (-0.2, 0.2):
    after, _ = expert.offset(delayed(clip, seconds))
    assert abs(after - before - 25 * seconds) <= 1


@pytest.mark.slow
def test_our_expert_tells_published_offsets_apart(shared):
  """The sound of these three is later by 0, 5 and 12 frames."""
  expert = av_offset.OffsetEstimator(str(EXPERT))
  found = [
    expert.offset(
      clip_of(shared / f'media/clips/syncnet_test_offset_{late}.avi')
    )[0]
    for late in (0, 5, 12)
  ]
  assert [late - found[0] for late in found] == [0, 5, 12]
