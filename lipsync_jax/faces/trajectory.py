"""The trajectory of one person's face: gaps filled, jitter removed.

Smoothing is centered, so that it has no delay, and never crosses a cut or a
gap.

Shapes: f frames of the video, t frames of one span, n landmarks, k values a
frame. Times are seconds.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from lipsync_jax.faces import boxes, crop, landmarks
from lipsync_jax.faces.identity import Person
from lipsync_jax.faces.tracks import Analysis

MAX_GAP = 0.5  # seconds of a gap that is filled within a shot
SMOOTHING_SECONDS = 0.07  # seconds, of the smoothing kernel
MAX_STEP = 0.02  # seconds, of the kernel for fast motion
BLOCK = 2048  # frames smoothed at once, for constant memory


@dataclasses.dataclass(frozen=True)
class FaceTrajectory:
  """One person's face in every frame; NaN where absent."""

  present: Bool[np.ndarray, 'f']
  filled: Bool[np.ndarray, 'f']  # interpolated, not measured
  crops: Float[np.ndarray, 'f 5']  # of `crop.face_crops`
  points: Float32[np.ndarray, 'f n 2']  # for the mask
  spans: Int[np.ndarray, 's 2']  # first and end frame of unbroken motion
  mesh: Any = None  # `mesh_trajectory.MeshTrajectory`, for the mesh renderer
  # Frames that show another person's face, and not this one's.
  others: Bool[np.ndarray, 'f'] | None = None
  shots: Int[np.ndarray, 'f'] | None = None  # number of each frame's shot


def build_trajectory(
  analysis: Analysis,
  person: Person,
  pads: tuple[float, float, float, float] | None = None,
  smoothing: bool = True,
) -> FaceTrajectory:
  """Crops and landmarks of a person, frame by frame.

  Args:
    analysis: of the whole video, or of its first frames.
    person: of `identity.group_people`; other frames have no face.
    pads: see `crop.face_crops`.
    smoothing: False returns the measured values (`--nosmooth`).
  """
  count = len(analysis.times)
  points = np.full((count, len(landmarks.LANDMARK_IDS), 2), np.nan, np.float32)
  for track in person.tracks:
    points[track.frames] = track.points
  seen = np.isfinite(points[:, 0, 0])
  shots = np.searchsorted(analysis.cuts, np.arange(count), side='right')
  _bridge_gaps(points, seen, shots, analysis.times)
  present = np.isfinite(points[:, 0, 0])
  crops = np.full((count, 5), np.nan)
  # The median proportions of a crop are those of one shot: another shot may
  # show the head from another height.
  for shot in np.unique(shots[present]):
    here = present & (shots == shot)
    crops[here] = crop.face_crops(points[here], pads)
  found = continuous_spans(crops, shots)
  if smoothing:
    for start, end in found:
      here = slice(int(start), int(end))
      times, width = analysis.times[here], crops[here, 2].copy()
      # The roll in pixels at the crop's edge, so that all columns share a unit.
      unit = np.array([1, 1, 1, 1, float(width.mean()) / 2])
      crops[here] = smooth_span(crops[here] * unit, times, width) / unit
      flat = points[here].reshape(len(times), -1)  # [t n*2]
      smooth_span(flat, times, width, out=flat)
  return FaceTrajectory(
    present,
    present & ~seen,
    crops,
    points,
    found,
    others=frames_of_others(analysis, present),
    shots=shots,
  )


def frames_of_others(
  analysis: Analysis, present: Bool[np.ndarray, 'f']
) -> Bool[np.ndarray, 'f']:
  """Frames that show a face, but not the person's, who is `present`."""
  faces = np.zeros(len(present), bool)
  for track in analysis.tracks:
    faces[track.frames] = True
  return faces & ~present


def _bridge_gaps(
  points: Float32[np.ndarray, 'f n 2'],
  seen: Bool[np.ndarray, 'f'],
  shots: Int[np.ndarray, 'f'],
  times: Float[np.ndarray, 'f'],
) -> None:
  """Fill short gaps within a shot, in place, by linear interpolation."""
  known = np.flatnonzero(seen)
  for a, b in itertools.pairwise(known):
    if b - a < 2 or shots[a] != shots[b] or times[b] - times[a] > MAX_GAP:
      continue
    ends = boxes.bounding_boxes(points[[a, b]].astype(np.float64))
    if boxes.iou_matrix(ends[:1], ends[1:])[0, 0] < 0.1:
      continue  # too far apart to interpolate
    share = (times[a + 1 : b] - times[a]) / (times[b] - times[a])
    step = (points[b] - points[a])[None]
    points[a + 1 : b] = points[a] + share[:, None, None] * step


