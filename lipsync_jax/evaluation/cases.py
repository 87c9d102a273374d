"""Evaluation cases from shards, video files and lists of (video, audio) pairs.

The published lists are supported (spec 8.5): lines `audio video` without
suffixes, which name clips of LRS2, LRS3 and LRW, and lines
`video.mp4 audio.mp4` (or .wav) of ReSyncED, the video first.

A subject is a face with its own sound. A case is a subject under one protocol,
with a partner who gives a foreign sound.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.evaluation import video_clip
from lipsync_jax.evaluation.clip import (
  SAMPLES_PER_FRAME,
  EvalClip,
  clip_groups,
  join_clips,
)

Pair = tuple[str, str]  # video, audio


class CaseError(LipSyncError):
  """No case to evaluate."""


class PairError(LipSyncError):
  """A list without valid pairs."""


@dataclasses.dataclass(frozen=True)
class Subject:
  """A face with its own sound, loaded on demand."""

  name: str
  speaker: str
  load: Callable[[], EvalClip]
  load_audio: Callable[[], np.ndarray]  # int16 [s]
  path: str = ''  # of the video; '' for shards
  locate: Callable[[], video_clip.FaceLocation] | None = None  # in a video

  @property
  def is_sound(self) -> bool:
    """Whether it is a sound file, without a face."""
    return self.path.lower().endswith(video_clip.SOUND_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class EvalCase:
  """A subject under a protocol."""

  protocol: str
  name: str
  subject: Subject
  partner: Subject | None  # gives the foreign sound
  line: int | None = None  # of a list, from 0


def subjects_from_shards(
  dataset: ClipDataset, min_seconds: float, limit: int | None
) -> list[Subject]:
  """Subjects of at least `min_seconds`, spread evenly over the split."""
  groups = clip_groups(dataset, min_seconds)
  if limit is not None and limit < len(groups):
    chosen = np.linspace(0, len(groups) - 1, limit).round().astype(int)
    groups = [groups[i] for i in chosen]
  return [shard_subject(dataset, group) for group in groups]


def shard_subject(dataset: ClipDataset, group: Sequence[int]) -> Subject:
  """Clips of a shard set as one subject."""

  def load() -> EvalClip:
    return join_clips([dataset[i] for i in group])

  def load_audio() -> np.ndarray:
    waves = []
    for clip in (dataset[i] for i in group):
      count = min(len(clip.frames), len(clip.wave) // SAMPLES_PER_FRAME)
      waves.append(clip.wave[: count * SAMPLES_PER_FRAME])
    return np.concatenate(waves)

  keys = [dataset.keys[i] for i in group]
  name = '+'.join([keys[0], *(k.split('/')[1] for k in keys[1:])])
  return Subject(name, dataset.speakers[group[0]], load, load_audio)


def video_subject(path: str, max_seconds: float, progress: Callable) -> Subject:
  """A video as a subject; `progress` shows the face detection."""
  locate = functools.cache(
    functools.partial(video_clip.locate_face, path, max_seconds, progress)
  )

  def load() -> EvalClip:
    return video_clip.load_source_clip(path, locate())

  name = pathlib.Path(path).stem
  load_audio = functools.partial(video_clip.video_audio, path)
  return Subject(name, name, load, load_audio, path, locate)


def build_cases(
  protocols: Sequence[str],
  subjects: Sequence[Subject],
  listed: Sequence[tuple[Subject, Subject]] = (),
) -> list[EvalCase]:
  """All cases of the protocols.

  Without `listed` pairs, `draw_partners` gives the partners.
  """
  names = [s.name for s in subjects]
  drawn = draw_partners(names, [s.speaker for s in subjects])
  by_name = {s.name: s for s in subjects}
  partner = {video: by_name[sound] for video, sound in drawn}
  cases = []
  for protocol in protocols:
    if protocol == 'cross' and listed:
      for i, (video, sound) in enumerate(listed):
        name = f'{video.name} < {sound.name}'
        cases.append(EvalCase(protocol, name, video, sound, i))
      continue
    for subject in subjects:
      other = partner.get(subject.name)
      if protocol != 'cross':
        cases.append(EvalCase(protocol, subject.name, subject, other))
      elif other is not None:
        name = f'{subject.name} < {other.name}'
        cases.append(EvalCase(protocol, name, subject, other))
  if not cases:
    raise CaseError(
      f'expected cases for {", ".join(protocols)}, found none; cross needs '
      'two clips or videos with sound, or --pairs'
    )
  return cases


def subjects_from_list(
  path: str | os.PathLike,
  root: str,
  dataset: ClipDataset | None,
  max_seconds: float,
  progress: Callable,
) -> list[tuple[Subject, Subject]]:
  """The (video, audio) subjects of a list.

  Names are files below `root`, with or without suffix, or keys of the shard
  set.
  """
  keys = {key: i for i, key in enumerate(dataset.keys)} if dataset else {}

  @functools.cache
  def subject(name: str) -> Subject:
    if name in keys:
      return shard_subject(dataset, (keys[name],))
    stem = pathlib.Path(root) / name
    for suffix in ('', *video_clip.VIDEO_SUFFIXES, '.wav'):
      file = stem.with_name(stem.name + suffix)
      if file.is_file():
        return video_subject(str(file), max_seconds, progress)
    raise CaseError(
      f'{path}: expected {name!r} below {root or "--root"} or in the shards, '
      'found neither'
    )

  return [(subject(v), subject(a)) for v, a in read_pairs(path)]


def baseline_output(folder: str, case: EvalCase) -> str | None:
  """A baseline's file for a case; None without one.

  `folder` may be a single file. Names tried: the line of the list (as Wav2Lip's
  evaluation writes), the case, the video.
  """
  base = pathlib.Path(folder)
  if base.is_file():
    return str(base)
  stems = [] if case.line is None else [str(case.line)]
  other = case.partner.name if case.partner else ''
  if case.protocol == 'cross':
    stems += [f'{case.subject.name}_{other}'.replace('/', '_')]
  stems += [case.subject.name.replace('/', '_'), case.subject.name]
  for stem in stems:
    for suffix in video_clip.VIDEO_SUFFIXES:
      if (base / f'{stem}{suffix}').is_file():
        return str(base / f'{stem}{suffix}')
  return None


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
