"""The articulator's file, its coefficients over time, and `--renderer mesh`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax import audio
from lipsync_jax.common import disk_array
from lipsync_jax.inference.options import SyncError, SyncOptions
from lipsync_jax.models import articulator
from lipsync_jax.rendering import mesh_renderer
from lipsync_jax.weights import articulation, safetensors_file


def test_file_of_an_articulator(tmp_path):
  value = articulation.load_articulation()
  assert value.basis.shape == (articulator.NUM_COEFFICIENTS, 478, 3)
  path = tmp_path / 'a.safetensors'
  articulation.save_articulation(path, value)
  again = articulation.load_articulation(path)
  assert again.sha256 == value.sha256 and again.meta == value.meta
  np.testing.assert_array_equal(again.basis, value.basis)


def test_other_and_damaged_files_are_one_line(tmp_path):
  path = tmp_path / 'a.safetensors'
  value = articulation.load_articulation()
  articulation.save_articulation(path, value)
  data = bytearray(path.read_bytes())
  data[-100] ^= 1
  path.write_bytes(data)
  with pytest.raises(safetensors_file.WeightsError, match='damaged'):
    articulation.load_articulation(path)
  from lipsync_jax.weights import convert

  with pytest.raises(safetensors_file.WeightsError, match='an articulator'):
    articulation.load_articulation(convert.DEFAULT_GENERATOR)


def test_layers_are_those_of_the_network():
  net = articulator.Articulator(16)
  mel = jnp.zeros((1, 64, 80))
  variables = net.init(jax.random.key(0), mel)
  names = [spec.name for spec in articulator.layer_specs(16)]
  assert list(variables['params']) == [*names, 'closure_share']
  out, logit = net.apply(variables, mel)
  assert out.shape == (1, 32, articulator.NUM_COEFFICIENTS)
  assert logit.shape == (1, 32)


def test_certain_closures_scale_the_motion_away():
  """The bias of the closure output alone decides here."""
  net = articulator.Articulator(16)
  mel = jnp.asarray(np.random.default_rng(0).normal(-1, 1, (1, 64, 80)))
  params = net.init(jax.random.key(0), mel)['params']
  params['closure_share'] = jnp.full(articulator.NUM_COEFFICIENTS, 30.0)
  size = {}
  for bias in (-30.0, 30.0):
    params['closure']['conv']['bias'] = jnp.full(1, bias)
    size[bias] = np.abs(net.apply({'params': params}, mel)[0]).max()
  assert size[-30.0] > 1e-3 and size[30.0] < 1e-6


def test_context_is_all_that_a_step_depends_on():
  value = articulation.load_articulation()
  predict = articulator.build_articulator(value.variables, value.width)
  rng = np.random.default_rng(0)
  mel = rng.normal(-1, 1, (1, 512, 80)).astype(np.float32)
  changed = mel.copy()
  changed[:, : 256 - articulator.CONTEXT] = -4
  changed[:, 256 + articulator.CONTEXT :] = -4
  a, b = predict(mel)[0], predict(changed)[0]
  np.testing.assert_allclose(a[128], b[128], atol=1e-5)
  assert np.abs(a[40] - b[40]).max() > 0.01


def test_chunks_equal_the_whole(monkeypatch):
  value = articulation.load_articulation()
  predict = articulator.build_articulator(value.variables, value.width)
  mel = np.random.default_rng(0).normal(-1, 1, (700, 80)).astype(np.float32)
  rows = disk_array.to_disk(mel)
  times = np.arange(200) / 25 + 0.02
  whole = mesh_renderer.predict_coefficients(rows, times, predict)
  monkeypatch.setattr(mesh_renderer, 'CHUNK', 128)
  parts = mesh_renderer.predict_coefficients(rows, times, predict)
  np.testing.assert_allclose(parts, whole, atol=1e-5)
  assert whole.shape == (200, articulator.NUM_COEFFICIENTS)


def test_interpolation_is_linear_between_steps():
  steps = 40
  centers = (2 * np.arange(steps) + 0.5) / audio.COLUMNS_PER_SECOND

  def at(values, times):
    return articulator.interpolate(values, articulator.step_positions(times))

  np.testing.assert_allclose(
    at(np.eye(steps), centers), np.eye(steps), atol=1e-5
  )
  halves = (centers[:-1] + centers[1:]) / 2
  between = at(np.arange(steps, dtype=float)[:, None], halves)[:, 0]
  np.testing.assert_allclose(between, np.arange(39) + 0.5)
  ends = at(np.arange(steps, dtype=float)[:, None], np.array([-1.0, 9.0]))
  np.testing.assert_array_equal(ends[:, 0], [0, steps - 1])
  one = at(np.full((1, 2), 7.0), np.array([0.0, 1.0]))
  np.testing.assert_array_equal(one, np.full((2, 2), 7.0))


def test_silence_closes_the_lips():
  """Digital silence and faint noise give much smaller lips than speech."""
  from lipsync_jax.faces import mesh

  value = articulation.load_articulation()
  predict = articulator.build_articulator(value.variables, value.width)
  silent = np.full((1, 512, 80), audio.SILENCE, np.float32)
  out = predict(silent)[0, 64:-64]
  gaps = mesh.lip_opening(np.tensordot(out, value.basis, 1))
  assert np.abs(gaps).max() < 0.03


def test_renderer_is_chosen_by_the_options():
  plain = SyncOptions('f.mp4', 'a.wav')
  assert plain.uses_mesh
  for change in (
    {'checkpoint_path': 'w.pth'},
    {'compat': True},
    {'box': (0, 9, 0, 9)},
    {'renderer': 'network'},
  ):
    assert not dataclasses.replace(plain, **change).uses_mesh


@pytest.mark.parametrize(
  'change, words',
  [
    ({'renderer': 'both'}, 'expected one of auto, mesh, network'),
    ({'renderer': 'mesh', 'compat': True}, 'no --compat'),
    ({'renderer': 'mesh', 'checkpoint_path': 'w.pth'}, 'no --checkpoint_path'),
    ({'strength': 2.5}, 'expected 0 to 2'),
  ],
)
def test_contradictions_are_refused(tmp_path, change, words):
  for name in ('f.mp4', 'a.wav'):
    (tmp_path / name).touch()
  options = SyncOptions(
    str(tmp_path / 'f.mp4'), str(tmp_path / 'a.wav'), **change
  )
  with pytest.raises(SyncError, match=words):
    options.validate()
