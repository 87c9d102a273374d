"""The stage of the refiner: training, resuming, export, measurement."""

import dataclasses
import json
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from configs import refiner as config_file
from lipsync_jax.refinement import (
  pair_batches,
  pair_file,
  prepare,
  refiner_stage,
  sheet,
)
from lipsync_jax.refinement.refiner_stage import NETWORKS
from lipsync_jax.training import (
  config_check,
  sharding,
  stages,
  state,
  train,
)
from lipsync_jax.weights import refiner_weights
from tests.helpers import mesh_clips, train_command


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('refiner')
  for split, speakers in (('train', {'ann': 2, 'bob': 2}), ('val', {'cy': 2})):
    mesh_clips.build(folder / 'shards', speakers, split)
    prepare.prepare(str(folder / 'shards'), str(folder), split, 64, 4)
  return folder


def config_for(folder, steps: int = 8, **fields):
  config = config_file.get_config().unlock()
  config.data.path = str(folder)
  config.refiner.image_size, config.refiner.width_multiplier = 64, 0.1
  config.batch_size, config.num_train_steps = 4, steps
  config.optimizer.warmup_steps, config.optimizer.decay_steps = 2, 8
  config.ema_decay = 0.8
  config.validation.every_steps = config.run.save_every_steps = 4
  config.run.log_every_steps = 2
  config.run.fast_compile = True
  config.update(fields)
  return config.lock()


@pytest.fixture(scope='module')
def whole(pairs, tmp_path_factory):
  """A run of 8 steps, and its folder."""
  workdir = tmp_path_factory.mktemp('whole')
  return train.train_and_evaluate(config_for(pairs), workdir, NETWORKS), workdir


