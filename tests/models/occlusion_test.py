"""The occlusion network, its file, and what the bundled one finds."""

import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax.models import occlusion
from lipsync_jax.weights import occlusion_weights, safetensors_file

MONA = pathlib.Path(__file__).parents[2] / 'examples' / 'mona.jpg'


@pytest.fixture(scope='module')
def variables() -> dict:
  blank = jnp.zeros((1, occlusion.SIZE, occlusion.SIZE, 3))
  variables = occlusion.OcclusionNetwork().init(jax.random.key(0), blank)
  return jax.tree.map(np.asarray, variables)


def test_an_answer_for_every_other_pixel(variables):
  pixels = jnp.zeros((2, 96, 64, 3))
  answer = occlusion.OcclusionNetwork().apply(variables, pixels)
  assert answer.shape == (2, 48, 32)


def test_an_object_changes_the_answer_near_it(variables):
  """The receptive field is local: no global pooling."""
  run = occlusion.build_occlusion(variables)
  face = np.full((96, 96, 3), 128, np.uint8)
  changed = face.copy()
  changed[80:, 80:] = 0
  difference = np.abs(run(changed) - run(face))
  assert difference[40:, 40:].max() > 0 and difference[:4, :4].max() == 0


def test_the_file_comes_back_and_damage_is_one_line(variables, tmp_path):
  path = tmp_path / 'occlusion.safetensors'
  occlusion_weights.save_occlusion(path, variables, 'a test', {'iou': 0.5})
  back = occlusion_weights.load_occlusion(path)
  pairs = zip(jax.tree.leaves(back), jax.tree.leaves(variables), strict=True)
  for a, b in pairs:
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(safetensors_file.WeightsError, match='damaged'):
    occlusion_weights.load_occlusion(path)


def test_another_file_is_refused(tmp_path):
  from lipsync_jax.weights.articulation import DEFAULT_ARTICULATOR

  with pytest.raises(safetensors_file.WeightsError, match='expected an occl'):
    occlusion_weights.load_occlusion(DEFAULT_ARTICULATOR)


def test_the_bundled_network_finds_a_bar_on_the_painting():
  run = occlusion.build_occlusion(occlusion_weights.load_occlusion())
  face = cv2.imread(str(MONA))[100:560, 150:480, ::-1]
  face = cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA)
  covered = face.copy()
  covered[66:, 40:56] = (60, 140, 200)
  found = run(covered)
  assert found[35:47, 21:27].mean() > 0.8
  assert run(face)[35:47, 21:27].mean() < 0.2
