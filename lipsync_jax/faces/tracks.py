"""Tracks of faces, and the analysis of a video.

Shapes: f frames of the video, t frames of one track, n landmarks, d length of
an appearance. Times are seconds.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float, Float32, Int

from lipsync_jax.common.disk_array import RowFile


@dataclasses.dataclass(frozen=True)
class Track:
  """One face within one shot; frames in between may be missing."""

  frames: Int[np.ndarray, 't']  # numbers of the frames, ascending
  boxes: Float32[np.ndarray, 't 4']  # pixels, as a detector would draw them
  scores: Float32[np.ndarray, 't']  # YuNet's latest score, 0 to 1
  points: Float32[np.ndarray, 't n 2']  # `landmarks.LANDMARK_IDS`, pixels
  appearance: Float32[np.ndarray, 'd']  # of `identity.appearance`
  mesh_rows: Int[np.ndarray, 't'] | None = None  # of `Analysis.meshes`


@dataclasses.dataclass(frozen=True)
class Analysis:
  """The result of the first pass over a video."""

  times: Float[np.ndarray, 'f']  # seconds
  frame: tuple[int, int]  # height, width in pixels
  cuts: Int[np.ndarray, 'c']  # first frame of every shot but the first
  tracks: tuple[Track, ...]
  # Of `mesh.pack`, relative to the tracks' boxes; None without meshes.
  meshes: RowFile | None = None


def split_at_cuts(track: Track, cuts: Int[np.ndarray, 'c']) -> list[Track]:
  """A track split at cuts; the parts share its memory."""
  edges = np.unique(np.searchsorted(track.frames, cuts)).tolist()
  ends = itertools.pairwise([0, *edges, len(track.frames)])
  return [
    dataclasses.replace(
      track,
      frames=track.frames[first:end],
      boxes=track.boxes[first:end],
      scores=track.scores[first:end],
      points=track.points[first:end],
      mesh_rows=None if track.mesh_rows is None else track.mesh_rows[first:end],
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
