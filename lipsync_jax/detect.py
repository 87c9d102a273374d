"""Detect: find and follow every face of a video in one streamed pass.

The landmarker runs on every frame for every face followed, on a crop where
the face is expected; YuNet every few frames, at cuts, and wherever a face is
lost or none is followed. What comes out is small (under 1 kB a face and
frame); `analyses` remembers it.
"""

import array
import bisect
import dataclasses
import functools
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax import faces, tracks
from lipsync_jax.detector import Detector
from lipsync_jax.tracks import Analysis, Track

EVERY = 5  # frames between two searches for faces
MOST = 6  # faces followed at once, the largest
LOST = 0.5  # seconds after which a lost face is a new track
MARGIN = 1.8  # side of the landmarker's crop against the face's
TIGHT = 1.2  # the same, where another face is in the way
SURE = 0.65  # YuNet's score that starts a track
DOUBTS = 4  # searches in a row without the face that end its track
STRAY = 3  # frames; fewer are no track, unless the shot is as short
LOOK = 25  # frames between two looks at a face's appearance …
SOON = 5  # … and while it is new: what hides it then must not count
# Likeness to the frame before. Of 27 clips one falls below 0.83, where a head
# jerks: 0.69. Another's face in composites comes to 0.62 at most.
CHANGED = 0.65
AFTER = 4  # frames, after which a face that changed must be another still

# (number, seconds, frame of at most 640 pixels a side, the function that
# cuts the whole-pixel box (x0, y0, x1, y1) out of the frame at full size)
Fetch = Callable[[tuple[int, int, int, int]], np.ndarray]
Frame = tuple[int, float, np.ndarray, Fetch]


def packed(kind: str):
  """Makes an empty array of numbers."""
  return functools.partial(array.array, kind)


@dataclasses.dataclass(frozen=True)
class Strand:
  """A track while it grows.

  What grows with every frame is packed: objects would cost hours of film
  three times the memory.
  """

  frames: array.array = dataclasses.field(default_factory=packed('q'))
  times: array.array = dataclasses.field(default_factory=packed('d'))
  boxes: array.array = dataclasses.field(default_factory=packed('d'))  # 4 each
  scores: array.array = dataclasses.field(default_factory=packed('d'))
  points: array.array = dataclasses.field(default_factory=packed('f'))  # n x 2
  # Of the appearance since the frame before, 1 - likeness.
  changes: array.array = dataclasses.field(default_factory=packed('d'))
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


def analyse(
  stream: Iterable[Frame], frame: tuple[int, int], detector: Detector
) -> Analysis:
  """Faces, cuts and times of the frames of a stream.

  Args:
    stream: frames in order, numbered from 0. Their `fetch` is called before
      the next frame is asked for, and from this thread only.
    frame: height and width at full size, pixels.
    detector: an open Detector.
  """
  times, steps = array.array('d'), array.array('d')
  past: list = []  # the last three signatures, newest first
  strands: list[Strand] = []
  for number, time, small, fetch in stream:
    sign = tracks.signature(small)
    step = [tracks.difference(sign, other) for other in past]
    past = [sign, *past[:2]]
    steps.extend(step + [0.0] * (3 - len(step)))
    times.append(float(time))
    view = (number, float(time), small, fetch)
    _advance(strands, view, frame, detector, tracks.is_jump(steps[-3]))
  cuts = tracks.find_cuts(np.array(steps).reshape(-1, 3))
  news = [exchanged(strand) for strand in strands]
  cuts = np.union1d(cuts, shared(strands, news)).astype(np.int64)
  ends = np.array([0, *cuts, len(times)])
  found = [
    piece
    for strand, own in zip(strands, news, strict=True)
    for piece in _finish(strand, np.union1d(cuts, own).astype(np.int64))
    if len(piece.frames) >= min(STRAY, _shot(ends, piece))
  ]
  return Analysis(np.array(times), frame, cuts, tuple(found))


def _shot(ends: Int[np.ndarray, 'e'], piece: Track) -> int:
  """Frames of the shot in which a piece lies."""
  return int(np.diff(ends)[np.searchsorted(ends, piece.frames[0], 'right') - 1])


