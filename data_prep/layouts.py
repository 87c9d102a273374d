"""Clips of a data set's folder, with their speakers and splits.

Layouts: LRS2, LRS3, the output of Wav2Lip's preprocessing, and any folder of
videos. Source: spec sections 5.1-5.3 and 8.5.
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
# Folder of a layout -> the splits of its lists. Without lists, a folder with
# several splits assigns them by hash.
FOLDERS = {
  'lrs2': {'main': ('train', 'val', 'test'), 'pretrain': ('pretrain',)},
  'lrs3': {
    'trainval': ('train', 'val'),
    'test': ('test',),
    'pretrain': ('pretrain',),
  },
}


class LayoutError(LipSyncError):
  """A folder that does not have the given layout."""


@dataclasses.dataclass(frozen=True, order=True)
class Job:
  """One file (or folder of pictures) with clips."""

  key: str  # '<speaker>/<clip>'
  path: str  # '' for a missing clip of a list
  split: str
  single: bool  # has one speaker, by the layout

  @property
  def speaker(self) -> str:
    return self.key.partition('/')[0]


def find_jobs(
  layout: str,
  root: str | os.PathLike,
  lists: str | os.PathLike | None = None,
  shares: tuple[float, float] = (0.02, 0.02),
  by: str = 'video',
) -> list[Job]:
  """All files of a data set, in the order of their keys.

  Args:
    layout: one of LAYOUTS.
    root: the data set's folder; may be on a bucket.
    lists: folder of `<split>.txt`; None assigns splits by hash.
    shares: of val and test, for splits by hash.
    by: 'speaker' or 'video': the unit of splits in a folder of videos. The
      first level of folders gives the speakers.

  Raises:
    LayoutError: no clip, or a list without an existing clip.
  """
  if layout not in LAYOUTS:
    raise LayoutError(f'expected a layout of {LAYOUTS}, found {layout!r}')
  listed = read_lists(lists) if lists else {}
  if layout == 'videos':
    found = _videos(root, by)
  elif layout == 'lrs2_preprocessed':
    found = {
      key: (path, None)
      for key, path in _two_levels(_path(root), '')
      if _path(path).is_dir()
    }
  else:
    found = _lrs(layout, root, listed)
  if not found:
    raise LayoutError(
      f'{root}: expected clips in the layout {layout!r}, found none; see '
      'docs/data.md for the layouts'
    )
  splits = (
    {key: split for split, keys in listed.items() for key in keys}
    if listed
    else splits_by_hash({k: s for k, (_, s) in found.items()}, shares)
  )
  keys = sorted({*found, *splits})
  if listed and not set(found) & set(splits):
    raise LayoutError(
      f'{lists}: expected lines "<speaker>/<clip>" of clips in {root}, found '
      f'no existing one (the first clip of the folder is {min(found)!r})'
    )
  return [
    Job(
      key,
      found.get(key, ('',))[0],
      splits.get(key, UNLISTED),
      has_single_speaker(layout),
    )
    for key in keys
  ]


def has_single_speaker(layout: str) -> bool:
  """Whether the clips of a layout have one speaker each."""
  return layout != 'videos'


def read_lists(folder: str | os.PathLike) -> dict[str, list[str]]:
  """The clips of every `<split>.txt` of a folder.

  The first word of a line is the clip; LRS2's test list has a second word.

  Raises:
    LayoutError: no list, or a clip in two lists.
  """
  lists, seen = {}, {}
  for path in sorted(_path(folder).glob('*.txt')):
    words = (line.split() for line in path.read_text().splitlines())
    keys = [line[0].removesuffix('.mp4') for line in words if line]
    if not keys or any(key.count('/') != 1 for key in keys):
      continue  # another text file
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


def splits_by_hash(
  clips: dict[str, str | None], shares: tuple[float, float]
) -> dict[str, str]:
  """Splits with disjoint speakers, reproducible on every machine.

  A speaker's split depends on the hash of its name, so that later clips do not
  move others. With three speakers or more, no split is empty.

  Args:
    clips: the split of every clip, or None if it has none yet.
    shares: of the speakers in val and test.
  """
  places = sorted(
    {(unit_hash(key.partition('/')[0]), key.partition('/')[0])
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


def unit_hash(name: str) -> float:
  """Hash of a name, uniform in [0, 1)."""
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def speakers_in_several_splits(jobs: Iterable[Job]) -> list[str]:
  """Speakers in more than one split."""
  where: dict[str, set[str]] = {}
  for job in jobs:
    if job.split != UNLISTED:
      where.setdefault(job.speaker, set()).add(job.split)
  return sorted(name for name, splits in where.items() if len(splits) > 1)


def _lrs(layout: str, root, listed: dict[str, Sequence[str]]) -> dict:
  """Clips of LRS2 or LRS3, with the split of their folder."""
  root, found = _path(root), {}
  folders = FOLDERS[layout]
  if root.name in folders and not any((root / f).is_dir() for f in folders):
    root = root.parent  # `…/mvlrs_v1/main` was given
  for folder, splits in folders.items():
    if listed and not set(splits) & set(listed):
      continue  # no list of this folder
    split = splits[0] if len(splits) == 1 else None
    for key, path in _two_levels(root / folder, '.mp4'):
      found.setdefault(key, (path, split))
  return found


def _two_levels(folder, suffix: str):
  """('<speaker>/<clip>', path) of entries two folders down."""
  if not folder.is_dir():
    return
  for path in folder.glob(f'*/*{suffix}'):
    if not path.name.startswith('.'):
      yield f'{path.parent.name}/{path.name.removesuffix(suffix)}', str(path)


def _videos(root, by: str) -> dict:
  """Every video below a folder; slashes in keys are percent-encoded."""
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
