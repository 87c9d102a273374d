"""Pipeline: the two Beam graphs of a build, and the plain work between them.

`prepare` turns every file into rows (one a clip, kept or dropped), `write`
turns the rows that are kept into shards. Only rows travel through Beam; the
pictures wait in the cache. Which clip goes into which shard is a function
of its key and of sizes, so neither workers nor order change a byte.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_prep.extract import UNLISTED as NOT_LISTED
from data_prep.layouts import Job
from data_prep.process import Row, Task, Worker, load, order, record, save
from lipsync_jax import audio
from lipsync_jax.data import tfrecord
from lipsync_jax.data.clip import (
  DATASET_NAME,
  write_encoded_clips,
  write_tfds_info,
)

log = logging.getLogger(__name__)

SHARD = 256 * 2**20  # bytes, about


class Prepare(beam.DoFn):
  """Job -> JSON of its rows. Owns a process's models."""

  def __init__(self, task: Task):
    self.task = task

  def setup(self):
    self.worker = Worker(self.task)
    self.done, self.seconds = 0, 0.0
    self.since = time.monotonic()

  def teardown(self):
    self.worker.close()

  def process(self, job: Job):
    rows = self.worker.rows(job)
    self.done += 1
    self.seconds += sum(row.get('frames', 0) for row in rows) / audio.FPS
    spent = time.monotonic() - self.since
    if spent > 60:
      log.info(
        '%s: %d files since the last line, %.2f s of video a second',
        *(job.key, self.done, self.seconds / spent),
      )
      self.done, self.seconds, self.since = 0, 0.0, time.monotonic()
    yield json.dumps(rows, sort_keys=True)


class Write(beam.DoFn):
  """(path of a shard, its rows) -> path; does nothing if it is there."""

  def process(self, shard: tuple[str, list[Row]]):
    path, rows = shard
    write_shard(path, rows)
    yield path


def options(flags: Sequence[str], workers: int) -> PipelineOptions:
  """Beam's own flags, with a local runner of `workers` processes if none."""
  given = list(flags)
  if not any(flag.startswith('--runner') for flag in given):
    # Not DirectRunner: it may switch to one that has to be downloaded.
    given += ['--runner=FnApiRunner', f'--direct_num_workers={workers}']
    mode = 'multi_processing' if workers > 1 else 'in_memory'
    given += [f'--direct_running_mode={mode}']
  return PipelineOptions(given)


def prepare(
  jobs: Sequence[Job], task: Task, where: str, given: PipelineOptions
) -> list[Row]:
  """Rows of all jobs, in the order of their keys.

  Args:
    where: folder for the rows' way back, shared with the workers.
  """
  for old in _path(where).glob('rows*'):
    old.unlink()
  with beam.Pipeline(options=given) as graph:
    _ = (
      graph
      | 'jobs' >> beam.Create(spread(jobs), reshuffle=False)
      | 'to workers' >> beam.Reshuffle()
      | 'prepare' >> beam.ParDo(Prepare(task))
      | 'rows' >> beam.io.WriteToText(os.path.join(where, 'rows'))
    )
  rows = [
    row
    for path in _path(where).glob('rows*')
    for line in path.read_text().splitlines()
    for row in json.loads(line)
  ]
  return sorted(rows, key=lambda row: row['key'])


def spread(jobs: Sequence[Job]) -> list[Job]:
  """Jobs in an order in which long and short ones are mixed."""
  return sorted(jobs, key=lambda job: order(job.key))


def layout(
  rows: Sequence[Row], folder: str, size: int = SHARD
) -> dict[str, list[Row]]:
  """Rows of every shard, by its path: shuffled, of about equal bytes."""
  plan: dict[str, list[Row]] = {}
  splits = sorted({row['split'] for row in rows if not row['reason']})
  for split in splits:
    kept = [r for r in rows if r['split'] == split and not r['reason']]
    kept.sort(key=lambda row: order(row['key']))
    total = sum(row['bytes'] for row in kept)
    count = min(max(1, round(total / size)), len(kept))
    names = [
      tfrecord.shard_name(DATASET_NAME, split, i, count) for i in range(count)
    ]
    for i, row in enumerate(kept):
      name = names[i * count // len(kept)]
      plan.setdefault(os.path.join(folder, name), []).append(row)
  return plan


def recipe(rows: Sequence[Row]) -> str:
  """What decides the bytes of a shard."""
  names = ('at', 'offset', 'confidence')
  parts = [
    [row['key'], os.path.basename(row['pack']), *(row.get(n) for n in names)]
    for row in rows
  ]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def noted(path: str) -> str:
  """Where the recipe of a finished shard lies: not beside the data."""
  folder, name = os.path.split(path)
  return os.path.join(folder, 'cache', 'shards', f'{name}.json')


def finished(path: str, rows: Sequence[Row]) -> bool:
  """Whether a shard is there as it should be."""
  note = load(noted(path))
  if not isinstance(note, dict) or note.get('recipe') != recipe(rows):
    return False
  file, index = _path(path), _path(tfrecord.index_name(path))
  if not (file.exists() and index.exists()):
    return False
  return file.stat().length == note['size']


def write_shard(path: str, rows: Sequence[Row]) -> None:
  """Write a shard with its index, unless it is there already."""
  if finished(path, rows):
    return
  _path(noted(path)).unlink(missing_ok=True)
  index = write_encoded_clips(path, (record(row) for row in rows))
  note = {'recipe': recipe(rows), 'size': index.size}
  save(noted(path), json.dumps(note).encode())


def write(
  rows: Sequence[Row], folder: str, given: PipelineOptions, size: int = SHARD
) -> list[str]:
  """All shards of the rows kept, and what makes a data set of them.

  The data set cannot be opened while shards change under it: what describes
  it goes first and comes last.

  Returns:
    the splits.
  """
  plan = layout(rows, folder, size)
  todo = [(path, part) for path, part in plan.items()]
  todo = [entry for entry in todo if not finished(*entry)]
  base = _path(folder)
  stale = [
    file
    for file in base.glob('*.tfrecord-*')
    if str(file).removesuffix('.index') not in plan
  ]
  if todo or stale:
    for name in ('dataset_info.json', 'features.json'):
      (base / name).unlink(missing_ok=True)
  for file in stale:
    file.unlink()
  if todo:
    with beam.Pipeline(options=given) as graph:
      _ = (
        graph
        | 'shards' >> beam.Create(todo, reshuffle=False)
        | 'to workers' >> beam.Reshuffle()
        | 'write' >> beam.ParDo(Write())
      )
  splits = sorted({row['split'] for row in rows if not row['reason']})
  write_tfds_info(folder, splits, 'Talking faces with their sound.')
  return splits


def rejected(rows: Sequence[Row]) -> bytes:
  """One line of JSON for every clip that was dropped."""
  lines = [
    {name: row[name] for name in ('key', 'reason', 'detail', 'split', 'source')}
    for row in rows
    if row['reason']
  ]
  return ''.join(json.dumps(line) + '\n' for line in lines).encode()


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
  """Clips found, kept and dropped by reason, by split."""
  table: dict[str, dict[str, int]] = {}
  for row in rows:
    split = table.setdefault(row['split'], {'found': 0, 'kept': 0})
    name = row['reason'] or 'kept'
    split['found'] += 1
    split[name] = split.get(name, 0) + 1
  assert all(
    2 * split['found'] == sum(split.values()) for split in table.values()
  )
  return dict(sorted(table.items(), key=lambda item: item[0] == NOT_LISTED))


def _path(path):
  from etils import epath

  return epath.Path(path)
