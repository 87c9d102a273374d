"""Every engine paints the same face; the choice among them is right."""

import functools
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax import models
from lipsync_jax.benchmark.generator import random_inputs, random_variables
from lipsync_jax.models import (
  generator,
  layers,
  runtime,
  runtime_openvino,
  runtime_xla,
)

WIDTH, BATCH = 0.25, 2


def needs_openvino():
  if not runtime.has_openvino():
    pytest.skip('needs OpenVINO: pip install -e .[openvino]')


@pytest.fixture(scope='module', params=[96, 192])
def case(request):
  """Size, variables, inputs, and the unfolded network's levels for them."""
  size = request.param
  variables = random_variables(size, WIDTH)
  mel, face = random_inputs(size, BATCH)
  module = models.build_model('generator', size, WIDTH)
  pixels = face.astype(np.float32) / 255
  masked = pixels.copy()
  masked[:, size // 2 :] = 0
  both = np.concatenate([masked, pixels], -1)
  network = jax.jit(functools.partial(module.apply, train=False))
  out = network(variables, mel[..., None], both)
  levels = np.asarray(out, np.float64) * 255
  assert levels.std() > 20, 'the test network is dead'
  return size, variables, mel, face, levels


def off(case, dtype, backend):
  """Name of an engine and its errors in levels of 255."""
  size, variables, mel, face, levels = case
  predict, name = runtime.build_predictor(
    variables, size, WIDTH, dtype, BATCH, backend
  )
  for _ in range(2):  # a second call must not depend on the first
    out = np.asarray(predict(mel, face))
  assert out.dtype == np.uint8 and out.shape == (BATCH, size, size, 3)
  return name, np.abs(out - levels)


def test_xla_float32_is_exact(case):
  name, error = off(case, 'float32', 'xla')
  assert name == 'XLA f32' and error.max() < 0.51


def test_xla_bfloat16(case):
  name, error = off(case, 'bfloat16', 'xla')
  assert name == 'XLA bf16' and error.max() < 12 and error.mean() < 1


def test_openvino_float32_is_exact(case):
  needs_openvino()
  name, error = off(case, 'float32', 'openvino')
  assert name == 'OpenVINO f32' and error.max() < 0.51


def test_openvino_bfloat16(case):
  needs_openvino()
  name, error = off(case, 'bfloat16', 'openvino')
  assert name == 'OpenVINO bf16' and error.max() < 12 and error.mean() < 1
  if runtime.has_native_bfloat16():
    assert error.mean() > 0.26, 'this ran in float32'


@pytest.mark.parametrize(
  'form, layer',
  [
    (
      runtime_xla.conv_transpose_bf16,
      layers.ConvSpec('up', 6, 4, stride=(2, 2), up=True),
    ),
    (runtime_xla.conv3x3_bf16, layers.ConvSpec('plain', 6, 4)),
  ],
)
def test_products_equal_convolution(form, layer):
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (2, 5, 7, 6))
  kernel = jax.random.normal(keys[1], (3, 3, 6, 4))
  want = layers.apply_conv(layer, kernel, x)
  np.testing.assert_allclose(form(kernel, x), want, atol=1e-5)


def test_mixed_is_used_where_it_wins():
  rows = runtime_xla.generator_rows(96, 1.0)
  chosen = [row.name for row in rows if runtime_xla.prefers_bf16_product(row)]
  assert 'face_decoder_blocks_6_0' in chosen
  assert 'face_decoder_blocks_4_2' in chosen
  assert 'face_decoder_blocks_6_1' not in chosen  # 64 channels at 96 pixels
  assert 'face_decoder_blocks_1_0' not in chosen  # transposed at stride 1


