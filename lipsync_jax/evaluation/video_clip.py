"""Video files as eval clips.

The first pass of `sync` finds the face and caches it. All versions of a video
(the source, ours, the baselines) are cropped at the source's positions and
times, so that their pictures align to the pixel.

Shapes: n frames at 25 frames/s, f frames of the file.
"""

import contextlib
import dataclasses
import os
import pathlib
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int16

from lipsync_jax import audio
from lipsync_jax.common.errors import printable
from lipsync_jax.evaluation.clip import (
  FPS,
  SAMPLES_PER_FRAME,
  EvalClip,
  EvalClipError,
)
from lipsync_jax.faces import crop, identity, trajectory
from lipsync_jax.inference import face_tracks
from lipsync_jax.media import decoder, yuv
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Video

MARGIN = 1.8  # side of a picture, relative to the crop's longer side
MAX_SIDE = 384  # pixels, side of a picture at most
VIDEO_SUFFIXES = (
  '.mp4',
  '.avi',
  '.mov',
  '.mkv',
  '.webm',
  '.mpg',
  '.mpeg',
  '.m4v',
)
SOUND_SUFFIXES = ('.wav', '.flac', '.mp3', '.m4a', '.aac', '.ogg', '.opus')


@dataclasses.dataclass(frozen=True)
class FaceLocation:
  """Position of a video's face at 25 frames/s."""

  video: Video
  crops: Float[np.ndarray, 'n 5']  # pixels of the video's frame


def find_videos(folder: str | os.PathLike) -> list[str]:
  """Paths of the videos in a folder, sorted; a file gives itself."""
  path = pathlib.Path(folder)
  if path.is_file():
    return [str(path)]
  if not path.is_dir():
    raise EvalClipError(f'{folder}: expected a folder of videos, found none')
  videos = sorted(
    p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES
  )
  if not videos:
    raise EvalClipError(f'{folder}: expected videos, found none')
  return [str(p) for p in videos]


def locate_face(path: str, max_seconds: float, progress) -> FaceLocation:
  """Find the largest person in the first `max_seconds` of a video.

  The clip ends where the face is missing for longer than
  `trajectory.MAX_GAP`.

  Raises:
    EvalClipError: no face in the first second.
  """
  video = decoder.probe_video(path)
  until = Fraction(max_seconds).limit_denominator(1000)
  analysis, times = face_tracks.analyze_video(video, until, progress)
  person = identity.choose_person(identity.group_people(analysis), 'largest')
  face = trajectory.build_trajectory(analysis, person)
  count = int(min(until, times[-1] + 1 / video.rate) * FPS)
  nearest = _nearest([float(t) for t in times], count)
  present = face.present[nearest]
  first = int(present.argmax())
  missing = np.flatnonzero(~present[first:])
  end = first + int(missing[0]) if missing.size else count
  if not present.any() or first or end < FPS:
    raise EvalClipError(
      f'{printable(path)}: expected a face from the first frame on for a '
      f'second or more, found it from frame {first} to {end}'
    )
  return FaceLocation(video, face.crops[nearest[:end]])


def _nearest(times: list[float], count: int) -> np.ndarray:
  """Index of the frame nearest to each 25th of a second."""
  targets = (np.arange(count) + 0.0) / FPS
  after = np.searchsorted(times, targets).clip(1, max(len(times) - 1, 1))
  stamps = np.array(times)
  before = after - 1
  if len(times) == 1:
    return np.zeros(count, np.int64)
  closer = targets - stamps[before] <= stamps[after] - targets
  return np.where(closer, before, after)


def load_video_clip(path: str, face: FaceLocation, wave=None) -> EvalClip:
  """A version of the video as an eval clip.

  Args:
    path: the source, or a video generated from it, at any size and rate.
    face: location of the source's face.
    wave: sound to score it with; None takes the file's own.
  """
  video = decoder.probe_video(path)
  scale = np.array([video.width, video.height]) / [
    face.video.width, face.video.height
  ]  # fmt: skip
  rows = face.crops * np.array([*scale, *scale, 1.0])
  pictures, crops, end = _read_crops(video, rows)
  wave = video_audio(path, video) if wave is None else wave
  late = float(end - Fraction(len(wave), audio.SAMPLE_RATE))
  count = min(len(pictures), len(wave) // SAMPLES_PER_FRAME)
  return EvalClip(
    name=pathlib.Path(path).stem,
    speaker=pathlib.Path(path).stem,
    pictures=tuple(pictures[:count]),
    crops=crops[:count],
    wave=wave[: count * SAMPLES_PER_FRAME],
    late=late,
  )


def load_source_clip(path: str, face: FaceLocation) -> EvalClip:
  """A source as an eval clip; one without sound is silent."""
  try:
    wave = video_audio(path, face.video)
  except MediaError:
    silence = np.zeros(len(face.crops) * SAMPLES_PER_FRAME, np.int16)
    clip = load_video_clip(path, face, silence)
    return dataclasses.replace(clip, late=0.0)
  return load_video_clip(path, face, wave)


def _read_crops(video: Video, rows: Float[np.ndarray, 'n 5']):
  """Pictures with their crops at 25 frames/s, and the end of the file."""
  side = MARGIN * rows[:, 2:4].max()
  size = int(min(side, MAX_SIDE)) // 2 * 2
  pictures, crops, held, end = [], [], None, Fraction(0)

  def add(frame):
    row = rows[len(pictures)]
    square = crop.Crop(row[0], row[1], side, side, 0.0)
    box = tuple(
      int(v) for v in crop.crop_bounds(square, (video.height, video.width))
    )
    rgb = yuv.to_rgb(video, frame, box)
    pictures.append(crop.extract_crop(rgb, square, size, box[:2]))
    unit = size / side
    crops.append([size / 2, size / 2, row[2] * unit, row[3] * unit, row[4]])

  with contextlib.closing(decoder.read_frames(video)) as frames:
    for frame in frames:
      end = frame.time + 1 / video.rate
      while held is not None and len(pictures) < len(rows):
        target = Fraction(len(pictures), FPS)
        if target > (held.time + frame.time) / 2:
          break
        add(held)
      held = frame
    while held is not None and len(pictures) < len(rows):
      if Fraction(len(pictures), FPS) >= end:
        break
      add(held)
  return pictures, np.array(crops).reshape(-1, 5), end


def video_audio(
  path: str, video: Video | None = None
) -> Int16[np.ndarray, 's']:
  """A file's sound from the video's first frame on, 16 kHz mono."""
  sound = decoder.probe_audio(path)
  origin = video.start if video is not None else None
  blocks = audio.resample_blocks(sound.rate, decoder.read_audio(sound, origin))
  wave = np.concatenate([np.zeros(0, np.float32), *blocks])
  return audio.float_to_int16(wave)
