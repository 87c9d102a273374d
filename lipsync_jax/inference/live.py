"""Live lip-sync: chunks of sound in, frames out, with a bounded delay.

`Session.stream` opens a `LiveStream`.

Shapes: f frames, h w rows and columns of a picture, n samples.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from lipsync_jax.audio import incremental
from lipsync_jax.inference import carryover, face_tracks, live_speech
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.inference.options import SyncError, make_options
from lipsync_jax.inference.report import show_progress
from lipsync_jax.media import decoder, memory
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.rendering import timeline, visibility
from lipsync_jax.rendering.live_face import (
  LiveFace,
  MouthMotion,
  MouthState,
  build_live_face,
)

MAX_BYTES = 2**30  # of a face's frames in memory
MIN_FPS, MAX_FPS = 10, 120  # frames/s
HELD_FACES = 2  # prepared faces that a session keeps


@dataclasses.dataclass(frozen=True)
class LiveOptions:
  """Options of `Session.stream`; see there."""

  strength: float = 1.0
  rate: int = 16_000
  fps: float = 25.0
  person: str = 'auto'
  seconds: float = 10.0
  no_noise_gate: bool = False
  profile: str | os.PathLike | None = None

  def validate(self) -> None:
    """Raise a SyncError on a number out of range."""
    low, high = incremental.MIN_RATE, incremental.MAX_RATE
    for name, valid, expected in (
      ('strength', 0 <= self.strength <= 2, '0 to 2'),
      ('rate', low <= self.rate <= high, f'{low} to {high} samples/s'),
      ('rate', self.rate == int(self.rate), 'a whole number of samples/s'),
      ('fps', MIN_FPS <= self.fps <= MAX_FPS, f'{MIN_FPS} to {MAX_FPS}'),
      ('seconds', self.seconds > 0, 'seconds > 0'),
    ):
      if not valid:
        raise SyncError(
          f'stream: {name}: expected {expected}, found {getattr(self, name)}'
        )


class LiveStream:
  """One face that speaks the sound pushed so far; for one thread at a time.

  Use it in a `with` statement, or call `finish`. After n seconds of sound and
  `finish`, exactly round(n * fps) frames have come.

  Attributes:
    delay_seconds: frame k comes when k / fps + delay_seconds of sound are in.
    fps: frames/s.
    size: (width, height) of the frames.
    frames: given so far.
  """

  delay_seconds = live_speech.DELAY_SECONDS

  def __init__(self, face: LiveFace, predict: Callable, options: LiveOptions):
    self.fps = face.video.rate
    self._face, self._strength = face, options.strength
    self._speech = live_speech.LiveSpeech(
      predict, int(options.rate), self.fps, not options.no_noise_gate
    )
    self._motion = MouthMotion(face)
    self._order = timeline.play_order(len(face.frames), 'bounce')
    # Compiled programs and tables are then ready for the first chunk.
    self._speech.warm_up()
    rest = MouthState(np.zeros(len(face.basis), np.float32))
    height, width = face.render(0, rest, options.strength).shape[:2]
    self.size = (width, height)

  def __enter__(self) -> 'LiveStream':
    return self

  def __exit__(self, *_) -> None:
    self._speech.finish()

  @property
  def frames(self) -> int:
    """Frames given so far."""
    return self._speech.frames

  def push(self, samples: np.ndarray) -> Iterator[UInt8[np.ndarray, 'h w 3']]:
    """Take sound and return the frames that it completes.

    A frame is rendered when the iterator is advanced. Frames that were not
    taken come with the next call.

    Args:
      samples: mono [n] at the stream's rate, int16 or floats in [-1, 1].

    Raises:
      LipSyncError: another type or shape, or a finished stream.
    """
    self._speech.push(samples)
    return self._ready()

  def finish(self) -> Iterator[UInt8[np.ndarray, 'h w 3']]:
    """End the sound and return the remaining frames, as `push` does."""
    self._speech.finish()
    return self._ready()

  def _ready(self) -> Iterator[UInt8[np.ndarray, 'h w 3']]:
    for coefficients, heard in self._speech.ready():
      mouth = self._motion.next(coefficients, heard)
      yield self._face.render(next(self._order), mouth, self._strength)


class LiveFaces:
  """The last prepared faces of a session; safe for threads."""

  def __init__(self):
    self._lock = threading.Lock()
    self._held: collections.OrderedDict[tuple, LiveFace] = (
      collections.OrderedDict()
    )

  def clear(self) -> None:
    """Free all faces."""
    with self._lock:
      self._held.clear()

  def get(
    self,
    face: str | os.PathLike | np.ndarray,
    options: LiveOptions,
    networks: NetworkCache,
  ) -> LiveFace:
    """The face in a file or in memory, prepared at its first use."""
    weights = networks.articulation(options.profile).sha256
    key = (options.fps, options.person, options.seconds, weights)
    if isinstance(face, np.ndarray):
      return prepare_face(face, options, networks)
    path = os.path.abspath(face)
    if not os.path.isfile(path):
      raise SyncError(
        f'stream: expected a photo or video, found none at {path!r}'
      )
    facts = os.stat(path)
    key = (path, facts.st_mtime_ns, facts.st_size, *key)
    with self._lock:
      if key not in self._held:
        self._held[key] = prepare_face(path, options, networks)
      self._held.move_to_end(key)
      while len(self._held) > HELD_FACES:
        self._held.popitem(last=False)
      return self._held[key]


def prepare_face(
  face: str | np.ndarray, options: LiveOptions, networks: NetworkCache
) -> LiveFace:
  """Read a photo or the beginning of a video, and find the speaker.

  Args:
    face: path, or RGB [h w 3] or [f h w 3].
    options: of the stream.
    networks: of the session.

  Raises:
    LipSyncError: not a picture, no face, or a video that is too large.
  """
  if isinstance(face, np.ndarray):
    job = make_options(face='', quiet=True, person=options.person)
    video: Video = memory.memory_video(face, options.fps)
  else:
    job = make_options(
      face=face, quiet=True, person=options.person, fps=options.fps
    )
    video = carryover.open_video(job)
  if not MIN_FPS <= video.rate <= MAX_FPS:
    raise SyncError(
      f'stream: expected a video of {MIN_FPS} to {MAX_FPS} frames/s, found '
      f'{float(video.rate):g}; convert it'
    )
  frames = read_frames(video, options.seconds)
  until = frames[-1].time
  times, (trajectory,), _ = face_tracks.locate_speakers(
    job, video, [options.person], until, _no_progress, networks
  )
  shown = [
    timeline.OutputFrame(time, 1 / video.rate, index)
    for index, time in enumerate(times[: len(frames)])
  ]
  opacity, _ = visibility.mouth_opacity(trajectory, times, shown)
  basis = networks.articulation(options.profile).basis
  return build_live_face(
    video, frames[: len(shown)], trajectory.mesh, opacity, basis
  )


def read_frames(video: Video, seconds: float) -> tuple[Frame, ...]:
  """The first frames of a video, in memory.

  Raises:
    SyncError: more than MAX_BYTES, or no frame.
  """
  limit = 1 if video.still else max(1, round(Fraction(seconds) * video.rate))
  out, size = [], 0
  with contextlib.closing(decoder.read_frames(video)) as source:
    for frame in itertools.islice(source, limit):
      # The decoder's memory is used again.
      planes = tuple(np.array(plane) for plane in frame.planes)
      size += sum(plane.nbytes for plane in planes)
      if size > MAX_BYTES and len(out) > 1:
        fits = float(len(out) / video.rate)
        raise SyncError(
          f'stream: expected frames of at most {MAX_BYTES >> 20} MiB, found '
          f'more in {seconds:g} seconds; give seconds={fits:.1f} or a smaller '
          'video'
        )
      out.append(Frame(frame.index, frame.time, planes))
  if not out:
    raise SyncError('stream: expected frames, found none; check the file')
  return tuple(out)


def _no_progress(label: str, total: int | None):
  return show_progress(None, True, label, total)


def open_stream(
  face: str | os.PathLike | np.ndarray,
  options: LiveOptions,
  faces: LiveFaces,
  networks: NetworkCache,
) -> LiveStream:
  """A stream with prepared face and compiled network.

  Args:
    face: of `Session.stream`.
    options: of the stream.
    faces, networks: of the session.
  """
  options.validate()
  prepared = faces.get(face, options, networks)
  return LiveStream(prepared, networks.articulator(options.profile), options)
