"""Training clips from one video, or a reason for each rejection.

Frames at 25 frames/s by time stamps, shots, tracks, crops with a margin, sound
and log-mel: the fields of `clip.Clip`. Boxes, landmarks and crops come from the
functions of inference. `process.py` has the stages and caches.

Shapes: f frames at 25 frames/s of a video, n frames of a clip.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int16

from data_prep import pictures
from data_prep.layouts import Job
from lipsync_jax import audio
from lipsync_jax.audio import pcm
from lipsync_jax.data.clip import Clip, check_clip
from lipsync_jax.faces import (
  identity,
  mesh,
  mesh_trajectory,
  tracker,
  tracks,
  trajectory,
)
from lipsync_jax.media import container, decoder, yuv
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Frame, Video

VERSION = 1  # in the keys of detected faces
CLIP_VERSION = 2  # in the keys of clips; both to be raised with the results
RATE = audio.FPS  # frames/s of every clip
SAMPLES = audio.SAMPLES_PER_FRAME
DETECTION_SIDE = 640  # pixels, longest side of the frame for detection
MAX_TIME_ERROR = 0.1  # seconds between a tick and its frame

BROKEN, MISSING = 'broken file', 'missing file'
NO_FACE, SEVERAL, SMALL_FACE = 'no face', 'several faces', 'small face'
SHORT, SILENT = 'too short', 'silent'
UNSURE, OFFSET = 'low confidence', 'offset out of range'
UNLISTED = 'unlisted'
REASONS = (
  *(MISSING, UNLISTED, BROKEN, NO_FACE, SEVERAL, SMALL_FACE),
  *(SHORT, SILENT, UNSURE, OFFSET),
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What determines a clip; part of its cache key."""

  margin: float = 0.15  # around the crop, relative to its sides
  quality: int = 95  # of the JPEGs
  max_image_side: int = 512  # pixels; larger pictures are scaled down
  # 14 frames: a window of five, and a reference that starts 5 before or
  # after it, wherever it starts (`windows.index_windows`).
  min_frames: int = 14
  max_frames: int = 250  # longer runs are cut into equal pieces
  min_face_width: float = 40.0  # pixels of the source
  silence: float = -50.0  # dB of full scale, of the loudest 0.2 s
  # A second face counts if it is in this share of the frames and has this
  # share of the first one's area.
  beside: tuple[float, float] = (0.1, 0.25)

  @property
  def cache_key(self) -> str:
    """The settings as part of a key; the names are those of version 1."""
    return (
      f'Settings(margin={self.margin!r}, quality={self.quality!r}, '
      f'largest={self.max_image_side!r}, shortest={self.min_frames!r}, '
      f'longest={self.max_frames!r}, smallest={self.min_face_width!r}, '
      f'silence={self.silence!r}, beside={self.beside!r})'
    )


@dataclasses.dataclass(frozen=True)
class Rejection:
  """A rejected clip."""

  key: str
  reason: str  # of REASONS
  detail: str = ''  # in words


@dataclasses.dataclass(frozen=True)
class Piece:
  """An unbroken run of frames of one person."""

  first: int  # frame of the video
  crops: Float[np.ndarray, 'n 5']  # pixels of the video
  points: Float[np.ndarray, 'n p 2']  # landmarks, pixels of the video
  mesh: Int16[np.ndarray, 'm q 3']  # canonical, `mesh.pack`; m = n, or 0


Result = Clip | Rejection


def frames_at_rate(
  frames: Iterable[Frame], step: Fraction
) -> Iterator[tuple[int, Frame]]:
  """The frame nearest in time to every tick of 25 Hz, as (k, frame).

  A stream at 25 frames/s is unchanged. The last frame shown at a tick would be
  late by half a frame on average.

  Args:
    frames: in order of time.
    step: seconds of the last frame.
  """
  k, past = 0, None
  for frame in frames:
    while past and Fraction(k, RATE) <= (past.time + frame.time) / 2:
      yield k, past
      k += 1
    past = frame
  while past and Fraction(k, RATE) < past.time + step / 2:
    yield k, past
    k += 1


def read_at_rate(video: Video) -> Iterator[tuple[int, Frame]]:
  """`frames_at_rate` of a whole video."""
  yield from frames_at_rate(decoder.read_frames(video), 1 / video.rate)


def analyze(video: Video, detector) -> tracks.Analysis:
  """Faces and cuts at 25 frames/s, with the times of the frames."""
  shape = (video.height, video.width)
  scale = min(1.0, DETECTION_SIDE / max(shape))
  size = round(video.width * scale), round(video.height * scale)

  def stream():
    for k, frame in read_at_rate(video):

      def fetch(box, frame=frame):
        return yuv.to_rgb(video, frame, box)

      small = yuv.to_rgb(video, frame, size=size)
      yield k, float(frame.time), small, fetch

  return tracker.track_faces(stream(), shape, detector)


