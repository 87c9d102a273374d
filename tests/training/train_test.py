"""train.py and its rooms: refusals, resuming, and the whole debug config.

LIPSYNC_JAX_STEPS=20 sets the steps of the runs that are broken in the middle
(default 6), and adds the one stage that is part of another;
LIPSYNC_JAX_KILLS=50 kills a run at 20 moments (default 15: 6).
"""

import errno
import importlib
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from lipsync_jax import main
from lipsync_jax.data import synthetic, tfrecord
from lipsync_jax.data.clip import DATASET_NAME, check_clip, write_clips
from lipsync_jax.models import flops
from lipsync_jax.training import (
  checkpoint,
  config_check,
  input_pipeline,
  metric_writer,
  progress,
  sharding,
  stages,
  train,
  validation,
)
from lipsync_jax.training import state as state_lib
from lipsync_jax.training.state import TrainState, create_state, init_state
from lipsync_jax.weights import convert
from tests.helpers import toy_networks, train_command, untrained_weights

sys.path.insert(0, str(train_command.ROOT))  # for `configs`
STEPS = int(os.environ.get('LIPSYNC_JAX_STEPS', '6'))
KILLS = int(os.environ.get('LIPSYNC_JAX_KILLS', '15')) * 2 // 5


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
  """Runs of the same shapes share their compiled programs."""
  folder = str(tmp_path_factory.mktemp('compiled'))
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', folder)
  yield folder
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cartoons')
  synthetic.build_dataset(folder, seed=0, speakers=2, frames=40)
  return folder


small = train_command.debug


# --- configs


NAMES = ['syncnet', 'wav2lip', 'hq', 'debug', 'small', 'syncnet_heldout']
NAMES += ['base', 'default_generator', 'default_syncnet']


@pytest.mark.parametrize('name', NAMES)
def test_config_is_locked_complete_and_explained(name):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config()
  with pytest.raises((AttributeError, KeyError)):
    config.unheard = 1
  with pytest.raises((AttributeError, KeyError)):
    config.model.depth = 1
  named = '--config=configs/', 'docs/', 'configs/'
  assert any(words in module.__doc__ for words in named)
  base = importlib.import_module('configs.base').get_config()
  assert (
    config_check.to_json(config).keys() == config_check.to_json(base).keys()
  )


# --- data that are drawn


def test_cartoons_move_their_mouths_with_the_sound():
  clip = synthetic.synthetic_clip('ann/1', 50, seed=0)
  check_clip(clip)
  again = synthetic.synthetic_clip('ann/1', 50, seed=0)
  assert again.frames == clip.frames
  rng = np.random.default_rng(0)
  wave, opening = synthetic.synthetic_speech(200, rng)
  loud = np.abs(wave.astype(np.float64)).reshape(200, -1).mean(1)
  assert np.corrcoef(loud, opening)[0, 1] > 0.9
  assert opening.std() > 0.2
  open_, shut = (
    synthetic.draw_face(np.full((3, 3), 90), (0, 0), x) for x in (1, 0)
  )
  differs = (open_ != shut).any(-1).nonzero()[0]
  assert differs.min() > synthetic.IMAGE_SIZE / 2


# --- refusals, one line each


@pytest.fixture
def said(monkeypatch, capsys):
  """What the command says when it fails: one line, and exit 1."""
  flags.FLAGS.mark_as_parsed()

  def run(config, workdir) -> str:
    for name, value in (('_CONFIG', config), ('_WORKDIR', str(workdir))):
      monkeypatch.setattr(main, name, types.SimpleNamespace(value=value))
    with pytest.raises(SystemExit) as info:
      main.main(['main'])
    assert info.value.code == 1
    # The bar ends its own line.
    *bars, line = capsys.readouterr().err.splitlines()
    assert all('step/s' in x or 's/step' in x or not x for x in bars), bars
    assert line.startswith('main: ')
    return line

  return run


def test_bad_requests_are_one_line(drawn, tmp_path, said):
  assert "found 'gan'" in said(small(drawn, stage='gan'), tmp_path)
  assert 'weights of an expert' in said(small(drawn, stage='hq'), tmp_path)
  none = small(drawn, stage='generator', syncnet_weights=str(tmp_path / 'none'))
  assert 'none' in said(none, tmp_path)


