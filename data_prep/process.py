"""Stages: what is done to one file, each stage remembered by content.

A stage's result lies in the cache folder under a name made of the file's
sha256 and of all else that decides it. A build that was killed, or runs
again with a better expert, does only what is not there. Files appear whole
or not at all, so that any number of workers may share a cache.

    faces/    boxes, landmarks, cuts of a video
    clips/    its clips as records, and a list of what was kept and dropped
    offsets/  of every clip, by one expert
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator

import numpy as np

from data_prep import av_offset, extract, wav2lip_cache
from data_prep.extract import Rejection, Settings
from data_prep.layouts import UNLISTED, Job
from lipsync_jax.common import atomic_file
from lipsync_jax.data import tfrecord
from lipsync_jax.data.clip import (
  Clip,
  ClipInfo,
  clip_info,
  decode_clip,
  encode_clip,
  write_encoded_clips,
)
from lipsync_jax.faces import analysis_cache, detector
from lipsync_jax.faces.landmarks import FaceError
from lipsync_jax.media import decoder
from lipsync_jax.media.container import MediaError

log = logging.getLogger(__name__)

Row = dict  # of JSON: one clip found, and what became of it


@dataclasses.dataclass(frozen=True)
class Task:
  """What every worker must know."""

  cache: str
  settings: Settings
  syncnet: str = ''  # weights; '' measures no offset
  limits: av_offset.Limits = dataclasses.field(default_factory=av_offset.Limits)


class Worker:
  """Owns the models of one process, opened when first needed."""

  def __init__(self, task: Task):
    import cv2

    cv2.setNumThreads(1)  # processes, not threads, share the cores
    self.task, self._finder, self._expert = task, None, None

  @property
  def finder(self) -> detector.FaceDetector:
    if self._finder is None:
      self._finder = detector.FaceDetector(workers=1)
    return self._finder

  @property
  def expert(self) -> av_offset.Expert:
    if self._expert is None:
      self._expert = av_offset.Expert(self.task.syncnet)
    return self._expert

  def close(self) -> None:
    """Free the models."""
    if self._finder is not None:
      self._finder.close()
      self._finder = None

  def rows(self, job: Job) -> list[Row]:
    """All clips of a job, kept or dropped, with one reason each."""
    about = {'split': job.split, 'source': job.path, 'job': job.key}
    if job.split == UNLISTED or not job.path:
      reason = extract.UNLISTED if job.path else extract.MISSING
      rows = [{'key': job.key, 'reason': reason, 'detail': ''}]
      return [about | row for row in rows]
    with local(job.path) as path:
      try:
        content = content_of(path)
      except OSError as error:
        row = {'reason': extract.BROKEN, 'detail': error.strerror}
        return [about | {'key': job.key} | row]
      rows, pack = self._clips(job, path, content)
    kept = [row for row in rows if not row['reason']]
    if self.task.syncnet and kept:
      self._measure(kept, pack)
    return [about | row for row in rows]

  def _clips(self, job: Job, path: str, content: str) -> tuple[list[Row], str]:
    """What became of each clip, and the file that has those kept."""
    words = job.key, shown(job.path), content, repr(job.single)
    name = digest(*words, repr(self.task.settings), str(extract.VERSION))
    pack = place(self.task.cache, 'clips', f'{name}.tfrecord')
    listed = place(self.task.cache, 'clips', f'{name}.json')
    rows = load(listed)
    if rows is not None:
      return located(rows, pack), pack
    rows = []
    _path(pack).parent.mkdir(parents=True, exist_ok=True)
    here = dataclasses.replace(job, path=path)
    try:
      write_encoded_clips(pack, self._kept(here, job.path, rows))
    except OSError:
      raise  # a full disk is no fault of the clip
    except Exception as error:  # whatever a file provokes costs that file only
      if not isinstance(error, MediaError):
        log.exception('%s: this should not happen', job.path)
      # What was cut before the damage goes too: one reason, one line.
      detail = ' '.join(str(error).replace(path, shown(job.path)).split())
      detail = detail or type(error).__name__
      row = Rejection(job.key, extract.BROKEN, detail)
      rows = [dataclasses.asdict(row)]
    save(listed, json.dumps(rows).encode())
    return located(rows, pack), pack

  def _kept(self, job: Job, source: str, rows: list[Row]):
    """The records of a file; `rows` gets a row of each clip, kept or not."""
    at = 0
    for result in self._results(job):
      if isinstance(result, Rejection):
        rows.append(dataclasses.asdict(result))
        continue
      result = dataclasses.replace(result, source=shown(source))
      data = encode_clip(result)
      rows.append(row_of(result, len(data), at))
      yield result.key, data, clip_info(result)
      at += 1

  def _results(self, job: Job):
    if os.path.isdir(job.path):
      return wav2lip_cache.from_pictures(job, self.finder, self.task.settings)
    return extract.from_video(job, self._faces(job), self.task.settings)

  def _faces(self, job: Job):
    """The remembered first pass over a video, else made and remembered."""
    content = content_of(job.path)
    words = content, str(analysis_cache.VERSION), *detector.ASSETS.values()
    name = digest(*words, str(extract.VERSION), str(extract.RATE))
    path = place(self.task.cache, 'faces', f'{name}.npz')
    with contextlib.suppress(FaceError, FileNotFoundError), local(path) as file:
      return analysis_cache.load_analysis(file)[0]
    analysis = extract.analyze(decoder.probe_video(job.path), self.finder)
    with tempfile.TemporaryDirectory() as folder:
      file = os.path.join(folder, 'analysis.npz')
      analysis_cache.save_analysis(file, analysis, np.inf)
      with open(file, 'rb') as opened:
        save(path, opened.read())
    return analysis

  def _measure(self, kept: list[Row], pack: str) -> None:
    """Write offset, confidence and verdict into the rows of one file."""
    stem = os.path.basename(pack).removesuffix('.tfrecord')
    words = self.expert.sha256, str(av_offset.REACH), stem
    path = place(self.task.cache, 'offsets', f'{digest(*words)}.json')
    found = load(path)
    if found is None:
      found = [
        self.expert.offset(decode_clip(data, row['key']))
        for row, (_, data) in zip(
          kept, tfrecord.scan_records(pack), strict=True
        )
      ]
      save(path, json.dumps(found).encode())
    shortest = self.task.settings.shortest
    for row, (late, sure) in zip(kept, found, strict=True):
      row |= {'offset': late, 'confidence': sure}
      limits = self.task.limits
      reason = av_offset.verdict(row['frames'], late, sure, limits, shortest)
      row['reason'], row['detail'] = reason


def row_of(clip: Clip, size: int, at: int) -> Row:
  """What the build needs to know of a clip that is kept."""
  import cv2

  across = clip.boxes[:, 2:] - clip.boxes[:, :2]  # [n 2]
  first = cv2.imdecode(np.frombuffer(clip.frames[0], np.uint8), 1)
  unit = across[:, 0] / first.shape[1]  # source pixels per JPEG pixel
  return {
    'key': clip.key,
    'reason': '',
    'detail': '',
    'frames': len(clip.frames),
    'bytes': size,
    'width': round(float(np.median(clip.crops[:, 2] * unit)), 1),
    'at': at,
  }


def located(rows: list[Row], pack: str) -> list[Row]:
  """Rows that say where their records lie: a cache may be moved."""
  return [row if row['reason'] else row | {'pack': pack} for row in rows]


def record(row: Row) -> tuple[str, bytes, ClipInfo]:
  """A kept clip as it goes into a shard, its sound in step.

  Raises:
    ShardError: the cache is damaged.
  """
  data = packed(row['pack'], row['at'])
  clip = decode_clip(data, row['key'])
  if 'offset' in row:
    clip = av_offset.corrected(clip, row['offset'], row['confidence'])
    data = encode_clip(clip)
  return row['key'], data, clip_info(clip)


def packed(pack: str, at: int) -> bytes:
  """Record number `at` of a file of the cache, checked."""
  index = tfrecord.read_index(pack)
  with _path(pack).open('rb') as file:
    file.seek(int(index.offsets[at]))
    raw = file.read(int(index.lengths[at]) + 16)
  if tfrecord.frame_record(raw[12:-4]) != raw:
    raise tfrecord.ShardError(
      f'{pack}: record {at} is damaged; delete the cache folder and run the '
      'build again'
    )
  return raw[12:-4]


def content_of(path: str) -> str:
  """sha256 of a file, or of all files of a folder with their names."""
  if not os.path.isdir(path):
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  parts = [
    [n, content_of(os.path.join(path, n))] for n in sorted(os.listdir(path))
  ]
  return digest(*(word for part in parts for word in part))


def order(key: str) -> str:
  """Where a clip stands in the data set: shuffled, the same everywhere."""
  return hashlib.sha256(key.encode()).hexdigest()


def digest(*words: str) -> str:
  """A name in the cache."""
  return hashlib.sha256('\n'.join(words).encode()).hexdigest()[:40]


def place(cache: str, stage: str, name: str) -> str:
  """Where a stage's result lies; no folder gets too many files."""
  return str(_path(cache) / stage / name[:2] / name)


