"""Rows of a manifest as an Apache Beam pipeline, on one machine or many.

The rows of one face form a group, which one process does in order, so that its
search for faces is shared. Each process has one warm `Session`. Only options
and keys pass through Beam: media stay in files that all workers reach by the
same paths. A worker writes the line of a row into `results.parts/`, and the
launching process gathers the lines into `results.jsonl`.
"""

import atexit
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import (
  PipelineOptions,
  StandardOptions,
)

from lipsync_jax.batch import runner
from lipsync_jax.batch.manifest import BatchError, Row
from lipsync_jax.common.errors import printable, reason_of
from lipsync_jax.inference.session import Session

log = logging.getLogger(__name__)

PARTS = 'results.parts'
# More partitions only lengthen the task graph, as 64 machines of 16 cores
# then still have one each.
MAX_PARTITIONS = 1024
# Runners whose own options Beam for Python does not know.
PORTABLE = ('flink', 'spark', 'portable')

Job = tuple[int, Row, str]  # place in its group, row, key of the row


class _Process:
  """What the threads of a worker process share."""

  lock = threading.Lock()
  session: Session | None = None
  stop = threading.Event()
  rows_done = 0


def warm_session() -> Session:
  """The session of this process, which lives as long as the process.

  It is no attribute of the DoFn: Dask sets one up for every partition.
  """
  with _Process.lock:
    if _Process.session is None:
      _Process.session = Session()
      atexit.register(_Process.session.close)
    return _Process.session


class DoGroup(beam.DoFn):
  """(number of a face, its jobs) -> numbers of its rows."""

  def __init__(self, parts: str, cpu: bool):
    self.parts, self.cpu = parts, cpu

  def setup(self):
    if self.cpu:
      os.environ['JAX_PLATFORMS'] = 'cpu'
    warm_session()

  def process(self, group: tuple[int, Iterable[Job]]) -> Iterator[int]:
    folder = pathlib.Path(self.parts)
    if not folder.is_dir():
      raise BatchError(
        f'{printable(folder)}: expected the folder of the launching process, '
        'found none; put inputs and outputs on storage that all workers share'
      )
    # A runner may deliver an element twice.
    jobs = {row.number: (place, row, key) for place, row, key in group[1]}
    for _, row, key in sorted(jobs.values(), key=lambda job: job[0]):
      do_row(row, key, folder)
      yield row.number


def do_row(row: Row, key: str, parts: pathlib.Path) -> None:
  """Do a row and write its line, unless an earlier attempt did."""
  part = runner.Results(_part_of(row, parts))
  if part.current(row, key) is not None:
    return  # the runner repeats a group whose worker was lost
  result = runner.run_row(warm_session(), row, key, _Process.stop)
  part.add(result)
  with _Process.lock:
    _Process.rows_done += 1
  reason = result['reason'] and f': {result["reason"]}'
  log.info('row %d %s%s', row.number, result['status'], reason)


def make_options(
  flags: Sequence[str], workers: int, rows: int
) -> PipelineOptions:
  """Beam's options; a local runner of `workers` processes by default.

  Args:
    flags: of Beam, one word each.
    workers: processes of the local runner.
    rows: of the manifest, from which Dask's partitions follow.

  Raises:
    BatchError: Beam does not know a flag, or Dask is asked for and absent.
  """
  standard = PipelineOptions(list(flags)).view_as(StandardOptions)
  name = (standard.runner or '').rpartition('.')[2]
  name = name.lower().removesuffix('runner')
  given = list(flags)
  if not name:
    # DirectRunner may switch to a runner that must be downloaded.
    mode = 'multi_processing' if workers > 1 else 'in_memory'
    given += ['--runner=FnApiRunner', f'--direct_num_workers={workers}']
    given += [f'--direct_running_mode={mode}']
  if name == 'dask':
    given += _dask_flags(given, rows)
  options = PipelineOptions(given)
  if name not in PORTABLE:
    every = options.get_all_options(retain_unknown_options=True)
    unknown = every.keys() - _known_options(options)
    if unknown:
      raise BatchError(
        f'--{min(unknown)}: expected an option of lipsync or of Apache Beam'
      )
  return options


def _known_options(options: PipelineOptions) -> Iterable[str]:
  """Names of the options that Beam knows."""
  beam_log = logging.getLogger('apache_beam.options.pipeline_options')
  level = beam_log.level
  beam_log.setLevel(logging.ERROR)  # the caller raises an error instead
  try:
    return options.get_all_options().keys()
  finally:
    beam_log.setLevel(level)


