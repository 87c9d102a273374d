"""sync on real footage: every clip at hand, a photo, the project's seed.

The network is tiny and untrained: it is the rest that is on trial.
"""

import json

import av
import clips
import jax
import numpy as np
import pytest

from lipsync_jax import models, sync, weights

WIDTH = 0.125


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """An untrained generator an eighth as wide, as a file."""
  module = models.build('generator', width=WIDTH)
  zeros = models.inputs('generator')
  variables = module.init(jax.random.key(0), *zeros, train=False)
  path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
  numpy = jax.tree.map(np.asarray, dict(variables))
  net = weights.Weights('generator', 96, WIDTH, numpy, 'an untrained network')
  weights.save(path, net)
  return path


def run(face, voice, out, tiny, **options):
  report = out.with_suffix('.json')
  words = ['--face', face, '--audio', voice, '--outfile', out, '--quiet']
  words += ['--checkpoint-path', tiny, '--report', report]
  for name, value in options.items():
    words += [f'--{name}', value]
  assert sync.main([str(w) for w in words]) == 0
  return json.loads(report.read_text())


def footage(shared):
  folders = [shared / 'media' / 'clips', shared / 'media' / 'silent']
  return sorted(p for folder in folders for p in folder.iterdir())


def check(out, report, seconds):
  times, _ = clips.read_video(out)
  rate = report['frames'] / seconds
  assert len(times) == report['frames'] and report['frames_spoken'] > 0
  assert abs(float(times[-1]) + 1 / rate - seconds) <= 1.5 / rate
  with av.open(str(out)) as file:
    sound = file.streams.audio[0]
    assert float(sound.duration * sound.time_base) == pytest.approx(
      seconds, abs=0.06
    )


def test_a_photo_speaks(shared, tmp_path, tiny):
  seed = shared / 'media' / 'seed'
  photo = tmp_path / 'photo.jpg'
  with av.open(str(seed / 'mona7s.mp4')) as file:
    next(file.decode(video=0)).to_image().save(photo)
  out = tmp_path / 'out.mp4'
  report = run(photo, seed / 'guangquan.m4a', out, tiny, preview=1.2)
  assert report['frames'] == 30 and report['frames_spoken'] == 30
  check(out, report, 1.2)


def test_nobody_of_that_name(shared, tmp_path, tiny, capsys):
  seed = shared / 'media' / 'seed'
  words = ['--face', seed / 'mona7s.mp4', '--audio', seed / 'guangquan.m4a']
  words += ['--outfile', tmp_path / 'o.mp4', '--checkpoint_path', tiny]
  words += ['--person', '3', '--preview', '0.2', '--quiet']
  assert sync.main([str(w) for w in words]) == 1
  error = capsys.readouterr().err
  assert error.count('\n') == 1 and '--person' in error and '0:' in error
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_clip_speaks(shared, tmp_path, tiny):
  """Five seconds of every clip, whatever its container, rate and people."""
  voices = sorted((shared / 'media' / 'speech').iterdir())
  for i, face in enumerate(footage(shared)):
    out = tmp_path / f'{face.name}.mp4'
    report = run(face, voices[i % len(voices)], out, tiny, preview=5)
    check(out, report, 5)
    assert report['frames_spoken'] > 0.5 * report['frames'], face.name


@pytest.mark.slow
def test_a_second_run_skips_detection(shared, tmp_path, tiny, monkeypatch):
  clip = shared / 'media' / 'clips' / 'grid_bbaf2n.mpg'
  voice = shared / 'media' / 'speech' / 'english.wav'
  first = run(clip, voice, tmp_path / 'a.mp4', tiny, preview=2)

  def refuse(*_):
    raise AssertionError('detection ran again')

  monkeypatch.setattr('lipsync_jax.detect.analyse', refuse)
  second = run(clip, voice, tmp_path / 'b.mp4', tiny, preview=2)
  assert first['frames_spoken'] == second['frames_spoken']
  a, b = (clips.read_video(tmp_path / n)[1] for n in ('a.mp4', 'b.mp4'))
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)
