"""The people of a video, with a picture of each to choose from.

Shapes: h w rows and columns of a picture.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from lipsync_jax.faces import identity, tracks
from lipsync_jax.inference import face_tracks
from lipsync_jax.inference.report import ProgressCallback, show_progress
from lipsync_jax.media import decoder, yuv
from lipsync_jax.media.types import Video

PICTURE_SIDE = 160  # pixels
MARGIN = 1.9  # side of the picture relative to the face's


@dataclasses.dataclass(frozen=True)
class FoundPerson:
  """A person of a video.

  Attributes:
    number: 0 is the largest.
    person: value of the option `person` that chooses this person.
    seconds: in which the face is visible.
    picture: RGB of the head, PICTURE_SIDE pixels square.
  """

  number: int
  person: str
  seconds: float
  picture: UInt8[np.ndarray, 'h w 3']


def find_people(
  face: str | os.PathLike,
  seconds: float | None,
  open_detector: Callable,
  callback: ProgressCallback | None = None,
) -> list[FoundPerson]:
  """The people in the first `seconds` of a video, the largest first.

  Args:
    face: video or photo.
    seconds: None is the whole video.
    open_detector: returns a context manager of a `FaceDetector`.
    callback: gets the progress.
  """
  video = decoder.probe_video(face)
  until = None if seconds is None else Fraction(seconds).limit_denominator(1000)
  progress = functools.partial(show_progress, callback, True)
  analysis, _ = face_tracks.analyze_video(video, until, progress, open_detector)
  people = identity.group_people(analysis)
  return [
    FoundPerson(
      number=number,
      person=_specify(people, number),
      seconds=float(sum(len(t.frames) for t in person.tracks) / video.rate),
      picture=_read_picture(video, person),
    )
    for number, person in enumerate(people)
  ]


def _specify(people: list[identity.Person], number: int) -> str:
  """A point of the first face, which also a longer search finds; or a number.

  The order of people by size may change with the length of the search.
  """
  x0, y0, x1, y1 = people[number].tracks[0].boxes[0]
  point = f'{(x0 + x1) / 2:.0f},{(y0 + y1) / 2:.0f}'
  same = identity.choose_person(people, point) is people[number]
  return point if same else str(number)


def _read_picture(
  video: Video, person: identity.Person
) -> UInt8[np.ndarray, 'h w 3']:
  """The person's largest face with some of the head around it."""
  import cv2

  track = max(person.tracks, key=_largest_area)
  row = int(np.argmax(_areas(track)))
  x0, y0, x1, y1 = track.boxes[row].astype(float)
  half = MARGIN * max(x1 - x0, y1 - y0) / 2
  half = min(half, video.width / 2, video.height / 2)
  cx = np.clip((x0 + x1) / 2, half, video.width - half)
  cy = np.clip((y0 + y1) / 2, half, video.height - half)
  box = tuple(round(v) for v in (cx - half, cy - half, cx + half, cy + half))
  frames = decoder.read_frames(video, int(track.frames[row]))
  with contextlib.closing(frames):
    head = yuv.to_rgb(video, next(frames), box)
  shrinks = head.shape[0] > PICTURE_SIDE
  how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
  return cv2.resize(head, (PICTURE_SIDE, PICTURE_SIDE), interpolation=how)


def _areas(track: tracks.Track) -> np.ndarray:
  """Pixels of the face's box in every frame of the track."""
  return np.prod(track.boxes[:, 2:] - track.boxes[:, :2], -1)


def _largest_area(track: tracks.Track) -> float:
  return float(_areas(track).max())
