"""Lip-sync from a program: one `Session` for many jobs.

A session keeps weights, compiled networks and the face detector. Several
threads may use it at once. `lipsync_jax.sync` and all commands use it too.

Shapes: f frames, h w rows and columns of a picture, c channels, n samples.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from lipsync_jax.common import cancellation, threads
from lipsync_jax.inference import live, network_cache, people, pipeline, speech
from lipsync_jax.inference.options import SyncError, SyncOptions, make_options
from lipsync_jax.inference.report import ProgressCallback, SyncReport
from lipsync_jax.media import memory
from lipsync_jax.media.types import Frame

PathLike = str | os.PathLike
# Options of `sync` that have a meaning for frames in memory.
RENDER_OPTIONS = frozenset(
  (
    *('renderer', 'profile', 'strength', 'person', 'since', 'until'),
    *('pads', 'box', 'nosmooth', 'no_noise_gate', 'no_detail_transfer'),
    *('checkpoint_path', 'dtype', 'batch', 'voice_only'),
  )
)


class Session:
  """Warm weights, compiled networks and detector; safe for threads.

  Use it in a `with` statement, or call `close`. All methods but `stream` take

    progress: a function that gets a `Progress`. Threads of the job call it,
      one at a time. An exception in it ends the job.
    cancelled: a `threading.Event` that ends the job when it is set. The method
      then raises `Cancelled`, and nothing is left under the output's name.
  """

  def __init__(self):
    self._networks = pipeline.NetworkCache()
    self._faces = live.LiveFaces()

  def __enter__(self) -> 'Session':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Free the detector and prepared faces. A later job makes others."""
    self._faces.clear()
    self._networks.close()

  def sync(
    self,
    face: PathLike,
    audio: PathLike = '',
    outfile: PathLike = SyncOptions.outfile,
    *,
    progress: ProgressCallback | None = None,
    cancelled: threading.Event | None = None,
    **options,
  ) -> SyncReport:
    """Write `outfile`: `face` with lips that speak the words of `audio`.

    Args:
      face: video or photo.
      audio: any file with sound.
      outfile: .mp4, .mov, .mkv, .avi or .webm.
      progress: see the class.
      cancelled: see the class.
      **options: further fields of `SyncOptions`. `quiet` is the default here.

    Raises:
      LipSyncError: one line on what was expected, what was found, what to do.
      Cancelled: a LipSyncError, after `cancelled` was set. Segments of
        `resume` are kept.
      OSError: a file cannot be read or written.
    """
    given = {'quiet': True} | options
    job = make_options(face=face, audio=audio, outfile=outfile, **given)
    return self.run(job, progress, cancelled)

  def run(
    self,
    options: SyncOptions,
    progress: ProgressCallback | None = None,
    cancelled: threading.Event | None = None,
  ) -> SyncReport:
    """`sync` with its options in one object."""
    options.validate()
    began = time.perf_counter()
    with cancellation.cancel_scope(cancelled):
      cancellation.check()
      facts = pipeline.run(options, self._networks, progress)
    facts['seconds']['total'] = round(time.perf_counter() - began, 3)
    report = SyncReport.from_dict(facts)
    if options.report:
      with open(options.report, 'w', encoding='utf-8') as file:
        json.dump(report.to_dict(), file, indent=2, ensure_ascii=False)
        file.write('\n')
    return report

  def render(
    self,
    frames: np.ndarray,
    fps: float | Fraction,
    samples: np.ndarray,
    rate: int,
    *,
    progress: ProgressCallback | None = None,
    cancelled: threading.Event | None = None,
    **options,
  ) -> UInt8[np.ndarray, 'f h w 3']:
    """Frames with lips that speak the words of `samples`.

    Pixels outside the changed region keep their exact values. No file is
    written.

    Args:
      frames: RGB. A video [f h w 3] returns as many frames; those after the
        end of the sound are unchanged. One picture [h w 3] is a photo, which
        returns the frames of the whole sound.
      fps: frames/s.
      samples: sound, [n] or [c n], floats in [-1, 1] or int16.
      rate: samples/s.
      progress: see the class.
      cancelled: see the class.
      **options: of RENDER_OPTIONS, as in `SyncOptions`.

    Raises:
      LipSyncError: one line on what was expected, what was found, what to do.
      Cancelled: a LipSyncError, after `cancelled` was set.
    """
    video = memory.memory_video(frames, fps)
    sound = memory.memory_audio(samples, rate)
    job_options = _memory_options(options)
    networks = self._networks
    with cancellation.cancel_scope(cancelled):
      cancellation.check()
      weights = network_cache.load_weights(job_options, networks)
      track = speech.SpeechTrack(job_options.person, sound, None)
      job = pipeline.SyncJob(
        options=job_options,
        weights=weights,
        video=video,
        tracks=(track,),
        networks=networks,
        timer=threads.StageTimer(),
        callback=progress,
      )
      pictures = _Pictures(video, sound.duration)
      job.run(pictures, None)
    return pictures.array[: pictures.count]

  def stream(
    self,
    face: PathLike | np.ndarray,
    *,
    strength: float = 1.0,
    rate: int = 16_000,
    fps: float = 25.0,
    person: str = 'auto',
    seconds: float = 10.0,
    no_noise_gate: bool = False,
    profile: PathLike | None = None,
  ) -> live.LiveStream:
    """A face that speaks sound while it is being recorded.

    The face is prepared once and kept for the session's later streams.

    Args:
      face: photo or video, a file or RGB frames as in `render`. A video is
        played forwards and backwards.
      strength: of the lips, 0 (the source's) to 2; 1 is natural.
      rate: samples/s of the sound, 8000 to 192000.
      fps: frames/s of a photo or of frames in memory, 10 to 120.
      person: as in `SyncOptions`.
      seconds: of the video that are used, from its beginning.
      no_noise_gate, profile: as in `SyncOptions`.

    Raises:
      LipSyncError: one line on what was expected, what was found, what to do.
    """
    options = live.LiveOptions(
      strength, rate, fps, person, seconds, no_noise_gate, profile
    )
    return live.open_stream(face, options, self._faces, self._networks)

  def people(
    self,
    face: PathLike,
    seconds: float | None = 5.0,
    *,
    progress: ProgressCallback | None = None,
    cancelled: threading.Event | None = None,
  ) -> Sequence[people.FoundPerson]:
    """The people in a video, the largest first.

    Args:
      face: video or photo.
      seconds: searched from the beginning; None searches the whole video.
      progress: see the class.
      cancelled: see the class.

    Raises:
      LipSyncError: not a video or photo.
      Cancelled: a LipSyncError, after `cancelled` was set.
    """
    with cancellation.cancel_scope(cancelled):
      return people.find_people(
        face, seconds, self._networks.open_detector, progress
      )


def _memory_options(given: dict) -> SyncOptions:
  """Options of a job without files."""
  unknown = min(given.keys() - RENDER_OPTIONS, default=None)
  if unknown is not None:
    raise SyncError(
      f'render: expected options of {", ".join(sorted(RENDER_OPTIONS))}, '
      f'found {unknown!r}'
    )
  lengths = {'when_video_longer': 'keep', 'when_audio_longer': 'cut'}
  options = make_options(face='', outfile='', quiet=True, **lengths, **given)
  options.validate_values()
  return options


@dataclasses.dataclass
class _Pictures:
  """Takes the frames of a job, in place of a file."""

  video: memory.MemoryVideo
  duration: Fraction | None

  def __post_init__(self):
    shape = self.video.pictures.shape
    count = shape[0]
    if self.video.still:
      count = round(self.duration * self.video.rate) + 1
    self.array = np.empty((count, *shape[1:]), np.uint8)
    self.count = 0

  def write(self, frame: Frame, time: Fraction) -> None:
    """Append a frame."""
    del time
    changed = self.video.changed_picture(frame.index, frame)
    self.array[self.count] = changed
    self.count += 1
