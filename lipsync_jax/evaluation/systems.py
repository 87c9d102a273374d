"""Systems: the rows of a report, and the clip of each.

Controls come first: the ground truth, the ground truth with shifted sound, and
the unmodified video under the foreign sound. They give the scale of every
metric. The mesh renderer, our checkpoints and the baselines' files follow.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import wave
from collections.abc import Sequence

import numpy as np

from lipsync_jax import audio
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.evaluation import (
  cases,
  dubbing,
  lip_motion,
  metrics,
  video_clip,
)
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
from lipsync_jax.evaluation.metrics import Scorers, Source
from lipsync_jax.inference import pipeline
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.weights import articulation

SHIFTS = (5, 15)  # frames by which control rows have their sound late
TRUTH, FOREIGN = 'ground truth', 'unmodified, foreign sound'
MAX_NAME = 32  # characters of a case in a file's name
# Packages whose code determines the pictures of our renderers.
RENDERING = (
  *('audio', 'faces', 'inference', 'media', 'models', 'objects'),
  'rendering',
)


class RenderError(LipSyncError):
  """A system without a clip for a case; the report counts it."""


@dataclasses.dataclass(frozen=True)
class System:
  """One row of the report."""

  name: str
  kind: str  # truth | shifted | foreign | mesh | checkpoint | baseline
  shift: int = 0  # frames
  dubber: Dubber | None = None
  folder: str = ''  # of a baseline
  sha256: str = ''  # of the mesh renderer's articulator

  @property
  def is_generated(self) -> bool:
    """Whether its pictures differ from the source's."""
    return self.kind in ('mesh', 'checkpoint', 'baseline')


def control_systems() -> list[System]:
  """The control systems."""
  late = [
    System(f'ground truth, sound {k} frames late', 'shifted', shift=k)
    for k in SHIFTS
  ]
  return [System(TRUTH, 'truth'), *late, System(FOREIGN, 'foreign')]


class CaseContext:
  """One case, with the data that all its systems share."""

  def __init__(
    self, case: EvalCase, scorers: Scorers, max_frames: int, out: pathlib.Path
  ):
    self.case, self.scorers, self.out = case, scorers, out
    self.max_frames = max_frames

  @functools.cached_property
  def truth(self) -> EvalClip:
    """The subject's own clip, of at most `max_frames` frames."""
    clip = self.case.subject.load()
    samples = self.max_frames * audio.SAMPLES_PER_FRAME
    return with_audio(clip, clip.wave[:samples])

  @functools.cached_property
  def source(self) -> Source:
    """The measured ground truth."""
    return metrics.read_source(self.truth, self.scorers.detector)

  @property
  def points(self) -> np.ndarray:
    """Landmarks of the ground truth."""
    return self.source.lips.points

  @functools.cached_property
  def own_closures(self) -> np.ndarray:
    """Frames in which the source closes its lips in its own speech."""
    return lip_motion.closures_of(self.truth, self.source.lips)

  @functools.cached_property
  def own_labials(self) -> np.ndarray | None:
    """Frames of p, b and m in the source's own sound; None if unknown."""
    return lip_motion.labials(self.case.subject, self.max_frames)

  @functools.cached_property
  def foreign_closures(self) -> np.ndarray | None:
    """Closures of the partner's lips or, without a face, in its sound."""
    partner = self.case.partner
    if partner is None:
      return None
    found = None
    if not partner.is_sound:
      found = lip_motion.subject_closures(
        partner, self.scorers.detector, self.max_frames
      )
    return (
      lip_motion.labials(partner, self.max_frames) if found is None else found
    )

  def foreign(self) -> EvalClip:
    """The ground truth with its partner's sound."""
    if self.case.partner is None:
      raise RenderError('no partner whose sound is foreign')
    return with_audio(self.truth, self.case.partner.load_audio())

  def driven(self) -> EvalClip:
    """The ground truth with the sound that drives the lips."""
    if self.case.protocol == 'cross':
      return self.foreign()
    if self.case.protocol == 'silence':
      return with_silence(self.truth)
    return self.truth


