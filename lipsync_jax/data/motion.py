"""Sound and mouth motion of all clips of a split, to train the articulator.

The motion of a frame is its displacement from the speaker's neutral shape, as
coefficients of a basis of principal components. Coefficients and log-mels of a
split are held in memory: 29 hours take 1.5 GB.

Shapes: c clips, e = c + 1, f frames and m mel columns of all clips, p mesh
points, n coefficients.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int

from lipsync_jax import audio
from lipsync_jax.common.disk_array import RowFile
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.data.clip import Clip, ClipDataset
from lipsync_jax.faces import mesh

LIP_WEIGHT = 3.0  # of the inner lips when the basis is fitted
FIT_FRAMES = 60_000  # at most, of the frames the basis is fitted to
BLOCK = 2048  # frames at once
CLOSED_OPENING = mesh.CLOSED_OPENING  # for training, which imports no faces
SPEECH_RANGE_DB = 30.0  # below the loudest frame of a clip: not speech


class MotionError(LipSyncError):
  """Clips that an articulator cannot be trained on."""


@dataclasses.dataclass(frozen=True)
class MotionBasis:
  """Principal components of the displacements.

  Attributes:
    displacements: of a coefficient of 1, canonical units. Coefficients of the
      training split have a mean square of 1.
    explained: share of the variance of each component; None where only
      coefficients are measured.
  """

  displacements: Float[np.ndarray, 'n p 3']
  explained: Float[np.ndarray, 'n'] | None = None

  @property
  def gaps(self) -> Float[np.ndarray, 'n 11']:
    """Change of the lip gaps by a coefficient of 1."""
    return mesh.lip_gaps(self.displacements)

  def coefficients(
    self, displacements: Float[np.ndarray, 'f p 3']
  ) -> Float32[np.ndarray, 'f n']:
    """Coefficients of weighted displacements."""
    weights = _metric()
    flat = (self.displacements * weights).reshape(len(self.displacements), -1)
    target = (displacements * weights).reshape(len(displacements), -1)
    inverse = np.linalg.inv(flat @ flat.T)
    return (target @ flat.T @ inverse).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MotionDataset:
  """All clips of a split.

  Attributes:
    keys: of the clips.
    speakers: number of each clip's speaker in `names`.
    names: of the speakers.
    frames, columns: first frame and first mel column of each clip, and the end.
    mel: log-mel.
    coefficients: of the basis.
    gaps: measured lip gaps, canonical units.
    neutral_gaps: of each speaker's neutral shape.
    speech: frames with sound within SPEECH_RANGE_DB of the clip's loudest.
  """

  keys: tuple[str, ...]
  speakers: Int[np.ndarray, 'c']
  names: tuple[str, ...]
  frames: Int[np.ndarray, 'e']
  columns: Int[np.ndarray, 'e']
  mel: Float16[np.ndarray, 'm 80']
  coefficients: Float32[np.ndarray, 'f n']
  gaps: Float32[np.ndarray, 'f 11']
  neutral_gaps: Float32[np.ndarray, 's 11']
  speech: Bool[np.ndarray, 'f']

  def __len__(self) -> int:
    return len(self.keys)

  @functools.cached_property
  def lengths(self) -> Int[np.ndarray, 'c']:
    """Frames of each clip."""
    return np.diff(self.frames)


@dataclasses.dataclass(frozen=True)
class _Meshes:
  """What one pass over the clips reads."""

  shapes: RowFile  # packed canonical meshes of all frames
  frames: Int[np.ndarray, 'e']
  columns: Int[np.ndarray, 'e']
  mel: Float16[np.ndarray, 'm 80']
  opening: Float32[np.ndarray, 'f']
  speech: Bool[np.ndarray, 'f']


def load_motion(
  clips: ClipDataset,
  basis: MotionBasis | None = None,
  components: int = 16,
  show: bool = False,
) -> tuple[MotionDataset, MotionBasis]:
  """Read a split, and fit the basis if none is given.

  Args:
    clips: with meshes.
    basis: of the training split, for the validation split.
    components: of a fitted basis.
    show: draw a progress bar.

  Raises:
    MotionError: a clip has no mesh.
  """
  read = _read(clips, show)
  names = tuple(sorted(set(clips.speakers)))
  speakers = np.array([names.index(name) for name in clips.speakers])
  owner = np.repeat(speakers, np.diff(read.frames))  # of each frame
  neutral = np.stack(
    [_neutral(read, np.flatnonzero(owner == i)) for i in range(len(names))]
  )
  basis = basis or _fit(read.shapes, neutral, owner, components)
  coefficients, gaps = measure_frames(read.shapes, neutral, owner, basis)
  dataset = MotionDataset(
    keys=clips.keys,
    speakers=speakers,
    names=names,
    frames=read.frames,
    columns=read.columns,
    mel=read.mel,
    coefficients=coefficients,
    gaps=gaps,
    neutral_gaps=mesh.lip_gaps(neutral).astype(np.float32),
    speech=read.speech,
  )
  return dataset, basis


def measure_frames(
  shapes: RowFile,
  neutral: Float[np.ndarray, 's p 3'],
  owner: Int[np.ndarray, 'f'],
  basis: MotionBasis,
) -> tuple[Float32[np.ndarray, 'f n'], Float32[np.ndarray, 'f 11']]:
  """Coefficients and lip gaps of frames, in bounded memory.

  Args:
    shapes: packed canonical meshes.
    neutral: shape of each speaker.
    owner: speaker of each frame.
    basis: of the coefficients.
  """
  count = len(owner)
  coefficients = np.empty((count, len(basis.displacements)), np.float32)
  gaps = np.empty((count, len(mesh.UPPER_LIP_IDS)), np.float32)
  for first in range(0, count, BLOCK):
    here = slice(first, min(first + BLOCK, count))
    block = mesh.unpack(shapes.read(here.start, here.stop))
    gaps[here] = mesh.lip_gaps(block)
    moved = displacements(block, neutral[owner[here]])
    coefficients[here] = basis.coefficients(moved)
  return coefficients, gaps


def displacements(
  shapes: Float[np.ndarray, 'f p 3'], neutral: Float[np.ndarray, 'f p 3']
) -> Float[np.ndarray, 'f p 3']:
  """Weighted displacements of canonical shapes from neutral ones."""
  return (shapes - neutral) * mesh.displacement_weights()[None, :, None]


def speech_frames(clip: Clip) -> Bool[np.ndarray, 'n']:
  """Frames within SPEECH_RANGE_DB of the loudest frame of a clip."""
  count = len(clip.frames)
  wave = np.zeros(count * audio.SAMPLES_PER_FRAME)
  part = audio.int16_to_float(clip.wave[: len(wave)], np.float64)
  wave[: len(part)] = part
  power = np.square(wave).reshape(count, -1).mean(1)
  level = 10 * np.log10(power + 1e-10)
  return level > level.max(initial=-np.inf) - SPEECH_RANGE_DB


def _read(clips: ClipDataset, show: bool) -> _Meshes:
  import tqdm

  shapes = RowFile((mesh.NUM_POINTS, 3), np.int16)
  mels, openings, speech, frames, columns = [], [], [], [0], [0]
  for number in tqdm.trange(
    len(clips), desc=f'read {clips.split}', unit='clip', disable=not show
  ):
    clip = clips[number]
    if not len(clip.mesh):
      raise MotionError(
        f'{clip.key}: expected a clip with a mesh, found one without; build '
        'the shards with data_prep/build_tfrecords.py from videos'
      )
    shapes.append(clip.mesh)
    openings.append(mesh.lip_opening(mesh.unpack(clip.mesh)))
    mels.append(clip.mel.T.astype(np.float16))
    speech.append(speech_frames(clip))
    frames.append(frames[-1] + len(clip.mesh))
    columns.append(columns[-1] + clip.mel.shape[1])
  return _Meshes(
    shapes,
    np.array(frames),
    np.array(columns),
    np.concatenate(mels),
    np.concatenate(openings).astype(np.float32),
    np.concatenate(speech),
  )


def _neutral(
  read: _Meshes, frames: Int[np.ndarray, 'k']
) -> Float[np.ndarray, 'p 3']:
  """The neutral shape of a speaker: the mean of the least open frames."""
  closed = frames[mesh.least_open(read.opening[frames])]
  return mesh.mean_shape(read.shapes, closed)


def _metric() -> Float[np.ndarray, 'p 1']:
  """Weights of the points in the fit of basis and coefficients."""
  weights = np.ones((mesh.NUM_POINTS, 1))
  weights[list(mesh.UPPER_LIP_IDS)] = LIP_WEIGHT
  weights[list(mesh.LOWER_LIP_IDS)] = LIP_WEIGHT
  return weights


def _fit(
  shapes: RowFile,
  neutral: Float[np.ndarray, 's p 3'],
  owner: Int[np.ndarray, 'f'],
  components: int,
) -> MotionBasis:
  """The basis of the largest principal components, without a mean.

  A coefficient vector of 0 is the neutral shape.
  """
  weights = _metric()
  used = np.flatnonzero(np.repeat(mesh.displacement_weights() > 0, 3))
  moment = np.zeros((len(used), len(used)))
  chosen = np.arange(0, len(owner), -(-len(owner) // FIT_FRAMES))
  for first in range(0, len(chosen), BLOCK):
    part = chosen[first : first + BLOCK]
    moved = displacements(mesh.unpack(shapes.take(part)), neutral[owner[part]])
    flat = (moved * weights).reshape(len(part), -1)[:, used]
    moment += flat.T @ flat
  values, vectors = np.linalg.eigh(moment / len(chosen))
  values = values[::-1].clip(0)
  top = vectors[:, ::-1][:, :components].T
  # The sign of an eigenvector is arbitrary: a positive one opens the lips.
  full = np.zeros((components, mesh.NUM_POINTS * 3))
  full[:, used] = top
  basis = full.reshape(components, mesh.NUM_POINTS, 3) / weights
  signs = np.where(mesh.lip_opening(basis) < 0, -1.0, 1.0)
  scale = signs * np.sqrt(values[:components])
  return MotionBasis(
    basis * scale[:, None, None], values[:components] / values.sum()
  )