def test_too_few_clips_are_one_line(drawn, tmp_path, said):
  assert 'lower --config.batch_size' in said(
    small(drawn, batch_size=64), tmp_path
  )
  missing = small(drawn)
  missing.data.validation_split = 'test'
  assert 'test' in said(missing, tmp_path)
  # A split without clips.
  path = tmp_path / 'shards'
  synthetic.build_dataset(path, 0, speakers=1, frames=20)
  name = tfrecord.shard_name(DATASET_NAME, 'none', 0, 1)
  write_clips(path / name, ())
  for field in ('train_split', 'validation_split'):
    empty = small(path, batch_size=1)
    empty.data[field] = 'none'
    line = said(empty, tmp_path)
    assert 'none' in line and 'clips' in line, line


@pytest.mark.skipif(not os.path.exists('/sys'), reason='needs /sys')
def test_workdir_that_is_read_only_is_one_line(drawn, tmp_path, said):
  for clips in (drawn, train.SYNTHETIC):
    for workdir in ('/sys/lipsync', '/sys'):
      line = said(small(clips), workdir)
      assert 'choose another --workdir' in line
  (tmp_path / 'file').touch()
  line = said(small(drawn), tmp_path / 'file')
  assert 'choose another --workdir' in line


def test_config_that_disagrees_with_its_checkpoint_is_one_line(
  drawn, tmp_path, said
):
  saved = config_check.to_json(small(drawn))
  config_check.check_resumable(
    config_check.to_json(
      small(drawn, num_train_steps=9, **{'run.sample_video': False})
    ),
    saved,
    'w',
  )
  with checkpoint.CheckpointManager(tmp_path) as store:
    store.save(3, {'x': jax.numpy.ones(3)}, {'batches': 3}, saved, {})
  other = small(drawn)
  other.model.width_multiplier = 0.5
  assert '--config.model.width_multiplier=0.05' in said(other, tmp_path)


def test_disk_that_fills_up_is_one_line(drawn, tmp_path, said, monkeypatch):
  def loop(*_):
    path = tmp_path / 'metrics.jsonl'
    raise OSError(errno.ENOSPC, 'No space left on device', str(path))

  monkeypatch.setattr(train.Trainer, '_loop', loop)
  line = said(small(drawn), tmp_path)
  assert 'metrics.jsonl: No space left on device; make room' in line


