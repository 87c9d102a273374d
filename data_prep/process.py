"""Processing of one file in stages, each cached by content.

A stage's result is a file of the cache folder. Its name is a hash of the
input's SHA-256 and of all settings. An interrupted build, or one with another
SyncNet, runs only the missing stages. Files are written atomically, so that
any number of workers can share a cache.

    faces/    boxes, landmarks and cuts of a video
    clips/    its clips as records, and a list of accepted and rejected ones
    offsets/  of every clip, by one SyncNet
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
from lipsync_jax.faces import analysis_cache, detector, mesh
from lipsync_jax.faces.landmarks import FaceError
from lipsync_jax.media import decoder
from lipsync_jax.media.container import MediaError

log = logging.getLogger(__name__)

Row = dict  # of JSON: one clip, accepted or rejected


@dataclasses.dataclass(frozen=True)
class Task:
  """Settings of all workers."""

  cache: str
  settings: Settings
  syncnet: str = ''  # weights; '': offsets are not measured
  limits: av_offset.Limits = dataclasses.field(default_factory=av_offset.Limits)


class Worker:
  """The models of one process, loaded on first use."""

  def __init__(self, task: Task):
    import cv2

    cv2.setNumThreads(1)  # processes, not threads, share the cores
    self.task, self._detector, self._estimator = task, None, None

  @property
  def detector(self) -> detector.FaceDetector:
    """The face detector."""
    if self._detector is None:
      self._detector = detector.FaceDetector(workers=1)
    return self._detector

  @property
  def estimator(self) -> av_offset.OffsetEstimator:
    """The SyncNet that measures offsets."""
    if self._estimator is None:
      self._estimator = av_offset.OffsetEstimator(self.task.syncnet)
    return self._estimator

  def close(self) -> None:
    """Free the models."""
    if self._detector is not None:
      self._detector.close()
      self._detector = None

  def rows(self, job: Job) -> list[Row]:
    """All clips of a job, accepted, or rejected with one reason each."""
    common = {'split': job.split, 'source': job.path, 'job': job.key}
    if job.split == UNLISTED or not job.path:
      reason = extract.UNLISTED if job.path else extract.MISSING
      rows = [{'key': job.key, 'reason': reason, 'detail': ''}]
      return [common | row for row in rows]
    with local_copy(job.path) as path:
      try:
        content = content_hash(path)
      except OSError as error:
        row = {'reason': extract.BROKEN, 'detail': error.strerror}
        return [common | {'key': job.key} | row]
      rows, pack = self._clips(job, path, content)
    accepted = [row for row in rows if not row['reason']]
    if self.task.syncnet and accepted:
      self._measure(accepted, pack)
    return [common | row for row in rows]

  def _clips(self, job: Job, path: str, content: str) -> tuple[list[Row], str]:
    """The rows of a job's clips, and the file of the accepted ones."""
    words = job.key, path_tail(job.path), content, repr(job.single)
    words += (self.task.settings.cache_key, str(extract.CLIP_VERSION))
    name = digest(*words)
    pack = cache_path(self.task.cache, 'clips', f'{name}.tfrecord')
    listed = cache_path(self.task.cache, 'clips', f'{name}.json')
    rows = load_json(listed)
    if rows is not None:
      return with_pack(rows, pack), pack
    rows = []
    _path(pack).parent.mkdir(parents=True, exist_ok=True)
    here = dataclasses.replace(job, path=path)
    try:
      write_encoded_clips(pack, self._accepted(here, job.path, rows))
    except OSError:
      raise  # a full disk is not an error of the clip
    except Exception as error:  # any error rejects this file only
      if not isinstance(error, MediaError):
        log.exception('%s: unexpected error', job.path)
      # Clips before the damage are rejected too: one reason, one line.
      detail = ' '.join(str(error).replace(path, path_tail(job.path)).split())
      detail = detail or type(error).__name__
      row = Rejection(job.key, extract.BROKEN, detail)
      rows = [dataclasses.asdict(row)]
    save(listed, json.dumps(rows).encode())
    return with_pack(rows, pack), pack

  def _accepted(self, job: Job, source: str, rows: list[Row]):
    """The records of a file; appends a row of every clip to `rows`."""
    at = 0
    for result in self._results(job):
      if isinstance(result, Rejection):
        rows.append(dataclasses.asdict(result))
        continue
      result = dataclasses.replace(result, source=path_tail(source))
      data = encode_clip(result)
      rows.append(accepted_row(result, len(data), at))
      yield result.key, data, clip_info(result)
      at += 1

  def _results(self, job: Job):
    if os.path.isdir(job.path):
      return wav2lip_cache.from_pictures(job, self.detector, self.task.settings)
    return extract.from_video(job, self._faces(job), self.task.settings)

  def _faces(self, job: Job):
    """The analysis of a video, from the cache if it is there."""
    content = content_hash(job.path)
    words = content, str(analysis_cache.VERSION), *detector.ASSETS.values()
    name = digest(*words, str(extract.VERSION), str(extract.RATE))
    path = cache_path(self.task.cache, 'faces', f'{name}.npz')
    with (
      contextlib.suppress(FaceError, FileNotFoundError),
      local_copy(path) as file,
    ):
      return analysis_cache.load_analysis(file)[0]
    analysis = extract.analyze(decoder.probe_video(job.path), self.detector)
    with tempfile.TemporaryDirectory() as folder:
      file = os.path.join(folder, 'analysis.npz')
      analysis_cache.save_analysis(file, analysis, np.inf)
      with open(file, 'rb') as opened:
        save(path, opened.read())
    return analysis

  def _measure(self, accepted: list[Row], pack: str) -> None:
    """Add offset, confidence and reason to the rows of one file."""
    stem = os.path.basename(pack).removesuffix('.tfrecord')
    words = self.estimator.sha256, str(av_offset.REACH), stem
    path = cache_path(self.task.cache, 'offsets', f'{digest(*words)}.json')
    offsets = load_json(path)
    if offsets is None:
      offsets = [
        self.estimator.offset(decode_clip(data, row['key']))
        for row, (_, data) in zip(
          accepted, tfrecord.scan_records(pack), strict=True
        )
      ]
      save(path, json.dumps(offsets).encode())
    for row, (late, confidence) in zip(accepted, offsets, strict=True):
      row |= {'offset': late, 'confidence': confidence}
      row['reason'], row['detail'] = av_offset.rejection_reason(
        row['frames'],
        late,
        confidence,
        self.task.limits,
        self.task.settings.min_frames,
      )