def from_video(
  job: Job, analysis: tracks.Analysis, settings: Settings
) -> Iterator[Result]:
  """The clips and rejections of a video, at least one.

  Raises:
    MediaError: the file cannot be read.
  """
  pieces, rejection = find_pieces(analysis, job.single, settings)
  if rejection:
    yield dataclasses.replace(rejection, key=job.key)
    return
  video = decoder.probe_video(job.path)
  try:
    wave = waveform(job.path, video.start)
  except MediaError as error:
    wave, problem = np.zeros(0, np.int16), str(error)
  else:
    problem = ''
  entries = []
  keys = clip_keys(job.key, len(pieces))
  for key, piece in zip(keys, pieces, strict=True):
    part = wave[SAMPLES * piece.first :][: SAMPLES * len(piece.crops)]
    entries.append(check_piece(key, piece, part, problem, settings))
  yield from (entry for entry in entries if isinstance(entry, Rejection))
  accepted = [entry for entry in entries if not isinstance(entry, Rejection)]
  for key, piece, part, jpegs, corners, scale in cut_pieces(
    video, accepted, settings
  ):
    yield build_clip(job, key, piece, part, jpegs, corners, scale)


def clip_keys(key: str, count: int) -> list[str]:
  """Keys of the clips of one file, with '#n' if there are several."""
  return [key] if count == 1 else [f'{key}#{i}' for i in range(count)]


def find_pieces(
  analysis: tracks.Analysis, single: bool, settings: Settings
) -> tuple[list[Piece], Rejection | None]:
  """The runs of frames to cut, in order of time, or the rejection.

  Args:
    analysis: of the video.
    single: take only the longest unbroken run of the one speaker.
    settings: of the build.
  """
  count = len(analysis.times)
  grid = np.arange(count) / RATE
  valid = np.abs(analysis.times - grid) <= MAX_TIME_ERROR
  analysis = dataclasses.replace(analysis, times=grid)
  people = identity.group_people(analysis)
  if not people:
    return [], Rejection('', NO_FACE, f'in {count} frames')
  if single:
    beside = sum(
      _is_prominent(p, people[0], count, settings) for p in people[1:]
    )
    if beside:
      return [], Rejection('', SEVERAL, identity.describe_people(people))
    people = people[:1]
  pieces = []
  for person in people:
    face = trajectory.build_trajectory(analysis, person)
    shapes = mesh_trajectory.build_mesh_trajectory(analysis, person, face)
    runs = [run for span in face.spans for run in _valid_runs(span, valid)]
    if single:
      runs = sorted(runs, key=lambda run: run[0] - run[1])[:1]
    for first, end in runs:
      for a, b in split_run(int(first), int(end), settings.max_frames):
        rows = face.crops[a:b], face.points[a:b].astype(np.float64)
        pieces.append(Piece(a, *rows, mesh_rows(shapes, a, b)))
  if not pieces:
    return [], Rejection('', NO_FACE, f'in {count} frames')
  pieces.sort(key=lambda piece: piece.first)  # stable: most visible first
  return pieces, None


def mesh_rows(
  shapes: mesh_trajectory.MeshTrajectory | None, first: int, end: int
) -> Int16[np.ndarray, 'm q 3']:
  """Canonical meshes of a run of frames; none without a trajectory."""
  if shapes is None:
    return np.zeros((0, mesh.NUM_POINTS, 3), np.int16)
  return shapes.shapes.read(first, end)


def _is_prominent(other, main, frames: int, settings: Settings) -> bool:
  """Whether a second person may be the speaker."""
  seen = sum(len(track.frames) for track in other.tracks)
  first = sum(len(track.frames) for track in main.tracks)
  often, large = settings.beside
  mean = other.area / seen, main.area / first
  return seen >= often * frames and mean[0] >= large * mean[1]


def _valid_runs(span, valid: Bool[np.ndarray, 'f']) -> list[tuple[int, int]]:
  """The parts of a span whose frames are close to their ticks."""
  first, end = (int(v) for v in span)
  edges = np.flatnonzero(np.diff(np.pad(valid[first:end], 1).astype(np.int8)))
  return [(first + a, first + b) for a, b in edges.reshape(-1, 2).tolist()]