def exchanged(strand: Strand) -> list[int]:
  """Frames in which another's face stands where one was: a change that stands
  alone, unlike those of a turning head, and lasts, unlike a hand's."""
  found = []
  for number, before, after in strand.news:
    at = bisect.bisect_left(strand.frames, number)
    near = strand.changes[max(at - 2, 0) : at] + strand.changes[at + 1 : at + 3]
    lasts = tracks.likeness(before, after) < CHANGED
    if lasts and strand.changes[at] > 3 * max(near, default=0.0):
      found.append(number)
  return found


def shared(strands: list[Strand], news: list[list[int]]) -> list[int]:
  """Those in which half of the faces change: cuts too mild for `find_cuts`,
  before one wall perhaps. Fewer is one of several pictures in the frame."""
  return [
    number
    for number in {number for own in news for number in own}
    if 2 * sum(number in own for own in news)
    >= sum(s.frames[0] < number <= s.frames[-1] for s in strands)
  ]


def _advance(strands, view, frame, detector, jump: bool) -> None:
  """Take one frame: extend the strands and open new ones."""
  number, time, small, _ = view
  live = [s for s in strands if s.frames[-1] == number - 1 and _trusted(s)]
  lost = [
    s
    for s in strands
    if s.frames[-1] < number - 1 and time - s.times[-1] < LOST and _trusted(s)
  ]
  jobs = [] if jump else [(s, _expected(s), s.scores[-1]) for s in live]
  done = _read(jobs, view, frame, detector)
  failed = [s for s in live if id(s) not in done]
  if number % EVERY and live and not (jump or lost or failed):
    return
  boxes, scores = detector.faces(small, frame[1] / small.shape[1])
  taken = _confirm([s for s in live if id(s) in done], boxes, scores)
  again, new = [], []
  for i, box in enumerate(boxes):
    if taken[i] or len(live) + len(new) >= MOST:
      continue
    waiting = [s for s in failed + lost if all(s is not a[0] for a in again)]
    match = _nearest(waiting, box)
    if match is not None:
      again.append((match, box, scores[i]))
    elif scores[i] >= SURE:
      new.append((Strand(), box, scores[i]))
  _read(again + new, view, frame, detector, jump)
  strands += [s for s, _, _ in new if s.frames]
  _part(strands, number)


def _trusted(strand: Strand) -> bool:
  return len(strand.doubts) < DOUBTS


def _expected(strand: Strand) -> Float[np.ndarray, '4']:
  """Where the face should be now: its last step once more, within reason."""
  last = strand.box()
  if len(strand.frames) < 2 or strand.frames[-2] != strand.frames[-1] - 1:
    return last
  reach = 0.2 * (last[2] - last[0])
  return last + np.clip(last - strand.box(2), -reach, reach)


def _confirm(live: list[Strand], boxes, scores) -> list[bool]:
  """Match YuNet's boxes with faces already read; count who is missing."""
  taken = [False] * len(boxes)
  for strand in live:
    shared = faces.overlaps(strand.box()[None], boxes)[0]
    if shared.size and shared.max() > 0.3:
      best = int(shared.argmax())
      taken[best] = True
      strand.scores[-1] = float(scores[best])
      strand.doubts.clear()
    else:
      strand.doubts.append(strand.frames[-1])
  return taken


def _nearest(waiting: list[Strand], box) -> Strand | None:
  """The lost strand that a newly found box continues, if any."""
  if not waiting:
    return None
  last = np.stack([s.box() for s in waiting])
  shared = faces.overlaps(box[None], last)[0]
  return waiting[int(shared.argmax())] if shared.max() > 0.3 else None


def _read(jobs, view, frame, detector: Detector, jump=False) -> set[int]:
  """Landmarks of every (strand, box, score); the ids of strands that grew.

  After a jump the face in the same place may be another's: look again.
  """
  number, time, _, fetch = view

  def crop(box, margin):
    x0, y0, x1, y1 = _square(box, margin, frame)
    if x1 - x0 < 8 or y1 - y0 < 8:
      return None
    # Only this thread touches the decoder's frames: two at once can hang it.
    return np.ascontiguousarray(fetch((x0, y0, x1, y1))), (x0, y0)

  def read(part):
    return part and detector.landmarks(*part)

  parts = [crop(box, MARGIN) for _, box, _ in jobs]
  meshes = detector.map(read, parts)
  grown = set()
  for (strand, box, score), part, mesh in zip(jobs, parts, meshes, strict=True):
    points = _points_in(mesh, box)
    if points is None and part:
      # Those points are a neighbour's: a tighter crop keeps it out.
      part = crop(box, TIGHT)
      points = _points_in(read(part), box)
    if points is None:
      continue
    _look(strand, number, points, part, jump)
    strand.frames.append(number)
    strand.times.append(time)
    strand.boxes.extend(faces.detector_boxes(points[None])[0])
    strand.scores.append(float(score))
    strand.points.frombytes(points.astype(np.float32).tobytes())
    grown.add(id(strand))
  return grown


