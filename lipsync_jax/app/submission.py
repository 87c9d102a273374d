"""The form of a job: its files, options, segments and webhook.

Form fields: `video`, `audio`, `options`, `segments`, `webhook`, and a file for
each further name in `segments`.
"""

import json
import pathlib
import shutil
from collections.abc import Callable

from lipsync_jax.app import jobs
from lipsync_jax.app.job_table import Request
from lipsync_jax.common.errors import printable
from lipsync_jax.inference import turns

# What happens if video and audio have different lengths, as options.
SYNC_MODES = {
  'cut_off': {'when_audio_longer': 'cut', 'when_video_longer': 'cut'},
  'loop': {'when_audio_longer': 'loop', 'when_video_longer': 'cut'},
  'bounce': {'when_audio_longer': 'bounce', 'when_video_longer': 'cut'},
  'silence': {'when_audio_longer': 'hold', 'when_video_longer': 'keep'},
  'remap': {'when_audio_longer': 'remap', 'when_video_longer': 'remap'},
}
# Options that name no file of the server.
OPTIONS = frozenset(
  (
    *('renderer', 'strength', 'person', 'since', 'until', 'preview', 'crf'),
    *('fps', 'pads', 'box', 'crop', 'rotate', 'resize_factor', 'nosmooth'),
    *('static', 'no_noise_gate', 'no_detail_transfer', 'when_audio_longer'),
    *('when_video_longer', 'dtype', 'keep_background', 'voice_only'),
  )
)
SEGMENT_KEYS = frozenset(('start', 'end', 'audio', 'person'))
MAX_SEGMENTS = 64


def read_options(text: str) -> dict:
  """Fields of `SyncOptions` from the JSON of a request.

  Raises:
    AppError: no object, or an unknown name.
  """
  given = _read_json('options', text or '{}')
  if not isinstance(given, dict):
    raise jobs.AppError(f'options: expected an object, found {given!r:.40}')
  mode = given.pop('sync_mode', None)
  if mode is not None and mode not in SYNC_MODES:
    raise jobs.AppError(
      f'sync_mode: expected one of {", ".join(SYNC_MODES)}, found '
      f'{printable(str(mode))!r}'
    )
  if 'temperature' in given:
    given['strength'] = given.pop('temperature')
  unknown = min(given.keys() - OPTIONS, default=None)
  if unknown is not None:
    raise jobs.AppError(
      f'options: expected {", ".join(sorted(OPTIONS))} or sync_mode, found '
      f'{printable(unknown)!r}'
    )
  return SYNC_MODES.get(mode, {}) | given


def read_segments(text: str) -> list[dict]:
  """The segments of a request, checked; times are seconds.

  A segment has `start`, and `end` or `audio`: the name of a form field with
  a file that begins at `start`. Without `audio`, the job's own sound is used.
  `person` is as in `SyncOptions`, 'largest' if left out.

  Raises:
    AppError: one line about the first wrong segment.
  """
  rows = _read_json('segments', text)
  if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_SEGMENTS:
    raise jobs.AppError(
      f'segments: expected a list of 1 to {MAX_SEGMENTS} objects such as '
      '{"start": 0, "end": 2.5, "audio": "audio_1"}'
    )
  return [_check_segment(row, number) for number, row in enumerate(rows, 1)]


def _check_segment(row, number: int) -> dict:
  """A segment with all its keys."""
  known = isinstance(row, dict) and row.keys() <= SEGMENT_KEYS
  found = {'end': None, 'audio': None, 'person': 'largest'}
  found |= row if known else {}
  start, end, audio = found.get('start'), found['end'], found['audio']
  person = found['person']
  if not (
    known
    and _is_time(start)
    and (end is None or (_is_time(end) and end > start))
    and (audio is None or (isinstance(audio, str) and audio))
    and (end is not None or audio is not None)
  ):
    raise jobs.AppError(
      f'segment {number}: expected start, a later end (or audio), and person, '
      f'found {printable(json.dumps(row))[:80]}'
    )
  if not (isinstance(person, str) and turns.PERSON.fullmatch(person)):
    raise jobs.AppError(
      f'segment {number}: expected a person (largest, left, right, a number or '
      f'"x,y"), found {printable(str(person))[:40]!r}'
    )
  return found


def _is_time(value) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and 0 <= value < 1e6


def _read_json(name: str, text: str):
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise jobs.AppError(f'{name}: expected JSON, found {error}') from error


async def read_request(
  request, user: jobs.User, check_webhook: Callable[[str], None]
) -> Request:
  """Save the files of a form.

  Args:
    request: of Starlette.
    user: owns the files.
    check_webhook: refuses a URL by an AppError.

  Raises:
    AppError: a field is missing or wrong.
  """
  from starlette.concurrency import run_in_threadpool

  limits = {'max_files': MAX_SEGMENTS + 2, 'max_fields': 8}
  async with request.form(**limits) as form:
    texts = {
      name: _text(form, name) for name in ('options', 'segments', 'webhook')
    }
    options = read_options(texts['options'])
    rows = read_segments(texts['segments']) if texts['segments'] else []
    if texts['webhook']:
      check_webhook(texts['webhook'])
    face = await run_in_threadpool(_save, user, form, 'video')
    audio = ''
    if not rows or any(row['audio'] in (None, 'audio') for row in rows):
      audio = await run_in_threadpool(_save, user, form, 'audio')
    if rows:
      found = await run_in_threadpool(_save_segments, user, form, rows, audio)
      options = {'when_video_longer': 'keep', **options, 'subtitles': found}
  return Request(face, audio, options, texts['webhook'])


def _text(form, name: str) -> str:
  """A field's text, '' if there is none."""
  value = form.get(name, '')
  if not isinstance(value, str):
    raise jobs.AppError(f'{name}: expected text in the form, found a file')
  return value


def _save_segments(user: jobs.User, form, rows: list[dict], audio: str) -> str:
  """Save the files of segments; returns the JSON of their turns."""
  paths = {'audio': audio}
  for row in rows:
    name = row['audio']
    if name is not None and name not in paths:
      paths[name] = _save(user, form, name, f'segment_{len(paths)}')
  found = [
    {
      'who': row['person'],
      'from': row['start'],
      'to': row['end'],
      'audio': paths.get(row['audio']),
    }
    for row in rows
  ]
  path = user.new_file('turns.json')
  pathlib.Path(path).write_text(json.dumps(found), encoding='utf-8')
  return path


def _save(user: jobs.User, form, name: str, stem: str = '') -> str:
  """Copy an uploaded file into the job's folder, as `stem` or `name`."""
  upload = form.get(name)
  if upload is None or isinstance(upload, str):
    raise jobs.AppError(
      f'{printable(name)}: expected a file in the form, found none'
    )
  suffix = pathlib.PurePath(upload.filename or '').suffix
  suffix = suffix if suffix.removeprefix('.').isalnum() else ''
  path = user.new_file((stem or name) + suffix)
  with open(path, 'wb') as file:
    shutil.copyfileobj(upload.file, file)
  return path
