"""Clips: from one video to training clips, or the one reason why not.

Probe, 25 frames/s by time stamps, shots, tracks, crops with a margin, sound,
log-mel: what `clip.Clip` holds. Boxes, landmarks and crops come from the
functions that inference uses. Pure but for reading the file; stages and
caches are `pipeline.py`'s.

Alphabet: `f` frames at 25 frames/s of a video, `n` frames of a clip.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, UInt8

from data_prep.layouts import Job
from lipsync_jax import audio
from lipsync_jax.audio import pcm
from lipsync_jax.data.clip import Clip, check_clip
from lipsync_jax.faces import crop, identity, tracker, tracks, trajectory
from lipsync_jax.faces.boxes import bounding_boxes
from lipsync_jax.media import container, decoder, yuv
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Frame, Video

VERSION = 1  # part of every key in the cache: raise it when results change
RATE = audio.FPS  # frames/s of every clip
SAMPLES = audio.SAMPLES_PER_FRAME
SMALL = 640  # pixels, longest side of the frame that is searched for faces
STALE = 0.1  # s; a picture further from its time is no picture of it

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
  """What decides how a clip looks; part of its key in the cache."""

  margin: float = 0.15  # round the crop, of its sides, each way
  quality: int = 95  # of the JPEGs
  largest: int = 512  # pixels, longest side of a JPEG; larger is scaled
  # 14 frames: a window of five, and a reference that starts 5 before or
  # after it, wherever it starts (`windows.index_windows`).
  shortest: int = 14
  longest: int = 250  # frames; what is longer is cut into equal pieces
  smallest: float = 40.0  # pixels, width of the face in the source
  silence: float = -50.0  # dB of full scale, of the loudest 0.2 s
  # A second face counts when it is there in this share of the frames and has
  # this share of the first one's area.
  beside: tuple[float, float] = (0.1, 0.25)


@dataclasses.dataclass(frozen=True)
class Rejection:
  """A clip that is not one, and why."""

  key: str
  reason: str  # of REASONS
  detail: str = ''  # for people


@dataclasses.dataclass(frozen=True)
class Piece:
  """An unbroken run of one person's frames, ready to cut."""

  first: int  # frame of the video
  crops: Float[np.ndarray, 'n 5']  # pixels of the video
  points: Float[np.ndarray, 'n p 2']  # likewise


Result = Clip | Rejection


