"""Share of the new mouth in each output frame, with the reasons.

Pure. The new mouth goes where the head turns so far that one corner of the
mouth is hidden, and where no landmarks were measured, such as behind a hand.
How it comes and goes is `fades`' work. Every range that shows the source's
mouth is reported.

Shapes: f source frames, p output frames (`timeline.OutputFrame`).
"""

import enum
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

from lipsync_jax.faces import landmarks
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.rendering import fades
from lipsync_jax.rendering.timeline import OutputFrame

# Of `far_corner_share`. The mean face hides the far corner of the mouth between
# 0.35 and 0.27, at a yaw of 40 to 45 degrees; a measured face, at about 0.22.
CORNER_LIMITS = (0.22, 0.32)  # hidden below, seen above
HIDDEN_SECONDS = (0.06, 0.16)  # without landmarks: seen below, hidden above
WIDE_OPENING = 0.1  # lip opening by the height of the face, of a wide mouth


class SkipReason(enum.IntEnum):
  """Why a frame shows the source's mouth."""

  NONE = 0
  NO_SOUND = 1
  OUTSIDE_RANGE = 2
  NO_FACE = 3
  HEAD_TURNED = 4
  MOUTH_HIDDEN = 5
  ANOTHER_PERSON = 6
  MOUTH_COVERED = 7


REPORT_TEXT = {  # in the report
  SkipReason.NO_SOUND: 'no sound',
  SkipReason.OUTSIDE_RANGE: 'outside --from and --to',
  SkipReason.NO_FACE: 'no face',
  SkipReason.HEAD_TURNED: 'head turned away',
  SkipReason.MOUTH_HIDDEN: 'mouth not seen',
  SkipReason.ANOTHER_PERSON: 'another person',
  SkipReason.MOUTH_COVERED: 'object before the mouth',
}


def far_corner_share(
  points: Float[np.ndarray, 'f n 2'],
) -> Float[np.ndarray, 'f']:
  """How far the far corner of the mouth is from being hidden.

  It is the distance of that corner from the middle of the lips, along the face,
  by the distance of the near one: 1 from the front, 0 or less in profile.
  """
  left, right = (
    points[:, side].astype(np.float64) for side in landmarks.OVAL_SIDES
  )
  lips = [landmarks.UPPER_LIP, landmarks.LOWER_LIP]
  middle = points[:, lips].astype(np.float64).mean(1)
  corners = points[:, landmarks.MOUTH_CORNERS].astype(np.float64)
  aside = ((corners - middle[:, None]) * (right - left)[:, None]).sum(-1)
  halves = np.sort(aside * np.array([-1, 1]), axis=-1)
  return halves[:, 0] / np.maximum(np.abs(halves[:, 1]), 1e-6)


def smooth_step(x, span: tuple[float, float]):
  """0 below the span, 1 above, smooth between; any array."""
  low, high = span
  x = np.clip((x - low) / (high - low), 0, 1)
  return x * x * (3 - 2 * x)


def linear_step(
  x: Float[np.ndarray, 'f'], span: tuple[float, float]
) -> Float[np.ndarray, 'f']:
  """0 below the span, 1 above, linear between; NaN (unknown) gives 1."""
  low, high = span
  return np.clip((np.nan_to_num(x, nan=high) - low) / (high - low), 0, 1)


def seconds_undetected(
  trajectory: FaceTrajectory, times: Float[np.ndarray, 'f']
) -> Float[np.ndarray, 'f']:
  """Seconds to the nearest measured frame, 0 at measured frames."""
  away = np.zeros(len(times))
  known = np.flatnonzero(trajectory.present & ~trajectory.filled)
  gap = np.flatnonzero(trajectory.filled)
  if gap.size:
    # Every interpolated frame lies between two measured frames.
    after = np.searchsorted(known, gap)
    before, after = times[known[after - 1]], times[known[after]]
    away[gap] = np.minimum(times[gap] - before, after - times[gap])
  return away


