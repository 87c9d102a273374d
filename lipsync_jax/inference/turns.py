"""Turns of a dialogue: who speaks when, from subtitles or JSON.

SubRip and WebVTT name the speaker at the beginning of a cue (`Anna: Hello`)
or by WebVTT's voice tag (`<v Anna>Hello`). A cue without a name belongs to
the speaker before. JSON is a list of objects with `who`, `from`, `to` and
`audio`. All functions are pure but `read_turns`, which opens the file.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

from lipsync_jax.common.errors import printable
from lipsync_jax.inference.options import SyncError

NOBODY = 'none'  # who speaks off-screen
MAX_BYTES = 2**24  # of the file
CLOCK = r'(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})'
CUE = re.compile(rf'^\s*{CLOCK}\s*-->\s*{CLOCK}')
VOICE = re.compile(r'^\s*<v(?:\.[^\s>]*)?\s+([^>]+)>')
# One to three words before a colon, the first with a capital or a digit.
LABEL = re.compile(
  r'^\s*[-–—]?\s*\[?([A-Z0-9][^\s:\]]*(?:\s[A-Z0-9][^\s:\]]*){0,2})\]?\s*:'
)
PERSON = re.compile(r'largest|left|right|\d+|-?[\d.]+\s*,\s*-?[\d.]+')


@dataclasses.dataclass(frozen=True)
class Turn:
  """Somebody speaks.

  Attributes:
    who: as for --person, or NOBODY.
    start: seconds.
    end: seconds; None: the end of `audio`.
    audio: a file that begins at `start`; None: the job's own audio.
  """

  who: str
  start: Fraction
  end: Fraction | None
  audio: str | None = None


def read_turns(
  path: str | os.PathLike, cast: Mapping[str, str] | None = None
) -> list[Turn]:
  """The turns of a file, by start; those of NOBODY are left out.

  Args:
    path: .srt, .vtt or .json; the content decides.
    cast: person of each speaker's name; names of persons need none.

  Raises:
    SyncError: the file cannot be read, or a speaker is unknown.
  """
  with open(path, 'rb') as file:
    content = file.read(MAX_BYTES + 1)
  if len(content) > MAX_BYTES:
    raise SyncError(f'{printable(path)}: expected at most 16 MB of turns')
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError:
    text = content.decode('latin-1')
  cast = {name.strip().lower(): who for name, who in (cast or {}).items()}
  try:
    if text.lstrip()[:1] in ('[', '{') and not CUE.search(text):
      turns = json_turns(text, os.path.dirname(path), cast)
    else:
      turns = subtitle_turns(text, cast)
  except SyncError as error:
    raise SyncError(f'{printable(path)}: {error}') from None
  spoken = [turn for turn in turns if turn.who != NOBODY]
  if not spoken:
    raise SyncError(
      f'{printable(path)}: expected turns such as "left: Hello" after '
      '"00:00:01,000 --> 00:00:02,500", found none'
    )
  return sorted(spoken, key=lambda turn: turn.start)


def subtitle_turns(text: str, cast: Mapping[str, str]) -> list[Turn]:
  """Turns of SubRip or WebVTT."""
  turns, who = [], None
  lines = text.splitlines()
  for number, line in enumerate(lines):
    match = CUE.match(line)
    if not match:
      continue
    start, end = (_seconds(match.groups()[i : i + 4]) for i in (0, 4))
    if end <= start:
      raise SyncError(f'line {number + 1}: expected an end after the start')
    named = []
    for said in lines[number + 1 :]:
      if not said.strip() or CUE.match(said):
        break
      label = VOICE.match(said) or LABEL.match(said) or _spec_label(said, cast)
      if label:
        named.append(_person(label.group(1), cast, number + 1))
    if not named and who is None:
      raise SyncError(
        f'line {number + 1}: expected a speaker, such as "left: Hello", found '
        'none'
      )
    who = named[-1] if named else who
    turns += [Turn(one, start, end) for one in dict.fromkeys(named or [who])]
  return turns


def json_turns(text: str, folder: str, cast: Mapping[str, str]) -> list[Turn]:
  """Turns of a JSON list; names of files count from `folder`."""
  try:
    rows = json.loads(text)
  except ValueError as error:
    raise SyncError(f'expected JSON, found {printable(str(error))}') from None
  rows = rows.get('turns') if isinstance(rows, dict) else rows
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    raise SyncError('expected a list of {"who", "from", "to", "audio"}')
  turns = []
  for number, row in enumerate(rows, 1):
    unknown = set(row) - {'who', 'from', 'to', 'audio', 'text'}
    start, end = (_number(row.get(key)) for key in ('from', 'to'))
    late = end is not None and start is not None and end <= start
    endless = end is None and not row.get('audio')
    if unknown or start is None or late or endless or 'who' not in row:
      raise SyncError(
        f'turn {number}: expected who, from and a later to (or audio), found '
        f'{printable(json.dumps(row))[:80]}'
      )
    audio = row.get('audio')
    audio = os.path.join(folder, str(audio)) if audio else None
    who = _person(str(row['who']), cast, number)
    turns.append(Turn(who, start, end, audio))
  return turns


def turns_of(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
  """The turns of every speaker, in the order of their first turn."""
  found: dict[str, list[Turn]] = {}
  for turn in turns:
    found.setdefault(turn.who, []).append(turn)
  return found


def audio_files(path: str | os.PathLike | None) -> list[str]:
  """The files that a JSON of turns names; [] for subtitles."""
  if path is None:
    return []
  with open(path, 'rb') as file:
    text = file.read(MAX_BYTES).decode('utf-8-sig', 'replace')
  if text.lstrip()[:1] not in ('[', '{'):
    return []
  try:
    rows = json.loads(text)
  except ValueError:
    return []  # `read_turns` says why
  rows = rows.get('turns') if isinstance(rows, dict) else rows
  rows = rows if isinstance(rows, list) else []  # `read_turns` says why
  names = {
    str(row['audio'])
    for row in rows
    if isinstance(row, dict) and row.get('audio')
  }
  return sorted(os.path.join(os.path.dirname(path), name) for name in names)


def _spec_label(said: str, cast: Mapping[str, str]) -> re.Match | None:
  """A label that is a person or a name of the cast, in small letters too."""
  match = re.match(r'^\s*[-–—]?\s*\[?([^:\]]{1,60})\]?\s*:', said)
  if not match:
    return None
  name = match.group(1).strip().lower()
  return match if name in cast or PERSON.fullmatch(name) else None


def _person(label: str, cast: Mapping[str, str], place: int) -> str:
  """The person of a label."""
  name = label.strip()
  who = cast.get(name.lower(), name).strip()
  if who.lower() == NOBODY or PERSON.fullmatch(who.lower()):
    return who.lower()
  raise SyncError(
    f'line {place}: who is {printable(name)[:40]!r}? Give --cast '
    f"'{printable(name)[:40]}=left' (or right, a number, x,y, none)"
  )


def _seconds(parts: tuple[str | None, ...]) -> Fraction:
  hours, minutes, seconds, fraction = parts
  whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
  return whole + Fraction(int(fraction.ljust(3, '0')), 1000)


def _number(value) -> Fraction | None:
  """Seconds of a JSON number; None for others."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  if not 0 <= value < 1e6:
    return None
  return Fraction(value).limit_denominator(10**6)
