"""The rows of a manifest: CSV with a header, or one JSON object a line.

Columns are `face`, `audio`, `outfile` and any option of `lipsync`, with
hyphens or underscores. An empty cell is an option that is not given. Paths of
inputs are relative to the manifest's folder, `outfile` to the output folder.
"""

import argparse
import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

from lipsync_jax.common.errors import LipSyncError, printable
from lipsync_jax.inference import cli
from lipsync_jax.inference.options import SyncError, SyncOptions, make_options

# Options of the whole command, or without a meaning for a row.
NOT_FOR_ROWS = frozenset({'cpu', 'quiet', 'report', 'help', 'sign'})
INPUTS = (
  *('face', 'audio', 'final_audio', 'checkpoint_path'),
  *('subtitles', 'face_enhancement', 'profile'),
)


class BatchError(LipSyncError):
  """A manifest or output folder that cannot be used, or rows that failed."""


@dataclasses.dataclass(frozen=True)
class Row:
  """One job of a manifest.

  Attributes:
    number: from 1, the header not counted.
    outfile: relative to the output folder; '' if the row names none.
    options: of the job; None if the row cannot be read.
    reason: why it cannot be read.
  """

  number: int
  outfile: str
  options: SyncOptions | None
  reason: str = ''


class RowParser(argparse.ArgumentParser):
  """An argument parser whose errors are exceptions."""

  def error(self, message):
    raise SyncError(message)


def read_manifest(
  path: str | os.PathLike, out: str | os.PathLike, defaults: Mapping
) -> list[Row]:
  """The rows of a manifest; one that cannot be read has a reason.

  Args:
    path: .csv or .jsonl.
    out: folder of the outputs.
    defaults: fields of `SyncOptions` for rows that do not give them.

  Raises:
    BatchError: the manifest cannot be read as a whole.
  """
  path = pathlib.Path(path)
  readers = {'.csv': _csv_rows, '.jsonl': _jsonl_rows}
  if path.suffix.lower() not in readers:
    raise BatchError(
      f'{printable(path)}: expected a manifest of the suffix .csv or .jsonl'
    )
  if not path.is_file():
    raise BatchError(f'{printable(path)}: expected a manifest, found no file')
  # Absolute, because a row may be done in another process or on another day.
  folder = pathlib.Path(os.path.abspath(path.parent))
  out = pathlib.Path(os.path.abspath(out))
  rows: list[Row] = []
  writers: dict[str, int] = {}  # output -> number of the row that writes it
  try:
    for number, cells in enumerate(readers[path.suffix.lower()](path), 1):
      rows.append(_read_row(number, cells, folder, out, defaults))
      rows[-1] = _refuse_second_writer(rows[-1], writers)
  except (UnicodeDecodeError, csv.Error) as error:
    raise BatchError(
      f'{printable(path)}: expected text in UTF-8, found {error}'
    ) from error
  if not rows:
    raise BatchError(f'{printable(path)}: expected rows, found none')
  return rows


def _csv_rows(path: pathlib.Path) -> Iterator[dict | str]:
  """Cells by column; a string says why a line is no row."""
  with open(path, encoding='utf-8-sig', newline='') as file:
    reader = csv.DictReader(file)
    columns = reader.fieldnames or []
    known = _known_options()
    unknown = [c for c in columns if _option_name(c or '') not in known]
    if unknown or 'face' not in map(_option_name, columns):
      raise BatchError(
        f'{printable(path)}: expected the columns face, audio, outfile and '
        f'options of lipsync, found {", ".join(unknown) or "no face"}'
      )
    for cells in reader:
      if None in cells:
        yield f'expected {len(columns)} cells, found more'
      else:
        yield {name: cell for name, cell in cells.items() if cell}


def _jsonl_rows(path: pathlib.Path) -> Iterator[dict | str]:
  """Objects; a string says why a line is none."""
  with open(path, encoding='utf-8-sig') as file:
    for line in filter(str.strip, file):
      try:
        cells = json.loads(line)
      except json.JSONDecodeError as error:
        yield f'expected a JSON object, found {error}'
        continue
      if isinstance(cells, dict):
        yield {k: v for k, v in cells.items() if v not in (None, '')}
      else:
        yield f'expected a JSON object, found {type(cells).__name__}'


