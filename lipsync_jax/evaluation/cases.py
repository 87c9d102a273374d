"""Casting: who is evaluated on whose words, from shards, files and lists.

A subject is a face with its own sound; a case is a subject under one
protocol, with a partner whose sound is foreign to it.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.evaluation import pair_lists, video_clip
from lipsync_jax.evaluation.clip import (
  SAMPLES_PER_FRAME,
  EvalClip,
  clip_groups,
  join_clips,
)

PROTOCOLS = ('reconstruction', 'cross', 'silence')


class CaseError(LipSyncError):
  """Nobody to evaluate; one line says what to change."""


@dataclasses.dataclass(frozen=True)
class Subject:
  """A face with its own sound; loaded when it is its turn."""

  name: str
  speaker: str
  load: Callable[[], EvalClip]
  hear: Callable[[], np.ndarray]  # its sound alone, int16 [s]
  path: str = ''  # of the video file, if it is one
  place: Callable[[], video_clip.FaceLocation] | None = None


@dataclasses.dataclass(frozen=True)
class EvalCase:
  """A subject under a protocol."""

  protocol: str
  name: str
  subject: Subject
  partner: Subject | None  # whose sound is foreign
  line: int | None = None  # of a list, from 0


def subjects_from_shards(
  source: ClipDataset, least: float, limit: int | None
) -> list[Subject]:
  """Takes of at least `least` seconds, spread evenly over the split."""
  found = clip_groups(source, least)
  if limit is not None and limit < len(found):
    chosen = np.linspace(0, len(found) - 1, limit).round().astype(int)
    found = [found[i] for i in chosen]
  return [shard_subject(source, group) for group in found]


def shard_subject(source: ClipDataset, group: Sequence[int]) -> Subject:
  """Some clips of a shard set as one subject."""

  def load() -> EvalClip:
    return join_clips([source[i] for i in group])

  def hear() -> np.ndarray:
    waves = []
    for clip in (source[i] for i in group):
      count = min(len(clip.frames), len(clip.wave) // SAMPLES_PER_FRAME)
      waves.append(clip.wave[: count * SAMPLES_PER_FRAME])
    return np.concatenate(waves)

  keys = [source.keys[i] for i in group]
  name = '+'.join([keys[0], *(k.split('/')[1] for k in keys[1:])])
  return Subject(name, source.speakers[group[0]], load, hear)


def video_subject(path: str, seconds: float, bar: Callable) -> Subject:
  """A video as a subject; `bar` shows the search for its face."""
  place = functools.cache(
    functools.partial(video_clip.locate_face, path, seconds, bar)
  )

  def load() -> EvalClip:
    return video_clip.load_video_clip(path, place())

  name = pathlib.Path(path).stem
  hear = functools.partial(video_clip.video_audio, path)
  return Subject(name, name, load, hear, path, place)


def build_cases(
  protocols: Sequence[str],
  subjects: Sequence[Subject],
  listed: Sequence[tuple[Subject, Subject]] = (),
) -> list[EvalCase]:
  """All cases; without a list, partners are drawn (`pair_lists.draw_partners`)."""
  names = [s.name for s in subjects]
  drawn = pair_lists.draw_partners(names, [s.speaker for s in subjects])
  by_name = {s.name: s for s in subjects}
  partner = {video: by_name[sound] for video, sound in drawn}
  found = []
  for protocol in protocols:
    if protocol == 'cross' and listed:
      for i, (video, sound) in enumerate(listed):
        name = f'{video.name} < {sound.name}'
        found.append(EvalCase(protocol, name, video, sound, i))
      continue
    for subject in subjects:
      other = partner.get(subject.name)
      if protocol != 'cross':
        found.append(EvalCase(protocol, subject.name, subject, other))
      elif other is not None:
        name = f'{subject.name} < {other.name}'
        found.append(EvalCase(protocol, name, subject, other))
  if not found:
    raise CaseError(
      f'expected cases for {", ".join(protocols)}, found none; cross needs '
      'two clips or videos with sound, or --pairs'
    )
  return found


def subjects_from_list(
  path: str | os.PathLike,
  root: str,
  source: ClipDataset | None,
  seconds: float,
  bar: Callable,
) -> list[tuple[Subject, Subject]]:
  """The (video, audio) subjects that a list names.

  Names are files below `root`, with or without their ending, or keys of
  the shard set.
  """
  keys = {key: i for i, key in enumerate(source.keys)} if source else {}

  @functools.cache
  def subject(name: str) -> Subject:
    if name in keys:
      return shard_subject(source, (keys[name],))
    stem = pathlib.Path(root) / name
    for ending in ('', *video_clip.VIDEO_SUFFIXES, '.wav'):
      found = stem.with_name(stem.name + ending)
      if found.is_file():
        return video_subject(str(found), seconds, bar)
    raise CaseError(
      f'{path}: expected {name!r} below {root or "--root"} or in the shards, '
      'found neither'
    )

  return [(subject(v), subject(a)) for v, a in pair_lists.read_pairs(path)]


def baseline_output(folder: str, case: EvalCase) -> str | None:
  """Another system's file for a case, if it has one.

  `folder` may be the one file itself. Names tried: the line of the list (as
  Wav2Lip's evaluation writes), the case's, the video's.
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
    for ending in video_clip.VIDEO_SUFFIXES:
      if (base / f'{stem}{ending}').is_file():
        return str(base / f'{stem}{ending}')
  return None
