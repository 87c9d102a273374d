"""Tracks under construction, frame by frame.

`tracker` appends to them. A finished one is split at shot cuts, and where
another face replaced the tracked one.
"""

import array
import bisect
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int

from lipsync_jax.faces import identity, landmarks, tracks
from lipsync_jax.faces.boxes import detector_boxes, iou_matrix
from lipsync_jax.faces.tracks import Track

# Similarity to the previous frame. One of 27 clips falls below 0.83, to 0.69 at
# a jerk of the head. Another face in composites reaches 0.62 at most.
CHANGED_BELOW = 0.65
# Limits of `same_face`. Of the pairs of two persons with equal boxes, 0.1 %
# reach SAME_FACE, 1 % have edges of 0.79 or a distance below 0.021. Under 20 of
# 21 synthetic lights 95 % of 60 faces reach SAME_FACE (pure blue: 0.43).
SAME_FACE = 0.70
SAME_EDGES = 0.82
SAME_SHAPE = 0.018
# `identity.appearance_similarity` from which a head that moved unseen, in
# darkness or a flash, is the same.
SAME_LOOK = 0.75
# The difference of two appearances in color alone, from which their light
# differs.
OTHER_LIGHT = 0.4
LOST_SECONDS = 0.5  # after which a lost face is a new track


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
  # Frames after a jump of the picture in which the face is the same.
  steady: list = dataclasses.field(default_factory=list)

  def box(self, back: int = 1) -> Float[np.ndarray, '4']:
    """The box of the latest frame, or of an earlier one."""
    end = len(self.boxes) - 4 * (back - 1)
    return np.array(self.boxes[end - 4 : end])

  def latest_points(self) -> Float[np.ndarray, 'n 2']:
    """The landmarks of the latest frame."""
    count = 2 * len(landmarks.LANDMARK_IDS)
    return np.array(self.points[-count:], np.float64).reshape(-1, 2)


def same_face(
  builder: TrackBuilder,
  points: Float[np.ndarray, 'n 2'],
  seen: Float32[np.ndarray, 'd'],
  there: Float32[np.ndarray, 'd'],
  hidden: bool = False,
) -> bool:
  """Whether the latest face and a new one differ in their light at most.

  The new face has the same place, and the same edges or landmarks. A lamp from
  the side changes edges, and light of one color disturbs landmarks.

  Args:
    builder: with at least one frame.
    points: landmarks of the new face, pixels.
    seen: its appearance.
    there: appearance of the new picture at the place of the latest face.
    hidden: the face was not seen in the frames between.
  """
  both = np.stack([builder.latest_points(), points])
  boxes = detector_boxes(both)
  shared = float(iou_matrix(boxes[:1], boxes[1:])[0, 0])
  if shared < 0.75:
    return False
  middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
  width = boxes[:, 2] - boxes[:, 0]
  shapes = (both - middle) / np.maximum(width, 1)[:, None, None]
  apart = float(np.median(np.linalg.norm(shapes[0] - shapes[1], axis=-1)))
  before = builder.last[0]
  edges = identity.edge_likeness(before, seen)
  return (
    edges - 5 * apart >= SAME_FACE
    or identity.edge_likeness(before, there) >= SAME_EDGES
    or (shared > 0.93 and apart < SAME_SHAPE and edges > 0.6)
    or (hidden and identity.appearance_similarity(before, seen) >= SAME_LOOK)
  )


def changes_of_light(
  builders: list[TrackBuilder],
  cuts: Int[np.ndarray, 'c'],
  times: Sequence[float],
) -> list[int]:
  """The cuts after which half of the faces are the same in the same place.

  Args:
    builders: of the whole video.
    cuts: first frames of new shots.
    times: of all frames, seconds.
  """
  found = []
  for cut in cuts.tolist():
    seen = [s for s in builders if _seen_before(s, cut, times[cut])]
    same = sum(cut in s.steady for s in seen)
    if same and 2 * same >= len(seen):
      found.append(cut)
  return found


def _seen_before(builder: TrackBuilder, cut: int, time: float) -> bool:
  """Whether the face was seen shortly before a cut, or before a darkness."""
  at = bisect.bisect_left(builder.frames, cut)
  return at > 0 and time - builder.times[at - 1] < LOST_SECONDS


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
    usual = usual_appearance(own or [v for _, v in builder.appearances])
    found.append(dataclasses.replace(piece, appearance=usual))
  return found


def usual_appearance(
  seen: list[Float32[np.ndarray, 'd']],
) -> Float32[np.ndarray, 'd']:
  """The median, which ignores frames in which the face was partly hidden.

  Frames in another light than most are left out: they would shift the colors.
  """
  usual = np.median(seen, axis=0)
  alike = [
    v
    for v in seen
    if identity.edge_likeness(usual, v)
    - identity.appearance_similarity(usual, v)
    < OTHER_LIGHT
  ]
  return np.median(alike or seen, axis=0).astype(np.float32)
