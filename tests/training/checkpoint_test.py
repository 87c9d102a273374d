"""checkpoint.py: round trips, damage, interruption, locks, full disks."""

import os
import random
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax.training import checkpoint
from lipsync_jax.training.checkpoint import CheckpointError, CheckpointManager


def tree(seed: int) -> dict:
  x = jax.random.normal(jax.random.key(seed), (40, 50))
  return {'a': x, 'b': {'n': jnp.int32(seed), 'none': {}}, 'c': (x[0], ())}


def abstract() -> dict:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    tree(0),
  )


def fill(workdir, count=3, keep=3, measured=None, **values):
  with CheckpointManager(workdir, keep, **values) as store:
    for step in range(1, count + 1):
      facts = {'measured': measured[step - 1]} if measured else {}
      store.save(step, tree(step), {'next': step}, {'seed': 1}, facts)
    store.wait()
    return store.steps()


def equal(x, y):
  jax.tree.map(np.testing.assert_array_equal, x, y)


def test_run_comes_back(tmp_path):
  assert fill(tmp_path) == [1, 2, 3]
  with CheckpointManager(tmp_path) as store:
    step, state, data, config, facts = store.restore(abstract())
    assert (step, data, config, facts) == (3, {'next': 3}, {'seed': 1}, {})
    assert store.config(2) == {'seed': 1}
    equal(state, tree(3))
    equal(store.restore(abstract(), step=2)[1], tree(2))


def test_nothing_saved_is_nothing_restored(tmp_path):
  with CheckpointManager(tmp_path / 'new') as store:
    assert store.restore(abstract()) is None
    assert store.newest() is None


def test_newest_and_best_stay(tmp_path):
  losses = [3.0, 1.0, float('nan'), 2.0, 5.0]
  assert fill(tmp_path, 5, keep=2, measured=losses) == [2, 4, 5]
  with CheckpointManager(tmp_path) as store:
    assert store.best() == 2
  assert fill(tmp_path / 'b', 4, keep=1, keep_best=False) == [4]


def test_interrupted_save_does_not_count(tmp_path):
  fill(tmp_path, 2)
  (tmp_path / 'checkpoints/00000002/manifest.json').unlink()
  with CheckpointManager(tmp_path) as store:
    assert store.steps() == [1]
    assert store.restore(abstract())[0] == 1
  assert not (tmp_path / 'checkpoints/00000002').exists()


@pytest.mark.parametrize('change', ['cut', 'missing', 'foreign'])
def test_damage_falls_back_to_the_step_before(change, tmp_path, capfd):
  fill(tmp_path, 2)
  path = next((tmp_path / 'checkpoints/00000002').rglob('d/*'))
  if change == 'cut':
    path.write_bytes(path.read_bytes()[:-1])
  elif change == 'missing':
    path.unlink()
  else:
    path.with_name('other').write_bytes(b'x')
  with CheckpointManager(tmp_path) as store:
    step, state, *_ = store.restore(abstract())
    assert step == 1
    equal(state, tree(1))
    assert 'not used' in capfd.readouterr().err
    with pytest.raises(CheckpointError, match='damaged'):
      store.restore(abstract(), step=2)


def test_200_flipped_bits_are_refused(tmp_path):
  fill(tmp_path, 1)
  folder = checkpoint.epath.Path(tmp_path / 'checkpoints/00000001')
  paths = [
    *checkpoint.checkpoint_files(folder).values(),
    folder / checkpoint.MANIFEST,
  ]
  rng = random.Random(0)
  for _ in range(200):
    path = rng.choice(paths)
    whole = path.read_bytes()
    if not whole:
      continue
    bit = rng.randrange(8 * len(whole))
    broken = bytearray(whole)
    broken[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(broken))
    assert checkpoint.find_damage(folder), (path, bit)
    path.write_bytes(whole)
  assert checkpoint.find_damage(folder) is None


def test_two_runs_cannot_share_a_workdir(tmp_path):
  code = (
    'import sys\n'
    'from lipsync_jax.training.checkpoint import CheckpointManager\n'
    'try: CheckpointManager(sys.argv[1])\n'
    'except ValueError as error: print(error)'
  )
  command = [sys.executable, '-c', code, str(tmp_path)]
  with CheckpointManager(tmp_path):
    other = subprocess.run(command, capture_output=True, text=True)
    assert 'another run trains here' in other.stdout
    assert other.stdout.count('\n') == 1
  other = subprocess.run(command, capture_output=True, text=True)
  assert other.stdout == ''


def test_workdir_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(CheckpointError, match='choose another --workdir') as info:
    CheckpointManager(tmp_path / 'file')
  assert '\n' not in str(info.value)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_full_disk_is_one_line_and_leaves_the_step_before(
  tmp_path, monkeypatch
):
  fill(tmp_path, 1)

  def full(folder):
    os.symlink('/dev/full', folder / 'manifest.json.part')
    (folder / 'manifest.json.part').write_bytes(b'x' * 10000)

  monkeypatch.setattr(checkpoint, 'write_manifest', full)
  with (
    pytest.raises(CheckpointError, match='No space left'),
    CheckpointManager(tmp_path) as store,
  ):
    store.save(2, tree(2), {}, {}, {})
  monkeypatch.undo()
  with CheckpointManager(tmp_path) as store:
    assert store.restore(abstract())[0] == 1


def test_other_shapes_are_one_line(tmp_path):
  fill(tmp_path, 1)
  other = abstract() | {'a': jax.ShapeDtypeStruct((2, 2), jnp.float32)}
  with (
    CheckpointManager(tmp_path) as store,
    pytest.raises(CheckpointError) as info,
  ):
    store.restore(other | {'extra': other['a']})
  assert '\n' not in str(info.value)