def _look(strand: Strand, number: int, points, part, jump: bool) -> None:
  """Remember how the face looks, and whether it became another's."""
  cut = faces.crop_of(faces.crops(points[None].astype(np.float64))[0])
  cut = dataclasses.replace(cut, w=1.5 * cut.w, h=1.5 * cut.h)
  seen = tracks.look(faces.take(part[0], cut, 96, part[1]))
  if strand.news and number - strand.news[-1][0] <= AFTER:
    strand.news[-1][2] = seen
  alike = tracks.likeness(strand.last[0], seen) if strand.last else 1.0
  strand.changes.append(1 - alike)
  if alike < CHANGED:
    true = exchanged(strand)  # the rest is forgotten, to keep memory flat
    old = [x for x in strand.news if x[0] in true or number - x[0] <= AFTER]
    strand.news[:] = [*old, [number, strand.last[0], seen]]
    jump = True
  strand.last[:] = [seen]
  if jump or not strand.looks:
    strand.born[:] = [number]
  pause = SOON if number - strand.born[0] <= LOOK else LOOK
  if number in strand.born or number - strand.looks[-1][0] >= pause:
    strand.looks.append((number, seen))


def _points_in(mesh, box) -> Float[np.ndarray, 'n 2'] | None:
  """The landmarks kept, if they are those of the face in the box."""
  if mesh is None:
    return None
  points = mesh[list(faces.KEPT), :2]
  found = faces.detector_boxes(points[None])
  return points if faces.overlaps(found, box[None])[0, 0] > 0.35 else None


def _square(box, margin: float, frame) -> tuple[int, int, int, int]:
  """A square of `margin` times the box round it, cut off at the frame."""
  h, w = frame
  cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
  half = margin * max(box[2] - box[0], box[3] - box[1]) / 2
  return (
    max(int(cx - half), 0),
    max(int(cy - half), 0),
    min(int(np.ceil(cx + half)), w),
    min(int(np.ceil(cy + half)), h),
  )


def _part(strands: list[Strand], number: int) -> None:
  """Where two strands came to follow one face, the younger ends."""
  now = [s for s in strands if s.frames[-1] == number]
  for i, young in enumerate(now):
    for old in now[:i]:
      both = faces.overlaps(young.box()[None], old.box()[None])
      if both[0, 0] > 0.5 and _trusted(old):
        young.doubts.extend([number] * DOUBTS)
        grown = (young.frames, young.times, young.scores, young.changes)
        for values in grown:
          values.pop()
        del young.boxes[-4:]
        del young.points[-2 * len(faces.KEPT) :]
        young.news[:] = [x for x in young.news if x[0] != number]
        break
  strands[:] = [s for s in strands if s.frames]


def _finish(strand: Strand, cuts) -> list[Track]:
  """The strand as tracks, one a shot, each with its own appearance."""
  whole = Track(
    np.array(strand.frames, np.int64),
    np.array(strand.boxes, np.float32).reshape(-1, 4),
    np.array(strand.scores, np.float32),
    # Not copied: these are most of what a video leaves.
    np.frombuffer(strand.points, np.float32).reshape(-1, len(faces.KEPT), 2),
    strand.looks[0][1],
  )
  pieces = []
  for piece in tracks.split(whole, cuts):
    first, last = piece.frames[0], piece.frames[-1]
    own = [v for f, v in strand.looks if first <= f <= last]
    # The median: while the face came from behind something, it looked odd.
    usual = np.median(own or [v for _, v in strand.looks], axis=0)
    pieces.append(dataclasses.replace(piece, look=usual.astype(np.float32)))
  return pieces
