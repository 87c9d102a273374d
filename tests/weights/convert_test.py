"""Weights: published files give the published numbers, and come back out
bit for bit; everything else is refused in one line and writes nothing."""

import dataclasses
import json
import os
import pathlib
import pickle
import sys
from fractions import Fraction

import jax
import numpy as np
import pytest

from lipsync_jax import models
from lipsync_jax.weights import __main__ as weights_command
from lipsync_jax.weights import convert as convert_lib
from lipsync_jax.weights import safetensors_file, tensor_mapping, writers
from lipsync_jax.weights.convert import WeightsError
from lipsync_jax.weights.pickle_types import UnsafeFile

sys.path.insert(0, str(pathlib.Path(__file__).parent / 'golden'))
from tests.helpers import golden_weights

NAMES = {name: name for name in convert_lib.NETWORKS}
NAMES['syncnet_v2'] = 'eval_syncnet_v2'  # in the reference files


@pytest.fixture(scope='module')
def reference() -> pathlib.Path:
  folder = pathlib.Path(__file__).resolve().parents[3] / 'shared/reference'
  if not folder.is_dir():
    pytest.skip(f'needs the reference numbers of {folder}')
  return folder


@pytest.fixture(scope='module')
def golden(reference) -> dict:
  return json.loads((reference / 'golden.json').read_text())


@pytest.fixture(scope='module')
def state_dicts(reference) -> dict[str, dict[str, np.ndarray]]:
  """The golden weights as published tensors, by our names of networks."""
  records = json.loads((reference / 'wav2lip_statedict.json').read_text())
  return {
    ours: golden_weights.state_dict(
      records[theirs], golden_weights.GAIN[theirs]
    )
    for ours, theirs in NAMES.items()
  }


def checkpoint(tensors: dict, prefix: str = 'module.') -> dict:
  """As the training scripts save: prefixed, and with Adam's state."""
  moments = {'step': 9, 'exp_avg': np.ones(100_000, np.float32)}
  return {
    'state_dict': {prefix + k: v for k, v in tensors.items()},
    'optimizer': {
      'state': {0: moments, 140372: moments},
      'param_groups': [{'lr': 1e-4, 'betas': (0.5, 0.999)}][:0],
    },
    'global_step': 258_000,
    'global_epoch': 88,
  }


def as_paddle(tensors: dict, prefix: str = '') -> dict:
  """The same tensors under Paddle's names."""
  renamed = {}
  for name, x in tensors.items():
    name = name.replace('running_mean', '_mean')
    name = name.replace('running_var', '_variance')
    if not name.endswith(tensor_mapping.STEP_COUNTER):
      renamed[prefix + name] = x
  return renamed


@pytest.fixture(scope='module')
def imported(state_dicts, tmp_path_factory) -> dict[str, convert_lib.Weights]:
  """Every golden network, by way of a published file and one of ours."""
  folder = tmp_path_factory.mktemp('imported')
  result = {}
  for name, tensors in state_dicts.items():
    bare = name == 'syncnet_v2'
    tree = tensors if bare else checkpoint(tensors)
    writers.write_legacy(folder / f'{name}.pth', tree)
    ours = folder / f'{name}.safetensors'
    convert_lib.import_file(folder / f'{name}.pth', ours)
    result[name] = convert_lib.load(ours)
  return result


def apply(found: convert_lib.Weights, *inputs):
  net = models.build_model(found.network, found.size, found.width)
  run = jax.jit(lambda v, x: net.apply(v, *x, train=False))
  return run(found.variables, inputs)


def nhwc(x: np.ndarray) -> np.ndarray:
  return x.transpose(0, 2, 3, 1).astype(np.float32)


def rgb(x: np.ndarray) -> np.ndarray:
  """Reverse the triples of the last axis."""
  return x.reshape(*x.shape[:-1], -1, 3)[..., ::-1].reshape(x.shape)


