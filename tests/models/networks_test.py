"""The networks against the published tables, PyTorch and themselves."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax import models
from lipsync_jax.models import convolution, layers, runtime_xla, syncnet
from lipsync_jax.models.layers import ConvSpec
from lipsync_jax.weights import tensor_mapping
from tests.helpers import untrained_weights

REFERENCE = {name: name for name in models.NETWORKS}
REFERENCE['syncnet_v2'] = 'eval_syncnet_v2'


@pytest.fixture
def records(shared) -> dict:
  return json.loads((shared / 'reference/wav2lip_statedict.json').read_text())


def variables(network: str, size: int = 96, width: float = 1.0) -> dict:
  """Random weights whose activations stay near one."""
  rng = np.random.default_rng(1)
  tensors = {}
  for slot in tensor_mapping.tensor_specs(network, size, width):
    x = rng.standard_normal(slot.shape, np.float32)
    leaf = slot.name.rpartition('.')[2]
    if x.ndim > 1:
      x *= math.sqrt(1 / math.prod(slot.shape[1:]))
    elif leaf == 'running_var':
      x = 1 + 0.2 * np.abs(x)
    else:
      x = 0.1 * x + (slot.path[-1] == 'scale')
    tensors[slot.name] = x
  return tensor_mapping.from_published(network, tensors, size, width)


def inputs(network: str, size: int = 96, batch: int = 2, seed: int = 0):
  rng = np.random.default_rng(seed)
  shapes = [x.shape for x in models.dummy_inputs(network, size, batch)]
  return tuple(jnp.array(rng.random(shape, np.float32)) for shape in shapes)


def shape_of(network: str, size: int, width: float, batch: int = 2):
  """(variables, output) as shapes; nothing is computed."""
  net = models.build_model(network, size, width)
  x = models.dummy_inputs(network, size, batch)
  weights = jax.eval_shape(
    lambda key: net.init(key, *x, train=False), jax.random.key(0)
  )
  return weights, jax.eval_shape(
    lambda weights: net.apply(weights, *x, train=False), weights
  )


@pytest.mark.parametrize('network', models.NETWORKS)
def test_first_weights_are_those_of_the_modules(network):
  """The same tree as `net.init` makes, and PyTorch's distributions."""
  size, width = (96, 1.0) if network == 'syncnet_v2' else (256, 0.1)
  expected, _ = shape_of(network, size, width)
  found = untrained_weights.variables(network, width, size)
  assert jax.tree.structure(dict(expected)) == jax.tree.structure(found)
  for wanted, made in zip(
    *map(jax.tree.leaves, (expected, found)), strict=True
  ):
    assert (wanted.shape, wanted.dtype) == (made.shape, made.dtype)
  for row in models.all_layers(network, size, width):
    held = found['params'][row.name]
    bound = 1 / np.sqrt(np.prod(row.kernel) * (row.cout if row.up else row.cin))
    if network == 'discriminator' and row.name != 'binary_pred_0':
      bound *= np.sqrt(6)  # He's: there is no norm
    assert np.abs(held['kernel']).max() <= bound
    assert np.abs(held['bias']).max() <= bound
    if held['kernel'].size > 5000:  # a uniform's standard deviation
      np.testing.assert_allclose(
        held['kernel'].std(), bound / np.sqrt(3), rtol=0.03
      )
    if row.norm:
      assert held['norm']['scale'].all() and not held['norm']['bias'].any()
      stats = found['batch_stats'][row.name]['norm']
      assert (stats['var'] == 1).all() and not stats['mean'].any()
  kernels = [v['kernel'].ravel()[0] for v in found['params'].values()]
  assert len(set(kernels)) == len(kernels)  # no piece twice


@pytest.mark.parametrize('network', models.NETWORKS)
def test_parameters_are_counted_as_published(network, records):
  weights, _ = shape_of(network, 96, 1.0)
  summary = records['_summary'][REFERENCE[network]]
  count = sum(x.size for x in jax.tree.leaves(weights['params']))
  assert count == summary['trainable_params']
  flat = jax.tree_util.tree_flatten_with_path(weights)[0]
  found = {tuple(key.key for key in path): leaf.shape for path, leaf in flat}
  expected = {slot.path for slot in tensor_mapping.tensor_specs(network)}
  assert found.keys() == expected
  counters = sum(path[-1] == 'var' for path in found)
  assert len(found) + counters == summary['tensors']