def test_a_resumed_run_is_the_whole_run(pairs, whole, tmp_path):
  """4 + 4 steps are 8 steps, in their numbers and their file."""
  result, workdir = whole
  train.train_and_evaluate(config_for(pairs, 4), tmp_path, NETWORKS)
  parts = train.train_and_evaluate(config_for(pairs), tmp_path, NETWORKS)
  assert parts['step'] == 8
  assert parts['video/l1'] == result['video/l1']
  one, two = (
    refiner_weights.load_refiner(x['weights']) for x in (result, parts)
  )
  assert one.sha256 == two.sha256
  lines = [
    json.loads(x) for x in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  seen = [line for line in lines if line['kind'] == 'validation']
  assert len(seen) == 2
  wanted = {'video/ssim', 'video/warp/ssim', 'video/sharpness'}
  assert wanted <= set(seen[-1])


def test_the_file_names_its_data_and_is_measured(pairs, whole, capsys):
  value = refiner_weights.load_refiner(whole[0]['weights'])
  assert (value.size, value.width) == (64, 0.1)
  assert 'of 2 speakers' in value.source and value.meta['step'] in (4, 8)
  words = [str(pairs), '--split=val', f'--weights={whole[0]["weights"]}']
  assert refiner_stage.main(words) == 0
  said = dict(line.split() for line in capsys.readouterr().out.splitlines())
  best = value.meta['validation']
  assert float(said['video/l1']) == pytest.approx(best['video/l1'], abs=2e-3)
  assert float(said['video/warp/l1']) == pytest.approx(
    best['video/warp/l1'], abs=1e-3
  )


def test_the_warp_is_measured_without_a_refiner(pairs, whole, capsys):
  found = []
  for words in ([], [f'--weights={whole[0]["weights"]}']):
    assert refiner_stage.main([str(pairs), '--split=val', *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    found.append(dict(line.split() for line in lines))
  alone, both = found
  assert alone and all('/warp/' in name for name in alone)
  assert alone == {name: x for name, x in both.items() if '/warp/' in name}


@pytest.fixture(scope='module')
def sharpened(pairs, whole, tmp_path_factory):
  """A run of refiner_hq from the weights of `whole`, and its config."""
  config = config_for(pairs, 4, stage='refiner_hq').unlock()
  config.init_weights = whole[0]['weights']
  workdir = tmp_path_factory.mktemp('hq')
  return train.train_and_evaluate(config.lock(), workdir, NETWORKS), workdir


def test_the_hq_stage_begins_with_the_refiner(pairs, whole):
  config = config_for(pairs, stage='refiner_hq').unlock()
  stage = stages.build_stage(config.lock(), NETWORKS)
  given = refiner_weights.load_refiner(whole[0]['weights'])
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  first, _ = state.create_state(mesh, 0, **stage.init)
  loaded = stage.load_weights(whole[0]['weights'], first)
  for found in (loaded.params['refiner'], loaded.ema['refiner']['params']):
    jax.tree.map(
      np.testing.assert_array_equal, found, given.variables['params']
    )


@pytest.mark.slow
def test_the_hq_stage_has_the_losses_of_both_networks(whole, sharpened):
  given = refiner_weights.load_refiner(whole[0]['weights'])
  lines = (sharpened[1] / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  seen = [row for row in rows if row['kind'] == 'train'][-1]
  assert {'adversarial', 'features', 'real', 'fake', 'r1'} <= set(seen)
  value = refiner_weights.load_refiner(sharpened[0]['weights'])
  assert (value.size, value.width) == (given.size, given.width)
  assert value.sha256 != given.sha256


@pytest.mark.slow
def test_a_resumed_hq_run_is_the_whole_run(pairs, whole, sharpened, tmp_path):
  for steps in (2, 4):
    config = config_for(pairs, steps, stage='refiner_hq').unlock()
    config.init_weights = whole[0]['weights']
    config.run.save_every_steps = 2
    parts = train.train_and_evaluate(config.lock(), tmp_path, NETWORKS)
  one, two = (
    refiner_weights.load_refiner(x['weights']) for x in (sharpened[0], parts)
  )
  assert one.sha256 == two.sha256


def test_weights_of_another_width_are_refused(pairs, whole):
  config = config_for(pairs, stage='refiner_hq').unlock()
  config.refiner.width_multiplier = 0.2
  stage = stages.build_stage(config.lock(), NETWORKS)
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  first, _ = state.create_state(mesh, 0, **stage.init)
  with pytest.raises(ValueError, match='expected 64 pixels and width'):
    stage.load_weights(whole[0]['weights'], first)


def test_photos_only(pairs):
  config = config_for(pairs).unlock()
  config.refiner.photos_only = True
  both = refiner_stage.load_splits(config.lock())
  for split, name in zip(both, ('train', 'val'), strict=True):
    every = pair_file.load_pairs(pairs, name)
    photo = np.flatnonzero(every.column('photo'))
    assert 0 < len(split) == len(photo) < len(every)
    rows = pair_file.gather_pairs(split.arrays, np.arange(len(split)))
    wanted = pair_file.gather_pairs(every.arrays, photo)
    for key, value in wanted.items():
      np.testing.assert_array_equal(rows[key], value, err_msg=key)
  sampled = pair_batches.PairSampler(both[0], 8)[3]
  assert sampled['photo'].all()
  with pytest.raises(ValueError, match='photos_only=False'):
    pair_file.photo_pairs(dataclasses.replace(both[0], table=0 * both[0].table))


@pytest.mark.slow
def test_pictures_on_the_device_train_the_same(pairs, whole, tmp_path):
  config = config_for(pairs, 4).unlock()
  config.data.device_resident = True
  train.train_and_evaluate(config.lock(), tmp_path, NETWORKS)
  one, two = (
    [json.loads(x) for x in (f / 'metrics.jsonl').read_text().splitlines()]
    for f in (whole[1], tmp_path)
  )
  first = [line['l1'] for line in one if line['kind'] == 'train'][:2]
  again = [line['l1'] for line in two if line['kind'] == 'train'][:2]
  np.testing.assert_allclose(first, again, rtol=1e-4)


def test_sharded_step_is_the_step_of_one_device(pairs):
  stage = stages.build_stage(config_for(pairs), NETWORKS)
  assert stage.faces == 1 and stage.flops > 0
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  first, where = state.create_state(mesh, 0, **stage.init)
  split = pair_file.load_pairs(pairs, 'train')
  batch = pair_batches.PairSampler(split, 4)[0]
  fast = sharding.FAST_COMPILE
  plain, values = jax.jit(stage.train_step, compiler_options=fast)(
    first, batch, None
  )
  step = sharding.jit_train_step(
    lambda s, b, e, d: stage.train_step(s, b, e), mesh, where, fast
  )
  sharded, again = step(first, jax.device_put(batch), None, None)
  assert float(values['total']) == pytest.approx(float(again['total']))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    plain.batch_stats,
    sharded.batch_stats,
  )


def test_a_sheet_has_a_row_for_each_pair(pairs, whole, tmp_path, capsys):
  out = tmp_path / 'sheet.png'
  words = [str(pairs), '--split=val', f'--weights={whole[0]["weights"]}']
  assert sheet.main([*words, f'--out={out}', '--rows=4']) == 0
  drawn = cv2.imread(str(out))
  assert drawn.shape[1] == 6 * 128 and drawn.shape[0] % 128 == 0
  split = pair_file.load_pairs(pairs, 'val')
  rows = sheet.choose_rows(split, 4, 0)
  assert drawn.shape[0] == 128 * len(rows)
  photo = split.column('photo')[rows].tolist()
  assert photo == sorted(photo) and set(photo) == {0, 1}
  # The last column is the truth.
  margin = pair_file.margin_of(64)
  truth = split.mouths[split.column('target')[rows[0]]]
  truth = truth[margin:-margin, margin:-margin, ::-1].astype(int)
  shown = cv2.resize(drawn[:128, -128:], (64, 64), interpolation=cv2.INTER_AREA)
  assert np.abs(shown - truth).mean() < 4
  assert sheet.main([*words[:1], *words[2:], f'--out={out}']) == 2
  assert 'prepare SHARDS' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('data.validation_split', 'nothing', 'prepare SHARDS'),
    ('refiner.image_size', 128, 'expected pairs of 128 pixels'),
  ],
)
def test_a_run_that_cannot_begin_is_one_line(pairs, field, value, said):
  config = config_for(pairs).unlock()
  *groups, name = field.split('.')
  part = config[groups[0]] if groups else config
  part[name] = value
  with pytest.raises(ValueError, match=said) as caught:
    stages.build_stage(config.lock(), NETWORKS)
  assert '\n' not in str(caught.value)


def test_another_stage_is_refused_by_name(pairs):
  config = config_for(pairs).unlock()
  config.stage = 'painter'
  with pytest.raises(stages.StageError, match='refiner'):
    stages.build_stage(config.lock(), NETWORKS)


def test_measurement_of_missing_pairs_is_one_line(whole, tmp_path, capsys):
  words = [str(tmp_path), f'--weights={whole[0]["weights"]}']
  assert refiner_stage.main(words) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_training_command_knows_the_stage(tmp_path):
  command = [sys.executable, '-m', 'lipsync_jax.main', f'--workdir={tmp_path}']
  command += ['--config=configs/refiner.py', f'--config.data.path={tmp_path}']
  found = subprocess.run(
    command,
    cwd=train_command.ROOT,
    env=train_command.environment(tmp_path / 'compiled'),
    capture_output=True,
    text=True,
  )
  assert found.returncode == 1
  assert found.stderr.startswith('main: ') and 'prepare SHARDS' in found.stderr
  assert len(found.stderr.splitlines()) == 1


def test_fields_of_the_refiner_bind_its_own_runs_only(pairs):
  """Checkpoints of other stages, made before it existed, resume."""
  mine = config_check.to_json(config_for(pairs))
  saved = json.loads(json.dumps(mine))
  saved['refiner']['width_multiplier'] = 0.7
  with pytest.raises(config_check.ConfigError, match='width_multiplier'):
    config_check.check_resumable(mine, saved, 'w')
  mine['stage'] = saved['stage'] = 'generator'
  del saved['refiner']
  config_check.check_resumable(mine, saved, 'w')


@pytest.mark.slow
def test_two_devices_train_as_one(pairs, tmp_path):
  """The same losses with a batch that is split over two devices."""
  seen = []
  for devices in (1, 2):
    workdir = tmp_path / str(devices)
    command = [sys.executable, '-m', 'lipsync_jax.main', f'--workdir={workdir}']
    command += ['--config=configs/refiner.py', f'--config.data.path={pairs}']
    fields = {
      'refiner.image_size': 64,
      'refiner.width_multiplier': 0.1,
      'batch_size': 4,
      'num_train_steps': 2,
      'run.log_every_steps': 1,
      'run.fast_compile': True,
    }
    command += [f'--config.{k}={v}' for k, v in fields.items()]
    compiled = tmp_path / 'compiled'
    subprocess.run(
      command,
      cwd=train_command.ROOT,
      env=train_command.environment(compiled, devices),
      check=True,
    )
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    seen.append([x['total'] for x in rows if x['kind'] == 'train'])
  assert len(seen[0]) == 2
  np.testing.assert_allclose(*seen, rtol=1e-3)
