"""diagnose.py: each finding with its remedy."""

import math

import numpy as np
import pytest

from lipsync_jax.training import diagnostics


def test_chance_is_the_log_of_the_choices():
  assert diagnostics.chance_loss('syncnet', 6) == pytest.approx(
    0.6931, abs=1e-4
  )
  assert diagnostics.chance_loss('contrastive', 6) == pytest.approx(math.log(6))
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
  assert 'the network and the rate work' in text
  assert 'the data are in sync' in text
  assert 'enough' in text


def test_each_fault_has_its_remedy():
  offsets = np.array([0.0, 3, -4, 0])
  text = diagnostics.diagnosis_report(
    numbers, 0.693, [0.7, 0.8, 0.7], offsets, ['a', 'b'] * 2
  )
  assert 'lower --config.optimizer.rate' in text
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
  assert 'raise --config.optimizer.rate' in text


def test_by_heart_goes_on_from_its_own_state():
  def step(state, batch, frozen):
    return state + 1, {'sync': np.float32(1 / state)}

  assert diagnostics.overfit_one_batch(step, 1, {}, {}, 2) == pytest.approx(
    [1, 0.5]
  )
  # Halved is enough.
  assert len(diagnostics.overfit_one_batch(step, 1, {}, {}, 9)) == 3
