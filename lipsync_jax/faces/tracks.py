"""Tracks: faces over time, shot cuts, persons and the choice of one.

Alphabet: `f` frames of the video, `t` frames of one track, `n` landmarks,
`k` values a frame. Times are seconds. Everything here is arithmetic on what
`detect` measured; nothing looks at pixels but `frame_signature` and `appearance`.

`group_people` joins tracks into persons, `choose_person` takes one for the whole video;
`paths` then makes of that person what is cut and drawn.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float, Float32, Int


@dataclasses.dataclass(frozen=True)
class Track:
  """One face followed within one shot; frames may be missing inside."""

  frames: Int[np.ndarray, 't']  # numbers of the frames, ascending
  boxes: Float32[np.ndarray, 't 4']  # pixels, as a detector would draw them
  scores: Float32[np.ndarray, 't']  # YuNet's latest, 0 to 1
  points: Float32[np.ndarray, 't n 2']  # the landmarks faces.KEPT, pixels
  look: Float32[np.ndarray, 'd']  # appearance


@dataclasses.dataclass(frozen=True)
class Analysis:
  """All that the first pass knows of a video."""

  times: Float[np.ndarray, 'f']  # seconds
  frame: tuple[int, int]  # height, width in pixels
  cuts: Int[np.ndarray, 'c']  # first frame of every shot but the first
  tracks: tuple[Track, ...]


def split_at_cuts(track: Track, cuts: Int[np.ndarray, 'c']) -> list[Track]:
  """A track cut where the shot changes; the pieces share its memory."""
  edges = np.unique(np.searchsorted(track.frames, cuts)).tolist()
  ends = itertools.pairwise([0, *edges, len(track.frames)])
  return [
    dataclasses.replace(
      track,
      frames=track.frames[first:end],
      boxes=track.boxes[first:end],
      scores=track.scores[first:end],
      points=track.points[first:end],
    )
    for first, end in ends
    if end > first
  ]


def first_frames(analysis: Analysis, until: float) -> Analysis:
  """The analysis of the frames up to `until` seconds, at least the first."""
  count = max(int(np.searchsorted(analysis.times, until, side='right')), 1)
  if count >= len(analysis.times):
    return analysis
  pieces = [
    piece
    for track in analysis.tracks
    for piece in split_at_cuts(track, np.array([count]))
  ]
  return dataclasses.replace(
    analysis,
    times=analysis.times[:count],
    cuts=analysis.cuts[analysis.cuts < count],
    tracks=tuple(p for p in pieces if p.frames[0] < count),
  )
