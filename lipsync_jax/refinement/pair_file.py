"""Pairs of the refiner on disk: uint8 arrays in a folder, one for each split.

Warping costs some 10 to 20 ms of a core a pair, so that it is done once. A pair
holds the warped crop and the hole (4 bytes a pixel) and the rows of its target
and its references among the mouths of all clips (3 bytes a pixel, shared by the
pairs of a clip). Pixels round the crop, the margin, let the crop move.

Shapes: q pairs, m mouths, s side of a crop with its margin, b batch, k
references.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float16, Int32, UInt8

from lipsync_jax import audio
from lipsync_jax.common import atomic_file
from lipsync_jax.models.refiner import NUM_REFERENCES
from lipsync_jax.refinement.face_frames import RefinementError

FORMAT = 'lipsync_jax.refiner_pairs/1'
FACTS = 'facts.json'  # written last: without it a folder is not complete
COLUMNS = (
  'target',
  *(f'reference_{i}' for i in range(NUM_REFERENCES)),
  'speaker',
  'clip',
  'photo',
)


def margin_of(size: int) -> int:
  """Pixels round a crop by which it can move."""
  return size // 16


@dataclasses.dataclass(frozen=True)
class PairRecord:
  """One pair, before it is written.

  Attributes:
    warped: crop and hole.
    mel: window of the target.
    frames: numbers of the target and of its references in their clip.
    photo: whether the source stands for a photo.
  """

  warped: UInt8[np.ndarray, 's s 4']
  mel: Float16[np.ndarray, '80 16']
  frames: tuple[int, ...]
  photo: bool


@dataclasses.dataclass(frozen=True)
class PairSplit:
  """All pairs of a split; arrays may lie on disk.

  Attributes:
    size: pixels of the crop without its margin.
    keys: of the clips.
    names: of the speakers.
    table: COLUMNS of each pair.
  """

  size: int
  keys: tuple[str, ...]
  names: tuple[str, ...]
  warps: UInt8[np.ndarray, 'q s s 4']
  mouths: UInt8[np.ndarray, 'm s s 3']
  mels: Float16[np.ndarray, 'q 80 16']
  table: Int32[np.ndarray, 'q 7']

  def __len__(self) -> int:
    return len(self.table)

  def column(self, name: str) -> Int32[np.ndarray, 'q']:
    """A column of the table."""
    return self.table[:, COLUMNS.index(name)]

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """What `gather_pairs` reads, on the host or on a device."""
    names = ('warps', 'mouths', 'mels', 'table')
    return {name: getattr(self, name) for name in names}


def photo_pairs(split: PairSplit) -> PairSplit:
  """The pairs that stand for photos, in memory but for their mouths.

  Raises:
    RefinementError: there are none.
  """
  rows = np.flatnonzero(split.column('photo'))
  if not len(rows):
    raise RefinementError(
      'expected pairs that stand for photos, found none; set '
      '--config.refiner.photos_only=False'
    )
  parts = {name: getattr(split, name)[rows] for name in ('warps', 'mels')}
  return dataclasses.replace(split, table=split.table[rows], **parts)


def gather_pairs(arrays: dict[str, Any], pairs) -> dict[str, Any]:
  """The pairs of a batch, uint8, with their margins.

  Args:
    arrays: of `PairSplit.arrays`, of numpy or jax.
    pairs: numbers, int [b].
  """
  rows = arrays['table'][pairs]
  used = rows[:, : 1 + NUM_REFERENCES]
  mouths = arrays['mouths'][used]  # [b, 1 + k, s, s, 3]
  return {
    'warp': arrays['warps'][pairs],
    'mouth': mouths[:, 0],
    'others': mouths[:, 1:],
    'mel': arrays['mels'][pairs],
    'speaker': rows[:, COLUMNS.index('speaker')],
    'clip': rows[:, COLUMNS.index('clip')],
    'photo': rows[:, COLUMNS.index('photo')],
  }


class PairWriter:
  """Writes the pairs of a split clip by clip; a context manager."""

  def __init__(self, folder: str | os.PathLike, size: int):
    """Args:
    folder: of the split; an older one is replaced.
    size: pixels of the crop without its margin.
    """
    self.folder, self.size = pathlib.Path(folder), size
    self.folder.mkdir(parents=True, exist_ok=True)
    (self.folder / FACTS).unlink(missing_ok=True)
    self.keys: list[str] = []
    self.names: dict[str, int] = {}
    self.table: list[tuple[int, ...]] = []
    self.mouths = 0
    self._open = contextlib.ExitStack()
    self._files = {
      name: self._open.enter_context(
        open(self.folder / f'{name}.bin', 'wb')  # noqa: SIM115 - in a stack
      )
      for name in ('warps', 'mouths', 'mels')
    }

  def __enter__(self) -> 'PairWriter':
    return self

  def __exit__(self, kind, error, trace) -> None:
    self._open.close()

  def add(
    self,
    key: str,
    speaker: str,
    pairs: list[PairRecord],
    mouths: dict[int, UInt8[np.ndarray, 's s 3']],
  ) -> None:
    """Append the pairs of a clip.

    Args:
      key, speaker: of the clip.
      pairs: of the clip.
      mouths: crops of its frames by their numbers.
    """
    if not pairs:
      return
    owner = self.names.setdefault(speaker, len(self.names))
    rows = {}
    for number, mouth in mouths.items():
      rows[number] = self.mouths
      self._files['mouths'].write(mouth.tobytes())
      self.mouths += 1
    for pair in pairs:
      self._files['warps'].write(pair.warped.tobytes())
      self._files['mels'].write(pair.mel.tobytes())
      used = (rows[number] for number in pair.frames)
      self.table.append((*used, owner, len(self.keys), int(pair.photo)))
    self.keys.append(key)

  def finish(self, facts: dict[str, Any]) -> None:
    """Write the table, and the facts that complete the folder."""
    for file in self._files.values():
      file.flush()
    table = np.array(self.table, '<i4').reshape(-1, len(COLUMNS))
    (self.folder / 'table.bin').write_bytes(table.tobytes())
    text = json.dumps(
      facts
      | {
        'format': FORMAT,
        'size': self.size,
        'pairs': len(self.table),
        'mouths': self.mouths,
        'keys': self.keys,
        'names': list(self.names),
      }
    )
    with atomic_file.atomic_write(self.folder / FACTS) as part:
      part.write_text(text, encoding='utf-8')


def load_pairs(
  folder: str | os.PathLike, split: str, size: int | None = None
) -> PairSplit:
  """Open the pairs of a split; its pictures stay on disk.

  Args:
    folder: of all splits.
    split: its name.
    size: expected pixels of a crop; None takes any.

  Raises:
    RefinementError: there are none, they have another size, or a file is too
      short.
  """
  path = pathlib.Path(folder) / split
  try:
    facts = json.loads((path / FACTS).read_text(encoding='utf-8'))
  except (OSError, json.JSONDecodeError):
    facts = {}
  if facts.get('format') != FORMAT or not facts['pairs']:
    raise RefinementError(
      f'{path}: expected pairs of the refiner, found none; run python -m '
      'lipsync_jax.refinement.prepare SHARDS --out FOLDER'
    )
  if size not in (None, facts['size']):
    raise RefinementError(
      f'{path}: expected pairs of {size} pixels, found {facts["size"]}; '
      f'prepare them with --size={size}'
    )
  pairs, mouths = facts['pairs'], facts['mouths']
  side = facts['size'] + 2 * margin_of(facts['size'])
  shapes = {
    'warps': ((pairs, side, side, 4), np.uint8),
    'mouths': ((mouths, side, side, 3), np.uint8),
    'mels': ((pairs, audio.MELS, audio.WINDOW_COLUMNS), np.float16),
    'table': ((pairs, len(COLUMNS)), np.int32),
  }
  arrays = {}
  for name, (shape, kind) in shapes.items():
    file = path / f'{name}.bin'
    wanted = int(np.prod(shape)) * np.dtype(kind).itemsize
    found = file.stat().st_size if file.exists() else 0
    if found != wanted:
      raise RefinementError(
        f'{file}: expected {wanted} bytes, found {found}; prepare the pairs '
        'again'
      )
    arrays[name] = np.memmap(file, kind, 'r', shape=shape)
  return PairSplit(
    facts['size'], tuple(facts['keys']), tuple(facts['names']), **arrays
  )
