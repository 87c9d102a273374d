"""sync on real footage: every clip at hand, a photo, the project's seed.

The network is tiny and untrained: it is the rest that is on trial.

LIPSYNC_JAX_SECONDS=5 sets the seconds of every clip (default 1).
"""

import json
import os
import pickle

import av
import jax
import numpy as np
import pytest

from lipsync_jax import sync
from lipsync_jax.inference import network_cache
from lipsync_jax.weights import writers
from tests.helpers import golden_weights, test_clips, untrained_weights

WIDTH = 0.125
SECONDS = float(os.environ.get('LIPSYNC_JAX_SECONDS', '1'))


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """An untrained generator an eighth as wide, as a file."""
  path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
  untrained_weights.save(path, width=WIDTH)
  return path


@pytest.fixture(scope='module')
def compiled():
  """Networks that were compiled, with the weights that are in them."""
  return {}


@pytest.fixture
def engine(compiled, monkeypatch):
  """The same weights, however they were stored, are compiled once."""
  plain = network_cache.runtime.build_predictor

  def predictor(variables, size, width, dtype, batch):
    key = (size, width, dtype, batch)
    if key not in compiled:
      made = plain(variables, size, width, dtype=dtype, batch=batch)
      compiled[key] = (variables, made)
    before, made = compiled[key]
    jax.tree.map(np.testing.assert_array_equal, before, variables)
    return made

  monkeypatch.setattr(network_cache.runtime, 'build_predictor', predictor)


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
  times, _ = test_clips.read_video(out)
  rate = report['frames'] / seconds
  assert (
    len(times) == report['frames']
    and report['speakers'][0]['frames_spoken'] > 0
  )
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
  assert report['frames'] == 30 and report['speakers'][0]['frames_spoken'] == 30
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
def test_every_clip_speaks(shared, tmp_path, tiny, engine):
  """A second of every clip, whatever its container, rate and people."""
  voices = sorted((shared / 'media' / 'speech').iterdir())
  for i, face in enumerate(footage(shared)):
    out = tmp_path / f'{face.name}.mp4'
    voice = voices[i % len(voices)]
    report = run(face, voice, out, tiny, preview=SECONDS)
    check(out, report, SECONDS)
    assert report['speakers'][0]['frames_spoken'] > 0.5 * report['frames'], (
      face.name
    )


@pytest.mark.slow
def test_a_second_run_skips_detection(shared, tmp_path, tiny, monkeypatch):
  clip = shared / 'media' / 'clips' / 'grid_bbaf2n.mpg'
  voice = shared / 'media' / 'speech' / 'english.wav'
  first = run(clip, voice, tmp_path / 'a.mp4', tiny, preview=1)

  def refuse(*_):
    raise AssertionError('detection ran again')

  monkeypatch.setattr('lipsync_jax.faces.tracker.track_faces', refuse)
  second = run(clip, voice, tmp_path / 'b.mp4', tiny, preview=1)
  assert first['speakers'] == second['speakers']
  a, b = (test_clips.read_video(tmp_path / n)[1] for n in ('a.mp4', 'b.mp4'))
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def golden_tensors(shared):
  """The published generator's tensors, with the golden weights."""
  path = shared / 'reference' / 'wav2lip_statedict.json'
  records = json.loads(path.read_text())['generator']
  return golden_weights.state_dict(records, golden_weights.GAIN['generator'])


def write_published(path, tensors, kind):
  """The golden weights in one of the forms that are found in the wild."""
  paddle = {
    k.replace('running_mean', '_mean').replace('running_var', '_variance'): v
    for k, v in tensors.items()
    if not k.endswith('num_batches_tracked')
  }
  moments = {'step': 9, 'exp_avg': np.ones(1000, np.float32)}
  whole = {
    'state_dict': {f'module.{k}': v for k, v in tensors.items()},
    'optimizer': {'state': {0: moments}, 'param_groups': []},
    'global_step': 258_000,
    'global_epoch': 88,
  }
  if kind == 'zip':
    writers.write_pth(path, whole)
  elif kind == 'legacy':
    writers.write_legacy(path, whole)
  elif kind == 'flat':
    writers.write_pdparams(path, paddle, {})
  else:
    named = {
      k: (f'conv2d_{i}.w_0', v) for i, (k, v) in enumerate(paddle.items())
    }
    path.write_bytes(pickle.dumps({'netG': named, 'epoch': 3}, 4))


FULL = pytest.mark.full


@pytest.mark.slow
@pytest.mark.parametrize(
  'kind',
  [
    'zip',
    pytest.param('legacy', marks=FULL),
    pytest.param('flat', marks=FULL),
    pytest.param('nested', marks=FULL),
  ],
)
def test_the_seed_with_every_published_form(
  shared, tmp_path, golden_tensors, engine, kind
):
  """The command that started this project, on the painting, in full; the
  other forms hold the same network and speak a second of it."""
  suffix = '.pth' if kind in ('zip', 'legacy') else '.pdparams'
  published = tmp_path / f'w{suffix}'
  write_published(published, golden_tensors, kind)
  seed = shared / 'media' / 'seed'
  face, voice = seed / 'mona7s.mp4', seed / 'guangquan.m4a'
  out = tmp_path / 'out.mp4'
  options = {} if kind == 'zip' else {'preview': 1}
  report = run(face, voice, out, published, crf=0, **options)
  seconds = report['seconds_of_sound']
  rate = 30000 / 1001
  assert abs(report['frames'] - round(seconds * rate)) <= 1
  assert kind != 'zip' or abs(seconds - 7.019) < 0.001
  check(out, report, seconds)
  _, after = test_clips.read_video(out)
  _, before = test_clips.read_video(face)
  for a, b in zip(before, after, strict=False):
    rows, columns = np.nonzero(a != b)
    # Only the lower face of the painting changes, inside her oval.
    assert rows.min() > 355 and rows.max() < 570
    assert columns.min() > 460 and columns.max() < 770
    assert (a != b)[430:520, 540:680].mean() > 0.9