def _option_name(column: str) -> str:
  return column.strip().replace('_', '-')


def _known_options() -> dict[str, argparse.Action]:
  """Options of a row by their names with hyphens."""
  known = {}
  for action in cli.build_parser(RowParser)._actions:
    if action.dest not in NOT_FOR_ROWS:
      for flag in action.option_strings:
        known[flag.removeprefix('--')] = action
  return known


def _read_row(
  number: int,
  cells: dict | str,
  folder: pathlib.Path,
  out: pathlib.Path,
  defaults: Mapping,
) -> Row:
  """Turn cells into options."""
  named = cells.get('outfile') if isinstance(cells, dict) else ''
  named = named if isinstance(named, str) else ''
  try:
    if isinstance(cells, str):
      raise BatchError(cells)
    fields = {**defaults, **_fields_of(cells)}
    if not fields.get('face'):
      raise BatchError('expected a face, found none')
    for name in INPUTS:
      if fields.get(name):
        fields[name] = os.path.join(folder, fields[name])
    fields['audio_for'] = tuple(
      (who, os.path.join(folder, file))
      for who, file in fields.get('audio_for', ())
    )
    relative = named or _default_name(number, fields)
    fields['outfile'] = str(out / _inner_path(relative))
    options = make_options(**(fields | {'quiet': True}))
  except LipSyncError as error:
    return Row(number, named, None, printable(str(error)))
  return Row(number, relative, options)


def _fields_of(cells: dict) -> dict:
  """Fields of `SyncOptions` from cells, by the parser of the command line."""
  known, words = _known_options(), []
  for column, cell in cells.items():
    name = _option_name(column)
    if name not in known:
      raise BatchError(f'expected an option of lipsync, found {column!r}')
    words += _words(name, cell, known[name])
  given = cli.parse_options(['--face=', *words], RowParser)
  return {k: v for k, v in given.items() if v != ''}


def _words(name: str, cell, action: argparse.Action) -> list[str]:
  """Words of a command line that give an option the value of a cell."""
  if action.nargs == 0:  # a flag without value
    try:
      return [f'--{name}'] if cli.parse_boolean(str(cell)) else []
    except argparse.ArgumentTypeError as error:
      raise BatchError(f'{name}: {error}') from None
  if action.nargs == '?' and isinstance(cell, bool):
    return [f'--{name}'] if cell else []
  if name == 'audio-for':
    if isinstance(cell, dict):
      cell = [f'{who}={file}' for who, file in cell.items()]
    pairs = cell if isinstance(cell, list) else str(cell).split(';')
    return [f'--audio-for={pair}' for pair in pairs]
  if action.nargs == 4:
    values = cell if isinstance(cell, list) else str(cell).split()
    return [f'--{name}', *map(str, values)]
  return [f'--{name}={cell}']


def _default_name(number: int, fields: dict) -> str:
  """The output of a row that names none."""
  sound = fields.get('audio') or fields['face']
  return f'{number:05d}_{pathlib.Path(sound).stem}.mp4'


def _inner_path(name: str) -> pathlib.Path:
  """A relative path that does not leave its folder."""
  path = pathlib.Path(name)
  if path.is_absolute() or path.drive or '..' in path.parts:
    raise BatchError(
      f'outfile: expected a path inside the output folder, found {name!r}'
    )
  return path


def _refuse_second_writer(row: Row, writers: dict[str, int]) -> Row:
  """The row, or one with a reason if an earlier row writes the same file."""
  if row.options is None:
    return row
  path = os.path.normcase(os.path.abspath(row.options.outfile))
  first = writers.setdefault(path, row.number)
  if first == row.number:
    return row
  reason = f'outfile: row {first} writes {row.outfile!r}: name another'
  return Row(row.number, row.outfile, None, reason)