def save(path: str, data: bytes) -> None:
  """Write a file, whole or not at all."""
  target = _path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  if '://' not in path:
    with atomic_file.atomic_write(path) as part:
      part.write_bytes(data)
    return
  # A bucket has no locks.
  part = target.parent / f'{target.name}.part-{uuid.uuid4().hex[:8]}'
  try:
    part.write_bytes(data)
    part.replace(target)
  finally:
    part.unlink(missing_ok=True)


def load(path: str):
  """What `save` wrote as JSON; None if it is not there or damaged."""
  try:
    return json.loads(_path(path).read_bytes())
  except (FileNotFoundError, ValueError):
    return None


@contextlib.contextmanager
def local(path: str) -> Iterator[str]:
  """The file, or the folder, under a local name."""
  if '://' not in path:
    yield path
    return
  source = _path(path)
  with tempfile.TemporaryDirectory() as folder:
    target = os.path.join(folder, source.name)
    if source.is_dir():
      os.mkdir(target)
      for file in source.iterdir():
        file.copy(os.path.join(target, file.name))
    else:
      source.copy(target)
    yield target


def shown(path: str) -> str:
  """The end of a path: the same on every machine."""
  return '/'.join(path.rsplit('/', 3)[1:])


def _path(path):
  from etils import epath

  return epath.Path(path)
