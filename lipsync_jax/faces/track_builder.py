"""Strands: tracks while they grow, frame by frame, and what becomes of them.

`detect` adds to them; a strand is cut into tracks at shot cuts, and where
another's face took the place of one.
"""

import array
import bisect
import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from lipsync_jax.faces import identity, landmarks, tracks
from lipsync_jax.faces.tracks import Track

# Likeness to the frame before. Of 27 clips one falls below 0.83, where a head
# jerks: 0.69. Another's face in composites comes to 0.62 at most.
CHANGED_BELOW = 0.65


def numeric_array(kind: str):
  """Makes an empty array of numbers."""
  return functools.partial(array.array, kind)


@dataclasses.dataclass(frozen=True)
class TrackBuilder:
  """A track while it grows.

  What grows with every frame is packed: objects would cost half as
  much memory again.
  """

  frames: array.array = dataclasses.field(default_factory=numeric_array('q'))
  times: array.array = dataclasses.field(default_factory=numeric_array('d'))
  boxes: array.array = dataclasses.field(
    default_factory=numeric_array('d')
  )  # 4 each
  scores: array.array = dataclasses.field(default_factory=numeric_array('d'))
  points: array.array = dataclasses.field(
    default_factory=numeric_array('f')
  )  # n x 2
  # Of the appearance since the frame before, 1 - likeness.
  changes: array.array = dataclasses.field(default_factory=numeric_array('d'))
  looks: list = dataclasses.field(default_factory=list)  # (frame, appearance)
  # Searches since YuNet last saw the face.
  doubts: list = dataclasses.field(default_factory=list)
  # [appearance in the latest frame]
  last: list = dataclasses.field(default_factory=list)
  # [frame from which on it is looked at often]
  born: list = dataclasses.field(default_factory=list)
  # [frame, appearance before, and soon after] of great changes
  news: list = dataclasses.field(default_factory=list)

  def box(self, back: int = 1) -> Float[np.ndarray, '4']:
    """That of the latest frame, or of one before."""
    end = len(self.boxes) - 4 * (back - 1)
    return np.array(self.boxes[end - 4 : end])


def identity_switches(strand: TrackBuilder) -> list[int]:
  """Frames in which another's face stands where one was: a change that stands
  alone, unlike those of a turning head, and lasts, unlike a hand's."""
  found = []
  for number, before, after in strand.news:
    at = bisect.bisect_left(strand.frames, number)
    near = strand.changes[max(at - 2, 0) : at] + strand.changes[at + 1 : at + 3]
    lasts = identity.appearance_similarity(before, after) < CHANGED_BELOW
    if lasts and strand.changes[at] > 3 * max(near, default=0.0):
      found.append(number)
  return found


def simultaneous_changes(
  strands: list[TrackBuilder], news: list[list[int]]
) -> list[int]:
  """Those in which half of the faces change: cuts too mild for `find_cuts`,
  before one wall perhaps. Fewer is one of several pictures in the frame."""
  return [
    number
    for number in {number for own in news for number in own}
    if 2 * sum(number in own for own in news)
    >= sum(s.frames[0] < number <= s.frames[-1] for s in strands)
  ]


def build_tracks(strand: TrackBuilder, cuts) -> list[Track]:
  """The strand as tracks, one a shot, each with its own appearance."""
  whole = Track(
    np.array(strand.frames, np.int64),
    np.array(strand.boxes, np.float32).reshape(-1, 4),
    np.array(strand.scores, np.float32),
    # Not copied: these are most of what a video leaves.
    np.frombuffer(strand.points, np.float32).reshape(
      -1, len(landmarks.LANDMARK_IDS), 2
    ),
    strand.looks[0][1],
  )
  found = []
  for piece in tracks.split_at_cuts(whole, cuts):
    first, last = piece.frames[0], piece.frames[-1]
    own = [v for f, v in strand.looks if first <= f <= last]
    # The median: while the face came from behind something, it looked odd.
    usual = np.median(own or [v for _, v in strand.looks], axis=0)
    found.append(dataclasses.replace(piece, look=usual.astype(np.float32)))
  return found
