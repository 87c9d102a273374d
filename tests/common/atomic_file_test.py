"""Files are complete or absent, and stale temporary files are deleted."""

import os
import subprocess
import sys
import threading

import pytest

from lipsync_jax.common import atomic_file

POSIX = pytest.mark.skipif(os.name != 'posix', reason='locks of POSIX')


def test_complete_or_as_before(tmp_path):
  path = tmp_path / 'a.mp4'
  path.write_text('old')
  with pytest.raises(KeyboardInterrupt), atomic_file.atomic_write(path) as part:
    part.write_text('half')
    raise KeyboardInterrupt
  assert os.listdir(tmp_path) == ['a.mp4'] and path.read_text() == 'old'
  with atomic_file.atomic_write(path) as part:
    part.write_text('new')
    assert path.read_text() == 'old'
  assert os.listdir(tmp_path) == ['a.mp4'] and path.read_text() == 'new'


@POSIX
def test_files_of_living_writers_stay_and_stale_ones_go(tmp_path):
  script = (
    'import sys; from lipsync_jax.common import atomic_file\n'
    'atomic_file.AtomicFile(sys.argv[1]); print(flush=True); sys.stdin.read()\n'
  )
  other = subprocess.Popen(
    [sys.executable, '-c', script, str(tmp_path / 'b.mp4')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  with other:
    other.stdout.readline()
    foreign = tmp_path / 'download.part'
    foreign.write_text('not ours')
    (tmp_path / f'folder{atomic_file.PART_SUFFIX}').mkdir()
    (tmp_path / f'link{atomic_file.PART_SUFFIX}').symlink_to(foreign)
    first = atomic_file.AtomicFile(tmp_path / 'a.mp4')
    atomic_file.remove_stale(tmp_path)
    assert first.part.exists()
    held = [n for n in os.listdir(tmp_path) if n.startswith('b.mp4')]
    assert len(held) == 1
    other.kill()
  atomic_file.remove_stale(tmp_path)
  assert not (tmp_path / held[0]).exists() and first.part.exists()
  first.drop()
  first.drop()
  left = {
    f'folder{atomic_file.PART_SUFFIX}',
    f'link{atomic_file.PART_SUFFIX}',
    'download.part',
  }
  assert set(os.listdir(tmp_path)) == left


def test_many_writers_at_once(tmp_path):
  failures = []

  def work(i):
    try:
      for j in range(40):
        with atomic_file.atomic_write(tmp_path / f'{i}') as part:
          part.write_text(f'{i} {j}')
    except BaseException as error:
      failures.append(error)

  threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failures
  assert {(tmp_path / f'{i}').read_text() for i in range(8)} == {
    f'{i} 39' for i in range(8)
  }
  assert len(os.listdir(tmp_path)) == 8


def test_a_long_name_and_a_missing_folder(tmp_path):
  with atomic_file.atomic_write(tmp_path / ('ü' * 120)) as part:
    part.write_text('x')
  assert len(os.listdir(tmp_path)) == 1
  with pytest.raises(OSError):
    atomic_file.AtomicFile(tmp_path / 'none' / 'a.mp4')
