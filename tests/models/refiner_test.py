"""The refiner: cost, first mask, edges, and its file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax import models
from lipsync_jax.models import flops, layers, refiner
from lipsync_jax.weights import articulation, refiner_weights, safetensors_file

SIZE, WIDTH = 64, 0.25


@pytest.fixture(scope='module')
def variables() -> dict:
  net = refiner.Refiner(SIZE, WIDTH)
  return jax.jit(lambda key: models.init_variables('refiner', net, key))(
    jax.random.key(0)
  )


def inputs(rows: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {
    'mel': rng.normal(0, 1, (rows, 80, 16)).astype(np.float32),
    'warped': rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8),
    'hole': rng.integers(0, 256, (rows, SIZE, SIZE), np.uint8),
    'references': rng.integers(0, 256, (rows, 3, SIZE, SIZE, 3), np.uint8),
  }


def test_a_frame_costs_at_most_one_and_a_half_gflop():
  assert flops.refiner_flops(128, 1.0) <= 1.5e9
  costs = [flops.refiner_flops(128, width) for width in (0.25, 0.5, 1.0)]
  assert costs[0] < costs[1] / 2 < costs[2] / 4
  per_pixel = [flops.refiner_flops(s, 1.0) / s**2 for s in refiner.SIZES]
  assert max(per_pixel) < 1.2 * min(per_pixel)


def test_flops_are_those_that_xla_counts():
  """Oracle: the cost analysis of the compiled network."""
  net = refiner.Refiner(SIZE, 0.5)
  x = models.dummy_inputs('refiner', SIZE)
  weights = jax.eval_shape(
    lambda key: net.init(key, *x, train=False), jax.random.key(0)
  )
  run = jax.jit(lambda v: net.apply(v, *x, train=False))
  counted = run.lower(weights).cost_analysis()['flops']
  # XLA counts the zeros of transposed layers, three of four products, too.
  ups = 0

  def apply(layer, shape):
    nonlocal ups
    if layer.up and layer.stride == (2, 2):
      ups += 2 * layer.macs(*shape)
    return layer.output(*shape)

  specs = refiner.layer_specs(SIZE, 0.5)
  refiner.connect(specs, apply, lambda p: p[0], (80, 16), (SIZE, SIZE))
  expected = flops.refiner_flops(SIZE, 0.5)
  assert expected * 0.9 < counted < (expected + 3 * ups) * 1.15


@pytest.mark.parametrize('size', refiner.SIZES)
def test_every_size_gives_a_picture_and_a_mask(size):
  net = refiner.Refiner(size, WIDTH)
  x = models.dummy_inputs('refiner', size, 2)
  shapes = jax.eval_shape(
    lambda key: net.init_with_output(key, *x, train=False)[0],
    jax.random.key(0),
  )
  assert [s.shape for s in shapes] == [(2, size, size, c) for c in (3, 1)]
  specs = refiner.layer_specs(size, WIDTH).values()
  names = [row.name for part in specs for stage in part for row in stage]
  assert len(names) == len(set(names))


def test_bfloat16_activations_give_float32_pictures(variables):
  """The picture stays within a few levels of float32's."""
  net = refiner.Refiner(SIZE, WIDTH, jnp.dtype('bfloat16'))
  x = inputs()
  picture = refiner.stack_inputs(
    jnp.asarray(x['warped'], jnp.float32) / 255,
    jnp.asarray(x['hole'], jnp.float32)[..., None] / 255,
    jnp.asarray(x['references'], jnp.float32) / 255,
  )
  run = jax.jit(functools.partial(net.apply, train=False))
  rgb, mask = run(variables, jnp.asarray(x['mel'])[..., None], picture)
  assert rgb.dtype == mask.dtype == jnp.float32
  exact, _ = refiner.build_refiner(variables, SIZE, WIDTH)(**x)
  assert np.abs(255 * np.asarray(rgb) - exact).mean() < 2


def test_unknown_size_is_one_line():
  with pytest.raises(layers.ModelError, match='expected a size'):
    refiner.layer_specs(100)


def test_an_untrained_refiner_leaves_the_warp_alone(variables):
  run = refiner.build_refiner(variables, SIZE, WIDTH)
  x = inputs()
  rgb, mask = run(**x)
  assert mask.max() < 0.05
  warped = jnp.asarray(x['warped'], jnp.float32)
  refined = refiner.blend(warped, *map(jnp.asarray, (rgb, mask[..., None])))
  assert np.abs(refined - x['warped']).mean() < 3


def test_the_mask_is_zero_at_the_edge_whatever_the_network_says(variables):
  """Outside the crop nothing changes, and there is no step at its edge."""
  wanted = jax.tree.map(jnp.asarray, variables)
  bias = wanted['params']['output_1']['bias']
  wanted['params']['output_1']['bias'] = bias.at[3].set(50.0)
  _, mask = refiner.build_refiner(wanted, SIZE, WIDTH)(**inputs())
  assert mask[:, 20:44, 20:44].min() > 0.99
  for edge in (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]):
    assert edge.max() == 0
  assert np.abs(np.diff(mask, axis=1)).max() < 0.25


def test_sound_references_and_hole_reach_the_picture(variables):
  run, x = refiner.build_refiner(variables, SIZE, WIDTH), inputs()
  rgb, _ = run(**x)
  for name, other in inputs(seed=1).items():
    changed, _ = run(**(x | {name: other}))
    assert np.abs(changed - rgb).max() > 1e-3, name


def test_the_file_comes_back_and_damage_is_one_line(variables, tmp_path):
  path = tmp_path / 'refiner.safetensors'
  value = refiner_weights.RefinerWeights(
    jax.tree.map(np.asarray, variables), SIZE, WIDTH, 'a test', meta={'step': 3}
  )
  refiner_weights.save_refiner(path, value)
  back = refiner_weights.load_refiner(path)
  assert (back.size, back.width, back.source) == (SIZE, WIDTH, 'a test')
  assert back.meta == {'step': 3} and len(back.sha256) == 64
  assert jax.tree.structure(back.variables) == jax.tree.structure(
    value.variables
  )
  one, two = (
    refiner.build_refiner(v, SIZE, WIDTH)(**inputs())
    for v in (value.variables, back.variables)
  )
  np.testing.assert_allclose(one[0], two[0], atol=0.5)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(safetensors_file.WeightsError, match='damaged'):
    refiner_weights.load_refiner(path)


def test_other_files_and_other_crops_are_refused(
  variables, tmp_path, monkeypatch
):
  with pytest.raises(safetensors_file.WeightsError, match='expected a refiner'):
    refiner_weights.load_refiner(articulation.DEFAULT_ARTICULATOR)
  path = tmp_path / 'refiner.safetensors'
  held = jax.tree.map(np.asarray, variables)
  value = refiner_weights.RefinerWeights(held, 128, WIDTH, 'a test')
  less = dict(held['params'])
  less.pop('output_1')
  wrong = refiner_weights.RefinerWeights({'params': less}, SIZE, WIDTH, '')
  refiner_weights.save_refiner(path, wrong)
  with pytest.raises(safetensors_file.WeightsError, match='not the tensors'):
    refiner_weights.load_refiner(path)
  refiner_weights.save_refiner(path, value)
  monkeypatch.setattr(refiner_weights, 'CROP_TEXT', 'another crop')
  with pytest.raises(safetensors_file.WeightsError, match='another crop'):
    refiner_weights.load_refiner(path)