def system_clip(system: System, context: CaseContext) -> EvalClip:
  """The clip of a system for a case.

  Raises:
    RenderError: the system has none.
  """
  if system.kind == 'truth':
    return context.truth
  if system.kind == 'shifted':
    return with_delay(context.truth, system.shift)
  if system.kind == 'foreign':
    return context.foreign()
  if system.kind == 'baseline':
    path = cases.baseline_output(system.folder, context.case)
    if path is None:
      raise RenderError(f'no file of {system.name}')
    return video_clip.load_video_clip(
      path, _case_location(context), scored_audio(path, context)
    )
  if system.kind == 'checkpoint' and not context.case.subject.path:
    points = context.points[: len(context.driven())]
    return dubbing.dub_clip(context.driven(), system.dubber, points)
  path = render_case(system, context)
  return video_clip.load_video_clip(path, _case_location(context))


def _case_location(context: CaseContext) -> video_clip.FaceLocation:
  if context.case.subject.locate is None:
    raise RenderError('baselines are files, so only videos have them')
  return context.case.subject.locate()


def scored_audio(path: str, context: CaseContext) -> np.ndarray | None:
  """The driving sound if the file has none; otherwise None."""
  try:
    video_clip.video_audio(path)
  except ValueError:
    return context.driven().wave
  return None


@functools.cache
def rendering_code() -> str:
  """SHA-256 of the code of our renderers, so that no result outlives it."""
  root = pathlib.Path(__file__).resolve().parents[1]
  total = hashlib.sha256()
  for name in RENDERING:
    for path in sorted((root / name).glob('*.py')):
      total.update(path.read_bytes())
  return total.hexdigest()


def render_case(system: System, context: CaseContext) -> str:
  """Render a case of a video file by `sync`; returns the output's path."""
  case, driven = context.case, context.driven()
  dubber = system.dubber
  weights = dubber.sha256 if dubber else system.sha256
  words = (weights, rendering_code(), content_hash(driven), system.name)
  mark = hashlib.sha256('\n'.join(words).encode()).hexdigest()[:12]
  folder = context.out / 'videos' / case.protocol
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
      checkpoint_path=dubber.path if dubber else None,
      preview=len(driven) / FPS,
      quiet=True,
    )
  )
  if case.protocol == 'silence':
    os.remove(sound)
  return str(path)


def write_wav(path: str, samples: np.ndarray) -> None:
  """Write 16-bit mono sound at 16 kHz."""
  with wave.open(path, 'wb') as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(audio.SAMPLE_RATE)
    file.writeframes(samples.astype('<i2').tobytes())


def _short_name(name: str) -> str:
  """A case's name as part of a file's name."""
  plain = ''.join(c if c.isalnum() or c in '-_' else '_' for c in name)
  return plain[:MAX_NAME]


def mesh_system() -> System:
  """The default renderer; it needs video files."""
  weights = articulation.load_articulation()
  return System('mesh renderer', 'mesh', sha256=weights.sha256)


def parse_baselines(words: Sequence[str]) -> list[System]:
  """Systems of `NAME=DIR` (or one file)."""
  systems = []
  for word in words:
    name, equals, folder = word.partition('=')
    if not (name and equals and os.path.exists(folder)):
      raise RenderError(
        f'--baseline: expected NAME=DIR with a folder or file that exists, '
        f'found {word!r}'
      )
    systems.append(System(name, 'baseline', folder=folder))
  return systems


def parse_checkpoints(words: Sequence[str]) -> list[System]:
  """Systems of `FILE` or `NAME=FILE`."""
  systems = []
  for word in words:
    name, equals, path = word.partition('=')
    if not equals or os.path.exists(word):
      path = word
      name = pathlib.Path(word).stem if len(words) > 1 else 'lipsync_jax'
    systems.append(System(name, 'checkpoint', dubber=dubbing.load_dubber(path)))
  return systems
