"""Tracks under construction, frame by frame.

`tracker` appends to them. A finished one is split at shot cuts, and where
another face replaced the tracked one.
"""

import array
import bisect
import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from lipsync_jax.faces import identity, landmarks, tracks
from lipsync_jax.faces.tracks import Track

# Similarity to the previous frame. One of 27 clips falls below 0.83, to 0.69 at
# a jerk of the head. Another face in composites reaches 0.62 at most.
CHANGED_BELOW = 0.65


def numeric_array(kind: str):
  """An empty, growing array of numbers."""
  return functools.partial(array.array, kind)


@dataclasses.dataclass(frozen=True)
class TrackBuilder:
  """A track under construction.

  Values of every frame are packed: objects would need half as much memory
  again.
  """

  frames: array.array = dataclasses.field(default_factory=numeric_array('q'))
  times: array.array = dataclasses.field(default_factory=numeric_array('d'))
  # Four values a box, two a landmark.
  boxes: array.array = dataclasses.field(default_factory=numeric_array('d'))
  scores: array.array = dataclasses.field(default_factory=numeric_array('d'))
  points: array.array = dataclasses.field(default_factory=numeric_array('f'))
  mesh_rows: array.array = dataclasses.field(default_factory=numeric_array('q'))
  # Change of appearance since the previous frame, 1 - similarity.
  changes: array.array = dataclasses.field(default_factory=numeric_array('d'))
  # (frame, appearance)
  appearances: list = dataclasses.field(default_factory=list)
  # Searches since YuNet last found the face.
  misses: list = dataclasses.field(default_factory=list)
  # [appearance in the latest frame]
  last: list = dataclasses.field(default_factory=list)
  # [first frame of frequent descriptors]
  born: list = dataclasses.field(default_factory=list)
  # (frame, appearance before, appearance soon after) of large changes
  switches: list = dataclasses.field(default_factory=list)

  def box(self, back: int = 1) -> Float[np.ndarray, '4']:
    """The box of the latest frame, or of an earlier one."""
    end = len(self.boxes) - 4 * (back - 1)
    return np.array(self.boxes[end - 4 : end])


def identity_switches(builder: TrackBuilder) -> list[int]:
  """Frames in which another face replaces the tracked one.

  Such a change is single, unlike those of a turning head, and lasts, unlike
  that of a hand in front of the face.
  """
  found = []
  for number, before, after in builder.switches:
    at = bisect.bisect_left(builder.frames, number)
    near = (
      builder.changes[max(at - 2, 0) : at] + builder.changes[at + 1 : at + 3]
    )
    lasts = identity.appearance_similarity(before, after) < CHANGED_BELOW
    if lasts and builder.changes[at] > 3 * max(near, default=0.0):
      found.append(number)
  return found


def simultaneous_changes(
  builders: list[TrackBuilder], switches: list[list[int]]
) -> list[int]:
  """Frames in which half of the faces change: cuts that `find_cuts` misses.

  Fewer changes come from one of several pictures within the frame.
  """
  return [
    number
    for number in {number for own in switches for number in own}
    if 2 * sum(number in own for own in switches)
    >= sum(s.frames[0] < number <= s.frames[-1] for s in builders)
  ]


def build_tracks(builder: TrackBuilder, cuts) -> list[Track]:
  """The finished tracks, one for each shot, with their appearances."""
  whole = Track(
    np.array(builder.frames, np.int64),
    np.array(builder.boxes, np.float32).reshape(-1, 4),
    np.array(builder.scores, np.float32),
    # Not copied: these are most of the memory of an analysis.
    np.frombuffer(builder.points, np.float32).reshape(
      -1, len(landmarks.LANDMARK_IDS), 2
    ),
    builder.appearances[0][1],
    np.array(builder.mesh_rows, np.int64),
  )
  found = []
  for piece in tracks.split_at_cuts(whole, cuts):
    first, last = piece.frames[0], piece.frames[-1]
    own = [v for f, v in builder.appearances if first <= f <= last]
    # The median ignores frames in which the face was partly hidden.
    usual = np.median(own or [v for _, v in builder.appearances], axis=0)
    found.append(
      dataclasses.replace(piece, appearance=usual.astype(np.float32))
    )
  return found
