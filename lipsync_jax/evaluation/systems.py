"""Entrants: the rows of a report, and how each comes to its take.

Controls first: the ground truth, its sound shifted, and the unmodified
video under the foreign sound, so that every number has a scale beside it.
Then our checkpoints, then other systems' files.
"""

import dataclasses
import hashlib
import os
import pathlib
import wave
from collections.abc import Sequence

import numpy as np

from lipsync_jax import audio
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.evaluation import cases, dubbing, landmarks, video_clip
from lipsync_jax.evaluation.cases import EvalCase
from lipsync_jax.evaluation.clip import (
  FPS,
  EvalClip,
  content_hash,
  with_audio,
  with_delay,
  with_silence,
)
from lipsync_jax.evaluation.dubbing import Dubber
from lipsync_jax.evaluation.metrics import Scorers
from lipsync_jax.inference import pipeline
from lipsync_jax.inference.options import SyncOptions

SHIFTS = (5, 15)  # frames by which control rows have their sound late
TRUTH, FOREIGN = 'ground truth', 'unmodified, foreign sound'
LONGEST_SIDE = 32  # characters of a file's name


class RenderError(LipSyncError):
  """A row that cannot be made for a case; the report counts it."""


@dataclasses.dataclass(frozen=True)
class System:
  """One row."""

  name: str
  kind: str  # truth | shifted | foreign | checkpoint | rival
  shift: int = 0  # frames
  dubber: Dubber | None = None
  folder: str = ''  # of a rival

  @property
  def made(self) -> bool:
    """Whether its pictures are another's than the source's."""
    return self.kind in ('checkpoint', 'rival')


def control_systems() -> list[System]:
  """The rows by which others are read."""
  late = [
    System(f'ground truth, sound {k} frames late', 'shifted', shift=k)
    for k in SHIFTS
  ]
  return [System(TRUTH, 'truth'), *late, System(FOREIGN, 'foreign')]


class CaseContext:
  """One case while its rows are made; what they share is read once."""

  def __init__(
    self, case: EvalCase, tools: Scorers, most: int, out: pathlib.Path
  ):
    self.case, self.tools, self.out = case, tools, out
    self.most = most  # frames
    self._truth: EvalClip | None = None
    self._points: np.ndarray | None = None

  @property
  def truth(self) -> EvalClip:
    """The subject as it is, at most `most` frames."""
    if self._truth is None:
      found = self.case.subject.load()
      samples = self.most * audio.SAMPLES_PER_FRAME
      self._truth = with_audio(found, found.wave[:samples])
    return self._truth

  @property
  def points(self) -> np.ndarray:
    """Landmarks of the truth."""
    if self._points is None:
      self._points = landmarks.read_landmarks(self.truth, self.tools.detector)
    return self._points

  def foreign(self) -> EvalClip:
    """The truth under its partner's sound."""
    if self.case.partner is None:
      raise RenderError('no partner whose sound is foreign')
    return with_audio(self.truth, self.case.partner.hear())

  def driven(self) -> EvalClip:
    """The truth under the sound that drives the lips in this protocol."""
    if self.case.protocol == 'cross':
      return self.foreign()
    if self.case.protocol == 'silence':
      return with_silence(self.truth)
    return self.truth


def system_clip(entrant: System, scene: CaseContext) -> EvalClip:
  """What an entrant shows for a case; EntrantError where it has nothing."""
  if entrant.kind == 'truth':
    return scene.truth
  if entrant.kind == 'shifted':
    return with_delay(scene.truth, entrant.shift)
  if entrant.kind == 'foreign':
    return scene.foreign()
  if entrant.kind == 'rival':
    path = cases.baseline_output(entrant.folder, scene.case)
    if path is None:
      raise RenderError(f'no file of {entrant.name}')
    return video_clip.load_video_clip(
      path, _case_location(scene), scored_audio(path, scene)
    )
  if not scene.case.subject.path:
    points = scene.points[: len(scene.driven())]
    return dubbing.dub_clip(scene.driven(), entrant.dubber, points)
  path = render_case(entrant, scene)
  return video_clip.load_video_clip(path, _case_location(scene))


def _case_location(scene: CaseContext) -> video_clip.FaceLocation:
  if scene.case.subject.place is None:
    raise RenderError('rivals are files, so only videos have them')
  return scene.case.subject.place()


def scored_audio(path: str, scene: CaseContext) -> np.ndarray | None:
  """The driving sound where a file has none of its own, else None."""
  try:
    video_clip.video_audio(path)
  except ValueError:
    return scene.driven().wave
  return None


def render_case(entrant: System, scene: CaseContext) -> str:
  """A case of a video file, rendered by `sync`; the path of the result."""
  case, driven = scene.case, scene.driven()
  words = (entrant.dubber.sha256, content_hash(driven), entrant.name)
  mark = hashlib.sha256('\n'.join(words).encode()).hexdigest()[:12]
  folder = scene.out / 'videos' / case.protocol
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'{_short_name(case.name)}-{mark}.mp4'
  if path.is_file():
    return str(path)
  sound = case.subject.path
  if case.protocol == 'cross':
    sound = case.partner.path
  if case.protocol == 'silence':
    sound = str(folder / f'{mark}.wav')
    write_wav(sound, driven.wave)
  pipeline.run(
    SyncOptions(
      face=case.subject.path,
      audio=sound,
      outfile=str(path),
      checkpoint_path=entrant.dubber.path,
      preview=len(driven) / FPS,
      quiet=True,
    )
  )
  if case.protocol == 'silence':
    os.remove(sound)
  return str(path)


def write_wav(path: str, samples: np.ndarray) -> None:
  """16-bit mono sound at 16 kHz as a file."""
  with wave.open(path, 'wb') as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(audio.SAMPLE_RATE)
    file.writeframes(samples.astype('<i2').tobytes())


def _short_name(name: str) -> str:
  """A case's name as part of a file's."""
  plain = ''.join(c if c.isalnum() or c in '-_' else '_' for c in name)
  return plain[:LONGEST_SIDE]


def parse_baselines(words: Sequence[str]) -> list[System]:
  """Rows of `NAME=DIR` (or one file)."""
  found = []
  for word in words:
    name, equals, folder = word.partition('=')
    if not (name and equals and os.path.exists(folder)):
      raise RenderError(
        f'--rival: expected NAME=DIR with a folder or file that exists, '
        f'found {word!r}'
      )
    found.append(System(name, 'rival', folder=folder))
  return found


def parse_checkpoints(words: Sequence[str]) -> list[System]:
  """Rows of `FILE` or `NAME=FILE`."""
  found = []
  for word in words:
    name, equals, path = word.partition('=')
    if not equals or os.path.exists(word):
      path = word
      name = pathlib.Path(word).stem if len(words) > 1 else 'lipsync_jax'
    found.append(System(name, 'checkpoint', dubber=dubbing.load_dubber(path)))
  return found