@pytest.mark.parametrize('network', ['generator', 'syncnet', 'discriminator'])
def test_layers_are_those_of_the_published_tables(network, records):
  expected = {
    re.sub(r'\.conv_block\.0$', '', r['name']).replace('.', '_'): r
    for r in records['_layers'][network]
    if r['type'].startswith('Conv')
  }
  layers = {layer.name: layer for layer in models.all_layers(network)}
  assert layers.keys() == expected.keys()
  for name, layer in layers.items():
    r = expected[name]
    assert (layer.cin, layer.cout) == (r['cin'], r['cout'])
    facts = layer.kernel, layer.stride, layer.pad
    assert facts == tuple(tuple(r[key]) for key in 'ksp')
    assert layer.up == (r['type'] == 'ConvT')
    channels, height, width = r['inp']
    assert channels == layer.cin
    assert layer.output(height, width) == tuple(r['outp'][1:])
    assert layer.macs(height, width) == r['macs']
  macs = sum(r['macs'] for r in expected.values())
  assert macs == records['_summary'][network]['macs']


@pytest.mark.parametrize('network', ['generator', 'syncnet'])
def test_outputs_equal_pytorch(network, shared, monkeypatch):
  torch = pytest.importorskip('torch')
  monkeypatch.syspath_prepend(str(shared / 'tools'))
  import wav2lip_torch

  classes = {'generator': 'Wav2Lip', 'syncnet': 'SyncNet'}
  net = getattr(wav2lip_torch, classes[network])().eval()
  ours = variables(network)
  tensors = tensor_mapping.to_published(network, 96, 1.0, ours)
  tensors = tensor_mapping.with_counters(network, 96, 1.0, tensors, {})
  net.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()})
  mel, face = inputs(network)
  build = models.build_model(network)
  found = jax.jit(lambda v, *x: build.apply(v, *x, train=False))(
    ours, mel, face
  )
  bgr = face.reshape(*face.shape[:3], -1, 3)[..., ::-1].reshape(face.shape)
  with torch.no_grad():
    expected = net(*(torch.tensor(nchw(np.array(x))) for x in (mel, bgr)))
  if network == 'generator':
    found, expected = (found[..., ::-1],), (expected.permute(0, 2, 3, 1),)
  for x, y in zip(found, expected, strict=True):
    assert y.std() > 0.01
    np.testing.assert_allclose(x, y.numpy(), rtol=0, atol=2e-5)


def nchw(x: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def test_folding_changes_nothing():
  ours = variables('generator', width=0.25)
  mel, face = inputs('generator', batch=3)
  net = models.build_model('generator', width=0.25)
  expected = jax.jit(lambda *x: net.apply(*x, train=False))(ours, mel, face)
  small = runtime_xla.fold_batch_norm(ours, 96, 0.25)
  run = jax.jit(lambda *x: runtime_xla.apply_folded(*x, width=0.25))
  np.testing.assert_allclose(run(small, mel, face), expected, rtol=0, atol=1e-5)
  assert np.std(expected) > 0.01


def test_predictor_masks_pairs_and_rounds():
  ours = variables('generator', width=0.25)
  mel, _ = inputs('generator', batch=2)
  face = np.random.default_rng(3).integers(0, 256, (2, 96, 96, 3), np.uint8)
  predict = runtime_xla.build_predictor(ours, 96, 0.25, 'float32', batch=2)
  found = np.asarray(predict(np.array(mel[..., 0]), face))
  both = np.concatenate([face, face], -1) / np.float32(255)
  both[:, 48:, :, :3] = 0
  net = models.build_model('generator', width=0.25)
  run = jax.jit(lambda *x: net.apply(*x, train=False))
  expected = run(ours, mel, both) * 255
  assert found.dtype == np.uint8
  assert np.abs(found - np.asarray(expected)).max() < 0.501
  hidden = face.copy()
  hidden[:, :48] = 0
  assert (np.asarray(predict(np.array(mel[..., 0]), hidden)) != found).any()


@pytest.mark.parametrize(
  ('stride', 'pad', 'out'), [((2, 2), (1, 1), 1), ((1, 1), (0, 0), 0)]
)
@pytest.mark.parametrize('shape', [(1, 1), (3, 3), (5, 4)])
def test_up_convolution_equals_pytorch(stride, pad, out, shape):
  torch = pytest.importorskip('torch')
  layer = ConvSpec('up_0', 6, 4, stride=stride, pad=pad, up=True)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, *shape, 6), np.float32)
  weight = rng.standard_normal((6, 4, 3, 3), np.float32)
  expected = torch.nn.functional.conv_transpose2d(
    torch.tensor(nchw(x)), torch.tensor(weight), None, stride, pad, out
  )
  slot = tensor_mapping.TensorSpec('up.0.weight', weight.shape, (), up=True)
  kernel = tensor_mapping.kernel_in(slot, weight)
  found = layers.apply_conv(layer, jnp.array(kernel), jnp.array(x))
  assert found.shape[1:3] == layer.output(*shape)
  np.testing.assert_allclose(
    found, expected.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5
  )