def _dask_flags(given: Sequence[str], rows: int) -> list[str]:
  """Flags that Beam's runner for Dask needs besides those given."""
  try:
    from apache_beam.runners.dask.dask_runner import DaskOptions, DaskRunner
  except (ImportError, AttributeError) as error:  # without dask, distributed
    raise BatchError(
      f'--runner=DaskRunner: expected Dask, found {error}; do '
      '`pip install "lipsync-jax[scale]"`'
    ) from error
  # Beam knows no short name of this runner; the last flag is valid.
  flags = [f'--runner={DaskRunner.__module__}.{DaskRunner.__name__}']
  dask = PipelineOptions(list(given)).view_as(DaskOptions)
  if dask.npartitions is None and dask.partition_size is None:
    # Beam's default of 128 rows a partition keeps a manifest on one worker.
    flags.append(f'--dask_npartitions={min(rows, MAX_PARTITIONS)}')
  return flags


def run_batch(
  rows: Sequence[Row],
  out: str | os.PathLike,
  options: PipelineOptions,
  cpu: bool = False,
) -> list[dict]:
  """Do all rows that no earlier run did, as `runner.run_batch` does.

  Args:
    rows: of `manifest.read_manifest`.
    out: folder of the outputs and of `results.jsonl`; created if absent.
    options: of `make_options`.
    cpu: workers use no GPU.

  Returns:
    The lines of `results.jsonl`, ordered by row.

  Raises:
    BatchError: another batch writes into the folder, the pipeline failed, or
      the workers wrote into another folder of this name.
    OSError: the folder or `results.jsonl` cannot be written.
  """
  graph = _open_pipeline(options)
  folder = pathlib.Path(os.path.abspath(out))
  folder.mkdir(parents=True, exist_ok=True)
  with runner.exclusive(folder):
    results, parts = runner.Results(folder / runner.RESULTS), folder / PARTS
    for part in parts.glob('*.jsonl'):  # of an interrupted run
      results.read(part)
    keys, left = runner.begin(rows, results)
    shutil.rmtree(parts, ignore_errors=True)
    if left:
      parts.mkdir()
      try:
        _run_pipeline(graph, jobs_of(left, keys), DoGroup(str(parts), cpu))
      finally:
        found = [
          runner.Results(_part_of(row, parts)).earlier(row, keys[row.number])
          for row in left
        ]
        results.keep([line for line in found if line is not None])
      if None in found:
        raise BatchError(
          f'{printable(parts)}: expected a line for each row, found none for '
          f'row {left[found.index(None)].number}; put inputs and outputs on '
          'storage that all workers share'
        )
      shutil.rmtree(parts, ignore_errors=True)
    return results.finish()


def jobs_of(rows: Sequence[Row], keys: dict[int, str]) -> list[tuple[int, Job]]:
  """Jobs with the number of their face, the longest search for faces first."""
  return [
    (face, (place, row, keys[row.number]))
    for face, group in enumerate(runner.group_rows(rows))
    for place, row in enumerate(group)
  ]


def _open_pipeline(options: PipelineOptions) -> beam.Pipeline:
  """An empty pipeline of the runner that the options name."""
  try:
    return beam.Pipeline(options=options)
  except (ValueError, ImportError) as error:
    name = options.view_as(StandardOptions).runner
    raise BatchError(
      f'--runner={printable(name)}: expected a runner, found {reason_of(error)}'
    ) from error


def _run_pipeline(
  graph: beam.Pipeline, jobs: Sequence[tuple[int, Job]], do_group: DoGroup
) -> None:
  """Run the graph to its end; Ctrl-C cancels the rows of this process."""
  _Process.stop = threading.Event()
  try:
    with graph:
      _ = (
        graph
        | 'rows' >> beam.Create(jobs, reshuffle=False)
        | 'by face' >> beam.GroupByKey()
        | 'lip-sync' >> beam.ParDo(do_group)
      )
  except Exception as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    raise BatchError(
      'Beam: expected a pipeline that ends, found '
      f'{printable(lines[-1]) if lines else type(error).__name__}; the same '
      'command continues'
    ) from error
  finally:
    _Process.stop.set()
    # Beam leaves Dask's client open, which would wait for a lost scheduler.
    client = getattr(getattr(graph, 'result', None), 'client', None)
    if client is not None:
      client.close()


def _part_of(row: Row, parts: pathlib.Path) -> pathlib.Path:
  return parts / f'{row.number}.jsonl'