@pytest.mark.slow
def test_checkpoint_that_does_not_fit_is_one_line(drawn, tmp_path, said):
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
  try:
    line = said(small(drawn), tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert 'make room' in line
  with checkpoint.CheckpointManager(tmp_path) as store:
    assert store.steps() == []


SIGNALLED = """
import signal
from lipsync_jax.training import distributed
before = signal.getsignal(signal.SIGTERM)
for _ in range(3):
  with distributed.PreemptionGuard() as stop:
    assert not stop.asked(1)
    signal.raise_signal(signal.SIGTERM)
    assert stop.asked(2)
  assert signal.getsignal(signal.SIGTERM) == before
print('heard')
"""


def test_signal_is_heard_and_handlers_come_back():
  # In a process of its own: SIGTERM once ended a worker of the test suite.
  done = subprocess.run(
    [sys.executable, '-c', SIGNALLED], capture_output=True, text=True
  )
  assert (done.returncode, done.stdout) == (0, 'heard\n'), done.stderr[-500:]


def log_of(writer) -> progress.TrainingLog:
  return progress.TrainingLog(
    writer,
    every=1,
    start=0,
    steps=9,
    faces=5,
    cost=10,
    rate=lambda _: 0.1,
    shown=False,
  )


def test_not_finite_names_step_and_clips(tmp_path):
  with metric_writer.MetricWriter(tmp_path) as writer:
    log = log_of(writer)
    log.add(1, {'sync': 0.5, 'finite': 1.0}, lambda: 'ann/1')
    log.add(2, {'sync': float('inf'), 'finite': 0.0}, lambda: 'bob/2')
    with pytest.raises(
      progress.NonFiniteLossError, match=r'step 2.*sync.*bob/2'
    ):
      log.flush()
  assert [line['step'] for line in metric_writer.read_metrics(tmp_path)] == [1]


def test_log_of_speed_share_mfu_and_idle_time(tmp_path, monkeypatch):
  """A batch is late only where the step before it is over."""
  now = 10.0
  monkeypatch.setattr(progress.time, 'perf_counter', lambda: now)
  monkeypatch.setattr(flops, 'peak_flops', lambda: 1e3)
  with metric_writer.MetricWriter(tmp_path) as writer:
    log = log_of(writer)
    values = {'sync': jnp.ones(()), 'finite': jnp.ones(())}
    log.add(1, values, None)
    log.flush()
    log.wait(0.5)
    log.add(2, values, None)
    monkeypatch.setattr(progress, '_is_ready', lambda _: False)
    log.wait(1.0)
    now = 12.0
    log.flush()
  last = metric_writer.read_metrics(tmp_path)[-1]
  assert last['steps_per_s'] == 0.5 and last['faces_per_s'] == 2.5
  assert last['input_wait'] == 0.25
  assert last['mfu'] == 10 * 0.5 / 1e3 / jax.device_count()


def test_generator_gets_the_audio_encoder_of_a_syncnet(drawn, tmp_path):
  given = untrained_weights.variables('syncnet', 0.05, seed=3)
  path = tmp_path / 'expert.safetensors'
  convert.save(
    path, convert.Weights('syncnet', 96, 0.05, given, 'a test', Fraction(0))
  )
  changes = {'init_audio_encoder': str(path), 'data.frames_per_window': 2}
  config = small(drawn, 'generator', **changes)
  stage = stages.build_stage(config)
  state, where = create_state(sharding.make_mesh(), 0, **stage.init)
  new = state_lib.init_audio_encoder(str(path), 0.05, state)
  new = state_lib.place_state(new, where)
  for params in (new.params['generator'], new.ema['generator']['params']):
    for i, j in ((0, 0), (10, 10), (11, 12), (12, 13)):
      same(params[f'audio_encoder_{i}'], given['params'][f'audio_encoder_{j}'])
  with pytest.raises(state_lib.TrainingError, match=r'0\.25, found 0\.05'):
    state_lib.init_audio_encoder(str(path), 0.25, state)


@pytest.mark.parametrize('made, goal', [(0.9, 0.03), (0.6, 0.0)])
def test_sync_counts_until_it_is_that_of_real_lips(drawn, made, goal):
  config = small(drawn, 'generator').unlock()
  config.sync.update({'high': 10.0, 'low': 10.0})
  config.loss.sync = 0.03
  state = TrainState(0, {}, {}, {}, {}, np.float32(0.03), np.float32(0.03))
  numbers = {'sync': made, 'sync/ground_truth': 0.7}
  for until_real in (False, True):
    config.sync.stop_below_ground_truth = until_real
    new = validation.update_sync_weight_target(
      config, state, numbers, sharding.make_mesh()
    )
    expected = goal if until_real else 0.03
    assert float(new.sync_goal) == pytest.approx(expected)


# --- whole runs


def same(x, y):
  jax.tree.map(np.testing.assert_array_equal, x, y)


def final(workdir, config, networks=None):
  """The last checkpoint's step, state and facts."""
  found = stages.build_stage(config, networks)
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.eval_shape(
    lambda key: init_state(key, **found.init), jax.random.key(0)
  )
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract
  )
  with checkpoint.CheckpointManager(workdir) as store:
    step, state, data, _, facts = store.restore(abstract)
  return step, state, data, facts


