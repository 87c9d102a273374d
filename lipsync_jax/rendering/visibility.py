"""Opacity of the new mouth in each output frame, with the reasons.

Pure. The new mouth fades to that of the source where the head turns further
than in the training data, and where no landmarks were measured, such as
behind a hand. Every range below full opacity is reported.

Shapes: f source frames, p output frames (`timeline.OutputFrame`).
"""

import enum
import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.faces import landmarks
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.rendering.timeline import OutputFrame

# Offset of the nose tip between the sides of the face, 0 in the middle and 1 at
# the edge. 30 clips of speakers stay below 0.55. 0.75 is a yaw of some 45
# degrees; 0.95 is some 60, where half of the mouth is invisible.
TURN_LIMITS = (0.75, 0.95)
HIDDEN_SECONDS = (0.06, 0.16)  # without landmarks: the fade begins, ends


class SkipReason(enum.IntEnum):
  """Why a frame does not show the new mouth at full opacity."""

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


def nose_offset(points: Float[np.ndarray, 'f n 2']) -> Float[np.ndarray, 'f']:
  """Offset of the nose tip between the sides of the face.

  -1 and 1 are the sides; a profile may lie beyond them.
  """
  left, right = (
    points[:, side].astype(np.float64) for side in landmarks.OVAL_SIDES
  )
  across = right - left
  square = np.maximum((across**2).sum(-1), 1e-6)
  nose = points[:, landmarks.NOSE] - (left + right) / 2
  return 2 * (nose * across).sum(-1) / square


def smooth_step(x, span: tuple[float, float]):
  """0 below the span, 1 above, smooth between; any array."""
  low, high = span
  x = np.clip((x - low) / (high - low), 0, 1)
  return x * x * (3 - 2 * x)


def smooth_falloff(
  x: Float[np.ndarray, 'f'], span: tuple[float, float]
) -> Float[np.ndarray, 'f']:
  """1 below the span, 0 above, smooth between; NaN (unknown) gives 1."""
  return 1 - smooth_step(np.nan_to_num(x, nan=span[0]), span)


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
) -> tuple[Float[np.ndarray, 'p'], Int[np.ndarray, 'p']]:
  """Opacity of the new mouth in every output frame, and the reason.

  Args:
    trajectory: of the speaker.
    times: of the source frames, seconds.
    frames: of the output.
    since, until: output seconds between which lips move.

  Returns:
    Opacities in [0, 1], and the `SkipReason` that lowers each most.
  """
  seconds = np.fromiter((float(time) for time in times), np.float64)
  turned = smooth_falloff(np.abs(nose_offset(trajectory.points)), TURN_LIMITS)
  hidden = smooth_falloff(
    seconds_undetected(trajectory, seconds), HIDDEN_SECONDS
  )
  source = np.fromiter((frame.index for frame in frames), np.int64)
  start = np.fromiter((float(frame.time) for frame in frames), np.float64)
  end = np.inf if until is None else until
  opacity = (turned * hidden)[source]
  reasons = np.where(
    turned < hidden, SkipReason.HEAD_TURNED, SkipReason.MOUTH_HIDDEN
  )[source]
  reasons[opacity == 1] = SkipReason.NONE
  silent = np.fromiter((not frame.spoken for frame in frames), bool)
  others = trajectory.others
  if others is None:
    others = np.zeros(len(trajectory.present), bool)
  for reason, skipped in (
    (SkipReason.NO_FACE, ~trajectory.present[source]),
    (SkipReason.ANOTHER_PERSON, others[source]),
    (SkipReason.OUTSIDE_RANGE, (start < since) | (start >= end)),
    (SkipReason.NO_SOUND, silent),
  ):
    opacity[skipped], reasons[skipped] = 0, reason
  return opacity, reasons


def skipped_ranges(
  frames: Sequence[OutputFrame], reasons: Int[np.ndarray, 'p']
) -> list[dict[str, float | str]]:
  """Ranges in seconds of frames below full opacity, for the report."""
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
