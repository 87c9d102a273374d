"""Batches on Apache Beam: its local runner, and Dask with two processes."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('apache_beam')

from lipsync_jax import __main__ as command
from lipsync_jax.batch import beam, beam_runner, manifest, runner
from tests.helpers import test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO = ROOT / 'examples/mona.jpg'
FACES = 4
MEASURED = ('seconds', 'peak_memory_mb', 'decoder_memory_mb', 'outfile')


@pytest.fixture
def folder(tmp_path):
  """Small photos, two voices, and a manifest with bad rows among the good."""
  import cv2

  picture = cv2.resize(cv2.imread(str(PHOTO)), (256, 256))
  for i in range(FACES):  # of different brightness
    cv2.imwrite(str(tmp_path / f'{i}.png'), cv2.add(picture, (8 * i,) * 4))
  cv2.imwrite(str(tmp_path / 'gray.png'), picture * 0 + 128)
  for name, seconds in (('a', 0.2), ('b', 0.4)):
    t = np.arange(round(16_000 * seconds)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * 150 * t) * (np.sin(2 * np.pi * 5 * t) > 0)
    test_clips.write_wav(tmp_path / f'{name}.wav', wave)
  rows = [
    {'face': f'{i}.png', 'audio': f'{v}.wav', 'outfile': f'{v}/{i}.mp4'}
    for v in 'ab'
    for i in range(FACES)
  ]
  rows[2:2] = [
    {'face': 'gray.png', 'audio': 'a.wav', 'outfile': 'faceless.mp4'},
    {'face': 'nobody.png', 'audio': 'a.wav', 'outfile': 'missing.mp4'},
    {'face': '0.png', 'audio': 'a.wav', 'outfile': '../escape.mp4'},
  ]
  with open(tmp_path / 'rows.csv', 'w', newline='') as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  return tmp_path


BAD = {3, 4, 5}


def lines_of(out: pathlib.Path) -> list[dict]:
  text = (out / runner.RESULTS).read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def comparable(out: pathlib.Path) -> list[dict]:
  """The lines without measured values and without the output's folder."""
  lines = lines_of(out)
  for line in lines:
    del line['key']  # holds the output's path
    for name in MEASURED:
      line.get('report', {}).pop(name, None)
  return lines


def files_of(out: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(out)): path.read_bytes()
    for path in out.rglob('*')
    if path.is_file() and path.name != runner.RESULTS
  }


def assert_same_as_local(folder: pathlib.Path, out: pathlib.Path) -> None:
  """The bytes and lines of `lipsync batch`, and nothing else."""
  words = ['batch', str(folder / 'rows.csv'), '--out', str(folder / 'local')]
  assert command.main([*words, '--quiet']) == 1
  assert comparable(out) == comparable(folder / 'local')
  failed = {r['row'] for r in lines_of(out) if r['status'] == 'failed'}
  assert failed == BAD
  found = files_of(out)
  assert len(found) == 2 * FACES
  assert found == files_of(folder / 'local')


def words_of(folder, out, *more: str) -> list[str]:
  return [str(folder / 'rows.csv'), '--out', str(out), *more]


def test_the_local_runner_gives_the_same_and_continues(
  folder, capsys, monkeypatch
):
  monkeypatch.setattr(os, 'environ', os.environ.copy())
  out = folder / 'beam'
  words = words_of(folder, out, '--workers=1')
  assert beam.main(words) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith(f'error: {len(BAD)} of {2 * FACES + 3} rows failed')
  assert_same_as_local(folder, out)
  # A line that is lost, but written by the worker of a killed command, counts.
  lines = lines_of(out)
  kept = (out / 'a/0.mp4').stat().st_mtime_ns
  (out / runner.RESULTS).write_text('{"row": 3, "status": "do')  # torn
  (out / beam_runner.PARTS).mkdir()
  for line in lines:
    part = out / beam_runner.PARTS / f'{line["row"]}.jsonl'
    part.write_text(json.dumps(line) + '\n')
  (out / 'b/3.mp4').unlink()
  done, before = [], runner.run_row

  def counted(session, row, *rest):
    done.append(row.number)
    return before(session, row, *rest)

  monkeypatch.setattr(runner, 'run_row', counted)
  assert beam.main(words) == 1
  assert sorted(done) == [3, 4, 2 * FACES + 3]  # bad ones, and the lost one
  assert (out / 'a/0.mp4').stat().st_mtime_ns == kept
  assert_same_as_local(folder, out)
  # `lipsync batch` continues it too.
  monkeypatch.setattr(runner, 'run_row', before)
  words = ['batch', str(folder / 'rows.csv'), '--out', str(out), '--quiet']
  assert command.main(words) == 1
  assert (out / 'a/0.mp4').stat().st_mtime_ns == kept


def rows_done_here() -> tuple[int, int]:
  """Process and the number of rows that it did; runs on Dask's workers."""
  from lipsync_jax.batch import beam_runner

  return os.getpid(), beam_runner._Process.rows_done


@pytest.mark.slow
def test_dask_gives_the_same_by_two_processes(folder, capsys, monkeypatch):
  distributed = pytest.importorskip('distributed')
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', str(folder / 'cache'))
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  out = folder / 'dask'
  with (
    distributed.LocalCluster(
      n_workers=2,
      threads_per_worker=1,
      processes=True,
      dashboard_address=None,
      local_directory=str(folder / 'scratch'),
    ) as cluster,
    distributed.Client(cluster) as client,
  ):
    words = words_of(folder, out, '--runner=DaskRunner')
    words.append(f'--dask_client_address={cluster.scheduler_address}')
    assert beam.main(words) == 1
    counts = dict(client.run(rows_done_here).values())
  assert 'rows failed' in capsys.readouterr().err
  assert os.getpid() not in counts and len(counts) == 2
  assert min(counts.values()) > 0
  assert sum(counts.values()) == 2 * FACES + len(BAD) - 1  # one is unreadable
  assert_same_as_local(folder, out)