def accepted_row(clip: Clip, size: int, at: int) -> Row:
  """The row of an accepted clip."""
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
    'opening': lip_openings(clip),
    'at': at,
  }


def lip_openings(clip: Clip) -> list[float]:
  """Quantiles 0.05, 0.5 and 0.95 of the lip opening, canonical units."""
  if not len(clip.mesh):
    return []
  opening = mesh.lip_opening(mesh.unpack(clip.mesh))
  return np.quantile(opening, (0.05, 0.5, 0.95)).round(4).tolist()


def with_pack(rows: list[Row], pack: str) -> list[Row]:
  """The rows with the path of their records; a cache may be moved."""
  return [row if row['reason'] else row | {'pack': pack} for row in rows]


def shard_record(row: Row) -> tuple[str, bytes, ClipInfo]:
  """Key, bytes and index facts of an accepted clip, its sound in sync.

  Raises:
    ShardError: the cache is damaged.
  """
  data = read_record(row['pack'], row['at'])
  clip = decode_clip(data, row['key'])
  if 'offset' in row:
    clip = av_offset.correct_offset(clip, row['offset'], row['confidence'])
    data = encode_clip(clip)
  return row['key'], data, clip_info(clip)


def read_record(pack: str, at: int) -> bytes:
  """Record `at` of a file of the cache; its checksum is verified."""
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


def content_hash(path: str) -> str:
  """SHA-256 of a file, or of all names and files of a folder."""
  if not os.path.isdir(path):
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  parts = [
    [n, content_hash(os.path.join(path, n))] for n in sorted(os.listdir(path))
  ]
  return digest(*(word for part in parts for word in part))


def shuffle_key(key: str) -> str:
  """Sort key of a clip in the data set: shuffled, but reproducible."""
  return hashlib.sha256(key.encode()).hexdigest()


def digest(*words: str) -> str:
  """Hash of words, a name in the cache."""
  return hashlib.sha256('\n'.join(words).encode()).hexdigest()[:40]


def cache_path(cache: str, stage: str, name: str) -> str:
  """Path of a stage's result, in one of 256 folders."""
  return str(_path(cache) / stage / name[:2] / name)


def save(path: str, data: bytes) -> None:
  """Write a file atomically."""
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


def load_json(path: str):
  """The JSON of a file; None if it is absent or damaged."""
  try:
    return json.loads(_path(path).read_bytes())
  except (FileNotFoundError, ValueError):
    return None


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
  """A local path of a file or folder; copies it from a bucket."""
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


def path_tail(path: str) -> str:
  """The last three parts of a path, equal on every machine."""
  return '/'.join(path.rsplit('/', 3)[1:])


def _path(path):
  from etils import epath

  return epath.Path(path)
