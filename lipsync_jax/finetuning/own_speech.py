"""A person's own speech in a video, with the motion of the mouth.

The result has the form of a training split (`data.motion`): segments at 25
frames/s, each within one shot, that are long enough to learn from.

Shapes: f frames of the video, s segments, k frames and m mel columns of all
segments, n coefficients.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Float32

from lipsync_jax import audio
from lipsync_jax.common.errors import LipSyncError, printable
from lipsync_jax.data.motion import MotionBasis, MotionDataset, measure_frames
from lipsync_jax.faces import landmarks, mesh
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.inference import active_speaker, face_tracks
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import decoder
from lipsync_jax.media.types import Video

GRID = 5  # frames at 25/s: 16 mel columns, a whole number
MIN_SEGMENT, MAX_SEGMENT = 25, 100  # frames of a segment
MIN_SECONDS = 8.0  # of speech, to learn from
MAX_SHIFT = 8  # frames at 25/s between sound and picture
MIN_CORRELATION = 0.25  # of the lips with the sound
MIN_VOICED = 0.3  # share of a segment's frames


class FinetuningError(LipSyncError):
  """A video from which no profile can be made."""


@dataclasses.dataclass(frozen=True)
class Motion:
  """Mouth motion of a person at 25 frames/s, from the start of the video.

  Attributes:
    known: frames between two measured frames of one shot.
    coefficients: of the articulator's basis.
    gaps: measured lip gaps, canonical units.
    neutral_gaps: of the person's neutral shape.
  """

  known: Bool[np.ndarray, 'f']
  coefficients: Float32[np.ndarray, 'f n']
  gaps: Float32[np.ndarray, 'f 11']
  neutral_gaps: Float32[np.ndarray, '11']


@dataclasses.dataclass(frozen=True)
class OwnSpeech:
  """What `read_own_speech` finds.

  Attributes:
    motion: segments of one speaker.
    shift: frames at 25/s by which the picture is late; it is corrected.
    correlation: of the lips with the sound, by the bundled articulator.
  """

  motion: MotionDataset
  shift: int
  correlation: float

  @property
  def seconds(self) -> float:
    """Of all segments."""
    return len(self.motion.coefficients) / audio.FPS


def read_own_speech(
  options: SyncOptions,
  seconds: float,
  networks: NetworkCache,
  progress: Callable,
) -> OwnSpeech:
  """Read the speech of a person in a video.

  Args:
    options: face, person, and the view of the video.
    seconds: of the video that are used at most, from its beginning.
    networks: of the session.
    progress: (label, total) -> progress bar, see `report.show_progress`.

  Raises:
    FinetuningError: a photo, too little speech, or speech of somebody else.
    LipSyncError: the file cannot be read, or has no face or no sound.
  """
  name = printable(options.face)
  video = decoder.probe_video(options.face)
  if video.still:
    raise FinetuningError(
      f'{name}: expected a video of a person who speaks, found a picture'
    )
  until = Fraction(seconds).limit_denominator(1000)
  mel, voiced = read_voice(video, float(until))
  face, times = read_face(options, video, until, networks, progress)
  motion = measure_motion(face, times, video, networks.articulation().basis)
  predicted = active_speaker.openings_of(
    mel, frame_times(len(motion.known)), networks
  )
  shift, correlation = find_shift(motion, predicted, voiced)
  if correlation < MIN_CORRELATION:
    raise FinetuningError(
      f'{name}: expected a person whose lips go with the sound of the video, '
      f'found a correlation of {correlation:.2f}; choose with --person, or '
      'give a video with its own speech'
    )
  split = cut_segments(motion, mel, voiced, shift)
  found = OwnSpeech(split, shift, correlation)
  if found.seconds < MIN_SECONDS:
    raise FinetuningError(
      f'{name}: expected at least {MIN_SECONDS:g} s of speech with a visible '
      f'mouth, found {found.seconds:.1f} s; give a longer video'
    )
  return found


def read_voice(
  video: Video, seconds: float
) -> tuple[Float[np.ndarray, '80 t'], Bool[np.ndarray, 'f']]:
  """The log-mel of a video's sound, and the frames at 25/s with a voice.

  The sound is gated as in the renderer, so that training and use agree.
  """
  mel = active_speaker.own_voice(video, seconds)
  count = int(mel.shape[1] * audio.FPS / audio.COLUMNS_PER_SECOND)
  at = (np.arange(count) + 0.5) * audio.COLUMNS_PER_SECOND / audio.FPS
  voiced = (mel > audio.SILENCE + 0.1).any(0)[at.astype(np.int64)]
  return mel, voiced


def read_face(
  options: SyncOptions,
  video: Video,
  until: Fraction,
  networks: NetworkCache,
  progress: Callable,
) -> tuple[FaceTrajectory, Float[np.ndarray, 'f']]:
  """The face of the speaker, and the times of the frames in seconds."""
  times, (face,), _ = face_tracks.locate_speakers(
    options, video, [options.person], until, progress, networks
  )
  if face.mesh is None:
    raise landmarks.FaceError(
      f'{printable(options.face)}: expected a face with a mesh, found none'
    )
  return face, np.array(times, np.float64)


def measure_motion(
  face: FaceTrajectory,
  times: Float[np.ndarray, 'f'],
  video: Video,
  basis: Float[np.ndarray, 'n p 3'],
) -> Motion:
  """The measured motion, interpolated to 25 frames/s."""
  shapes = face.mesh.with_closed_lips(basis)
  values = np.hstack(
    measure_frames(
      shapes.shapes,
      shapes.neutral[None],
      np.zeros(len(times), np.int64),
      MotionBasis(basis.astype(np.float64)),
    )
  )
  # The middle of the time that a frame is shown.
  shown = times + 0.5 / float(video.rate)
  grid = frame_times(int(shown[-1] * audio.FPS))
  out = [np.interp(grid, shown, column) for column in values.T]
  out = np.stack(out, 1).astype(np.float32)
  spans = np.full(len(times), -1)
  for number, (start, end) in enumerate(face.spans):
    spans[start:end] = number
  spans[~face.present | face.filled] = -1
  after = np.searchsorted(shown, grid).clip(1, max(len(shown) - 1, 1))
  known = (spans[after] == spans[after - 1]) & (spans[after] >= 0)
  neutral = mesh.lip_gaps(shapes.neutral[None])[0].astype(np.float32)
  return Motion(known, out[:, : len(basis)], out[:, len(basis) :], neutral)


def frame_times(count: int) -> Float[np.ndarray, 'f']:
  """The middle of the first `count` frames at 25 frames/s, seconds."""
  return (np.arange(count) + 0.5) / audio.FPS


def find_shift(
  motion: Motion,
  predicted: Float[np.ndarray, 'f'],
  voiced: Bool[np.ndarray, 'v'],
) -> tuple[int, float]:
  """Frames by which the picture is late, and the correlation there."""
  opening = motion.gaps.mean(1)
  count = min(len(opening), len(voiced))
  best = (0, 0.0)
  for shift in sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs):
    low, high = max(0, -shift), min(count, len(opening) - shift)
    if high - low < MIN_SEGMENT:
      continue
    moved = slice(low + shift, high + shift)
    use = motion.known[moved] & voiced[low:high]
    if use.sum() < MIN_SEGMENT:
      continue
    own, other = opening[moved][use], predicted[low:high][use]
    size = own.std() * other.std()
    value = float(np.cov(own, other, bias=True)[0, 1] / max(size, 1e-9))
    if value > best[1]:
      best = (shift, value)
  return best


def cut_segments(
  motion: Motion,
  mel: Float[np.ndarray, '80 t'],
  voiced: Bool[np.ndarray, 'v'],
  shift: int,
) -> MotionDataset:
  """Segments of known frames with a voice.

  Args:
    motion: of the picture.
    mel: of the sound.
    voiced: frames of the sound with a voice.
    shift: frames by which the picture is late.
  """
  places = segment_starts(motion.known, voiced, shift)
  per_frame = audio.COLUMNS_PER_SECOND / audio.FPS
  columns = [
    (round(start * per_frame), round(end * per_frame)) for start, end in places
  ]
  inside = [np.arange(start, end) for start, end in places]
  sound = np.concatenate([np.zeros(0, np.int64), *inside])
  picture = sound + shift
  parts = [mel[:, low:high].T for low, high in columns]
  ends = np.cumsum([0, *(end - start for start, end in places)])
  return MotionDataset(
    keys=tuple(f'{start / audio.FPS:.1f} s' for start, _ in places),
    speakers=np.zeros(len(places), np.int64),
    names=('speaker',),
    frames=ends,
    columns=np.cumsum([0, *(high - low for low, high in columns)]),
    mel=np.concatenate([np.zeros((0, audio.MELS)), *parts]).astype(np.float16),
    coefficients=motion.coefficients[picture],
    gaps=motion.gaps[picture],
    neutral_gaps=motion.neutral_gaps[None],
    speech=voiced[sound],
  )


def segment_starts(
  known: Bool[np.ndarray, 'f'], voiced: Bool[np.ndarray, 'v'], shift: int
) -> list[tuple[int, int]]:
  """(first frame, end) of the segments, in frames of the sound.

  They begin and end at multiples of GRID.
  """
  count = min(len(voiced), len(known) - shift)
  low = max(0, -shift)
  usable = np.zeros(max(count, 0), bool)
  usable[low:] = known[low + shift : count + shift]
  edges = np.flatnonzero(np.diff(np.pad(usable, 1).astype(np.int8)))
  out = []
  for first, end in edges.reshape(-1, 2).tolist():
    first, end = -(-first // GRID) * GRID, end // GRID * GRID
    while end - first >= MIN_SEGMENT:
      size = end - first
      if size > MAX_SEGMENT:
        parts = -(-size // MAX_SEGMENT)
        size = -(-size // parts // GRID) * GRID
      if voiced[first : first + size].mean() >= MIN_VOICED:
        out.append((first, first + size))
      first += size
  return out