@pytest.mark.slow
def test_two_processes_of_the_local_runner_give_the_same(folder):
  out = folder / 'beam'
  line = [sys.executable, '-m', 'lipsync_jax.batch.beam', '--workers=2']
  done = subprocess.run(
    [*line, *words_of(folder, out)],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and 'rows failed' in done.stderr, done.stderr
  assert_same_as_local(folder, out)


def test_jobs_of_a_face_have_its_number_and_the_longest_sound_is_first(folder):
  rows = manifest.read_manifest(folder / 'rows.csv', folder / 'out', {})
  keys, left = runner.begin(rows, runner.Results(folder / 'none.jsonl'))
  jobs = beam_runner.jobs_of(left, keys)
  groups: dict[int, list] = {}
  for face, (place, row, key) in jobs:
    groups.setdefault(face, []).append((place, row))
    assert key == keys[row.number]
  assert len(groups) == FACES + 2
  for group in groups.values():
    assert len({row.options.face for _, row in group}) == 1
    assert [place for place, _ in group] == list(range(len(group)))
  photos = [g for g in groups.values() if len(g) == 2]
  assert [g[0][1].options.audio[-5:] for g in photos] == ['b.wav'] * FACES


@pytest.mark.parametrize(
  'words, said',
  [
    (['--workers=0'], 'expected at least 1'),
    (['--outfile=x.mp4'], 'expected in the manifest'),
    (['--strenght=2'], '--strenght: expected an option'),
    (['--runner=Nobody'], '--runner=Nobody: expected a runner'),
    (['--strength=9', '--workers=1'], 'rows failed'),
  ],
)
def test_bad_words_are_one_line(folder, capsys, monkeypatch, words, said):
  monkeypatch.setattr(os, 'environ', os.environ.copy())
  out = folder / 'out'
  assert beam.main(words_of(folder, out, *words)) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('error: ') and said in error
  assert (out / runner.RESULTS).exists() == (said == 'rows failed')


def test_words_are_parted_between_lipsync_and_beam():
  words = ['--pads', '0', '10', '-1', '0', '--no_detail_transfer', '--crf=20']
  ours, beams = beam.split_words([*words, '--temp_location=gs://b/t', '--x'])
  assert beams == ['--temp_location=gs://b/t', '--x']
  assert ours == [*words[:5], '--no-detail-transfer', '--crf=20']


def test_dask_gets_a_partition_for_each_row_unless_told():
  pytest.importorskip('distributed')
  from apache_beam.runners.dask.dask_runner import DaskOptions

  def partitions(*flags):
    options = beam_runner.make_options(['--runner=dask', *flags], 1, 7)
    found = options.view_as(DaskOptions)
    return found.npartitions, found.partition_size

  assert partitions() == (7, None)
  assert partitions('--dask_npartitions=3') == (3, None)
  assert partitions('--dask_partition_size=2') == (None, 2)
  whole_name = 'apache_beam.runners.dask.dask_runner.DaskRunner'
  assert partitions(f'--runner={whole_name}') == (7, None)
  with pytest.raises(manifest.BatchError, match='--dusk'):
    partitions('--dusk_npartitions=3')


def test_a_worker_without_the_shared_folder_says_so(tmp_path):
  do_group = beam_runner.DoGroup(str(tmp_path / 'elsewhere'), False)
  with pytest.raises(manifest.BatchError, match='all workers share'):
    list(do_group.process((0, [])))


def test_a_missing_line_is_an_error(folder, monkeypatch):
  """As when the workers wrote into a folder of the same name elsewhere."""
  monkeypatch.setattr(beam_runner, '_run_pipeline', lambda *_: None)
  rows = manifest.read_manifest(folder / 'rows.csv', folder / 'out', {})
  options = beam_runner.make_options([], 1, len(rows))
  with pytest.raises(manifest.BatchError, match='none for row 1;'):
    beam_runner.run_batch(rows, folder / 'out', options)
  # The rows that cannot be read have their lines.
  assert [r['row'] for r in lines_of(folder / 'out')] == [5]


def test_a_repeated_group_does_only_what_is_left(folder, monkeypatch):
  """A runner repeats a group whose worker was lost."""
  rows = manifest.read_manifest(folder / 'rows.csv', folder / 'out', {})
  group = [row for row in rows if row.outfile in ('a/1.mp4', 'b/1.mp4')]
  (folder / 'out/a').mkdir(parents=True)
  parts, done = folder / 'parts', []
  parts.mkdir()

  def run_row(session, row, key, stop):
    assert session is beam_runner.warm_session()
    done.append(row.outfile)
    if row.outfile == 'b/1.mp4':
      raise SystemExit  # the worker is lost
    pathlib.Path(row.options.outfile).write_text('complete')
    line = {'row': row.number, 'outfile': row.outfile, 'key': key}
    return line | {'status': 'done', 'reason': ''}

  monkeypatch.setattr(runner, 'run_row', run_row)
  jobs = [(place, row, 'key') for place, row in enumerate(group)]
  do_group = beam_runner.DoGroup(str(parts), False)
  do_group.setup()
  for _ in range(2):
    with pytest.raises(SystemExit):
      # In any order, and twice.
      list(do_group.process((0, [*reversed(jobs), *jobs])))
  assert done == ['a/1.mp4', 'b/1.mp4', 'b/1.mp4']
  (folder / 'out/a/1.mp4').unlink()
  with pytest.raises(SystemExit):
    list(do_group.process((0, jobs)))
  assert done[-2:] == ['a/1.mp4', 'b/1.mp4']