def close(found, expected, tolerance: float = 1e-5):
  # Measured: float32 against the goldens' float64 stays below 2e-6.
  np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_golden_generator(golden, imported):
  mel = golden_weights.uniform('in/mel', -4, 4, (2, 1, 80, 16))
  face = golden_weights.uniform('in/face', 0, 1, (2, 6, 96, 96))
  face[:, :3, 48:] = 0
  out = apply(imported['generator'], nhwc(mel), rgb(nhwc(face)))
  out = rgb(np.asarray(out)).transpose(0, 3, 1, 2)  # as published: b c h w
  expected = golden['gen_eval_4d']
  stats = {k: getattr(out, k)() for k in ('mean', 'std', 'min', 'max')}
  for key, value in stats.items():
    close(value, expected['stats'][key])
  for place, value in expected['samples'].items():
    close(out[tuple(int(i) for i in place.split(','))], value)


def test_golden_syncnet(golden, imported):
  mel = golden_weights.uniform('in/melw', -4, 4, (2, 1, 80, 16))
  window = golden_weights.uniform('in/win', 0, 1, (2, 15, 48, 96))
  audio, face = apply(imported['syncnet'], nhwc(mel), rgb(nhwc(window)))
  expected = golden['sync_eval']
  close(audio[0, :8], expected['audio_first8'])
  close(face[0, :8], expected['face_first8'])
  close((audio * face).sum(-1), expected['cos'])


def test_golden_discriminator(golden, imported):
  video = golden_weights.uniform('in/seq', 0, 1, (2, 3, 5, 96, 96))
  frames = video.transpose(2, 0, 1, 3, 4).reshape(10, 3, 96, 96)  # time-major
  logits = apply(imported['discriminator'], rgb(nhwc(frames)))
  close(jax.nn.sigmoid(logits), golden['disc']['pred'])


def test_golden_syncnet_v2(golden, imported):
  lip = 255 * golden_weights.uniform('ev/lip', 0, 1, (1, 3, 5, 224, 224))
  sound = golden_weights.uniform('ev/aud', -20, 20, (1, 1, 13, 20))
  frames = lip.transpose(0, 3, 4, 2, 1).reshape(1, 224, 224, 15)  # BGR stays
  audio, face = apply(
    imported['syncnet_v2'], nhwc(sound), frames.astype(np.float32)
  )
  expected = golden['eval_syncnet_v2']
  close(audio[0, :4], expected['aud_first4'], 2e-4)
  close(face[0, :4], expected['lip_first4'], 5e-3)  # values of hundreds
  distance = np.linalg.norm(np.asarray(audio) - np.asarray(face) + 1e-6)
  assert distance == pytest.approx(expected['pairwise_distance'], rel=1e-5)


@pytest.mark.parametrize('name', convert_lib.NETWORKS)
@pytest.mark.parametrize('suffix', ['.pth', '.pdparams'])
def test_import_then_export_is_bit_exact(
  name, suffix, state_dicts, tmp_path_factory, imported
):
  folder = tmp_path_factory.mktemp('exact')
  ours, out = folder / 'w.safetensors', folder / f'w{suffix}'
  counters = {
    k: 7 for k in state_dicts[name] if k.endswith(tensor_mapping.STEP_COUNTER)
  }
  meta = imported[name].meta | {'counters': counters}
  convert_lib.save(ours, dataclasses.replace(imported[name], meta=meta))
  if name == 'syncnet_v2' and suffix == '.pdparams':
    with pytest.raises(WeightsError, match='no Paddle form'):
      convert_lib.export_file(ours, out)
    return
  convert_lib.export_file(ours, out)
  if suffix == '.pdparams':
    with open(out, 'rb') as file:  # as paddle.load does
      found = pickle.load(file, encoding='latin1')
    table = found.pop('StructuredToParameterName@@')
    assert table.keys() == found.keys()
    assert len(set(table.values())) == len(table)
    expected = as_paddle(state_dicts[name])
  else:
    torch = pytest.importorskip('torch')
    found = torch.load(out, weights_only=True)
    if name != 'syncnet_v2':
      assert found['optimizer'] is None and found['global_step'] == 0
      found = found['state_dict']
    found = {k: v.numpy() for k, v in found.items()}
    expected = state_dicts[name] | {k: np.int64(7) for k in counters}
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    assert found[key].dtype == value.dtype
    assert found[key].tobytes() == value.tobytes(), key


