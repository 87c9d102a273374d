"""Diagnostics: each finding with its remedy; audio sensitivity."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax.data import synthetic
from lipsync_jax.data.windows import WINDOW_SPECS
from lipsync_jax.training import diagnostics
from tests.helpers import untrained_weights


def test_chance_is_the_log_of_the_choices():
  pairs = WINDOW_SPECS['syncnet']
  assert diagnostics.chance_loss(pairs) == pytest.approx(0.6931, abs=1e-4)
  six = dataclasses.replace(WINDOW_SPECS['contrastive'], windows_per_clip=6)
  assert diagnostics.chance_loss(six) == pytest.approx(math.log(6))
  assert diagnostics.is_at_chance({'sync': 0.69}, math.log(2))
  assert not diagnostics.is_at_chance({'sync': 0.6}, math.log(2))


def test_histogram_leaves_out_what_was_not_measured():
  offsets = np.array([0, 0.4, -2, np.nan, -1.6])
  assert diagnostics.offset_histogram(offsets) == {-2: 2, 0: 2}


numbers = {'sync': 0.693, 'accuracy': 0.5}


def test_healthy_data_and_network_are_said_to_be_so():
  speakers = [f's{i}' for i in range(30)]
  text = diagnostics.diagnosis_report(
    numbers, 0.693, [0.7, 0.1], np.zeros(30), speakers
  )
  assert 'the network and the learning rate work' in text
  assert 'the data are in sync' in text
  assert 'enough' in text


def test_each_fault_has_its_remedy():
  offsets = np.array([0.0, 3, -4, 0])
  text = diagnostics.diagnosis_report(
    numbers, 0.693, [0.7, 0.8, 0.7], offsets, ['a', 'b'] * 2
  )
  assert 'lower --config.optimizer.learning_rate tenfold' in text
  assert '50% are more than 1 off' in text
  assert '2 speakers in 4 clips: few' in text
  unknown = np.full(4, np.nan)
  text = diagnostics.diagnosis_report(
    numbers, 0.693, [0.7, 0.1], unknown, ['a', 'b'] * 2
  )
  assert 'No clip of 4 has a measured offset' in text


def test_what_does_not_move_wants_a_higher_rate():
  one = np.full(4, np.nan)
  text = diagnostics.diagnosis_report(
    numbers, 0.693, [0.7] * 9, one, ['a', 'b'] * 2
  )
  assert 'raise --config.optimizer.learning_rate' in text


def test_overfitting_continues_from_its_own_state():
  def step(state):
    return state + 1, {'sync': np.float32(1 / state)}

  assert diagnostics.overfit_one_batch(step, 1, 2) == pytest.approx([1, 0.5])
  # It stops once the loss is halved.
  assert len(diagnostics.overfit_one_batch(step, 1, 9)) == 3


def test_diagnosis_is_due_once():
  spec, facts = WINDOW_SPECS['syncnet'], {}
  due = [
    diagnostics.diagnosis_due(spec, 5, step, numbers, facts)
    for step in (4, 5, 6)
  ]
  assert due == [False, True, False]
  good = {'sync': 0.3, 'accuracy': 0.9}
  assert not diagnostics.diagnosis_due(spec, 5, 9, good, {})


def test_sensitivity_of_a_generator_that_ignores_or_uses_its_audio():
  rng = np.random.default_rng(0)
  batch = {
    'mels': rng.random((4, 5, 80, 16, 1), np.float32),
    'face': rng.random((4, 5, 96, 96, 6), np.float32),
    'target': rng.random((4, 5, 96, 96, 3), np.float32),
  }
  copied = diagnostics.audio_sensitivity(lambda mel, face: face[..., 3:], batch)
  assert np.all(np.asarray(copied['moved']) == 0)
  np.testing.assert_array_equal(copied['own'], copied['reference'])

  def paint(mel, face):
    shape = face[..., 3:].shape
    return jnp.broadcast_to(mel.mean((1, 2))[:, None, None], shape)

  assert np.all(
    np.asarray(diagnostics.audio_sensitivity(paint, batch)['moved'])
  )


@pytest.mark.slow
def test_command_prints_the_sensitivity(tmp_path, capsys):
  synthetic.build_dataset(tmp_path / 'shards', 0, speakers=4, frames=60)
  path = untrained_weights.save(tmp_path / 'w.safetensors')
  assert diagnostics.main([path, str(tmp_path / 'shards')]) == 0
  rows = dict(line.split() for line in capsys.readouterr().out.splitlines())
  assert rows.keys() == {'own', 'other', 'reference', 'moved', 'own_is_better'}
  assert diagnostics.main([path, str(tmp_path / 'none')]) == 1
  assert capsys.readouterr().err.count('\n') == 1
