"""Cache of face analyses, by the content of the video.

Each video has one file of arrays in the cache folder; nothing in it is
executed. A second run on the same video, under any name, skips detection.
"""

import contextlib
import hashlib
import os
import pathlib
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from lipsync_jax.common import atomic_file, cache, cancellation
from lipsync_jax.common.disk_array import BLOCK_ROWS, RowFile
from lipsync_jax.faces import landmarks, mesh, tracks
from lipsync_jax.faces.detector import ASSETS
from lipsync_jax.faces.landmarks import FaceError
from lipsync_jax.faces.tracks import Analysis, Track

_ALL_KEYS = threading.Lock()
_KEY_LOCKS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()

VERSION = 7  # part of the key: to be raised when the results change


def content_key(path: str | os.PathLike, view: str = '') -> str:
  """Name of a video's analysis in the cache: SHA-256, hexadecimal.

  Args:
    path: the video; only its content matters.
    view: everything that changes the pictures (scale, rotation, crop).
  """
  with open(path, 'rb') as file:
    content = hashlib.file_digest(file, 'sha256').hexdigest()
  return view_key(content, view)


def view_key(content: str, view: str = '') -> str:
  """`content_key` of a video whose content has this SHA-256."""
  words = [content, view, str(VERSION), *ASSETS.values()]
  return hashlib.sha256('\n'.join(words).encode()).hexdigest()


def cached_analysis(
  key: str, until: float | None, compute: Callable[[], Analysis]
) -> Analysis:
  """The analysis from the cache, or computed and stored.

  A longer analysis is cut at `until`. A shorter or damaged one is computed
  again. A cache that cannot be written is not an error. Of several threads that
  ask for one key the first computes and the others wait.

  Args:
    key: of `content_key`.
    until: seconds of the last frame needed; None is the whole video.
    compute: analyzes the frames up to `until`.
  """
  path = cache.cache_dir('faces') / f'{key}.npz'
  end = np.inf if until is None else float(until)
  with cancellation.locked(_key_lock(key)):
    try:
      analysis, reach = load_analysis(path)
    except FaceError:
      reach = -np.inf
    if reach < end:
      analysis = compute()
      with contextlib.suppress(OSError):
        save_analysis(path, analysis, end)
  return tracks.first_frames(analysis, end)


def _key_lock(key: str):
  """The lock of a key, which lives as long as somebody holds it."""
  with _ALL_KEYS:
    return _KEY_LOCKS.setdefault(key, threading.Lock())


