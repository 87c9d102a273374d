"""Layouts: which clips there are, whose they are, and in which split.

LRS2 and what is laid out like it, LRS3, the cache of Wav2Lip's preprocessing,
and any folder of videos. Source: spec sections 5.1-5.3 and 8.5.
"""

import dataclasses
import hashlib
import os
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Sequence

from lipsync_jax.common.errors import LipSyncError

LAYOUTS = ('lrs2', 'lrs2_preprocessed', 'lrs3', 'videos')
SUFFIXES = {
  *('.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg'),
  *('.mpg', '.mts', '.mxf', '.ts', '.vob', '.webm', '.wmv'),
}
UNLISTED = 'unlisted'  # the split of a file that no list names
# Folder of a layout -> the list that wants it, and the split without lists
# (None: by hash).
FOLDERS = {
  'lrs2': {'main': ('train', 'val', 'test'), 'pretrain': ('pretrain',)},
  'lrs3': {
    'trainval': ('train', 'val'),
    'test': ('test',),
    'pretrain': ('pretrain',),
  },
}


class LayoutError(LipSyncError):
  """A folder that is not laid out as was said; one line says how."""


@dataclasses.dataclass(frozen=True, order=True)
class Job:
  """One file (or folder of pictures) to make clips of."""

  key: str  # '<speaker>/<clip>'
  path: str  # '' if a list names a clip that is not there
  split: str
  single: bool  # shows one speaker, by the layout

  @property
  def speaker(self) -> str:
    return self.key.partition('/')[0]


def find(
  layout: str,
  root: str | os.PathLike,
  lists: str | os.PathLike | None = None,
  shares: tuple[float, float] = (0.02, 0.02),
  by: str = 'video',
) -> list[Job]:
  """All clips of a data set, in the order of their keys.

  Args:
    layout: one of LAYOUTS.
    root: the data set's folder; may be on a bucket.
    lists: folder of `<split>.txt`; None makes splits by hash.
    shares: of val and test, where splits are made.
    by: 'speaker' or 'video', what may not be in two splits of a folder of
      videos. Speakers are its first level of folders.

  Raises:
    LayoutError: nothing there, or a list without an entry that exists.
  """
  if layout not in LAYOUTS:
    raise LayoutError(f'expected a layout of {LAYOUTS}, found {layout!r}')
  wanted = read_lists(lists) if lists else {}
  if layout == 'videos':
    found = _videos(root, by)
  elif layout == 'lrs2_preprocessed':
    found = {
      key: (path, None)
      for key, path in _two_levels(_path(root), '')
      if _path(path).is_dir()
    }
  else:
    found = _lrs(layout, root, wanted)
  if not found:
    raise LayoutError(
      f'{root}: expected clips in the layout {layout!r}, found none; see '
      'data_prep/README.md for how the folder must look'
    )
  splits = (
    {key: split for split, keys in wanted.items() for key in keys}
    if wanted
    else by_hash({k: s for k, (_, s) in found.items()}, shares)
  )
  keys = sorted({*found, *splits})
  if wanted and not set(found) & set(splits):
    raise LayoutError(
      f'{lists}: expected lines "<speaker>/<clip>" of clips in {root}, found '
      f'none that is there (the first clip there is {min(found)!r})'
    )
  return [
    Job(
      key,
      found.get(key, ('',))[0],
      splits.get(key, UNLISTED),
      by_layout(layout),
    )
    for key in keys
  ]


def by_layout(layout: str) -> bool:
  """Whether a layout promises one speaker a clip."""
  return layout != 'videos'