def test_every_published_form_gives_the_same_weights(
  state_dicts, imported, tmp_path
):
  sync = state_dicts['syncnet']
  path = tmp_path / 'w'  # the name says nothing; the content does

  def found(network=None) -> str:
    return convert_lib.convert(path, network).sha256

  writers.write_pth(path, checkpoint(sync))
  assert found() == imported['syncnet'].sha256
  flat = as_paddle(sync, '_layers.')
  for protocol in (2, 4):
    table = {'StructuredToParameterName@@': dict.fromkeys(flat, 'conv2d_0.w_0')}
    path.write_bytes(pickle.dumps(flat | table, protocol))
    assert found() == imported['syncnet'].sha256
  from safetensors import numpy as safetensors

  safetensors.save_file(sync, path)  # somebody else's conversion
  assert found('syncnet') == imported['syncnet'].sha256


def test_the_trainer_of_paddle_nests_networks(state_dicts, imported, tmp_path):
  parts = {'netDS': 'syncnet', 'netG': 'generator', 'netDH': 'discriminator'}
  tree = {'epoch': 7, 'optimizer_G': {'moment': np.ones(3)}}
  for part, name in parts.items():
    flat = as_paddle(state_dicts[name])
    tree[part] = {k: ('conv2d_9.w_0', v) for k, v in flat.items()}
  path = tmp_path / 'iter_7_checkpoint.pdparams'
  path.write_bytes(pickle.dumps(tree, 4))
  for name in (None, 'syncnet', 'discriminator'):
    found = convert_lib.convert(path, name)
    assert found.sha256 == imported[name or 'generator'].sha256
    # The public training code's rule, one frame early (spec 1.7).
    assert found.mel_lead == (Fraction(1, 25) if name is None else 0)
  with pytest.raises(WeightsError, match='a syncnet_v2, found a generator and'):
    convert_lib.convert(path, 'syncnet_v2')


def test_files_written_by_torch(state_dicts, imported, reference, tmp_path):
  torch = pytest.importorskip('torch')
  sys.path.insert(0, str(reference.parent / 'tools'))
  import wav2lip_torch

  net = wav2lip_torch.SyncNet()
  tensors = {k: torch.tensor(v) for k, v in state_dicts['syncnet'].items()}
  net.load_state_dict(tensors)
  for legacy in (True, False):
    wav2lip_torch.save(net, tmp_path / 'w.pth', legacy)
    found = convert_lib.convert(tmp_path / 'w.pth')
    assert found.sha256 == imported['syncnet'].sha256


def test_damaged_tensors_are_all_listed(state_dicts, tmp_path, capsys):
  tensors = dict(state_dicts['syncnet'])
  gone = [k for k in tensors if k.startswith('audio_encoder.1')][:9]
  for key in gone:
    del tensors[key]
  tensors['face_encoder.0.conv_block.0.bias'] = np.zeros(31, np.float32)
  tensors['face_encoder.1.conv_block.0.bias'] = np.full(64, np.nan, np.float32)
  tensors['face_encoder.2.conv_block.0.bias'] = np.zeros(64, np.int32)
  tensors['attention\n.weight'] = np.zeros(3, np.float32)
  counter = 'face_encoder.3.conv_block.1.num_batches_tracked'
  tensors[counter] = np.zeros(2)
  src, dst = tmp_path / 'w.pth', tmp_path / 'out.safetensors'
  writers.write_pth(src, checkpoint(tensors))
  with pytest.raises(WeightsError) as error:
    convert_lib.import_file(src, dst)
  text = str(error.value)
  assert '\n' not in text
  missing = [k for k in gone if not k.endswith(tensor_mapping.STEP_COUNTER)]
  for part in (f'{len(missing)} missing', '1 unexpected', '1 mis-shaped'):
    assert part in text
  assert '(31,) for (32,)' in text and '1 not finite' in text
  kinds = {p.split(': ')[0] for p in error.value.problems}
  assert len(error.value.problems) == len(missing) + 5 and len(kinds) == 5
  assert weights_command.main(['import', str(src), str(dst), '--verbose']) == 1
  lines = capsys.readouterr().err.splitlines()
  assert lines[1:] == list(error.value.problems)
  assert os.listdir(tmp_path) == ['w.pth']