def test_residual_is_folded_into_the_kernel():
  variables = random_variables(96, WIDTH)
  layer = next(
    row for row in runtime_xla.generator_rows(96, WIDTH) if row.residual
  )
  kernel, bias = runtime_xla.fold_batch_norm(variables, 96, WIDTH)[layer.name]
  x = jax.random.normal(jax.random.key(1), (1, 6, 6, layer.cin))
  bound = layers.ConvBlock(layer, jnp.dtype('float32'))
  tree = {part: variables[part][layer.name] for part in variables}
  tree = jax.tree.map(jnp.asarray, tree)
  want = bound.apply(tree, x, train=False)
  got = jax.nn.relu(
    layers.apply_conv(layer, jnp.asarray(kernel), x) + bias.reshape(1, 1, 1, -1)
  )
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_choice(monkeypatch):
  def pretend(platform, installed, low):
    monkeypatch.setattr(jax, 'default_backend', lambda: platform)
    monkeypatch.setattr(runtime, 'has_openvino', lambda: installed)
    monkeypatch.setattr(runtime, 'has_native_bfloat16', lambda: low)

  pretend('cpu', True, True)
  assert runtime.resolve_backend() == ('bfloat16', 'openvino')
  assert runtime.resolve_backend('float32') == ('float32', 'openvino')
  pretend('cpu', True, False)
  assert runtime.resolve_backend() == ('float32', 'openvino')
  pretend('cpu', False, False)
  assert runtime.resolve_backend() == ('float32', 'xla')
  pretend('gpu', True, False)
  assert runtime.resolve_backend() == ('bfloat16', 'xla')
  assert runtime.resolve_backend(backend='openvino') == ('float32', 'openvino')


def test_errors_are_one_line(monkeypatch):
  for wrong in ({'dtype': 'float16'}, {'backend': 'tensorrt'}):
    with pytest.raises(ValueError, match='expected one of') as error:
      runtime.resolve_backend(**wrong)
    assert '\n' not in str(error.value)
  monkeypatch.setattr(runtime, 'has_openvino', lambda: False)
  with pytest.raises(ValueError, match='pip install'):
    runtime.resolve_backend(backend='openvino')


def test_graph_has_every_layer():
  needs_openvino()
  variables = random_variables(96, WIDTH)
  kinds = [
    o.get_type_name()
    for o in runtime_openvino.build_graph(
      variables, 96, WIDTH, 1
    ).get_ordered_ops()
  ]
  rows = [
    r
    for part in generator.layer_specs(96, WIDTH).values()
    for stage in part
    for r in stage
  ]
  ups = sum(row.up for row in rows)
  assert kinds.count('ConvolutionBackpropData') == ups
  assert kinds.count('Convolution') == len(rows) - ups


def test_openvino_does_not_phone_home():
  """Its converter would report itself to its maker when imported."""
  needs_openvino()
  code = (
    'import sys; from lipsync_jax.models import runtime_openvino as room; '
    'assert "openvino" not in sys.modules; '
    'room.openvino_core(); '
    'assert "openvino" in sys.modules; '
    'sys.exit("openvino_telemetry" in sys.modules)'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


INTERRUPTED_AFTER_RELEASE = """
import gc
import signal
import threading
import numpy as np
from lipsync_jax.models import runtime_openvino
runtime_openvino.import_openvino()
import openvino
from openvino import opset13 as op
x = op.parameter([1, 4], np.float32)
model = openvino.Model([op.relu(x)], [x], 'relu')
held = [runtime_openvino.openvino_core().compile_model(model, 'CPU')]
def release():
  held.clear()
  gc.collect()
thread = threading.Thread(target=release)
thread.start()
thread.join()
try:
  signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
  print('interrupted')
"""


def test_interrupt_after_another_thread_released_the_network():
  """With a Core of its own for each network, the process crashes here."""
  needs_openvino()
  done = subprocess.run(
    [sys.executable, '-c', INTERRUPTED_AFTER_RELEASE],
    capture_output=True,
    text=True,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
  )
  assert (done.returncode, done.stdout) == (0, 'interrupted\n'), done.stderr