def read_lists(folder: str | os.PathLike) -> dict[str, list[str]]:
  """The clips of every `<split>.txt` of a folder.

  The first word of a line counts: LRS2's test list has a second one.

  Raises:
    LayoutError: no list there, or a clip is in two of them.
  """
  lists, seen = {}, {}
  for path in sorted(_path(folder).glob('*.txt')):
    words = (line.split() for line in path.read_text().splitlines())
    keys = [line[0].removesuffix('.mp4') for line in words if line]
    if not keys or any(key.count('/') != 1 for key in keys):
      continue  # some other text
    lists[path.stem] = keys
    for key in keys:
      if seen.setdefault(key, path.stem) != path.stem:
        raise LayoutError(
          f'{folder}: {key!r} is in {seen[key]}.txt and in {path.name}; a clip '
          'may be in one split only'
        )
  if not lists:
    raise LayoutError(
      f'{folder}: expected train.txt, val.txt, … with lines "<speaker>/<clip>",'
      ' found none'
    )
  return lists


def by_hash(
  clips: dict[str, str | None], shares: tuple[float, float]
) -> dict[str, str]:
  """Splits that no speaker straddles, the same on every machine.

  A speaker's place depends on its name alone, so clips may be added later
  without moving others. From three speakers on each split has one at least.

  Args:
    clips: split of every clip that has one already, else None.
    shares: of the speakers in val and test.
  """
  places = sorted(
    {(place(key.partition('/')[0]), key.partition('/')[0])
     for key, split in clips.items() if split is None}
  )  # fmt: skip
  val, test = shares
  chosen = {name: 'train' for _, name in places}
  chosen |= {name: 'val' for at, name in places if at < val}
  chosen |= {name: 'test' for at, name in places if val <= at < val + test}
  for split, share in (('train', 1), ('val', val), ('test', test)):
    sizes = Counter(chosen.values())
    donor, count = sizes.most_common(1)[0] if sizes else ('', 0)
    if share and not sizes[split] and count > 1 and len(places) > 2:
      names = [name for _, name in places if chosen[name] == donor]
      chosen[names[0]] = split
  return {
    key: split or chosen[key.partition('/')[0]] for key, split in clips.items()
  }


def place(name: str) -> float:
  """Where a name falls in [0, 1), evenly."""
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def straddling(jobs: Iterable[Job]) -> list[str]:
  """Speakers in more than one split."""
  where: dict[str, set[str]] = {}
  for job in jobs:
    if job.split != UNLISTED:
      where.setdefault(job.speaker, set()).add(job.split)
  return sorted(name for name, splits in where.items() if len(splits) > 1)


def _lrs(layout: str, root, wanted: dict[str, Sequence[str]]) -> dict:
  """Clips of LRS2 or LRS3, with the split their folder gives."""
  root, found = _path(root), {}
  folders = FOLDERS[layout]
  if root.name in folders and not any((root / f).is_dir() for f in folders):
    root = root.parent  # `…/mvlrs_v1/main` was given
  for folder, splits in folders.items():
    if wanted and not set(splits) & set(wanted):
      continue  # no list asks for anything in there
    split = splits[0] if len(splits) == 1 else None
    for key, path in _two_levels(root / folder, '.mp4'):
      found.setdefault(key, (path, split))
  return found


def _two_levels(folder, suffix: str):
  """('<speaker>/<clip>', path) of what lies two folders down."""
  if not folder.is_dir():
    return
  for path in folder.glob(f'*/*{suffix}'):
    if not path.name.startswith('.'):
      yield f'{path.parent.name}/{path.name.removesuffix(suffix)}', str(path)


def _videos(root, by: str) -> dict:
  """Every video below a folder; '%2F' and the like stand in its key."""
  if by not in ('speaker', 'video'):
    raise LayoutError(f'expected to split by speaker or video, found {by!r}')
  root, found = _path(root), {}
  for path in _below(root):
    if path.suffix.lower() not in SUFFIXES or path.name.startswith('.'):
      continue
    parts = path.relative_to(root).parts
    if by == 'video' or len(parts) == 1:
      names = ['/'.join(parts), 'face']
    else:
      names = [parts[0], '/'.join(parts[1:])]
    names = [urllib.parse.quote(name, safe='') for name in names]
    found['/'.join(names)] = (str(path), None)
  return found


def _below(folder):
  """All files at any depth; epath has no recursive pattern for buckets."""
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _below(path)
    else:
      yield path


def _path(path):
  from etils import epath  # local paths and buckets

  return epath.Path(path)