def test_the_wrong_network_is_named(state_dicts, imported, tmp_path):
  path = tmp_path / 'w.pth'
  writers.write_pth(path, checkpoint(state_dicts['discriminator']))
  with pytest.raises(WeightsError, match='a generator, found a discriminator'):
    convert_lib.load_any(path, 'generator')
  convert_lib.save(tmp_path / 'w.safetensors', imported['syncnet'])
  with pytest.raises(WeightsError, match='a generator, found a syncnet'):
    convert_lib.load_any(tmp_path / 'w.safetensors', 'generator')
  writers.write_pth(path, {'conv1_1.weight': np.zeros((64, 3, 3, 3))})
  with pytest.raises(WeightsError, match='another kind'):
    convert_lib.load_any(path)
  writers.write_pth(path, {'epoch': 3})
  with pytest.raises(WeightsError, match='found 0 tensors'):
    convert_lib.load_any(path)


@pytest.fixture(scope='module')
def small() -> convert_lib.Weights:
  """A thin generator with random weights, for tests of our own files."""
  rng = np.random.default_rng(0)
  shapes = tensor_mapping.tensor_specs('generator', 96, 0.1)
  tensors = {s.name: rng.random(s.shape, np.float32) for s in shapes}
  variables = tensor_mapping.from_published('generator', tensors, 96, 0.1)
  return convert_lib.Weights(
    'generator', 96, 0.1, variables, 'a test', meta={'step': 3, 'note': 'ü\n'}
  )


def test_our_file_round_trip(small, tmp_path):
  path = tmp_path / 'w.safetensors'
  convert_lib.save(path, small)
  found = convert_lib.load(path)
  assert len(found.sha256) == 64
  assert dataclasses.replace(found, variables={}, sha256='') == (
    dataclasses.replace(small, variables={})
  )
  assert found.mel_lead == Fraction(2, 25)  # ours are centerd
  jax.tree.map(np.testing.assert_array_equal, found.variables, small.variables)
  assert convert_lib.load_any(path).sha256 == found.sha256
  half = jax.tree.map(lambda x: x.astype(np.float16), small.variables)
  convert_lib.save(path, dataclasses.replace(small, variables=half))
  found = convert_lib.load(path)
  for x, y in zip(*map(jax.tree.leaves, (found.variables, half)), strict=True):
    assert x.dtype == np.float32 and np.array_equal(x, y)
  assert os.listdir(tmp_path) == ['w.safetensors']


def test_half_is_half_as_large_and_the_same_network(small, tmp_path, capsys):
  path, half = tmp_path / 'w.safetensors', tmp_path / 'h.safetensors'
  convert_lib.save(path, small)
  assert weights_command.main(['half', str(path), str(half)]) == 0
  assert capsys.readouterr().out == f'{half}\n'
  assert half.stat().st_size < 0.6 * path.stat().st_size
  found = convert_lib.load(half)
  assert (found.meta, found.source) == (small.meta, small.source)
  for x, y in zip(
    jax.tree.leaves(found.variables),
    jax.tree.leaves(small.variables),
    strict=True,
  ):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-7)
  stats = found.variables['batch_stats'], small.variables['batch_stats']
  jax.tree.map(np.testing.assert_array_equal, *stats)
  large = jax.tree.map(lambda x: x + np.float32(1e6), small.variables)
  convert_lib.save(path, dataclasses.replace(small, variables=large))
  assert weights_command.main(['half', str(path), str(half)]) == 1
  assert 'float16' in capsys.readouterr().err


