"""When the new mouth comes and goes, and in how many frames.

Pure. In an uncertain frame, such as at the limit of a turn, either mouth may
show. A renderer that warps the source's lips moves one mouth into the other, in
FADE_FRAMES frames. One that paints a mouth cannot do that: it changes at once,
in the frame in which the two mouths are most alike.

Shapes: p output frames, k some of them.
"""

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

FADE_FRAMES = 3  # between the source's mouth and the new one
EARLY_FRAMES = 6  # by which a painted mouth may go earlier, or come later

Difference = Callable[[Int[np.ndarray, 'k']], Float[np.ndarray, 'k']]


def shown_frames(
  certainty: Float[np.ndarray, 'p'],
  joined: Bool[np.ndarray, 'p'],
  difference: Difference | None = None,
) -> Bool[np.ndarray, 'p']:
  """The frames that show the new mouth.

  It stays as long as the source's mouth may be seen. Uncertain frames between
  two runs without it are without it, so that it does not flicker.

  Args:
    certainty: that the source's mouth is seen; 0 and 1 are certain.
    joined: whether each frame continues the one before, without a cut.
    difference: of the two mouths in some frames, any unit; a change moves to
      the frame where it is least. None leaves the changes.
  """
  shown = np.zeros(len(certainty), bool)
  for first, end in spans_of(np.cumsum(~joined)):
    shown[first:end] = _without_glimpses(certainty[first:end])
    if difference is not None:
      changes = np.flatnonzero(np.diff(shown[first:end])) + first + 1
      limits = [first, *changes.tolist(), end]
      for a, at, b in zip(limits, limits[1:], limits[2:], strict=False):
        _move_change(shown, a, at, b, difference)
  return shown


def spans_of(values: Shaped[np.ndarray, 'k']) -> list[tuple[int, int]]:
  """First and end of each run of equal values."""
  breaks = np.flatnonzero(values[1:] != values[:-1]) + 1
  return list(itertools.pairwise([0, *breaks.tolist(), len(values)]))


def _without_glimpses(
  certainty: Float[np.ndarray, 'k'],
) -> Bool[np.ndarray, 'k']:
  """Frames of a shot that may show the new mouth."""
  kinds = np.sign(certainty) + (certainty >= 1)  # 0 hidden, 1 uncertain, 2 seen
  shown = kinds > 0
  for first, end in spans_of(kinds):
    alone = first > 0 and end < len(kinds)
    if alone and kinds[first] == 1:
      shown[first:end] = kinds[first - 1] > 0 or kinds[end] > 0
  return shown


def _move_change(
  shown: Bool[np.ndarray, 'p'],
  before: int,
  at: int,
  after: int,
  difference: Difference,
) -> None:
  """Move the change in frame `at` to the best frame, in place.

  Args:
    shown: of all frames.
    before, at, after: frames of the last change, of this and of the next one.
    difference: of the two mouths.
  """
  if shown[at]:  # a run is halved between its two changes
    frames = np.arange(at, min(at + EARLY_FRAMES, (at + after) // 2) + 1)
  else:
    low = max(at - EARLY_FRAMES, (before + at + 1) // 2, before + 1)
    frames = np.arange(low, at + 1)
  best = int(frames[np.argmin(difference(frames))])
  shown[min(best, at) : max(best, at)] = False


def fade(
  shown: Bool[np.ndarray, 'p'], joined: Bool[np.ndarray, 'p']
) -> Float[np.ndarray, 'p']:
  """Share of the new mouth, from 0 where it is not shown to 1.

  It rises and falls in FADE_FRAMES of the shown frames; at a cut it jumps.

  Args:
    shown: of `shown_frames`.
    joined: whether each frame continues the one before.
  """
  away = np.where(shown, FADE_FRAMES + 1, 0)  # frames from the source's mouth
  for _ in range(FADE_FRAMES):
    ahead, behind = away[:-1] + 1, away[1:] + 1
    linked = joined[1:]
    nearer = away.copy()
    nearer[1:][linked] = np.minimum(nearer[1:], ahead)[linked]
    nearer[:-1][linked] = np.minimum(nearer[:-1], behind)[linked]
    away = nearer
  x = away / (FADE_FRAMES + 1)
  return x * x * (3 - 2 * x)