def test_norm_trains_as_pytorch():
  """Running variance unbiased, output normalized by the biased one."""
  torch = pytest.importorskip('torch')
  x = np.random.default_rng(0).standard_normal((4, 1, 1, 5), np.float32) * 3
  theirs, ours = torch.nn.BatchNorm2d(5), layers.BatchNorm()
  state = ours.init(jax.random.key(0), jnp.array(x), train=True)
  for step in range(3):
    y = theirs(torch.tensor(nchw(x + step)))
    z, changed = ours.apply(
      state, jnp.array(x + step), train=True, mutable=['batch_stats']
    )
    state = state | changed
    np.testing.assert_allclose(
      z, y.detach().permute(0, 2, 3, 1).numpy(), atol=1e-5
    )
  for key, value in (
    ('mean', theirs.running_mean),
    ('var', theirs.running_var),
  ):
    np.testing.assert_allclose(
      state['batch_stats'][key], value.numpy(), rtol=1e-5
    )


@pytest.mark.parametrize(
  ('size', 'width'), [(96, 0.5), (192, 0.25), (256, 0.5), (384, 0.25)]
)
def test_other_sizes_and_widths(size, width):
  weights, image = shape_of('generator', size, width)
  assert image.shape == (2, size, size, 3)
  _, (audio, face) = shape_of('syncnet', size, width)
  assert audio.shape == face.shape == (2, layers.scale_channels(512, width))
  _, logit = shape_of('discriminator', size, width)
  assert logit.shape == (2,)
  # A network's size shows only outside the published 96 pixels.
  count = sum(x.size for x in jax.tree.leaves(weights['params']))
  assert count < 36_298_035 * width**2 * 1.3 + 200_000


def test_unknown_networks_and_sizes_are_refused():
  with pytest.raises(ValueError, match="found 'critic'"):
    models.build_model('critic')
  with pytest.raises(ValueError, match='found 100'):
    models.all_layers('generator', 100)


@pytest.mark.parametrize('network', ['generator', 'syncnet', 'discriminator'])
def test_gradients_are_finite(network):
  """In training mode, also where a whole picture is black."""
  net = models.build_model(network, 96, 0.1)
  weights, x = variables(network, 96, 0.1), inputs(network, batch=3)
  x = (*x[:-1], x[-1] * np.array([1, 1, 0], np.float32).reshape(3, 1, 1, 1))

  def loss(params):
    state = {**weights, 'params': params}
    out, changed = net.apply(state, *x, train=True, mutable=['batch_stats'])
    out = out if isinstance(out, tuple) else (out, out)
    return (out[0] * out[1]).mean(), changed

  # Compiling takes all the time; speed does not matter here.
  cheap = {'xla_backend_optimization_level': 0}
  step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=cheap)
  grads, changed = step(weights['params'])
  leaves = jax.tree.leaves(grads)
  assert all(np.isfinite(x).all() for x in leaves)
  live = sum(np.abs(x).max() > 0 for x in leaves)
  assert live > 0.9 * len(leaves), (live, len(leaves))
  if network != 'discriminator':
    before = jax.tree.leaves(weights['batch_stats'])
    after = jax.tree.leaves(changed['batch_stats'])
    assert all((a != b).any() for a, b in zip(after, before, strict=True))


