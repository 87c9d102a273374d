"""Checkpoints: complete and verified, or ignored.

`workdir/checkpoints/00000120/` holds the state (Orbax), the position in the
data, the config, some facts, and a manifest with the SHA-256 of all of these,
which is written last. A checkpoint without a manifest was interrupted and is
ignored. One that differs from its manifest is refused, and the previous step is
taken. Saves run in the background.

With several processes each writes its parts of the arrays to a shared folder;
process 0 does everything else. A checkpoint does not depend on the number of
processes.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import math
import sys
from typing import Any

import jax
from etils import epath

from lipsync_jax.common.errors import LipSyncError, as_one_line
from lipsync_jax.training import distributed

MANIFEST = 'manifest.json'
BLOCK = 2**22  # bytes hashed at once


class CheckpointError(LipSyncError):
  """A run that cannot be saved or resumed."""


def canonical_json(value) -> bytes:
  """JSON whose bytes depend only on the value."""
  text = json.dumps(value, sort_keys=True, indent=1, allow_nan=True)
  return f'{text}\n'.encode()


def file_sha256(path: epath.Path) -> str:
  total = hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(BLOCK):
      total.update(block)
  return total.hexdigest()


def checkpoint_files(
  folder: epath.Path, prefix: str = ''
) -> dict[str, epath.Path]:
  """All files of a checkpoint but its manifest, by relative name."""
  found = {}
  for path in folder.iterdir():
    name = f'{prefix}{path.name}'
    if path.is_dir():
      found |= checkpoint_files(path, f'{name}/')
    elif name != MANIFEST:
      found[name] = path
  return found


def write_manifest(folder: epath.Path) -> None:
  """Write the manifest, which makes a checkpoint valid."""
  table = {
    name: file_sha256(path) for name, path in checkpoint_files(folder).items()
  }
  body = canonical_json(table)
  digest = hashlib.sha256(body).hexdigest()
  # Not `atomic_file`: the folder may be in a bucket.
  part = folder / f'{MANIFEST}.part'
  part.write_bytes(digest.encode() + b'\n' + body)
  part.rename(folder / MANIFEST)


def find_damage(folder: epath.Path) -> str | None:
  """The difference of a checkpoint from its manifest, or None."""
  digest, _, body = (folder / MANIFEST).read_bytes().partition(b'\n')
  if hashlib.sha256(body).hexdigest().encode() != digest:
    return f'{MANIFEST} is damaged'
  table, found = json.loads(body), checkpoint_files(folder)
  if table.keys() != found.keys():
    names = sorted(table.keys() ^ found.keys())
    return f'{names[0]} is missing or foreign'
  for name in sorted(table):
    if file_sha256(found[name]) != table[name]:
      return f'{name} is damaged (its sha256 differs)'
  return None


class CheckpointManager:
  """The checkpoints of one workdir, locked against a second run.

  As a context manager it waits for the last save.
  """

  def __init__(self, workdir, keep: int = 3, keep_best: bool = True):
    """Open a workdir.

    Args:
      workdir: a folder or a bucket; created if absent.
      keep: number of the newest steps that stay.
      keep_best: the step with the smallest 'measured' fact stays too.

    Raises:
      CheckpointError: another run uses it, or it cannot be written.
    """
    self.folder = epath.Path(workdir) / 'checkpoints'
    self.keep, self.keep_best = keep, keep_best
    self._pool = concurrent.futures.ThreadPoolExecutor(1)
    self._pending = self._lock = None
    distributed.run_on_process_zero(self._open)

  def _open(self) -> None:
    with as_checkpoint_error(self.folder.parent):
      self.folder.mkdir(parents=True, exist_ok=True)
      self._lock = lock_folder(self.folder)
      for step in self.folder.iterdir():  # interrupted saves
        if step.is_dir() and not (step / MANIFEST).exists():
          step.rmtree()

  def __enter__(self):
    return self

  def __exit__(self, kind, *rest):
    try:
      # An error of a save must not hide an earlier error.
      with (
        contextlib.suppress(CheckpointError)
        if kind
        else contextlib.nullcontext()
      ):
        self.wait()
    finally:
      self._pool.shutdown()
      if self._lock:
        self._lock.close()

  def steps(self) -> list[int]:
    """Valid steps, oldest first."""
    return sorted(
      int(path.name)
      for path in self.folder.iterdir()
      if path.name.isdigit() and (path / MANIFEST).exists()
    )

  def at(self, step: int) -> epath.Path:
    return self.folder / f'{step:08d}'

  def save(self, step: int, state, data: dict, config: dict, facts: dict):
    """Start a save; returns after the arrays are copied from the device.

    Args:
      step: of the checkpoint.
      state: of the training.
      data: position in the data, a JSON value.
      config: of the run, a JSON value.
      facts: a JSON value; its 'measured' decides which step is the best.
    """
    from orbax.checkpoint import v1 as ocp

    self.wait()
    folder = self.at(step)
    if (folder / MANIFEST).exists():
      return
    # Orbax synchronizes processes by arrays of its own.
    with as_checkpoint_error(folder), jax.transfer_guard('allow'):
      folder.mkdir(parents=True, exist_ok=True)
      if distributed.is_process_zero():
        texts = {'data': data, 'config': config, 'facts': facts}
        for name, value in texts.items():
          (folder / f'{name}.json').write_bytes(canonical_json(value))
      response = ocp.save_async(folder / 'state', state)
    self._pending = self._pool.submit(self._finish, folder, response)

  def _finish(self, folder: epath.Path, response) -> None:
    with as_checkpoint_error(folder):
      # In process 0, Orbax returns after all have written their parts.
      response.result()
      if distributed.is_process_zero():
        self._seal(folder)

  def _seal(self, folder: epath.Path) -> None:
    write_manifest(folder)
    steps = self.steps()
    stay = set(steps[-self.keep :]) | ({self.best()} - {None})
    for step in set(steps) - stay:
      # The manifest first, so that a partial checkpoint is invalid.
      (self.at(step) / MANIFEST).unlink()
      self.at(step).rmtree()

  def wait(self) -> None:
    """Wait until the save has finished; raises its error."""
    pending, self._pending = self._pending, None
    if pending:
      pending.result()

  def facts(self, step: int) -> dict:
    return json.loads((self.at(step) / 'facts.json').read_bytes())

  def best(self) -> int | None:
    """The step with the smallest 'measured', if there is one."""
    if not self.keep_best:
      return None
    rows = [(self.facts(s).get('measured', math.nan), s) for s in self.steps()]
    rows = [row for row in rows if not math.isnan(row[0])]
    return min(rows)[1] if rows else None

  def newest(self, step: int | None = None) -> int | None:
    """The newest undamaged step (or `step`); None without checkpoints.

    Raises:
      CheckpointError: all are damaged.
    """
    return distributed.run_on_process_zero(
      functools.partial(self._newest, step)
    )

  def _newest(self, step: int | None) -> int | None:
    steps = self.steps() if step is None else [step]
    for number in reversed(steps):
      folder = self.at(number)
      with as_checkpoint_error(folder):
        wrong = find_damage(folder)
      if not wrong:
        return number
      print(f'{folder}: {wrong}; not used', file=sys.stderr)
    if steps:
      raise CheckpointError(
        f'{self.folder}: all of {len(steps)} checkpoints are damaged; '
        'delete the folder to begin again'
      )
    return None

  def restore(
    self, abstract, step: int | None = None
  ) -> tuple[int, Any, dict, dict, dict] | None:
    """The newest undamaged checkpoint (or that of `step`), verified.

    Args:
      abstract: the state's shapes with shardings.

    Returns:
      step, state, data, config and facts; None without checkpoints.

    Raises:
      CheckpointError: all are damaged, or of another architecture.
    """
    from orbax.checkpoint import v1 as ocp

    found = self.newest(step)
    if found is None:
      return None
    folder = self.at(found)
    with as_checkpoint_error(folder):
      data, config, facts = (
        json.loads((folder / f'{name}.json').read_bytes())
        for name in ('data', 'config', 'facts')
      )
      state = ocp.load(folder / 'state', abstract)
    return found, state, data, config, facts

  def config(self, step: int) -> dict:
    """The config of a checkpoint, without its state."""
    return json.loads((self.at(step) / 'config.json').read_bytes())


def lock_folder(folder: epath.Path):
  """An open, locked file; None for a bucket.

  The operating system releases the lock with the process.
  """
  try:
    import fcntl
  except ImportError:  # this system has no such locks
    return None
  if '://' in str(folder):
    return None
  file = open(folder / 'lock', 'a')  # noqa: SIM115
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    file.close()
    raise CheckpointError(
      f'{folder.parent}: another run trains here; stop it or choose another '
      '--workdir'
    ) from None
  return file


def as_checkpoint_error(path) -> contextlib.AbstractContextManager[None]:
  """Raise an error of the file system or of Orbax as a CheckpointError."""

  def message(error: Exception) -> str:
    reason = str(getattr(error, 'strerror', None) or error).split('\n')[0]
    return (
      f'cannot store or read the run here: {reason[:200]}; make room or '
      'choose another --workdir'
    )

  return as_one_line(CheckpointError, path, message)