def test_damage_to_our_file_is_seen(small, tmp_path):
  path = tmp_path / 'w.safetensors'
  convert_lib.save(path, small)
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  header = int.from_bytes(whole[:8], 'little')
  places = [*rng.integers(len(whole), size=20), *rng.integers(header, size=80)]
  for at in places:
    spoilt = bytearray(whole)
    spoilt[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(spoilt)
    with pytest.raises(WeightsError) as error:
      found = convert_lib.load(path)
      # Only a change that means nothing (spaces after the header) may pass.
      assert found.sha256 == digest_of(small) and whole[at] != 32, at
    assert '\n' not in str(error.value)
  path.write_bytes(whole[:-10])
  with pytest.raises(WeightsError, match='copy it again'):
    convert_lib.load(path)


def digest_of(found: convert_lib.Weights) -> str:
  return safetensors_file.tensor_digest(
    dict(safetensors_file.flatten(found.variables))
  )


def test_other_constants_are_refused(small, tmp_path, monkeypatch):
  path = tmp_path / 'w.safetensors'
  with monkeypatch.context() as patch:
    patch.setattr(safetensors_file, 'MEL_TEXT', '22050 Hz')
    convert_lib.save(path, small)
  with pytest.raises(WeightsError, match='22050 Hz'):
    convert_lib.load(path)


def test_imports_are_cached_by_content(
  state_dicts, imported, tmp_path, monkeypatch
):
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', str(tmp_path / 'cache'))
  path = tmp_path / 'w.pth'
  writers.write_pth(path, checkpoint(state_dicts['discriminator']))
  first = convert_lib.load_any(path)
  calls = []
  convert = convert_lib.convert
  monkeypatch.setattr(
    convert_lib, 'convert', lambda *a: calls.append(a) or convert(*a)
  )
  assert convert_lib.load_any(path).sha256 == first.sha256 and not calls
  (cached,) = (tmp_path / 'cache' / 'weights').iterdir()
  cached.write_bytes(cached.read_bytes()[:-1])  # damaged: imported again
  assert convert_lib.load_any(path).sha256 == first.sha256 and len(calls) == 1
  assert convert_lib.load_any(path).sha256 == first.sha256 and len(calls) == 1
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', '/proc/nowhere')  # not writable
  assert convert_lib.load_any(path).sha256 == imported['discriminator'].sha256
  with open(path, 'ab') as file:
    file.write(b'x')  # another content
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', str(tmp_path / 'cache'))
  convert_lib.load_any(path)
  assert len(calls) == 3


def test_command_line(state_dicts, small, tmp_path, capsys):
  pth, ours = tmp_path / 'w.pth', tmp_path / 'w.safetensors'
  writers.write_pth(pth, checkpoint(state_dicts['discriminator']))

  def run(*args) -> tuple[int, str]:
    status = weights_command.main([str(a) for a in args])
    out = capsys.readouterr()
    assert (status == 0) == (not out.err)
    assert status == 0 or len(out.err.splitlines()) == 1
    return status, out.out + out.err

  assert run('import', pth, ours) == (0, f'{ours}\n')
  status, text = run('info', ours)
  assert 'discriminator, 96 pixels, width 1, 14,113,793 parameters' in text
  assert convert_lib.load(ours).sha256 in text and 'w.pth, SHA-256' in text
  assert 'published' in run('info', pth)[1]
  assert run('export', ours, tmp_path / 'b.pth')[0] == 0
  assert run('export', ours, tmp_path / 'b.pdparams')[0] == 0
  before = sorted(os.listdir(tmp_path))
  (tmp_path / 'page.pth').write_text('<html>Sign in</html>')
  for args, word in (
    (('import', pth, tmp_path / 'b.pth'), 'ending in .safetensors'),
    (('import', ours, tmp_path / 'c.safetensors'), 'ours already'),
    (('import', pth, tmp_path / 'no' / 'c.safetensors'), 'cannot write'),
    (('import', tmp_path, tmp_path / 'c.safetensors'), 'found a folder'),
    (('import', tmp_path / 'page.pth', tmp_path / 'c.safetensors'), 'web page'),
    (('import', pth, ours, '--network', 'syncnet'), 'found a discriminator'),
    (('export', ours, tmp_path / 'c.onnx'), 'ending in .pth or .pdparams'),
    (('info', tmp_path / 'absent'), 'no file of that name'),
  ):
    status, text = run(*args)
    assert status == 1 and word in text, (args, text)
  (tmp_path / 'page.pth').unlink()
  assert sorted(os.listdir(tmp_path)) == before


def test_unsafe_files_are_refused(tmp_path):
  class Evil:
    def __reduce__(self):
      return os.system, (f'touch {tmp_path}/CANARY',)

  (tmp_path / 'w.pth').write_bytes(pickle.dumps({'state_dict': Evil()}, 2))
  with pytest.raises(UnsafeFile, match='system'):
    convert_lib.load_any(tmp_path / 'w.pth', 'generator')
  assert os.listdir(tmp_path) == ['w.pth']


def test_slots_agree_with_the_reference(reference):
  """Names, shapes and order are those of the published files."""
  records = json.loads((reference / 'wav2lip_statedict.json').read_text())
  for ours, theirs in NAMES.items():
    slots = {s.name: s.shape for s in tensor_mapping.tensor_specs(ours)}
    expected = {
      r['name']: tuple(r['shape'])
      for r in records[theirs]
      if r['dtype'] == 'float32'
    }
    assert slots == expected