# The resumed half must not see that the first one ended, and validated, there.
EVERY = STEPS * 2 // 5
LONG = {'num_train_steps': STEPS, 'validation.every_steps': EVERY}
LONG |= {'run.save_every_steps': STEPS // 2}
LOOKS = [*range(EVERY, STEPS, EVERY), STEPS]


@pytest.fixture(scope='module')
def expert(drawn, tmp_path_factory):
  """A run of the expert, straight."""
  workdir = tmp_path_factory.mktemp('expert')
  return workdir, train.train_and_evaluate(small(drawn, **LONG), workdir)


@pytest.mark.slow
def test_run_leaves_what_the_next_stage_needs(expert):
  workdir, found = expert
  assert found['step'] == STEPS
  assert not found['stopped']
  got = convert.load(found['weights'])
  assert (got.network, got.width) == ('syncnet', 0.05)
  lines = metric_writer.read_metrics(workdir)
  assert [line['step'] for line in lines] == list(range(1, STEPS + 1))
  assert lines[2].keys() >= {'sync', 'accuracy', 'rate', 'input_wait'}
  looks = metric_writer.read_metrics(workdir, 'validation')
  assert [line['step'] for line in looks] == LOOKS
  best = min(looks, key=lambda line: line['selection_metric'])
  assert got.meta['step'] == best['step']


@pytest.mark.slow
@pytest.mark.parametrize(
  'stage', stages.STAGES if STEPS >= 20 else ['syncnet', 'hq']
)
def test_a_run_in_halves_equals_an_unbroken_one(stage, expert, drawn, tmp_path):
  """To the bit: state, place in the data and what validation found. Only
  the facts may know of one validation more, that of the first half's end.
  `hq` holds all of `generator`, whose own loop a toy goes through below."""
  changes = LONG | {'stage': stage, 'syncnet_weights': expert[1]['weights']}
  config, straight = small(drawn, **changes), expert[0]
  if stage != 'syncnet':
    straight = tmp_path / 'straight'
    train.train_and_evaluate(config, straight)
  broken, half = tmp_path / 'broken', STEPS // 2
  first = small(drawn, **changes | {'num_train_steps': half})
  assert train.train_and_evaluate(first, broken)['step'] == half
  assert train.train_and_evaluate(config, broken)['step'] == STEPS
  same(final(straight, config)[:3], final(broken, config)[:3])
  looks = {
    line['step']: line
    for line in metric_writer.read_metrics(broken, 'validation')
  }
  assert looks.keys() == {*LOOKS, half}
  for line in metric_writer.read_metrics(straight, 'validation'):
    assert looks[line['step']] == line
  if stage != 'syncnet':
    assert len(list((straight / 'strips').iterdir())) == len(LOOKS)
    assert len(list((straight / 'videos').iterdir())) == len(LOOKS)


@pytest.mark.parametrize('stage', stages.STAGES)
def test_toy_of_four_steps_is_two_and_two(stage, drawn, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  # Orbax refuses relative folders, after the first steps are learned.
  straight, broken = tmp_path / 'straight', pathlib.Path('broken')
  changes = {'stage': stage, 'validation.every_steps': 3}
  changes |= {'run.save_every_steps': 2}
  config = small(drawn, num_train_steps=4, **changes)
  networks = toy_networks.NETWORKS
  train.train_and_evaluate(config, straight, networks)
  for steps in (2, 4):
    found = train.train_and_evaluate(
      small(drawn, num_train_steps=steps, **changes), broken, networks
    )
    assert found['step'] == steps
  same(
    final(straight, config, networks)[:3],
    final(tmp_path / broken, config, networks)[:3],
  )
  if stage != 'syncnet':
    for kind in ('strips', 'videos'):
      names = sorted(path.stem for path in (straight / kind).iterdir())
      assert [name[:8] for name in names] == ['00000003', '00000004']


@pytest.fixture
def lives(drawn, compiled_once, monkeypatch):
  """Starts processes that train a toy; all are forked from one that has
  imported everything, so that a life is short."""
  for name, value in train_command.environment(compiled_once).items():
    monkeypatch.setenv(name, value)
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(
    [
      'tests.helpers.train_command',
      'lipsync_jax.training.train',
      'grain',
      'optax',
    ]
  )

  def start(workdir, **changes):
    part = context.Process(
      target=toy_networks.run, args=(workdir, str(drawn), changes)
    )
    part.start()
    return part

  return start


@pytest.mark.slow
def test_killed_at_any_moment_equals_an_unbroken_run(lives, drawn, tmp_path):
  rng, changes = random.Random(0), {'validation.every_steps': 4}
  straight, broken = tmp_path / 'straight', tmp_path / 'broken'

  def sealed() -> int:
    found = broken.glob('checkpoints/*/manifest.json')
    return max((int(path.parent.name) for path in found), default=-1)

  for _ in range(KILLS):
    goal = sealed() + rng.choice([0, 1, 2])
    # So many steps that no life, on no machine, comes to its own end.
    every = {'run.save_every_steps': 1}
    part = lives(broken, num_train_steps=100_000, **every, **changes)
    while sealed() < goal and part.is_alive():
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.2))
    part.kill()
    part.join()
    assert part.exitcode == -signal.SIGKILL
  steps = sealed() + 3
  assert steps > 3
  changes['num_train_steps'] = steps
  last = [lives(straight, **changes, **{'run.save_every_steps': 1000})]
  last += [lives(broken, **changes, **{'run.save_every_steps': 1})]
  for part in last:
    part.join()
    assert part.exitcode == 0
  config = small(drawn, **changes)
  networks = toy_networks.NETWORKS
  same(final(straight, config, networks), final(broken, config, networks))
  lines = [
    [
      (x['step'], x['sync'], x['accuracy'])
      for x in metric_writer.read_metrics(folder)
    ]
    for folder in (straight, broken)
  ]
  assert lines[0] == lines[1]
  assert [line[0] for line in lines[0]] == list(range(1, steps + 1))


