"""Coverage: how much of the generated mouth each output frame shows, and why.

Pure. The mouth fades to the source's own where the head turns further than
the networks have seen, and where it could not be measured: covered by a
hand, perhaps. Every range that is not wholly spoken is reported.

Alphabet: `f` source frames, `p` output frames (`timeline.OutputFrame`).
"""

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.faces import landmarks
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.inference.timeline import OutputFrame

# Place of the nose's tip between the sides of the face, 0 in the middle and
# 1 at the edge. 30 talking clips stay below 0.55; 0.75 is a turn of some 45
# degrees, 0.95 of some 60, where half of the mouth is gone.
TURN_LIMITS = (0.75, 0.95)
HIDDEN_SECONDS = (0.06, 0.16)  # seconds without landmarks: fades, is gone
SKIP_REASONS = (
  'spoken',
  'no sound',
  'outside --from and --to',
  'no face',
  'head turned away',
  'mouth not seen',
)


def nose_offset(points: Float[np.ndarray, 'f n 2']) -> Float[np.ndarray, 'f']:
  """Place of the nose between the sides of the face, -1 to 1 and beyond."""
  left, right = (
    points[:, side].astype(np.float64) for side in landmarks.OVAL_SIDES
  )
  across = right - left
  square = np.maximum((across**2).sum(-1), 1e-6)
  nose = points[:, landmarks.NOSE] - (left + right) / 2
  return 2 * (nose * across).sum(-1) / square


def smooth_falloff(
  x: Float[np.ndarray, 'f'], span: tuple[float, float]
) -> Float[np.ndarray, 'f']:
  """1 below the span, 0 above, smooth between; NaN, the unknown, is 1."""
  low, high = span
  x = np.clip((np.nan_to_num(x, nan=low) - low) / (high - low), 0, 1)
  return 1 - x * x * (3 - 2 * x)


def seconds_undetected(
  path: FaceTrajectory, times: Float[np.ndarray, 'f']
) -> Float[np.ndarray, 'f']:
  """Seconds to the nearest measured frame, 0 where it was measured."""
  away = np.zeros(len(times))
  known = np.flatnonzero(path.present & ~path.filled)
  gap = np.flatnonzero(path.filled)
  if gap.size:
    # What is filled lies between two measured frames.
    after = np.searchsorted(known, gap)
    before, after = times[known[after - 1]], times[known[after]]
    away[gap] = np.minimum(times[gap] - before, after - times[gap])
  return away


def mouth_opacity(
  path: FaceTrajectory,
  times: Sequence[Fraction],
  shows: Sequence[OutputFrame],
  since: float = 0.0,
  until: float | None = None,
) -> tuple[Float[np.ndarray, 'p'], Int[np.ndarray, 'p']]:
  """Share of the generated mouth in every output frame, and the reason.

  Args:
    path: of the person who speaks.
    times: of the source frames, seconds.
    since, until: output seconds between which the person speaks.

  Returns:
    Shares in [0, 1]; numbers in WHY, of what takes the most away.
  """
  seconds = np.fromiter((float(time) for time in times), np.float64)
  turned = smooth_falloff(np.abs(nose_offset(path.points)), TURN_LIMITS)
  hidden = smooth_falloff(seconds_undetected(path, seconds), HIDDEN_SECONDS)
  source = np.fromiter((show.index for show in shows), np.int64)
  clock = np.fromiter((float(show.time) for show in shows), np.float64)
  end = np.inf if until is None else until
  share = (turned * hidden)[source]
  why = np.where(turned < hidden, 4, 5)[source]
  why[share == 1] = 0
  for number, gone in (
    (3, ~path.present[source]),
    (2, (clock < since) | (clock >= end)),
    (1, np.fromiter((not show.spoken for show in shows), bool)),
  ):
    share[gone], why[gone] = 0, number
  return share, why


def skipped_ranges(
  shows: Sequence[OutputFrame], why: Int[np.ndarray, 'p']
) -> list[dict[str, float | str]]:
  """Seconds from and to which frames are not wholly spoken, and why."""
  found, end = [], 0
  for number, run in itertools.groupby(why.tolist()):
    first, end = end, end + len(list(run))
    if number:
      since, last = shows[first].time, shows[end - 1]
      until = float(last.time + last.length)
      found.append(
        {'from': float(since), 'to': until, 'why': SKIP_REASONS[number]}
      )
  return found
