"""The default renderer from files to files."""

import dataclasses
import pathlib
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax import sync
from lipsync_jax.inference import segments
from tests.helpers import test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO, SPEECH = ROOT / 'examples/mona.jpg', ROOT / 'examples/jfk.flac'


def run(face, speech, out, **options):
  return sync.sync(str(face), str(speech), str(out), quiet=True, **options)


def test_photo_speaks_and_only_its_lower_face_changes(tmp_path):
  out = tmp_path / 'out.mp4'
  report = run(PHOTO, SPEECH, out, preview=2, crf=0)
  assert report['engine'] == 'mesh warp' and report['frames'] == 50
  assert len(report['weights']['sha256']) == 64
  _, planes = test_clips.read_video(out)
  stack = np.stack(planes).astype(int)
  moving = np.ptp(stack, axis=0) > 0  # the encoding is lossless
  rows, columns = np.flatnonzero(moving.any(1)), np.flatnonzero(moving.any(0))
  h, w = moving.shape
  assert 0.0005 * moving.size < moving.sum() < 0.2 * moving.size
  # The painting's face ends above the lower half of the picture's width.
  assert np.ptp(rows) < 0.45 * h and np.ptp(columns) < 0.6 * w


def test_photo_with_an_open_mouth_lends_its_own(monkeypatch):
  from lipsync_jax.faces import mesh
  from lipsync_jax.rendering import chosen_frames, mesh_renderer, mouth_reader
  from tests.faces import mesh_test
  from tests.rendering import mesh_warp_test

  pose = mesh_warp_test.POSE
  found = {}
  for gap in (0.0, 0.15):
    analysis = mesh_test.analysis_of([gap], [pose])
    face = mesh_test.trajectory_of(analysis)
    video = dataclasses.replace(mesh_warp_test.video_of(), still=True)
    monkeypatch.setattr(
      chosen_frames.decoder,
      'read_chosen',
      lambda *_: (mesh_warp_test.picture() for _ in range(1)),
    )
    basis = (mesh_test.opened(0.1) - mesh_test.opened(0.0))[None]
    reader = mouth_reader.make_reader(face, basis)
    chosen_frames.visit_frames(
      video, [Fraction(0)], [(reader.frames, reader.visit)]
    )
    found[gap] = mesh_renderer.build_speaker(
      reader, float(video.rate), np.zeros((30, 1), np.float32), basis
    )
  assert not found[0.0].references and len(found[0.15].references) == 1
  assert not found[0.15].schedule.any() and not found[0.15].share.any()
  assert len(found[0.15].references[0].points) == mesh.NUM_POINTS


def test_strength_zero_is_the_source_to_the_bit(tmp_path):
  out = tmp_path / 'out.mp4'
  run(PHOTO, SPEECH, out, preview=1, crf=0, strength=0.0)
  _, planes = test_clips.read_video(out)
  for plane in planes[1:]:
    np.testing.assert_array_equal(plane, planes[0])


def test_more_strength_moves_more(tmp_path):
  spread = []
  for strength in (0.5, 1.0, 1.6):
    out = tmp_path / f'{strength}.mp4'
    run(PHOTO, SPEECH, out, preview=2, strength=strength)
    _, planes = test_clips.read_video(out)
    spread.append(np.stack(planes).std(0).mean())
  assert spread[0] < spread[1] < spread[2]


def test_resumed_output_equals_the_whole(tmp_path, monkeypatch):
  monkeypatch.setattr(segments, 'SEGMENT_FRAMES', 20)
  whole, parts = tmp_path / 'whole.mp4', tmp_path / 'parts.mp4'
  run(PHOTO, SPEECH, whole, preview=2, crf=0)
  run(PHOTO, SPEECH, parts, preview=2, crf=0, resume=True)
  a, b = (test_clips.read_video(path) for path in (whole, parts))
  assert a[0] == b[0]
  for x, y in zip(a[1], b[1], strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_every_clip_speaks(shared, tmp_path):
  """Every clip, whatever its container, rate, size and number of people."""
  voices = sorted((shared / 'media' / 'speech').iterdir())
  faces = [
    path
    for folder in ('clips', 'silent')
    for path in sorted((shared / 'media' / folder).iterdir())
  ]
  for i, face in enumerate(faces):
    out = tmp_path / f'{face.name}.mp4'
    report = run(face, voices[i % len(voices)], out, preview=1)
    assert report['engine'] == 'mesh warp'
    assert report['speakers'][0]['frames_spoken'] > 0.5 * report['frames']
    assert len(test_clips.read_video(out)[0]) == report['frames'], face.name


@pytest.mark.slow
def test_two_people_speak_and_runs_are_equal(shared, tmp_path):
  media = shared / 'media'
  options = {
    'audio_for': [
      ('left', str(media / 'speech/english.wav')),
      ('right', str(media / 'speech/german.wav')),
    ],
    'preview': 1,
  }
  outputs = []
  for name in ('a.mp4', 'b.mp4'):
    out = tmp_path / name
    report = run(media / 'clips/two_people_001.avi', '', out, **options)
    assert len(report['speakers']) == 2
    outputs.append(out.read_bytes())
  assert outputs[0] == outputs[1]


@pytest.mark.slow
def test_mouth_is_as_sharp_as_the_source(shared, tmp_path):
  """Sharpness within 20 % on a clip of GRID under foreign words."""
  clips = shared / 'media' / 'clips'
  face, out = clips / 'grid_swiz3n.mpg', tmp_path / 'out.mp4'
  run(face, clips / 'grid_lbbc2a.mpg', out)
  energies = []
  for path in (face, out):
    planes = test_clips.read_video(path)[1]
    mouth = np.stack(planes[10:60]).astype(float)[:, 180:250, 130:220]
    energies.append(np.abs(np.diff(mouth, axis=1)).mean())
  assert 0.8 < energies[1] / energies[0] < 1.2
