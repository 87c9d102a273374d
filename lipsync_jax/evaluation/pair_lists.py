"""Pairs: whose mouth is to speak whose words.

The published evaluation lists are read as they are (spec 8.5): lines
`audio video` without endings, which name clips of LRS2, LRS3 and LRW, and
lines `video.mp4 audio.mp4` (or .wav) of ReSyncED, the video first.
"""

import os
import pathlib
from collections.abc import Sequence

from lipsync_jax.common.errors import LipSyncError

Pair = tuple[str, str]  # video, audio


class PairError(LipSyncError):
  """A list that names no pairs; one line says where."""


def read_pairs(path: str | os.PathLike) -> list[Pair]:
  """The (video, audio) pairs of a list, in order, line by line."""
  found = []
  lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  for number, line in enumerate(lines, 1):
    words = line.split()
    if not words:
      continue
    if len(words) != 2:
      raise PairError(
        f'{path}, line {number}: expected two names, found {len(words)}; '
        'write "audio video" without endings or "video.mp4 audio.wav"'
      )
    endings = [bool(pathlib.PurePath(word).suffix) for word in words]
    if endings[0] != endings[1]:
      raise PairError(
        f'{path}, line {number}: expected endings on both names or on '
        f'neither, found {line.strip()!r}'
      )
    # With endings it is ReSyncED's order, else that of the LRS lists.
    found.append((words[0], words[1]) if endings[0] else (words[1], words[0]))
  if not found:
    raise PairError(f'{path}: expected pairs of names, found none')
  return found


def draw_partners(names: Sequence[str], speakers: Sequence[str]) -> list[Pair]:
  """Every name with the sound of another speaker, always the same one.

  Half way round the list, then onwards to the first other speaker; where
  there is one speaker only, another clip of theirs.
  """
  found, count = [], len(names)
  for i, name in enumerate(names):
    order = [(i + count // 2 + k) % count for k in range(count)]
    others = [j for j in order if speakers[j] != speakers[i]]
    chosen = others or [j for j in order if j != i]
    if chosen:
      found.append((name, names[chosen[0]]))
  return found
