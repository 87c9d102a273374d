"""What a source has besides its picture, through the whole command."""
# ruff: noqa: F811  (a fixture of another module)

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from lipsync_jax import sync
from lipsync_jax.inference import carryover, pipeline
from lipsync_jax.inference.options import SyncError, SyncOptions
from lipsync_jax.media import decoder, video_writer
from tests.helpers import rich_files, test_clips
from tests.inference.sync_test import saw_tooth, stand_in  # noqa: F401

GIVEN = {
  'box': (8, 56, 8, 56),
  'crf': 4,
  'checkpoint_path': 'stand-in',
  'no_noise_gate': True,  # the sound is a tone
}


def run(tmp_path, face, name, seconds=3, **options):
  voice = test_clips.write_wav(tmp_path / 'voice.wav', saw_tooth(seconds))
  return sync.sync(face, voice, tmp_path / name, **(GIVEN | options))


def test_extras_come_through_and_one_note_names_the_rest(
  tmp_path,
  stand_in,
  capsys,
):
  face = rich_files.rich_film(tmp_path / 'f.mp4')
  report = run(tmp_path, face, 'o.mp4', quiet=True)
  got = rich_files.read_extras(tmp_path / 'o.mp4')
  assert (
    report['left_behind'] == [] and 'left behind' not in capsys.readouterr().err
  )
  assert got['tags']['title'] == rich_files.TAGS['title']
  assert len(got['lines']) == len(got['chapters']) == 3
  assert len(got['sounds']) == 2 and got['covers'] == 1
  # The first track is the new voice, the second the source's second one.
  assert abs(rich_files.pitch(tmp_path / 'o.mp4', 1)[0] - 1000) < 20
  report = run(tmp_path, face, 'o.avi')
  notes = [
    line
    for line in capsys.readouterr().err.replace('\r', '\n').splitlines()
    if 'left behind' in line
  ]
  assert len(notes) == 1 and 'chapters' in notes[0] and 'cover art' in notes[0]
  assert all(item in notes[0] for item in report['left_behind'])


def test_a_note_names_the_alpha_of_an_animated_avif(tmp_path, stand_in, capsys):
  pictures = []
  for i in range(4):
    pixels = np.full((64, 64, 4), 60 + 30 * i, np.uint8)
    pixels[:20, :, 3] = 0
    pictures.append(Image.fromarray(pixels))
  face = tmp_path / 'f.avif'
  more = {'save_all': True, 'append_images': pictures[1:], 'duration': 80}
  pictures[0].save(face, **more)
  report = run(tmp_path, face, 'o.webm', seconds=1)
  assert report['left_behind'] == ['alpha of an animated AVIF']
  assert 'alpha of an animated AVIF' in capsys.readouterr().err
  opaque = [one.convert('RGB') for one in pictures]
  opaque[0].save(face, **(more | {'append_images': opaque[1:]}))
  assert run(tmp_path, face, 'o.webm', seconds=1)['left_behind'] == []


def test_a_note_names_hdr_that_the_output_lacks(tmp_path):
  face = test_clips.write_video(
    tmp_path / 'f.mp4',
    test_clips.steady(0.2, 25),
    (64, 64),
    lambda i: np.full((64, 64, 3), 99, np.uint8),
  )
  plain = decoder.probe_video(face)
  deep = dataclasses.replace(plain.color, depth=10)
  hdr = dataclasses.replace(
    plain, color=deep, pix_fmt='yuv420p10le', light='1000,400'
  )
  options = SyncOptions(face=str(face), outfile='', quiet=True)
  left = {}
  for suffix in ('.webm', '.mp4', '.mkv', '.avi'):
    video = dataclasses.replace(plain, light=hdr.light)
    if suffix in ('.mp4', '.mkv'):
      video = hdr
    if suffix == '.avi':
      video = plain
    with video_writer.VideoWriter(tmp_path / f'o{suffix}', video) as writer:
      left[suffix] = carryover.carry(
        options, video, None, writer, Fraction(1), {}
      )
      for frame in decoder.read_frames(plain):
        if video is hdr:
          planes = tuple(x.astype(np.uint16) * 4 for x in frame.planes)
          frame = dataclasses.replace(frame, planes=planes)
        writer.write(frame)
  assert 'HDR' in left['.webm'][0]
  assert left['.mp4'] == left['.mkv'] == left['.avi'] == []


