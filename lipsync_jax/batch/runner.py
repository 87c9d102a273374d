"""Rows of a manifest in one session, with a line of results for each.

A row whose line says done, and whose inputs and output are still there, is not
done again. A killed batch thus continues with the same command.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from lipsync_jax.batch.manifest import BatchError, Row
from lipsync_jax.common import atomic_file
from lipsync_jax.common.errors import (
  Cancelled,
  LipSyncError,
  printable,
  reason_of,
)
from lipsync_jax.inference import turns
from lipsync_jax.inference.options import SyncOptions, input_files
from lipsync_jax.inference.session import Session
from lipsync_jax.media import decoder

RESULTS = 'results.jsonl'


class Results:
  """The lines of `results.jsonl`, one for each row; safe for threads."""

  def __init__(self, path: pathlib.Path):
    self.path, self._lock = path, threading.Lock()
    self._lines: dict[int, dict] = {}
    self._earlier: dict[tuple[str, str], dict] = {}
    self.read(path)

  def read(self, path: pathlib.Path) -> None:
    """Read the lines of an earlier run, whose last may be torn."""
    with contextlib.suppress(FileNotFoundError):
      for line in path.read_text(encoding='utf-8').splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
          result = json.loads(line)
          self._earlier[result['outfile'], result['key']] = result

  def earlier(self, row: Row, key: str) -> dict | None:
    """The line of an earlier run that tried this row."""
    result = self._earlier.get((row.outfile, key))
    return None if result is None else result | {'row': row.number}

  def current(self, row: Row, key: str) -> dict | None:
    """The line of an earlier run that did this row."""
    result = self.earlier(row, key)
    done = result is not None and result.get('status') == 'done'
    return result if done and os.path.isfile(row.options.outfile) else None

  def keep(self, results: Sequence[dict]) -> None:
    """Write the file anew, with these lines among those of this run."""
    self._lines |= {result['row']: result for result in results}
    self._rewrite()

  def add(self, result: dict) -> None:
    """Append a line, which is on disk afterwards."""
    with self._lock:
      self._lines[result['row']] = result
      with open(self.path, 'a', encoding='utf-8') as file:
        file.write(_to_line(result))
        file.flush()
        os.fsync(file.fileno())

  def finish(self) -> list[dict]:
    """Order the lines by row, and return them."""
    self._rewrite()
    return [self._lines[number] for number in sorted(self._lines)]

  def _rewrite(self) -> None:
    lines = (_to_line(self._lines[number]) for number in sorted(self._lines))
    atomic_file.write_text(self.path, ''.join(lines))


def run_batch(
  rows: Sequence[Row],
  out: str | os.PathLike,
  jobs: int = 1,
  quiet: bool = True,
) -> list[dict]:
  """Do all rows that an earlier run did not do.

  Args:
    rows: of `manifest.read_manifest`.
    out: folder of the outputs and of `results.jsonl`; created if absent.
    jobs: rows at a time.
    quiet: no progress bar.

  Returns:
    The lines of `results.jsonl`: row, outfile, status (done or failed), reason,
    key, and the report of a row that is done.

  Raises:
    BatchError: another batch writes into the folder.
    OSError: the folder or `results.jsonl` cannot be written.
  """
  folder = pathlib.Path(out)
  folder.mkdir(parents=True, exist_ok=True)
  decoder.DEFAULT_POOL.max_idle = max(decoder.MAX_IDLE, 2 * jobs)
  with exclusive(folder):
    results = Results(folder / RESULTS)
    keys, left = begin(rows, results)
    _run_rows(group_rows(left), keys, results, jobs, quiet)
    return results.finish()


def begin(
  rows: Sequence[Row], results: Results
) -> tuple[dict[int, str], list[Row]]:
  """Keep the lines that are current, and fail the rows that cannot be read.

  Returns:
    The key of each row that can be read, by its number; the rows to be done.
  """
  keys = {row.number: input_key(row.options) for row in rows if row.options}
  found = [
    results.current(row, keys[row.number]) for row in rows if row.options
  ]
  kept = [result for result in found if result is not None]
  done = {result['row'] for result in kept}
  unreadable = [row for row in rows if row.options is None]
  results.keep(kept + [_failure(row, row.reason, '') for row in unreadable])
  left = [row for row in rows if row.options and row.number not in done]
  return keys, left


def _run_rows(
  groups: Sequence[Sequence[Row]],
  keys: dict[int, str],
  results: Results,
  jobs: int,
  quiet: bool,
) -> None:
  """Do the rows in threads; Ctrl-C cancels those that run.

  The others of a group follow its first.
  """
  import tqdm

  stop = threading.Event()
  with Session() as session, ThreadPoolExecutor(jobs) as pool:

    def work(row: Row) -> None:
      results.add(run_row(session, row, keys[row.number], stop))

    try:
      with tqdm.tqdm(
        total=sum(map(len, groups)),
        desc='batch',
        unit=' rows',
        disable=quiet,
        file=sys.stderr,
      ) as bar:
        running = {pool.submit(work, first): rest for first, *rest in groups}
        while running:
          for future in wait(running, return_when=FIRST_COMPLETED).done:
            future.result()
            bar.update()
            for row in running.pop(future):
              running[pool.submit(work, row)] = []
    except BaseException:
      stop.set()
      pool.shutdown(cancel_futures=True)
      raise


def run_row(
  session: Session, row: Row, key: str, stop: threading.Event
) -> dict:
  """Do a row; its failure becomes its result."""
  try:
    report = session.run(row.options, cancelled=stop)
  except Cancelled:
    raise
  except (LipSyncError, OSError) as error:
    return _failure(row, reason_of(error), key)
  except Exception as error:
    return _failure(row, f'{type(error).__name__}: {reason_of(error)}', key)
  return {
    'row': row.number,
    'outfile': row.outfile,
    'status': 'done',
    'reason': '',
    'key': key,
    'warnings': list(report.warnings),
    'report': report.to_dict(),
  }


def _failure(row: Row, reason: str, key: str) -> dict:
  return {
    'row': row.number,
    'outfile': row.outfile,
    'status': 'failed',
    'reason': reason,
    'key': key,
  }


def input_key(options: SyncOptions) -> str:
  """SHA-256 of the options, and of the inputs' sizes and times of change."""
  files = [path for _, path in input_files(options)]
  files += [options.final_audio, options.checkpoint_path]
  with contextlib.suppress(OSError):  # the row will fail
    files += turns.audio_files(options.subtitles)
  stamps = []
  for file in filter(None, files):
    try:
      found = os.stat(file)
    except OSError:
      stamps.append([file])
    else:
      stamps.append([file, found.st_size, found.st_mtime_ns])
  facts = [dataclasses.asdict(options), stamps]
  return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
  """Rows with the same face together, the longest search for faces first.

  The others then take its result from the cache.
  """
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(os.path.abspath(row.options.face), []).append(row)
  for group in groups.values():
    if len(group) > 1:
      group.sort(key=lambda row: -_search_seconds(row.options))
  return list(groups.values())


def _search_seconds(options: SyncOptions) -> float:
  """Seconds in which faces are searched; 0 for a row that will fail."""
  if options.preview is not None:
    return options.preview
  if options.when_video_longer != 'cut':
    return float('inf')
  sounds = [options.audio, *(file for _, file in options.audio_for)]
  with contextlib.suppress(LipSyncError, OSError):
    return max(float(decoder.probe_audio(s).duration) for s in sounds if s)
  return 0.0


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
  """Keep other batches out of a folder, by a lock on the folder itself."""
  if os.name != 'posix':
    yield  # Windows locks no folders
    return
  import fcntl

  handle = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise BatchError(
        f'{printable(folder)}: another batch writes into this folder; wait '
        'for it, or name another one'
      ) from None
    yield
  finally:
    os.close(handle)


def _to_line(result: dict) -> str:
  return json.dumps(result, ensure_ascii=False) + '\n'
