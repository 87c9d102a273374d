"""The two Beam graphs of a build.

`prepare` maps files to rows, one for each clip, accepted or rejected. `write`
maps accepted rows to shards. Only rows pass through Beam; pictures stay in the
cache. The shard of a clip is a function of keys and sizes, so that the bytes do
not depend on workers or order.
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
from data_prep.process import (
  Row,
  Task,
  Worker,
  load_json,
  save,
  shard_record,
  shuffle_key,
)
from lipsync_jax import audio
from lipsync_jax.data import tfrecord
from lipsync_jax.data.clip import (
  DATASET_NAME,
  write_encoded_clips,
  write_tfds_info,
)

log = logging.getLogger(__name__)

SHARD_BYTES = 256 * 2**20  # approximate


class Prepare(beam.DoFn):
  """Job -> JSON of its rows, with the models of one process."""

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
  """(path of a shard, its rows) -> path; skips finished shards."""

  def process(self, shard: tuple[str, list[Row]]):
    path, rows = shard
    write_shard(path, rows)
    yield path


def options(flags: Sequence[str], workers: int) -> PipelineOptions:
  """Beam's options; a local runner of `workers` processes by default."""
  given = list(flags)
  if not any(flag.startswith('--runner') for flag in given):
    # DirectRunner may switch to a runner that must be downloaded.
    given += ['--runner=FnApiRunner', f'--direct_num_workers={workers}']
    mode = 'multi_processing' if workers > 1 else 'in_memory'
    given += [f'--direct_running_mode={mode}']
  return PipelineOptions(given)


def prepare(
  jobs: Sequence[Job], task: Task, where: str, given: PipelineOptions
) -> list[Row]:
  """Rows of all jobs, in the order of their keys.

  Args:
    jobs: files.
    task: settings of the workers.
    where: folder that all workers share, for the rows.
    given: Beam's options.
  """
  for old in _path(where).glob('rows*'):
    old.unlink()
  with beam.Pipeline(options=given) as graph:
    _ = (
      graph
      | 'jobs' >> beam.Create(mix_jobs(jobs), reshuffle=False)
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


def mix_jobs(jobs: Sequence[Job]) -> list[Job]:
  """The jobs shuffled, so that long and short ones are mixed."""
  return sorted(jobs, key=lambda job: shuffle_key(job.key))


def assign_shards(
  rows: Sequence[Row], folder: str, size: int = SHARD_BYTES
) -> dict[str, list[Row]]:
  """Rows of every shard by its path: shuffled, of about equal bytes."""
  plan: dict[str, list[Row]] = {}
  splits = sorted({row['split'] for row in rows if not row['reason']})
  for split in splits:
    kept = [r for r in rows if r['split'] == split and not r['reason']]
    kept.sort(key=lambda row: shuffle_key(row['key']))
    total = sum(row['bytes'] for row in kept)
    count = min(max(1, round(total / size)), len(kept))
    names = [
      tfrecord.shard_name(DATASET_NAME, split, i, count) for i in range(count)
    ]
    for i, row in enumerate(kept):
      name = names[i * count // len(kept)]
      plan.setdefault(os.path.join(folder, name), []).append(row)
  return plan


def shard_fingerprint(rows: Sequence[Row]) -> str:
  """Hash of everything that determines the bytes of a shard."""
  names = ('at', 'offset', 'confidence')
  parts = [
    [row['key'], os.path.basename(row['pack']), *(row.get(n) for n in names)]
    for row in rows
  ]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def note_path(path: str) -> str:
  """File in the cache with the fingerprint of a finished shard."""
  folder, name = os.path.split(path)
  return os.path.join(folder, 'cache', 'shards', f'{name}.json')


def is_finished(path: str, rows: Sequence[Row]) -> bool:
  """Whether a shard exists with these rows."""
  note = load_json(note_path(path))
  if not isinstance(note, dict) or note.get('recipe') != shard_fingerprint(
    rows
  ):
    return False
  file, index = _path(path), _path(tfrecord.index_name(path))
  if not (file.exists() and index.exists()):
    return False
  return file.stat().length == note['size']


def write_shard(path: str, rows: Sequence[Row]) -> None:
  """Write a shard with its index, unless it is finished."""
  if is_finished(path, rows):
    return
  _path(note_path(path)).unlink(missing_ok=True)
  index = write_encoded_clips(path, (shard_record(row) for row in rows))
  note = {'recipe': shard_fingerprint(rows), 'size': index.size}
  save(note_path(path), json.dumps(note).encode())


def write(
  rows: Sequence[Row],
  folder: str,
  given: PipelineOptions,
  size: int = SHARD_BYTES,
) -> list[str]:
  """Write all shards and the TFDS description of the data set.

  The description is deleted first and written last, so that a data set with
  changing shards cannot be opened.

  Returns:
    The splits.
  """
  plan = assign_shards(rows, folder, size)
  missing = [entry for entry in plan.items() if not is_finished(*entry)]
  base = _path(folder)
  stale = [
    file
    for file in base.glob('*.tfrecord-*')
    if str(file).removesuffix('.index') not in plan
  ]
  if missing or stale:
    for name in ('dataset_info.json', 'features.json'):
      (base / name).unlink(missing_ok=True)
  for file in stale:
    file.unlink()
  if missing:
    with beam.Pipeline(options=given) as graph:
      _ = (
        graph
        | 'shards' >> beam.Create(missing, reshuffle=False)
        | 'to workers' >> beam.Reshuffle()
        | 'write' >> beam.ParDo(Write())
      )
  splits = sorted({row['split'] for row in rows if not row['reason']})
  write_tfds_info(folder, splits, 'Talking faces with their sound.')
  return splits


def rejected(rows: Sequence[Row]) -> bytes:
  """One line of JSON for every rejected clip."""
  lines = [
    {name: row[name] for name in ('key', 'reason', 'detail', 'split', 'source')}
    for row in rows
    if row['reason']
  ]
  return ''.join(json.dumps(line) + '\n' for line in lines).encode()


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
  """Numbers of clips by split: found, kept, and rejected by reason."""
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
