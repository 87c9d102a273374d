"""train.py and its rooms: refusals, resuming, and the whole debug config."""

import importlib
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from lipsync_jax import (
  cartoons,
  checkpoint,
  metrics,
  progress,
  recipe,
  records,
  train,
  weights,
)
from lipsync_jax import feed as feeds
from lipsync_jax import state as states

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def root_on_path(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
  """Runs of the same shapes share their compiled programs."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update(
    'jax_compilation_cache_dir', str(tmp_path_factory.mktemp('compiled'))
  )
  yield
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cartoons')
  cartoons.build(folder, seed=0, speakers=2, frames=40)
  return folder


def small(drawn, stage='syncnet', **changes):
  config = importlib.import_module('configs.debug').get_config()
  config.update({'stage': stage, 'batch': 2, 'steps': 4})
  config.update({'log_steps': 1, 'validate_steps': 2, 'save_steps': 2})
  config.net.width = 0.05
  config.data.folder = str(drawn)
  config.update(changes)
  return config


# --- configs


NAMES = ['syncnet', 'wav2lip', 'hq', 'debug', 'judge']


@pytest.mark.parametrize('name', NAMES)
def test_config_is_locked_complete_and_explained(name):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config()
  with pytest.raises((AttributeError, KeyError)):
    config.unheard = 1
  with pytest.raises((AttributeError, KeyError)):
    config.net.depth = 1
  assert '--config=configs/' in module.__doc__
  base = importlib.import_module('configs.wav2lip').get_config()
  assert train.plain(config).keys() == train.plain(base).keys()


# --- data that are drawn


def test_cartoons_move_their_mouths_with_the_sound():
  clip = cartoons.clip('ann/1', 50, seed=0)
  records.check(clip)
  again = cartoons.clip('ann/1', 50, seed=0)
  assert again.frames == clip.frames
  rng = np.random.default_rng(0)
  wave, opening = cartoons.speech(200, rng)
  loud = np.abs(wave.astype(np.float64)).reshape(200, -1).mean(1)
  assert np.corrcoef(loud, opening)[0, 1] > 0.9
  assert opening.std() > 0.2
  open_, shut = (cartoons.draw(np.full((3, 3), 90), (0, 0), x) for x in (1, 0))
  differs = (open_ != shut).any(-1).nonzero()[0]
  assert differs.min() > cartoons.SIDE / 2


# --- refusals, one line each


def refused(config, workdir, match):
  with pytest.raises(ValueError, match=match) as info:
    train.train_and_evaluate(config, workdir)
  assert '\n' not in str(info.value)


def test_bad_requests_are_one_line(drawn, tmp_path):
  refused(small(drawn, stage='gan'), tmp_path, "found 'gan'")
  refused(small(drawn, stage='hq'), tmp_path, 'weights of an expert')
  refused(small(drawn, batch=64), tmp_path, 'lower --config.batch')
  missing = small(drawn)
  missing.data.val = 'test'
  refused(missing, tmp_path, 'test')
  none = small(drawn, stage='generator', expert=str(tmp_path / 'none'))
  refused(none, tmp_path, 'no file of that name|No such file')
  (tmp_path / 'file').touch()
  refused(small(drawn), tmp_path / 'file', 'choose another --workdir')


def test_config_that_disagrees_with_its_checkpoint_is_refused(drawn):
  saved = train.plain(small(drawn))
  train.disagree(train.plain(small(drawn, steps=9, log_steps=7)), saved, 'w')
  other = small(drawn)
  other.net.width = 0.5
  with pytest.raises(train.TrainingError, match=r'--config.net.width=0.05'):
    train.disagree(train.plain(other), saved, 'w')


def test_signal_is_heard_and_handlers_come_back():
  before = signal.getsignal(signal.SIGTERM)
  with progress.Stop() as stop:
    assert not stop.asked
    signal.raise_signal(signal.SIGTERM)
    assert stop.asked
  assert signal.getsignal(signal.SIGTERM) == before


def test_not_finite_names_step_and_clips(tmp_path):
  with metrics.Writer(tmp_path) as writer:
    log = progress.Log(writer, 1, 0, 9, 5, lambda _: 0.1, shown=False)
    log.add(1, {'sync': 0.5, 'finite': 1.0}, 0.0, lambda: 'ann/1')
    log.add(2, {'sync': float('inf'), 'finite': 0.0}, 0.0, lambda: 'bob/2')
    with pytest.raises(progress.NotFinite, match=r'step 2.*sync.*bob/2'):
      log.flush()
  assert [line['step'] for line in metrics.read(tmp_path)] == [1]


# --- whole runs


def same(x, y):
  jax.tree.map(np.testing.assert_array_equal, x, y)


def final(workdir, config):
  """The last checkpoint's step, state and facts."""
  found = recipe.recipe(config)
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.eval_shape(
    lambda key: states.init(key, **found.init), jax.random.key(0)
  )
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract
  )
  with checkpoint.Checkpoints(workdir) as store:
    step, state, data, _, facts = store.restore(abstract)
  return step, state, data, facts


