"""The length `remap`: the whole video, slower or faster, under the sound."""
# ruff: noqa: F811  (a fixture of another module)

import numpy as np
import pytest

from lipsync_jax import sync
from lipsync_jax.inference.options import SyncError, make_options
from lipsync_jax.rendering import chosen_frames
from tests.helpers import rich_files, test_clips
from tests.inference.sync_test import saw_tooth, stand_in  # noqa: F401

COUNT = 25
REMAP = {'when_audio_longer': 'remap', 'when_video_longer': 'remap'}


def film(path):
  """One second, each frame brighter than the last."""
  shades = np.round(np.linspace(20, 230, COUNT)).astype(np.uint8)
  return test_clips.write_video(
    path,
    test_clips.steady(1, COUNT),
    (64, 48),
    lambda i: np.full((48, 64, 3), shades[i]),
  )


def shown(tmp_path, face, seconds, **options) -> tuple[list, list[int]]:
  """Times of the output's frames, and the source frames that they show."""
  voice = test_clips.write_wav(tmp_path / 'v.wav', saw_tooth(seconds))
  given = {'box': (8, 40, 8, 40), 'checkpoint_path': 'stand-in', 'crf': 4}
  sync.sync(
    face, voice, tmp_path / 'o.mp4', since=100, quiet=True, **given, **REMAP,
    **options,
  )  # fmt: skip
  sources = [x.mean() for x in test_clips.read_video(face)[1]]
  times, lumas = test_clips.read_video(tmp_path / 'o.mp4')
  found = [int(np.argmin(np.abs(x.mean() - sources))) for x in lumas]
  return times, found


@pytest.mark.parametrize('seconds', [0.2, 0.48, 1.6, 3.0])
@pytest.mark.parametrize('resume', [False, True])
def test_speed(tmp_path, stand_in, monkeypatch, seconds, resume):
  monkeypatch.setattr(chosen_frames, 'MAX_SKIP', 3)  # some frames are sought
  face = film(tmp_path / 'f.mp4')
  times, found = shown(tmp_path, face, seconds, resume=resume)
  count = round(seconds * COUNT)
  assert [round(float(time) * COUNT) for time in times] == [*range(count)]
  assert found == [(2 * k + 1) * COUNT // (2 * count) for k in range(count)]


def test_what_has_times_of_its_own_is_left_behind(tmp_path, stand_in, capsys):
  face = rich_files.rich_film(tmp_path / 'f.mkv')
  voice = test_clips.write_wav(tmp_path / 'v.wav', saw_tooth(0.5))
  given = {'box': (8, 40, 8, 40), 'checkpoint_path': 'stand-in'}
  report = sync.sync(face, voice, tmp_path / 'o.mkv', quiet=True, **given)
  assert not any('speed' in one for one in report['left_behind'])
  report = sync.sync(
    face, voice, tmp_path / 'o.mkv', quiet=True, **given, **REMAP
  )
  lost = [one for one in report['left_behind'] if 'speed changes' in one]
  assert any('chapters' in one for one in lost)
  assert any('subtitles' in one for one in lost)
  import av

  with av.open(str(tmp_path / 'o.mkv')) as file:
    assert not file.chapters()
    assert [s.type for s in file.streams].count('subtitle') == 0
    assert file.metadata.get('title') == rich_files.TAGS['title']


@pytest.mark.parametrize(
  'options', [{'preview': 2}, {'keep_background': -6.0}, {'compat': True}]
)
def test_options_that_make_no_sense_are_refused(options):
  given = make_options(face='f', audio='a', outfile='o', **REMAP, **options)
  with pytest.raises(SyncError, match='expected no remap') as caught:
    given.validate_values()
  assert '\n' not in str(caught.value)
