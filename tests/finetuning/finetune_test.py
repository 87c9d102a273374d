"""Profiles: a person's own speech, the fit, the command and `--profile`."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from lipsync_jax import __main__ as command
from lipsync_jax import audio, sync
from lipsync_jax.common import disk_array
from lipsync_jax.data.motion import MotionDataset
from lipsync_jax.faces import mesh
from lipsync_jax.finetuning import fit, own_speech, profile
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.inference.report import progress_bar
from lipsync_jax.models import articulator
from lipsync_jax.rendering import mesh_renderer
from lipsync_jax.weights import articulation
from tests.helpers import test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO, SPEECH = ROOT / 'examples/mona.jpg', ROOT / 'examples/jfk.flac'


def spoken_mel():
  """The log-mel of the example speech, [80 t]."""
  from lipsync_jax.media import decoder

  sound = decoder.probe_audio(str(SPEECH))
  blocks = audio.resample_blocks(sound.rate, decoder.read_audio(sound))
  return audio.stream_log_mel(blocks)


def other_person(base):
  """An articulator without its first component, and the others doubled."""
  factors = np.full(articulator.NUM_COEFFICIENTS, 2.0, np.float32)
  factors[0] = 0

  def change(path, x):
    return x * factors if path[0].key == 'output' else x

  params = base.variables['params']
  changed = jax.tree_util.tree_map_with_path(change, params)
  return dataclasses.replace(base, variables={'params': changed})


def speech_of(person, mel):
  """Segments of the motion that an articulator predicts from a mel."""
  predict = articulator.build_articulator(person.variables, person.width)
  count = mel.shape[1] // 16 * 5
  times = (np.arange(count) + 0.5) / audio.FPS
  found = mesh_renderer.predict_coefficients(
    disk_array.to_disk(mel.T), times, predict
  )
  gaps = found @ mesh.lip_gaps(person.basis)
  motion = own_speech.Motion(
    np.ones(count, bool),
    found.astype(np.float32),
    gaps.astype(np.float32),
    np.zeros(gaps.shape[1], np.float32),
  )
  voiced = np.ones(count, bool)
  return own_speech.cut_segments(motion, mel, voiced, 0), motion


@pytest.fixture(scope='module')
def base():
  return articulation.load_articulation()


@pytest.fixture(scope='module')
def mel():
  return spoken_mel()


@pytest.mark.parametrize('seed', range(20))
def test_segments_are_known_voiced_and_on_the_grid(seed):
  rng = np.random.default_rng(seed)
  known = np.repeat(rng.random(12) < 0.8, rng.integers(1, 200, 12))
  voiced = np.repeat(rng.random(9) < 0.7, rng.integers(1, 250, 9))
  shift = int(rng.integers(-8, 9))
  before = 0
  for first, end in own_speech.segment_starts(known, voiced, shift):
    assert before <= first and first % own_speech.GRID == 0
    assert own_speech.MIN_SEGMENT <= end - first <= own_speech.MAX_SEGMENT
    assert (end - first) % own_speech.GRID == 0
    assert first + shift >= 0 and known[first + shift : end + shift].all()
    assert len(known[first + shift : end + shift]) == end - first
    assert end <= len(voiced)
    assert voiced[first:end].mean() >= own_speech.MIN_VOICED
    before = end


def test_segments_pair_each_frame_with_its_sound(base, mel):
  whole, motion = speech_of(base, mel)
  moved = own_speech.Motion(
    np.pad(motion.known, (3, 0)),
    np.pad(motion.coefficients, ((3, 0), (0, 0))),
    np.pad(motion.gaps, ((3, 0), (0, 0))),
    motion.neutral_gaps,
  )
  voiced = np.ones(len(motion.known), bool)
  late = own_speech.cut_segments(moved, mel, voiced, 3)
  assert isinstance(late, MotionDataset) and len(whole) == len(late) > 2
  np.testing.assert_array_equal(late.coefficients, whole.coefficients)
  assert (16 * np.diff(whole.frames) == 5 * np.diff(whole.columns)).all()
  start = round(float(whole.keys[1].split()[0]) * audio.COLUMNS_PER_SECOND)
  low, high = whole.columns[1:3]
  np.testing.assert_array_equal(
    whole.mel[low:high], mel.T[start : start + high - low].astype(np.float16)
  )


@pytest.mark.parametrize('late', [-4, 0, 6])
def test_the_shift_of_picture_and_sound_is_found(base, mel, late):
  _, motion = speech_of(base, mel)
  predicted = motion.gaps.mean(1)
  moved = dataclasses.replace(motion, gaps=np.roll(motion.gaps, late, 0))
  voiced = np.ones(len(predicted), bool)
  shift, correlation = own_speech.find_shift(moved, predicted, voiced)
  assert shift == late and correlation > 0.98


def test_the_lips_of_a_listener_do_not_go_with_the_sound(base, mel):
  _, motion = speech_of(base, mel)
  rng = np.random.default_rng(0)
  slow = np.cumsum(rng.normal(0, 0.01, motion.gaps.shape), 0)
  slow -= np.linspace(0, 1, len(slow))[:, None] * slow[-1]
  still = dataclasses.replace(motion, gaps=slow.astype(np.float32))
  voiced = np.ones(len(motion.known), bool)
  _, correlation = own_speech.find_shift(still, motion.gaps.mean(1), voiced)
  assert correlation < own_speech.MIN_CORRELATION


def test_some_clips_are_those_of_the_whole(base, mel):
  whole, _ = speech_of(base, mel)
  part = fit.take(whole, np.array([2, 0]))
  assert part.keys == (whole.keys[2], whole.keys[0])
  first = slice(*whole.frames[2:4])
  np.testing.assert_array_equal(
    part.coefficients[: part.frames[1]], whole.coefficients[first]
  )
  np.testing.assert_array_equal(
    part.mel[part.columns[1] :], whole.mel[: whole.columns[1]]
  )


def test_a_fit_learns_the_way_of_another_person(base, mel, monkeypatch):
  monkeypatch.setattr(fit, 'STEPS', 16)
  other = other_person(base)
  whole, _ = speech_of(other, mel)
  ticks = []
  found = fit.fit_articulator(base, whole, 0, lambda: ticks.append(1))
  assert len(ticks) == 2 * fit.STEPS
  assert found.after > found.before + 0.02


def test_a_fit_depends_on_its_seed_alone(base, mel, monkeypatch):
  monkeypatch.setattr(fit, 'STEPS', 2)
  whole, _ = speech_of(other_person(base), mel)
  first, second, third = (
    np.concatenate([x.ravel() for x in jax.tree.leaves(variables)])
    for variables in (
      fit.train(base, whole, s, lambda: None) for s in (0, 0, 1)
    )
  )
  np.testing.assert_array_equal(first, second)
  assert (first != third).any()


def test_a_fit_that_does_not_help_is_refused(base, mel, monkeypatch, tmp_path):
  whole, _ = speech_of(base, mel)
  speech = own_speech.OwnSpeech(whole, 2, 0.9)
  monkeypatch.setattr(own_speech, 'read_own_speech', lambda *_: speech)
  values = {'variables': base.variables, 'before': 0.9}
  out, video = tmp_path / 'p.safetensors', tmp_path / 'v.mp4'
  video.write_bytes(b'')
  for after in (0.89, 0.95):
    found = fit.Fit(after=after, **values)
    monkeypatch.setattr(fit, 'fit_articulator', lambda *_, f=found: f)
    if after < 0.9:
      with pytest.raises(own_speech.FinetuningError, match=r'0\.90 before'):
        profile.finetune(video, out)
      assert not out.exists()
    else:
      facts = profile.finetune(video, out)
      assert facts['after'] == 0.95 and facts['shift'] == 2 / 25
  kept = articulation.load_articulation(out)
  assert kept.meta == {'profile': facts, 'base': base.sha256}
  assert kept.sha256 == base.sha256  # the same tensors


def test_a_profile_moves_the_lips(base, tmp_path):
  path = tmp_path / 'p.safetensors'
  articulation.save_articulation(path, other_person(base))
  reports, frames = [], []
  for chosen in (None, path):
    out = tmp_path / f'{bool(chosen)}.mp4'
    reports.append(
      sync.sync(
        str(PHOTO), str(SPEECH), str(out), preview=1, quiet=True, profile=chosen
      )
    )
    frames.append(np.stack(test_clips.read_video(out)[1]).astype(int))
  assert np.abs(frames[0] - frames[1]).max() > 20
  first, second = (report['weights']['sha256'] for report in reports)
  assert first == base.sha256 != second
  networks = NetworkCache()
  assert networks.articulation(path).sha256 == second
  assert networks.articulation() is networks.articulation(None)


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['finetune', str(PHOTO)], 'found a picture'),
    (['finetune', str(SPEECH)], 'jfk.flac'),
    (['finetune', 'none.mp4'], 'no file at none.mp4'),
    (['finetune', str(PHOTO), '--out', 'x.txt'], '.safetensors'),
    (['finetune', str(PHOTO), '--out', 'no/x.safetensors'], 'create it'),
    (['finetune', str(PHOTO), '--seconds', '0'], 'more than 0'),
    (['--profile', 'none'], '--profile: expected a file'),
    (['--profile', str(PHOTO)], 'safetensors'),
    (['--profile', str(PHOTO), '--compat'], 'mesh renderer'),
  ],
)
def test_refusals_are_one_line(words, said, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if words[0] == 'finetune':
    words = [*words, '--quiet']
    if '--out' not in words:
      words += ['--out', str(tmp_path / 'p.safetensors')]
  else:
    words = ['--face', str(PHOTO), '--audio', str(SPEECH), *words]
  assert command.main(words) in (1, 2)
  error = capsys.readouterr().err.strip()
  assert said in error and len(error.splitlines()) == 1
  assert not list(tmp_path.glob('*.safetensors'))


@pytest.mark.slow
def test_own_speech_of_a_rendered_video(tmp_path):
  """The motion that the renderer drew is measured, at its time."""
  video = tmp_path / 'video.mp4'
  sync.sync(str(PHOTO), str(SPEECH), str(video), quiet=True, crf=10)
  networks = NetworkCache()
  found = own_speech.read_own_speech(
    SyncOptions(str(video)),
    60.0,
    networks,
    lambda label, total: progress_bar(True, label, total),
  )
  networks.close()
  assert found.seconds > 9 and abs(found.shift) <= 1
  assert found.correlation > 0.7