@pytest.fixture(scope='module')
def expert(drawn, tmp_path_factory):
  """A run of the expert, four steps straight."""
  sys.path.insert(0, str(ROOT))
  workdir = tmp_path_factory.mktemp('expert')
  return workdir, train.train_and_evaluate(small(drawn), workdir)


@pytest.mark.slow
def test_run_leaves_what_the_next_stage_needs(expert):
  workdir, found = expert
  assert found['step'] == 4
  assert not found['stopped']
  got = weights.load(found['weights'])
  assert (got.network, got.width) == ('syncnet', 0.05)
  lines = metrics.read(workdir)
  assert [line['step'] for line in lines] == [1, 2, 3, 4]
  assert lines[2].keys() >= {'sync', 'accuracy', 'rate', 'input_wait'}
  looks = metrics.read(workdir, 'validation')
  assert [line['step'] for line in looks] == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['syncnet', 'generator', 'hq'])
def test_resumed_run_equals_an_unbroken_one(stage, expert, drawn, tmp_path):
  """4 = 2 + 2, to the bit: state, data and what validation found."""
  changes = dict(stage=stage, expert=expert[1]['weights'])
  config = small(drawn, **changes)
  straight = expert[0]
  if stage != 'syncnet':
    straight = tmp_path / 'straight'
    train.train_and_evaluate(config, straight)
  broken = tmp_path / 'broken'
  half = small(drawn, steps=2, **changes)
  assert train.train_and_evaluate(half, broken)['step'] == 2
  assert train.train_and_evaluate(config, broken)['step'] == 4
  same(final(straight, config), final(broken, config))
  lines = [metrics.read(x, 'validation') for x in (straight, broken)]
  assert lines[0] == lines[1]
  if stage != 'syncnet':
    assert len(list((broken / 'strips').iterdir())) == 2


@pytest.mark.slow
def test_rate_that_explodes_stops_with_the_state_before(drawn, tmp_path):
  config = small(drawn, steps=6)
  config.optimiser.update({'rate': 1e38, 'clip': 0.0, 'warmup_steps': 0})
  refused(config, tmp_path, 'not finite.*--config.optimiser.rate')


@pytest.mark.slow
def test_termination_saves_and_the_same_command_resumes(drawn, tmp_path):
  command = [sys.executable, '-m', 'lipsync_jax.main']
  command += ['--config=configs/debug.py', f'--workdir={tmp_path}']
  command += ['--config.stage=syncnet', f'--config.data.folder={drawn}']
  command += ['--config.net.width=0.05', '--config.batch=2']
  command += ['--config.log_steps=1', '--config.save_steps=100000']
  command += ['--config.validate_steps=100000']
  run = subprocess.Popen([*command, '--config.steps=100000'], cwd=ROOT)
  while not metrics.read(tmp_path) and run.poll() is None:
    os.sched_yield()
  run.send_signal(signal.SIGTERM)
  assert run.wait(120) == 0
  with checkpoint.Checkpoints(tmp_path) as store:
    (saved,) = store.steps()
  done = subprocess.run([*command, f'--config.steps={saved + 1}'], cwd=ROOT)
  assert done.returncode == 0
  with checkpoint.Checkpoints(tmp_path) as store:
    assert store.steps() == [saved, saved + 1]


@pytest.mark.slow
def test_resident_data_train_alike(drawn, tmp_path):
  """Without augmentation both ways see the same batches."""
  found = []
  for resident in (False, True):
    config = small(drawn, steps=2, augmented=False)
    config.data.resident = resident
    train.train_and_evaluate(config, tmp_path / str(resident))
    found.append(metrics.read(tmp_path / str(resident)))
  for one, two in zip(*found, strict=True):
    assert one['sync'] == pytest.approx(two['sync'], abs=1e-5)


def test_batches_that_devices_cannot_share_are_refused(drawn):
  class Mesh:
    size = 3

  config = small(drawn)
  with pytest.raises(feeds.FeedError, match='multiple of 3'):
    feeds.open_feed(config, recipe.recipe(config), Mesh())