def test_strip_leaves_all_of_it_out(tmp_path, stand_in, capsys):
  face = rich_files.rich_film(tmp_path / 'f.mp4')
  report = run(tmp_path, face, 'o.mp4', strip=True)
  got = rich_files.read_extras(tmp_path / 'o.mp4')
  assert len(got['sounds']) == 1
  assert not (got['lines'] or got['chapters'] or got['covers'])
  assert not got['tags'].keys() & {'title', 'artist', 'timecode'}
  # Only the record that the output is generated, which --strip keeps.
  assert json.loads(got['tags']['comment']) == report['provenance']
  assert report['left_behind'] == []
  assert 'left behind' not in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
def test_segments_give_the_same_extras(
  tmp_path,
  stand_in,
  monkeypatch,
  suffix,
):
  monkeypatch.setattr(pipeline.segments, 'SEGMENT_FRAMES', 30)
  face = rich_files.rich_film(tmp_path / 'f.mkv')
  plain = run(tmp_path, face, f'a{suffix}', quiet=True)
  again = run(tmp_path, face, f'b{suffix}', quiet=True, resume=True)
  one, other = (
    rich_files.read_extras(tmp_path / f'{name}{suffix}') for name in 'ab'
  )
  assert one == other and len(one['lines']) == 3
  assert plain['left_behind'] == again['left_behind']


def test_a_preview_has_what_lies_within(tmp_path, stand_in):
  face = rich_files.rich_film(tmp_path / 'f.mp4')
  report = run(tmp_path, face, 'o.mp4', preview=1.5, quiet=True)
  got = rich_files.read_extras(tmp_path / 'o.mp4')
  assert [line[2] for line in got['lines']] == ['first', 'second']
  assert [chapter[2] for chapter in got['chapters']] == ['One', 'Two']
  assert abs(rich_files.pitch(tmp_path / 'o.mp4', 1)[1] - 1.5) < 0.1
  assert '1 of 3' in ' '.join(report['left_behind'])


def test_a_repeated_video_has_its_extras_once(tmp_path, stand_in):
  face = rich_files.rich_film(tmp_path / 'f.mp4')
  report = run(tmp_path, face, 'o.mp4', seconds=7, quiet=True)
  got = rich_files.read_extras(tmp_path / 'o.mp4')
  assert [line[2] for line in got['lines']] == ['first', 'second', 'third']
  assert abs(rich_files.pitch(tmp_path / 'o.mp4', 1)[1] - 3) < 0.1
  assert 'repeats' in ' '.join(report['left_behind'])


def cutout(path):
  rgba = np.zeros((64, 64, 4), np.uint8)
  rgba[...] = (0, 255, 0, 0)  # hidden green
  rgba[4:60, 4:60] = (128, 128, 128, 255)
  Image.fromarray(rgba).save(path)
  return path


@pytest.mark.parametrize('suffix', ['.webm', '.mov'])
@pytest.mark.parametrize('resume', [False, True])
def test_a_cutout_stays_transparent(
  tmp_path,
  stand_in,
  suffix,
  resume,
  monkeypatch,
):
  monkeypatch.setattr(pipeline.segments, 'SEGMENT_FRAMES', 10)
  face = cutout(tmp_path / 'f.png')
  report = run(
    tmp_path, face, f'o{suffix}', seconds=1, quiet=True, resume=resume
  )
  assert report['left_behind'] == []
  video = decoder.probe_video(tmp_path / f'o{suffix}')
  frames = list(decoder.read_frames(video))
  assert video.alpha and len(frames) == 25
  most = 2**video.color.depth - 1
  for frame in frames:
    assert (frame.alpha[:4] == 0).all() and (
      frame.alpha[8:56, 8:56] == most
    ).all()
  lumas = [float(f.planes[0][30:34, 30:34].mean()) for f in frames]
  assert np.ptp(lumas) > 20  # it speaks


@pytest.mark.parametrize(
  'color, luma', [(None, 16), ('#ffffff', 235), ('808080', 126)]
)
def test_a_cutout_is_laid_over_a_color(tmp_path, stand_in, color, luma):
  face = cutout(tmp_path / 'f.png')
  report = run(
    tmp_path, face, 'o.mp4', seconds=1, quiet=True, background=color,
    report=str(tmp_path / 'r.json'),
  )  # fmt: skip
  _, lumas = test_clips.read_video(tmp_path / 'o.mp4')
  assert abs(float(lumas[0][:3].mean()) - luma) < 2
  left = report['left_behind']
  assert json.loads((tmp_path / 'r.json').read_text())['left_behind'] == left
  assert ('alpha' in ' '.join(left)) == (color is None)


@pytest.mark.parametrize('color', ['green', '#12345', '#12345g', ''])
def test_a_wrong_color_is_one_line(tmp_path, color):
  face = cutout(tmp_path / 'f.png')
  with pytest.raises(SyncError, match='--background: expected a color'):
    run(tmp_path, face, 'o.mp4', seconds=1, background=color)