def split_run(first: int, end: int, max_frames: int) -> list[tuple[int, int]]:
  """A run in equal pieces of at most `max_frames` frames."""
  count = -(-(end - first) // max_frames)
  edges = [first + i * (end - first) // count for i in range(count + 1)]
  return list(itertools.pairwise(edges))


def waveform(path: str, origin: Fraction) -> Int16[np.ndarray, 's']:
  """The sound from file time `origin` on, mono at 16 kHz.

  Raises:
    MediaError: no sound in it.
  """
  sound = decoder.probe_audio(path)
  blocks = decoder.read_audio(sound, origin)
  parts = [
    audio.float_to_int16(part, pcm.INT16_SCALE)
    for part in audio.resample_blocks(sound.rate, blocks)
  ]
  return np.concatenate([np.zeros(0, np.int16), *parts])


def loudness(wave: Int16[np.ndarray, 's']) -> float:
  """dB of full scale of the loudest 0.2 s."""
  size = audio.SAMPLE_RATE // 5
  if not wave.size:
    return -np.inf
  squares = np.square(audio.int16_to_float(wave, np.float64))
  starts = np.arange(0, len(wave), size)
  power = np.add.reduceat(squares, starts) / np.diff([*starts, len(wave)])
  return float(10 * np.log10(power.max() + 1e-12))


def check_piece(
  key: str,
  piece: Piece,
  wave: Int16[np.ndarray, 's'],
  problem: str,
  settings: Settings,
) -> tuple[str, Piece, Int16[np.ndarray, 's']] | Rejection:
  """The piece cut to the length of its sound, or its rejection."""
  width = float(np.median(piece.crops[:, 2]))
  level = loudness(wave)
  if width < settings.min_face_width:
    return Rejection(key, SMALL_FACE, f'{width:.0f} pixels wide')
  if problem or level < settings.silence:
    return Rejection(key, SILENT, problem or f'{level:.0f} dB at its loudest')
  count = min(len(piece.crops), -(-len(wave) // SAMPLES))
  if count < settings.min_frames:
    return Rejection(key, SHORT, f'{count} frames with face and sound')
  rows = piece.crops[:count], piece.points[:count], piece.mesh[:count]
  piece = Piece(piece.first, *rows)
  return key, piece, wave[: count * SAMPLES]


def cut_pieces(video: Video, entries: list, settings: Settings):
  """Cut all pieces out of the video in one pass.

  Yields:
    (key, piece, wave, JPEGs, boxes, JPEG pixels per source pixel) of each
    finished piece.
  """
  waiting = sorted(
    entries, key=lambda entry: entry[1].first, reverse=True
  )  # popped from the end
  active: list = []
  for k, frame in read_at_rate(video) if entries else ():
    while waiting and waiting[-1][1].first <= k:
      entry = waiting.pop()
      shape = (video.height, video.width)
      places = pictures.crop_boxes(entry[1].crops, shape, settings.margin)
      active.append((entry, [], places))
    for (_, piece, _), jpegs, places in active:
      box = tuple(int(v) for v in places[k - piece.first])
      rgb = pictures.scale_down(
        yuv.to_rgb(video, frame, box), settings.max_image_side
      )
      jpegs.append(pictures.encode_jpeg(rgb, settings.quality))
    done = [part for part in active if len(part[1]) == len(part[2])]
    active = [part for part in active if len(part[1]) < len(part[2])]
    for entry, jpegs, places in done:
      scale = pictures.image_scale(
        places[0, 2:] - places[0, :2], settings.max_image_side
      )
      yield *entry, jpegs, places, scale
    if not waiting and not active:
      return
  if active or waiting:
    raise MediaError(
      f'{video.path}: {container.STOPPED}: expected as many frames as in the '
      'first pass, found fewer; do not change files during a build'
    )


def build_clip(job: Job, key: str, piece: Piece, wave, jpegs, places, scale):
  """The clip of a piece and its pictures."""
  corners = places[:, :2].astype(np.float64)
  unit = np.array([*scale, *scale])
  crops = piece.crops.copy()
  crops[:, :2] -= corners
  crops[:, :4] *= unit
  points = (piece.points - corners[:, None]) * scale
  return checked_clip(job, key, jpegs, crops, points, places, piece.mesh, wave)


def checked_clip(job: Job, key, jpegs, crops, points, places, shapes, wave):
  """A clip that fits the schema."""
  return check_clip(
    Clip(
      key=key,
      speaker=job.speaker,
      frames=tuple(jpegs),
      crops=crops.astype(np.float32),
      points=points.astype(np.float32),
      boxes=places.astype(np.float32),
      mesh=shapes,
      mel=audio.log_mel(audio.int16_to_float(wave)),
      wave=wave,
      fps=float(RATE),
      source='/'.join(job.path.rsplit('/', 3)[1:]),
    )
  )