def continuous_spans(
  crops: Float[np.ndarray, 'f 5'], shots: Int[np.ndarray, 'f']
) -> Int[np.ndarray, 's 2']:
  """Runs of frames with continuous motion: [first, end).

  A run ends at a frame without a face, at a cut, and at a jump of 0.35 of the
  face's width between two frames, which is a cut that was not found.
  """
  present = np.isfinite(crops[:, 0])
  leap = np.hypot(*np.diff(crops[:, :2], axis=0).T)
  near = leap < 0.35 * crops[1:, 2]  # False beside a NaN
  joined = near & (shots[1:] == shots[:-1])
  first = np.flatnonzero(present & ~np.pad(joined, (1, 0)))
  end = np.flatnonzero(present & ~np.pad(joined, (0, 1))) + 1
  return np.stack([first, end], -1).astype(np.int64)


def smooth_span(
  values: Float[np.ndarray, 't k'],
  times: Float[np.ndarray, 't'],
  width: Float[np.ndarray, 't'],
  out: Float[np.ndarray, 't k'] | None = None,
) -> Float[np.ndarray, 't k']:
  """Remove jitter from one span, without delay.

  A line is fitted to the neighbors of every frame, with Gaussian weights of
  their time stamps. Constants and linear motion are exact, also at the ends and
  with a variable frame rate. Where the fit differs from a much narrower one by
  more than noise, the motion is fast, and the narrow fit is taken.

  Differs from Wav2Lip, whose mean of five frames leads by two (spec 7.4).

  Args:
    values: pixels, of one face.
    times: seconds, ascending.
    width: of the face in pixels, the scale of noise and motion.
    out: receives the result and may be `values`; None makes a new array.
  """
  out = values.copy() if out is None else out
  if len(times) < 3:
    out[:] = values
    return out
  reach = _max_neighbors(times)
  before = values[:0]  # measured values of the preceding frames
  for start in range(0, len(times), BLOCK):
    low, end = start - len(before), min(start + BLOCK, len(times))
    high = min(len(times), end + 2 * reach)
    part = np.concatenate([before, values[start:high]])
    block = _smooth_block(part, times[low:high], width[low:high])
    before = part[: end - low][-2 * reach :]
    out[start:end] = block[start - low : end - low]
  return out


def _smooth_block(values, times, width):
  calm = local_linear(values, times, SMOOTHING_SECONDS)
  quick = local_linear(values, times, MAX_STEP)
  apart = np.abs(calm - quick).max(-1) / width
  # Noise keeps the two within 0.8 % of the face's width on clips of speakers.
  share = np.clip((apart - 0.01) / 0.015, 0, 1)[:, None]
  # The transition between both fits must not jitter.
  share = np.clip(local_linear(share, times, SMOOTHING_SECONDS), 0, 1)
  return calm + share.astype(values.dtype) * (quick - calm)


def _max_neighbors(times: Float[np.ndarray, 't']) -> int:
  """The largest number of frames within three sigma on one side."""
  ahead = np.searchsorted(times, times + 3 * SMOOTHING_SECONDS, side='right')
  return max(int((ahead - np.arange(len(times))).max()), 1)


def local_linear(
  values: Float[np.ndarray, 't k'], times: Float[np.ndarray, 't'], sigma: float
) -> Float[np.ndarray, 't k']:
  """Local lines through `values`, Gaussian in time, evaluated at `times`."""
  count = len(times)
  weights, moments, squares = (np.zeros(count) for _ in range(3))
  level, slope = np.zeros(values.shape), np.zeros(values.shape)
  reach = min(_max_neighbors(times), count - 1)
  for offset in range(-reach, reach + 1):
    here = slice(max(0, -offset), min(count, count - offset))
    there = slice(here.start + offset, here.stop + offset)
    away = times[there] - times[here]
    weight = np.exp(-0.5 * (away / sigma) ** 2)
    weight[np.abs(away) > 3 * SMOOTHING_SECONDS + 1e-9] = 0
    weights[here] += weight
    moments[here] += weight * away
    squares[here] += weight * away**2
    # Differences, so that constants are exact to the last bit.
    rise = values[there].astype(np.float64) - values[here]
    level[here] += weight[:, None] * rise
    slope[here] += (weight * away)[:, None] * rise
  spread = weights * squares - moments**2
  flat = spread <= 1e-9 * weights * sigma**2  # neighbors too far to matter
  spread = np.where(flat, 1.0, spread)
  line = squares[:, None] * level - moments[:, None] * slope
  shift = np.where(flat[:, None], 0.0, line / spread[:, None])
  return (values + shift).astype(values.dtype)


def smooth_like_wav2lip(
  boxes: Int[np.ndarray, 't 4'], window: int = 5
) -> Int[np.ndarray, 't 4']:
  """Wav2Lip's box smoothing (spec 7.4), for `--compat`.

  It averages forwards over five frames, in place, so that boxes lead by two
  frames and the last four are averages of averages.
  """
  out, count = boxes.copy(), len(boxes)
  for i in range(count):
    # With fewer than five boxes the start is negative and wraps, as in Wav2Lip.
    part = out[i : i + window] if i + window <= count else out[count - window :]
    out[i] = part.mean(0)  # truncated on assignment
  return out