def test_silent_vectors_have_length_zero_or_one():
  x = jnp.stack([jnp.zeros(8), jnp.full(8, 1e-20), jnp.ones(8)])
  unit = syncnet.l2_normalize(x.reshape(3, 1, 1, 8))
  length = np.linalg.norm(unit, axis=-1)
  np.testing.assert_allclose(length, [0, 2.8e-8, 1], atol=1e-6)
  grad = jax.grad(lambda x: syncnet.l2_normalize(x).sum())(x[:, None, None])
  assert np.isfinite(grad).all()


@pytest.mark.slow
def test_bfloat16_stays_close():
  ours = variables('generator', width=0.25)
  x = inputs('generator')
  out = []
  for dtype in ('float32', 'bfloat16'):
    net = models.build_model('generator', 96, 0.25, dtype)
    run = jax.jit(lambda *x, net=net: net.apply(*x, train=False))
    out.append(run(ours, *x).astype(jnp.float32))
  assert np.abs(out[0] - out[1]).mean() < 0.01


@pytest.mark.parametrize('by_image', [False, True])
@pytest.mark.parametrize('batch', [1, 2 * convolution.MIN_SLICE + 3])
@pytest.mark.parametrize(
  'kernel, stride, pad, up',
  [
    ((3, 3), (1, 1), (1, 1), False),
    ((3, 3), (2, 2), (1, 1), False),
    ((5, 5), (1, 2), (1, 1), False),
    ((3, 3), (3, 1), (1, 1), False),
    ((4, 3), (1, 1), (0, 2), False),
    ((3, 3), (2, 2), (1, 1), True),
    ((3, 3), (1, 1), (0, 0), True),
    ((3, 3), (2, 2), (0, 0), True),
  ],
)
def test_gradients_are_those_of_the_plain_convolution(
  kernel, stride, pad, up, batch, by_image, monkeypatch
):
  if by_image:
    monkeypatch.setattr(convolution, 'LARGE_OUTPUT', 0)
    monkeypatch.setattr(convolution, 'WIDE_LAYER', 0)
  layer = layers.ConvSpec('a', 5, 3, kernel, stride, pad, up)
  keys = jax.random.split(jax.random.key(0), 3)
  taps = jax.random.normal(keys[0], (*kernel, 5, 3))
  x = jax.random.normal(keys[1], (batch, 8, 7, 5))

  def plain(kernel, x):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1) if up else stride, layer.padding,
      lhs_dilation=stride if up else (1, 1),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip

  true, of_true = jax.vjp(plain, taps, x)
  found, of_found = jax.vjp(
    lambda k, x: layers.apply_conv(layer, k, x), taps, x
  )
  assert found.shape[1:3] == layer.output(8, 7)
  np.testing.assert_array_equal(found, true)
  change = jax.random.normal(keys[2], true.shape)
  for a, b in zip(of_found(change), of_true(change), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_large_wide_layer_sums_its_kernel_gradient_by_image(
  dtype, monkeypatch
):
  """In float32 also where activations are bfloat16."""
  seen, plain = [], convolution.kernel_grad_by_image
  monkeypatch.setattr(
    convolution,
    'kernel_grad_by_image',
    lambda *args: seen.append(args[2].shape) or plain(*args),
  )
  rng, grads = np.random.default_rng(0), []
  for side, channels in ((24, 32), (8, 32), (24, 8)):
    layer = layers.ConvSpec('a', channels, channels)
    x = jnp.asarray(rng.normal(size=(6, side, side, channels)), dtype)
    taps = jnp.asarray(rng.normal(size=layer.shape), dtype)
    y, grad = jax.vjp(
      lambda k, x=x, layer=layer: layers.apply_conv(layer, k, x), taps
    )
    grads.append((x, taps, y, grad(jnp.ones_like(y))[0]))
  assert seen == [(3, 3, 32, 32)]
  x, taps, y, found = grads[0]
  wide = (jnp.asarray(v, jnp.float32) for v in (taps, x))
  true = jax.vjp(
    lambda k, x: convolution.lax_conv((1, 1), ((1, 1), (1, 1)), k, x), *wide
  )[1](jnp.ones(y.shape))[0]
  assert found.dtype == taps.dtype
  near = 1e-4 if dtype == 'float32' else 1e-2
  np.testing.assert_allclose(
    found.astype(jnp.float32),
    true,
    rtol=near,
    atol=near * float(abs(true).max()),
  )