def at_rate(
  frames: Iterable[Frame], step: Fraction
) -> Iterator[tuple[int, Frame]]:
  """The frame nearest in time to every tick of 25 a second, as (k, frame).

  A stream at 25 frames/s comes out as it is. Taking the frame last shown
  instead would make pictures late by half a frame on average.

  Args:
    step: how long the last frame is shown, seconds.
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


def read(video: Video) -> Iterator[tuple[int, Frame]]:
  """`at_rate` of a whole video."""
  yield from at_rate(decoder.read_frames(video), 1 / video.rate)


def analyze(video: Video, finder) -> tracks.Analysis:
  """Faces and cuts at 25 frames/s; its times are those of the frames shown."""
  shape = (video.height, video.width)
  scale = min(1.0, SMALL / max(shape))
  size = round(video.width * scale), round(video.height * scale)

  def stream():
    for k, frame in read(video):

      def fetch(box, frame=frame):
        return yuv.to_rgb(video, frame, box)

      small = yuv.to_rgb(video, frame, size=size)
      yield k, float(frame.time), small, fetch

  return tracker.track_faces(stream(), shape, finder)


def from_video(
  job: Job, analysis: tracks.Analysis, settings: Settings
) -> Iterator[Result]:
  """The clips of a video whose faces are known; at least one result.

  Raises:
    MediaError: the file cannot be read.
  """
  pieces, drop = plan(analysis, job.single, settings)
  if drop:
    yield dataclasses.replace(drop, key=job.key)
    return
  video = decoder.probe_video(job.path)
  try:
    wave = waveform(job.path, video.start)
  except MediaError as error:
    wave, problem = np.zeros(0, np.int16), str(error)
  else:
    problem = ''
  ready = []
  for name, piece in zip(names(job.key, len(pieces)), pieces, strict=True):
    here = wave[SAMPLES * piece.first :][: SAMPLES * len(piece.crops)]
    ready.append(judged(name, piece, here, problem, settings))
  wanted = [entry for entry in ready if not isinstance(entry, Rejection)]
  yield from (entry for entry in ready if isinstance(entry, Rejection))
  for name, piece, here, jpegs, corners, scale in cut(video, wanted, settings):
    yield clip(job, name, piece, here, jpegs, corners, scale)


def names(key: str, count: int) -> list[str]:
  """'#n' tells several clips of one file apart."""
  return [key] if count == 1 else [f'{key}#{i}' for i in range(count)]


def plan(
  analysis: tracks.Analysis, single: bool, settings: Settings
) -> tuple[list[Piece], Rejection | None]:
  """Whose face is cut when: by time of appearance, or why nobody's.

  With `single`, one clip a file: the longest unbroken run of its speaker.
  """
  count = len(analysis.times)
  grid = np.arange(count) / RATE
  fresh = np.abs(analysis.times - grid) <= STALE
  analysis = dataclasses.replace(analysis, times=grid)
  found = identity.group_people(analysis)
  if not found:
    return [], Rejection('', NO_FACE, f'in {count} frames')
  if single:
    beside = sum(_counts(p, found[0], count, settings) for p in found[1:])
    if beside:
      return [], Rejection('', SEVERAL, identity.describe_people(found))
    found = found[:1]
  pieces = []
  for person in found:
    path = trajectory.build_trajectory(analysis, person)
    runs = [run for span in path.spans for run in _fresh(span, fresh)]
    if single:
      runs = sorted(runs, key=lambda run: run[0] - run[1])[:1]
    for first, end in runs:
      for a, b in split(int(first), int(end), settings.longest):
        rows = path.crops[a:b], path.points[a:b].astype(np.float64)
        pieces.append(Piece(a, *rows))
  if not pieces:
    return [], Rejection('', NO_FACE, f'in {count} frames')
  pieces.sort(key=lambda piece: piece.first)  # stable: most visible first
  return pieces, None


def _counts(other, main, frames: int, settings: Settings) -> bool:
  """Whether a second person may be the one who speaks."""
  seen = sum(len(track.frames) for track in other.tracks)
  first = sum(len(track.frames) for track in main.tracks)
  often, large = settings.beside
  mean = other.area / seen, main.area / first
  return seen >= often * frames and mean[0] >= large * mean[1]


def _fresh(span, fresh: Bool[np.ndarray, 'f']) -> list[tuple[int, int]]:
  """The parts of a span whose pictures belong to their times."""
  first, end = (int(v) for v in span)
  edges = np.flatnonzero(np.diff(np.pad(fresh[first:end], 1).astype(np.int8)))
  return [(first + a, first + b) for a, b in edges.reshape(-1, 2).tolist()]


def split(first: int, end: int, longest: int) -> list[tuple[int, int]]:
  """A run in equal pieces of at most `longest` frames."""
  count = -(-(end - first) // longest)
  edges = [first + i * (end - first) // count for i in range(count + 1)]
  return list(itertools.pairwise(edges))


def waveform(path: str, origin: Fraction) -> Int16[np.ndarray, 's']:
  """All sound from file time `origin` on, mono at 16 kHz.

  Raises:
    MediaError: no sound in it.
  """
  heard = decoder.probe_audio(path)
  blocks = decoder.read_audio(heard, origin)
  parts = [
    audio.float_to_int16(part, pcm.INT16_SCALE)
    for part in audio.resample_blocks(heard.rate, blocks)
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


def judged(
  key: str,
  piece: Piece,
  wave: Int16[np.ndarray, 's'],
  problem: str,
  settings: Settings,
) -> tuple[str, Piece, Int16[np.ndarray, 's']] | Rejection:
  """The piece as far as its sound reaches, or why it is dropped."""
  width = float(np.median(piece.crops[:, 2]))
  level = loudness(wave)
  if width < settings.smallest:
    return Rejection(key, SMALL_FACE, f'{width:.0f} pixels wide')
  if problem or level < settings.silence:
    return Rejection(key, SILENT, problem or f'{level:.0f} dB at its loudest')
  heard = min(len(piece.crops), -(-len(wave) // SAMPLES))
  if heard < settings.shortest:
    return Rejection(key, SHORT, f'{heard} frames with face and sound')
  piece = Piece(piece.first, piece.crops[:heard], piece.points[:heard])
  return key, piece, wave[: heard * SAMPLES]


def boxes(
  crops: Float[np.ndarray, 'n 5'], frame: tuple[int, int], margin: float
) -> Int[np.ndarray, 'n 4']:
  """Boxes of one size, within the frame, that hold every crop and a margin.

  Even corners: chroma is stored for 2 x 2 pixels, in the source and again in
  the JPEG. The frame's own edge cuts the margin off.
  """
  h, w = frame
  wide = np.array(
    [bounding_boxes(crop.crop_corners(crop.crop_from_row(c))) for c in crops]
  )
  room = margin * crops[:, [2, 3, 2, 3]] * np.array([-1, -1, 1, 1])
  wide = wide + room
  sides = np.ceil((wide[:, 2:] - wide[:, :2]).max(0) / 2) * 2 + 2
  sides = np.minimum(sides, [w // 2 * 2, h // 2 * 2]).astype(np.int64)
  middle = (wide[:, :2] + wide[:, 2:]) / 2
  low = np.round((middle - sides / 2) / 2).astype(np.int64) * 2
  low = np.clip(low, 0, (np.array([w, h]) - sides) // 2 * 2)
  return np.concatenate([low, low + sides], -1)


def cut(video: Video, wanted: list, settings: Settings):
  """Cut every piece out of the video in one pass; each is given when whole.

  Yields (key, piece, wave, JPEGs, boxes, JPEG pixels per source pixel).
  """
  waiting = sorted(
    wanted, key=lambda entry: entry[1].first, reverse=True
  )  # the next to begin is the last
  active: list = []
  for k, frame in read(video) if wanted else ():
    while waiting and waiting[-1][1].first <= k:
      entry = waiting.pop()
      shape = (video.height, video.width)
      places = boxes(entry[1].crops, shape, settings.margin)
      active.append((entry, [], places))
    for (_, piece, _), jpegs, places in active:
      box = tuple(int(v) for v in places[k - piece.first])
      jpegs.append(
        jpeg(scaled(yuv.to_rgb(video, frame, box), settings), settings)
      )
    done = [part for part in active if len(part[1]) == len(part[2])]
    active = [part for part in active if len(part[1]) < len(part[2])]
    for entry, jpegs, places in done:
      scale = shrunk(places[0, 2:] - places[0, :2], settings.largest)
      yield *entry, jpegs, places, scale
    if not waiting and not active:
      return
  if active or waiting:
    raise MediaError(
      f'{video.path}: {container.STOPPED}: it was longer a moment ago; do not '
      'change files during a build'
    )


def shrunk(sides, largest: int) -> Float[np.ndarray, '2']:
  """JPEG pixels per source pixel, along x and y."""
  share = min(1.0, largest / max(sides))
  return np.maximum(np.round(np.asarray(sides) * share), 1) / sides


def scaled(
  rgb: UInt8[np.ndarray, 'h w 3'], settings: Settings
) -> UInt8[np.ndarray, '_ _ 3']:
  """The picture, smaller if it is larger than wanted."""
  import cv2

  sides = np.array(rgb.shape[1::-1])
  size = np.round(sides * shrunk(sides, settings.largest)).astype(int)
  if (size == sides).all():
    return rgb
  return cv2.resize(rgb, size.tolist(), interpolation=cv2.INTER_AREA)


def jpeg(rgb: UInt8[np.ndarray, 'h w 3'], settings: Settings) -> bytes:
  """A picture as JPEG."""
  import cv2

  flags = [cv2.IMWRITE_JPEG_QUALITY, settings.quality]
  bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
  return cv2.imencode('.jpg', bgr, flags)[1].tobytes()


def clip(job: Job, key: str, piece: Piece, wave, jpegs, places, scale):
  """A piece and its pictures as a record."""
  corners = places[:, :2].astype(np.float64)
  unit = np.array([*scale, *scale])
  crops = piece.crops.copy()
  crops[:, :2] -= corners
  crops[:, :4] *= unit
  points = (piece.points - corners[:, None]) * scale
  return finished(job, key, jpegs, crops, points, places, wave)


def finished(job: Job, key, jpegs, crops, points, places, wave):
  """The record of clip `key`, checked."""
  return check_clip(
    Clip(
      key=key,
      speaker=job.speaker,
      frames=tuple(jpegs),
      crops=crops.astype(np.float32),
      points=points.astype(np.float32),
      boxes=places.astype(np.float32),
      mel=audio.log_mel(audio.int16_to_float(wave)),
      wave=wave,
      fps=float(RATE),
      source='/'.join(job.path.rsplit('/', 3)[1:]),
    )
  )
