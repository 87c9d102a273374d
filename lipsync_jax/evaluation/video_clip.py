"""Footage: video files as takes.

The face is found by `sync`'s own first pass and cache. All versions of one
video (the source, ours, other systems') are cut at the source's places and
times, so that their pictures lie on one another pixel by pixel.

Alphabet: `n` frames at 25 a second, `f` frames of the file.
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
from lipsync_jax.media.types import Video

MARGIN = 1.8  # side of a take's picture, of the crop's longer side
MAX_SIDE = 384  # pixels, the side of a picture at most
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


@dataclasses.dataclass(frozen=True)
class FaceLocation:
  """Where a video's face is, 25 times a second."""

  video: Video
  crops: Float[np.ndarray, 'n 5']  # pixels of the video's frame


def find_videos(folder: str | os.PathLike) -> list[str]:
  """Paths of the videos in a folder (or the file itself), by name."""
  path = pathlib.Path(folder)
  if path.is_file():
    return [str(path)]
  if not path.is_dir():
    raise EvalClipError(f'{folder}: expected a folder of videos, found none')
  found = sorted(
    p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES
  )
  if not found:
    raise EvalClipError(f'{folder}: expected videos, found none')
  return [str(p) for p in found]


def locate_face(path: str, seconds: float, bar) -> FaceLocation:
  """Find the largest person of a video, `seconds` from its start at most.

  The take ends where the face is first missing for longer than `paths`
  bridges; a TakeError says so where nothing is left.
  """
  video = decoder.probe_video(path)
  until = Fraction(seconds).limit_denominator(1000)
  analysis, times = face_tracks.analyze_video(video, until, bar)
  person = identity.choose_person(identity.group_people(analysis), 'largest')
  path_of = trajectory.build_trajectory(analysis, person)
  count = int(min(until, times[-1] + 1 / video.rate) * FPS)
  nearest = _nearest([float(t) for t in times], count)
  present = path_of.present[nearest]
  first = int(present.argmax())
  missing = np.flatnonzero(~present[first:])
  end = first + int(missing[0]) if missing.size else count
  if not present.any() or first or end < FPS:
    raise EvalClipError(
      f'{printable(path)}: expected a face from the first frame on for a '
      f'second or more, found it from frame {first} to {end}'
    )
  return FaceLocation(video, path_of.crops[nearest[:end]])


def _nearest(times: list[float], count: int) -> np.ndarray:
  """Number of the frame nearest to each 25th of a second."""
  wanted = (np.arange(count) + 0.0) / FPS
  after = np.searchsorted(times, wanted).clip(1, max(len(times) - 1, 1))
  stamps = np.array(times)
  before = after - 1
  if len(times) == 1:
    return np.zeros(count, np.int64)
  closer = wanted - stamps[before] <= stamps[after] - wanted
  return np.where(closer, before, after)


def load_video_clip(path: str, where: FaceLocation, wave=None) -> EvalClip:
  """A version of the video as a take.

  Args:
    path: the source itself, or what was made of it, at any size and rate.
    where: of the source's face.
    wave: sound to score it with; None takes the file's own.
  """
  video = decoder.probe_video(path)
  scale = np.array([video.width, video.height]) / [
    where.video.width, where.video.height
  ]  # fmt: skip
  rows = where.crops * np.array([*scale, *scale, 1.0])
  pictures, crops, end = _read_crops(video, rows)
  wave, late = (video_audio(path, video), 0.0) if wave is None else (wave, 0.0)
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


def _read_crops(video: Video, rows: Float[np.ndarray, 'n 5']):
  """Pictures with their crops at 25 a second, and where the file ends."""
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
        wanted = Fraction(len(pictures), FPS)
        if wanted > (held.time + frame.time) / 2:
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
  found = decoder.probe_audio(path)
  origin = video.start if video is not None else None
  blocks = audio.resample_blocks(found.rate, decoder.read_audio(found, origin))
  wave = np.concatenate([np.zeros(0, np.float32), *blocks])
  return audio.float_to_int16(wave)