@pytest.mark.slow
def test_expert_that_is_stuck_says_why(drawn, tmp_path, capsys):
  changes = {'run.chance_report_step': 2, 'run.export_policy': 'last'}
  changes |= {'validation.every_steps': 1, 'optimizer.learning_rate': 0.0}
  config = small(drawn, num_train_steps=2, **changes)
  found = train.train_and_evaluate(config, tmp_path)
  assert convert.load(found['weights']).meta['step'] == 2
  text = (tmp_path / 'diagnosis.txt').read_text()
  assert text in capsys.readouterr().err
  assert 'SyncNet is at chance' in text
  assert 'raise --config.optimizer.learning_rate' in text
  assert 'No clip of 12 has a measured offset' in text
  assert '2 speakers in 12 clips: few' in text


@pytest.mark.slow
def test_rate_that_explodes_is_one_line(drawn, tmp_path, said):
  config = small(drawn, num_train_steps=6)
  values = {'learning_rate': 1e38, 'grad_clip_norm': 0.0, 'warmup_steps': 0}
  config.optimizer.update(values)
  line = said(config, tmp_path)
  assert 'not finite' in line and '--config.optimizer.learning_rate' in line


@pytest.mark.slow
def test_termination_saves_and_the_same_command_resumes(drawn, tmp_path):
  rare = '--config.run.save_every_steps=100000'
  command = train_command.command(tmp_path, drawn, rare)
  command += ['--config.validation.every_steps=100000']
  run = subprocess.Popen(
    [*command, '--config.num_train_steps=100000'], cwd=train_command.ROOT
  )
  while not metric_writer.read_metrics(tmp_path) and run.poll() is None:
    os.sched_yield()
  run.send_signal(signal.SIGTERM)
  assert run.wait(120) == 0
  with checkpoint.CheckpointManager(tmp_path) as store:
    first, saved = store.steps()
  assert first == 0
  done = subprocess.run(
    [*command, f'--config.num_train_steps={saved + 1}'], cwd=train_command.ROOT
  )
  assert done.returncode == 0
  with checkpoint.CheckpointManager(tmp_path) as store:
    assert store.steps() == [0, saved, saved + 1]


@pytest.mark.slow
def test_resident_data_train_alike(drawn, tmp_path):
  """Without augmentation both ways see the same batches."""
  found = []
  for resident in (False, True):
    changes = {'augment.enabled': False, 'data.device_resident': resident}
    config = small(drawn, num_train_steps=2, **changes)
    train.train_and_evaluate(config, tmp_path / str(resident))
    found.append(metric_writer.read_metrics(tmp_path / str(resident)))
  for one, two in zip(*found, strict=True):
    assert one['sync'] == pytest.approx(two['sync'], abs=1e-5)


def test_batches_that_devices_cannot_share_are_refused(drawn):
  class Mesh:
    size = 3

  config = small(drawn)
  with pytest.raises(input_pipeline.InputPipelineError, match='multiple of 3'):
    input_pipeline.build_input_pipeline(
      config, stages.build_stage(config), Mesh()
    )


# --- renamed fields


def test_renamed_flags_name_the_new_one():
  for old, new in config_check.RENAMED_FIELDS.items():
    with pytest.raises(config_check.ConfigError) as info:
      config_check.check_flags(['--workdir=x', f'--config.{old}=1'])
    assert f'--config.{new}' in str(info.value) and '\n' not in str(info.value)
  base = importlib.import_module('configs.base').get_config()
  fields = config_check.flatten_fields(config_check.to_json(base))
  assert {*config_check.RENAMED_FIELDS.values()} <= fields.keys()
  assert not {*config_check.RENAMED_FIELDS} & fields.keys()
  config_check.check_flags([f'--config.{name}=1' for name in fields])


def test_renamed_fields_of_a_config_file_name_the_new_one(drawn):
  config = small(drawn).unlock()
  config.net = {'width': 0.5}
  with pytest.raises(
    config_check.ConfigError, match=r'model\.width_multiplier'
  ):
    train.train_and_evaluate(config.lock(), 'unused')


def test_checkpoints_with_old_field_names_resume(drawn):
  mine = config_check.to_json(small(drawn))
  fields = config_check.flatten_fields(mine)
  names = {new: old for old, new in config_check.RENAMED_FIELDS.items()}
  old = {names.get(name, name): value for name, value in fields.items()}
  old['across'] = False
  del old['freeze_audio_encoder']
  saved = {}
  for name, value in old.items():
    *groups, last = name.split('.')
    table = saved
    for group in groups:
      table = table.setdefault(group, {})
    table[last] = value
  config_check.check_resumable(mine, saved, 'w')
  saved['seed'] = 9
  with pytest.raises(config_check.ConfigError, match='expected seed=9'):
    config_check.check_resumable(mine, saved, 'w')
