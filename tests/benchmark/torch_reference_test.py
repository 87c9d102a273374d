"""The PyTorch step of the benchmark is the same step as ours."""

import jax
import pytest

from lipsync_jax.benchmark import training

pytest.importorskip('torch', reason='needs PyTorch: pip install -e .[torch]')

WIDTH = 0.05
CHEAP = {'xla_backend_optimization_level': 0}


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['syncnet', 'hq'])
def test_twin_learns_the_same(stage):
  """Losses and gradients of two steps; `hq` holds all of `generator`."""
  from lipsync_jax.benchmark import torch_reference

  batch = training.random_batch(stage, 96, 2)
  step, state, frozen = training.own_step(stage, 96, WIDTH, 'float32')
  theirs = torch_reference.build_reference(
    stage, 96, WIDTH, batch, state, frozen
  )
  compiled = jax.jit(step, compiler_options=CHEAP)
  for number in range(2):
    state, found = compiled(state, batch, frozen)
    wanted = theirs()
    norms = {name for name in wanted if name.startswith('grad_norm/')}
    assert norms == {n for n in found if n.startswith('grad_norm/')}
    for name in wanted.keys() - norms:
      # The second is after an update of Adam's, the sign of each gradient.
      close = pytest.approx(float(wanted[name]), abs=1e-3)
      assert float(found[name]) == close, (number, name)
    for name in norms if number == 0 else ():
      close = pytest.approx(float(wanted[name]), rel=5e-3)
      assert float(found[name]) == close, name