def mouth_opacity(
  trajectory: FaceTrajectory,
  times: Sequence[Fraction],
  frames: Sequence[OutputFrame],
  since: float = 0.0,
  until: float | None = None,
  loudness: fades.Difference | None = None,
) -> tuple[Float[np.ndarray, 'p'], Int[np.ndarray, 'p']]:
  """Share of the new mouth in every output frame, and why it is 0.

  Args:
    trajectory: of the speaker.
    times: of the source frames, seconds.
    frames: of the output.
    since, until: output seconds between which lips move.
    loudness: of the new voice in some output frames, 0 to 1. With it the mouth
      comes and goes at once, where the voice rests and the source's lips are
      closed; without it, in `fades.FADE_FRAMES` frames.

  Returns:
    Shares in [0, 1], and the `SkipReason` of each frame without the new mouth.
  """
  seconds = np.fromiter((float(time) for time in times), np.float64)
  source = np.fromiter((frame.index for frame in frames), np.int64)
  turned = linear_step(far_corner_share(trajectory.points), CORNER_LIMITS)
  away = seconds_undetected(trajectory, seconds)
  seen = 1 - linear_step(away, HIDDEN_SECONDS)
  joined = continues(trajectory, source)
  difference = loudness and lip_difference(trajectory, source, loudness)
  shown = fades.shown_frames((turned * seen)[source], joined, difference)
  reasons = np.zeros(len(source), np.int64)
  for first, end in fades.spans_of(shown):
    if not shown[first]:
      # The clearest frame tells the reason: a change may lie beside it.
      worst = first + int((turned * seen)[source[first:end]].argmin())
      worst = source[worst]
      left = turned[worst] <= seen[worst]
      reasons[first:end] = (
        SkipReason.HEAD_TURNED if left else SkipReason.MOUTH_HIDDEN
      )
  for reason, skipped in _skipped(trajectory, source, frames, since, until):
    shown[skipped], reasons[skipped] = False, reason
  if loudness:
    return shown.astype(np.float64), reasons
  return fades.fade(shown, joined), reasons


def _skipped(
  trajectory: FaceTrajectory,
  source: Int[np.ndarray, 'p'],
  frames: Sequence[OutputFrame],
  since: float,
  until: float | None,
) -> Iterator[tuple[SkipReason, Bool[np.ndarray, 'p']]]:
  """Frames that have no new mouth whatever they show; later reasons win."""
  start = np.fromiter((float(frame.time) for frame in frames), np.float64)
  end = np.inf if until is None else until
  yield SkipReason.NO_FACE, ~trajectory.present[source]
  if trajectory.others is not None:
    yield SkipReason.ANOTHER_PERSON, trajectory.others[source]
  yield SkipReason.OUTSIDE_RANGE, (start < since) | (start >= end)
  silent = np.fromiter((not frame.spoken for frame in frames), bool)
  yield SkipReason.NO_SOUND, silent


def continues(
  trajectory: FaceTrajectory, source: Int[np.ndarray, 'p']
) -> Bool[np.ndarray, 'p']:
  """Whether each output frame continues the one before, without a cut.

  False in a trajectory without known shots.

  Args:
    trajectory: of the speaker.
    source: source frame of each output frame.
  """
  joined = np.zeros(len(source), bool)
  if trajectory.shots is not None:
    shots = trajectory.shots[source]
    joined[1:] = (np.abs(np.diff(source)) <= 1) & (np.diff(shots) == 0)
  return joined


def lip_difference(
  trajectory: FaceTrajectory,
  source: Int[np.ndarray, 'p'],
  loudness: fades.Difference,
) -> fades.Difference:
  """Difference of the source's mouth and the new one: 0 if both are closed."""

  def difference(frames):
    here = source[frames]
    opening = landmarks.lip_openings(
      trajectory.points[here], trajectory.crops[here]
    )
    open_share = np.clip(np.nan_to_num(opening) / WIDE_OPENING, 0, 1)
    return open_share + loudness(frames)

  return difference


def skipped_ranges(
  frames: Sequence[OutputFrame], reasons: Int[np.ndarray, 'p']
) -> list[dict[str, float | str]]:
  """Ranges in seconds that show the source's mouth, for the report."""
  ranges, end = [], 0
  for reason, run in itertools.groupby(reasons.tolist()):
    first, end = end, end + len(list(run))
    if reason != SkipReason.NONE:
      since, last = frames[first].time, frames[end - 1]
      until = float(last.time + last.length)
      ranges.append(
        {'from': float(since), 'to': until, 'why': REPORT_TEXT[reason]}
      )
  return ranges
