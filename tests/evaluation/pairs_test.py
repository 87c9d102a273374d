"""Pairs of faces and sound files, silent faces, and expected closures."""

import numpy as np
import pytest

from lipsync_jax.evaluation import (
  cases,
  cli,
  clip,
  runner,
  systems,
  video_clip,
)
from lipsync_jax.media import decoder
from lipsync_jax.media.container import MediaError
from tests import imports_test
from tests.helpers import test_clips


def subject(path):
  return cases.Subject('a', 'a', _unused, _unused, path)


def _unused():
  raise AssertionError


def test_pairs_alone_mean_cross_and_renderers_are_chosen():
  pairs = ['--out', 'o', '--pairs', 'l']
  chosen = runner.chosen_protocols
  assert chosen(cli.parse_arguments(pairs)) == ['cross']
  assert chosen(cli.parse_arguments(pairs[:2])) == list(cli.PROTOCOLS)
  both = [*pairs, '--protocol', 'silence', 'cross']
  assert chosen(cli.parse_arguments(both)) == ['silence', 'cross']
  args = cli.parse_arguments([*pairs, '--renderer', 'mesh'])
  for path, names in (('/a.mp4', ['mesh renderer']), ('', [])):
    case = cases.EvalCase('cross', 'a', subject(path), subject(path))
    rows = runner.own_systems(args, [case])
    assert [row.name for row in rows] == names


def test_faces_of_pairs_are_taken_by_other_protocols(tmp_path):
  for name in ('face.mp4', 'a.wav', 'b.wav'):
    (tmp_path / name).touch()
  pairs = tmp_path / 'pairs.txt'
  pairs.write_text('face.mp4 a.wav\nface.mp4 b.wav\n')
  words = ['--out', 'o', '--pairs', str(pairs), '--root', str(tmp_path)]
  words += ['--protocol', 'cross', 'silence']
  found = runner.load_cases(cli.parse_arguments(words))
  assert [(c.protocol, c.name) for c in found] == [
    ('cross', 'face < a'), ('cross', 'face < b'), ('silence', 'face'),
  ]  # fmt: skip
  assert [c.partner.is_sound for c in found[:2]] == [True, True]
  assert not found[0].subject.is_sound


def test_source_without_sound_is_silent(tmp_path):
  path = test_clips.write_video(
    tmp_path / 'still.mp4', test_clips.steady(0.8, 25), (96, 64)
  )
  video = decoder.probe_video(str(path))
  face = video_clip.FaceLocation(video, np.tile([48.0, 32, 30, 40, 0], (20, 1)))
  found = video_clip.load_source_clip(str(path), face)
  assert len(found) == 20 and found.late == 0
  assert found.wave.shape == (20 * 640,) and not found.wave.any()
  with pytest.raises(MediaError):  # an output must have its sound
    video_clip.load_video_clip(str(path), face)


def test_expected_closures_are_those_of_the_speaker():
  own, labials, foreign = (np.eye(3, dtype=bool)[i] for i in range(3))

  class Context(systems.CaseContext):
    own_closures, own_labials, foreign_closures = own, labials, foreign

    def __init__(self, case):
      self.case = case

  face = subject('/v.mp4')
  sound = subject('/s.WAV')
  kinds = ('truth', 'shifted', 'foreign', 'mesh')
  expected = {
    ('reconstruction', face): (None, own, foreign, own),
    ('cross', face): (None, own, foreign, foreign),
    ('cross', sound): (labials, labials, foreign, foreign),
    ('silence', face): (None, None, None, None),
  }
  for (protocol, partner), closures in expected.items():
    context = Context(cases.EvalCase(protocol, 'x', face, partner))
    for kind, wanted in zip(kinds, closures, strict=True):
      system = systems.System(kind, kind)
      assert runner.expected_closures(system, context) is wanted


def test_results_of_other_code_have_other_keys(monkeypatch):
  wave = np.zeros(20 * 640, np.int16)
  pictures = (np.zeros((8, 8, 3), np.uint8),) * 20
  crops = np.tile([4.0, 4, 8, 8, 0], (20, 1))

  class Context(systems.CaseContext):
    truth = clip.EvalClip('a', 'a', pictures, crops, wave)

    def __init__(self):
      face = subject('/v.mp4')
      self.case = cases.EvalCase('reconstruction', 'x', face, None)

  def keys():
    rows = (systems.System('mesh', 'mesh'), systems.System('truth', 'truth'))
    return [runner.result_key(row, Context(), {}) for row in rows]

  before = keys()
  assert keys() == before
  monkeypatch.setattr(systems, 'rendering_code', lambda: 'another')
  after = keys()
  assert after[0] != before[0] and after[1] == before[1]


def test_rendering_code_is_that_of_all_packages_below_inference():
  """A package that is split off must still make old pictures invalid."""
  below = set(imports_test.PACKAGES['inference'].split())
  # Errors and files do not draw; weights have a hash of their own.
  assert set(systems.RENDERING) == below - {'common', 'weights'} | {'inference'}