def save_analysis(
  path: str | os.PathLike, analysis: Analysis, reach: float
) -> None:
  """Write an analysis that covers the video up to `reach` seconds."""
  path, found = pathlib.Path(path), analysis.tracks

  def parts(name, *shape):
    none = np.zeros((0, *shape), np.float32)
    return [getattr(track, name) for track in found] or [none]

  table = {
    'reach': [np.array(reach, np.float64)],
    'frame': [np.array(analysis.frame, np.int64)],
    'times': [analysis.times],
    'cuts': [analysis.cuts],
    'lengths': [np.array([len(t.frames) for t in found], np.int64)],
    'frames': parts('frames'),
    'boxes': parts('boxes', 4),
    'scores': parts('scores'),
    'points': parts('points', len(landmarks.LANDMARK_IDS), 2),
    'looks': [np.array([t.appearance for t in found], np.float32)],
    'mesh_rows': _mesh_rows(found),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  with (
    atomic_file.atomic_write(path) as part,
    zipfile.ZipFile(part, 'w', allowZip64=True) as file,
  ):
    for name, arrays in table.items():
      with file.open(f'{name}.npy', 'w', force_zip64=True) as entry:
        _write_joined(entry, arrays)
    with file.open('meshes.npy', 'w', force_zip64=True) as entry:
      _write_rows(entry, analysis.meshes)


def _mesh_rows(found: tuple[Track, ...]) -> list[np.ndarray]:
  """Rows of the tracks' meshes; -1 for tracks without."""
  rows = [
    np.full(len(track.frames), -1, np.int64)
    if track.mesh_rows is None
    else track.mesh_rows.astype(np.int64)
    for track in found
  ]
  return rows or [np.zeros(0, np.int64)]


def _write_rows(file, rows: RowFile | None) -> None:
  """Write all rows as `np.save` would, in blocks."""
  shape = (mesh.NUM_POINTS, 3)
  count = 0 if rows is None else len(rows)
  header = {'descr': '<i2', 'fortran_order': False, 'shape': (count, *shape)}
  np.lib.format.write_array_header_1_0(file, header)
  for first in range(0, count, BLOCK_ROWS):
    block = rows.read(first, min(first + BLOCK_ROWS, count))
    file.write(np.ascontiguousarray(block, '<i2').data.cast('B'))


def _read_rows(path: str | os.PathLike) -> RowFile:
  """Read what `_write_rows` wrote, in blocks."""
  rows = RowFile((mesh.NUM_POINTS, 3), np.int16)
  with zipfile.ZipFile(path) as file, file.open('meshes.npy') as entry:
    np.lib.format.read_magic(entry)
    shape, _, dtype = np.lib.format.read_array_header_1_0(entry)
    if shape[1:] != rows.shape or dtype != np.dtype('<i2'):
      raise ValueError(f'meshes of shape {shape} and type {dtype}')
    size = mesh.NUM_POINTS * 3 * 2
    for first in range(0, shape[0], BLOCK_ROWS):
      count = min(BLOCK_ROWS, shape[0] - first)
      data = entry.read(count * size)
      rows.append(np.frombuffer(data, '<i2').reshape(count, *rows.shape))
  return rows


def _write_joined(file, parts: list[np.ndarray]) -> None:
  """Write the concatenation of the parts as `np.save` would."""
  first = parts[0]
  shape = first.shape
  if len(parts) > 1:
    shape = (sum(len(part) for part in parts), *shape[1:])
  header = {
    'descr': np.lib.format.dtype_to_descr(first.dtype),
    'fortran_order': False,
    'shape': shape,
  }
  np.lib.format.write_array_header_1_0(file, header)
  for part in parts:
    assert part.dtype == first.dtype, (part.dtype, first.dtype)
    file.write(np.ascontiguousarray(part))


def load_analysis(path: str | os.PathLike) -> tuple[Analysis, float]:
  """Read an analysis and the seconds that it covers.

  Raises:
    FaceError: the file is absent, damaged or of another kind.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      table = {name: file[name] for name in file.files if name != 'meshes'}
    meshes = _read_rows(path)
    ends = np.cumsum(table['lengths'])
    last = len(table['times'])
    parts = [
      np.split(table[name], ends[:-1])
      for name in ('frames', 'boxes', 'scores', 'points', 'mesh_rows')
    ]
    found = []
    for i in range(len(ends)):
      frames, boxes, scores, points, rows = (part[i] for part in parts)
      frames = frames.astype(np.int64)
      shapes = [v.shape[0] for v in (boxes, scores, points, rows)]
      whole = shapes == [len(frames)] * 4 and (np.diff(frames) > 0).all()
      whole = whole and rows.max(initial=-1) < len(meshes)
      if (
        not whole or not len(frames) or not 0 <= frames[0] <= frames[-1] < last
      ):
        raise ValueError('tracks do not fit the frames')
      # Tracks without meshes have rows of -1.
      rows = None if rows.min(initial=0) < 0 else rows
      look = table['looks'][i]
      found.append(Track(frames, boxes, scores, points, look, rows))
    h, w = (int(v) for v in table['frame'])
    analysis = Analysis(
      table['times'], (h, w), table['cuts'], tuple(found), meshes
    )
    return analysis, float(table['reach'])
  except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
    raise FaceError(f'{path} holds no analysis ({error}); delete it') from error
  except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
    raise FaceError(f'{path} is damaged ({error}); delete it') from error
