"""The record in every output: whether it is generated, how, and from what.

The record is one line of JSON in a tag of the container, without a time, so
that equal jobs give equal files. It is a statement, not a proof: anybody can
remove or write a tag. `signing` adds a signature.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, MutableMapping

from lipsync_jax import __version__
from lipsync_jax.common import cancellation
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.inference import turns
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import decoder
from lipsync_jax.media.container import MediaError

# In order of preference. MP4, MOV, Matroska, WebM and AVI keep `comment`; all
# but MOV and AVI keep `description`.
KEYS = ('comment', 'description')
START = '{"lipsync_jax":'  # of every record
WEIGHTS_DIGITS = 16  # of the SHA-256 of the weights
BLOCK = 2**20  # bytes of a file in memory at a time


class ProvenanceError(LipSyncError):
  """A file without a record, or whose record does not agree."""


def hash_file(path: str | os.PathLike) -> str:
  """SHA-256 of a file, hexadecimal, read in blocks; can be cancelled."""
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    while block := file.read(BLOCK):
      cancellation.check()
      digest.update(block)
  return digest.hexdigest()


def build_record(options: SyncOptions, weights: str, facts: dict) -> dict:
  """The facts of a job, for its output.

  Args:
    options: of the job, with files.
    weights: SHA-256 of the tensors, as in the report.
    facts: of the report, with its speakers.

  Returns:
    lipsync_jax (version), generated (whether a frame has new lips, or the
    source was generated), renderer, strength of the mesh renderer, weights
    (first digits), face and audio (SHA-256 of the files).
  """
  spoken = any(speaker['frames_spoken'] for speaker in facts['speakers'])
  sounds = [options.audio, *(path for _, path in options.audio_for)]
  sounds += turns.audio_files(options.subtitles)
  record = {
    'lipsync_jax': __version__,
    'generated': spoken or _was_generated(options.face),
    'renderer': 'mesh' if options.uses_mesh else 'network',
  }
  if options.uses_mesh:
    record['strength'] = options.strength
  return record | {
    'weights': weights[:WEIGHTS_DIGITS],
    'face': hash_file(options.face),
    'audio': [hash_file(path) for path in dict.fromkeys(filter(None, sounds))],
  }


def _was_generated(path: str) -> bool:
  """Whether the record of a source says so; its own record is replaced."""
  with contextlib.suppress(MediaError, OSError):
    record = read_record(path)
    return record is not None and is_generated(record)
  return False


def is_generated(record: dict) -> bool:
  """Whether a record says that its file is generated."""
  return record.get('generated') is not False


def add_record(
  tags: MutableMapping[str, str], record: dict, held: Collection[str] | None
) -> None:
  """Add a record to the tags of an output.

  Other tags stay what they are; only where no key is free, the record becomes
  a line after the comment. The records of a source that was generated are
  removed.

  Args:
    tags: of the output; changed.
    record: of `build_record`.
    held: keys that the container holds; None: all.
  """
  text = json.dumps(record, separators=(',', ':'))
  for key, value in list(tags.items()):
    lines = value.splitlines()
    own = [line for line in lines if not line.startswith(START)]
    if len(own) < len(lines):
      tags[key] = '\n'.join(own)
    if not tags[key]:
      del tags[key]
  taken = {key.lower(): key for key in tags}
  for key in KEYS:
    if key not in taken and (held is None or key in held):
      tags[key] = text
      return
  tags[taken['comment']] += f'\n{text}'


def find_record(values: Iterable[str]) -> dict | None:
  """The record among the values of tags; None if there is none."""
  for value in values:
    for line in value.splitlines():
      if line.startswith(START):
        try:
          record = json.loads(line)
        except ValueError:
          continue
        if isinstance(record, dict):
          return record
  return None


def read_record(path: str | os.PathLike) -> dict | None:
  """The record of a file; None if it has none.

  Raises:
    MediaError: not media.
  """
  found = decoder.probe_extras(path, -1)
  return find_record(value for _, value in found.tags)


def check_inputs(
  path: str | os.PathLike,
  record: dict,
  face: str | os.PathLike | None = None,
  audio: str | os.PathLike | None = None,
) -> None:
  """Compare the hashes of a record with files.

  Raises:
    ProvenanceError: a file is another one.
    OSError: a file cannot be read.
  """
  for name, given in (('face', face), ('audio', audio)):
    if given is None:
      continue
    stated, digest = record.get(name), hash_file(given)
    stated = stated if isinstance(stated, list) else [stated]
    if digest not in stated:
      raise ProvenanceError(
        f'{path}: expected --{name} of SHA-256 '
        f'{", ".join(str(one)[:12] for one in stated)}…, found {digest[:12]}…; '
        f'{given} is not the file that was used'
      )
