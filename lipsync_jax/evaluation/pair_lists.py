"""Lists of (video, audio) pairs.

The published evaluation lists are supported (spec 8.5): lines `audio video`
without suffixes, which name clips of LRS2, LRS3 and LRW, and lines
`video.mp4 audio.mp4` (or .wav) of ReSyncED, the video first.
"""

import os
import pathlib
from collections.abc import Sequence

from lipsync_jax.common.errors import LipSyncError

Pair = tuple[str, str]  # video, audio


class PairError(LipSyncError):
  """A list without valid pairs."""


def read_pairs(path: str | os.PathLike) -> list[Pair]:
  """The (video, audio) pairs of a list, in the order of its lines."""
  pairs = []
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
    # With suffixes it is ReSyncED's order, else that of the LRS lists.
    pairs.append((words[0], words[1]) if endings[0] else (words[1], words[0]))
  if not pairs:
    raise PairError(f'{path}: expected pairs of names, found none')
  return pairs


def draw_partners(names: Sequence[str], speakers: Sequence[str]) -> list[Pair]:
  """Every name with the sound of another speaker, without randomness.

  The search for another speaker starts half way down the list. If there is only
  one speaker, another clip is taken.
  """
  pairs, count = [], len(names)
  for i, name in enumerate(names):
    order = [(i + count // 2 + k) % count for k in range(count)]
    others = [j for j in order if speakers[j] != speakers[i]]
    chosen = others or [j for j in order if j != i]
    if chosen:
      pairs.append((name, names[chosen[0]]))
  return pairs
