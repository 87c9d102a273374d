"""Detect: find and follow every face of a video in one streamed pass.

The landmarker runs on every frame for every face followed, on a crop where
the face is expected; YuNet every few frames, at cuts, and wherever a face is
lost or none is followed. What comes out is small (under 1 kB a face and
frame); `analyses` remembers it.
"""

import array
import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax import faces, strands, tracks
from lipsync_jax.detector import Detector
from lipsync_jax.strands import Strand
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
AFTER = 4  # frames, after which a face that changed must be another still

# (number, seconds, frame of at most 640 pixels a side, the function that
# cuts the whole-pixel box (x0, y0, x1, y1) out of the frame at full size)
Fetch = Callable[[tuple[int, int, int, int]], np.ndarray]
Frame = tuple[int, float, np.ndarray, Fetch]


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
  grown: list[Strand] = []
  for number, time, small, fetch in stream:
    sign = tracks.signature(small)
    step = [tracks.difference(sign, other) for other in past]
    past = [sign, *past[:2]]
    steps.extend(step + [0.0] * (3 - len(step)))
    times.append(float(time))
    view = (number, float(time), small, fetch)
    _advance(grown, view, frame, detector, tracks.is_jump(steps[-3]))
  cuts = tracks.find_cuts(np.array(steps).reshape(-1, 3))
  news = [strands.exchanged(strand) for strand in grown]
  cuts = np.union1d(cuts, strands.shared(grown, news)).astype(np.int64)
  ends = np.array([0, *cuts, len(times)])
  found = [
    piece
    for strand, own in zip(grown, news, strict=True)
    for piece in strands.pieces(strand, np.union1d(cuts, own).astype(np.int64))
    if len(piece.frames) >= min(STRAY, _shot(ends, piece))
  ]
  return Analysis(np.array(times), frame, cuts, tuple(found))


def _shot(ends: Int[np.ndarray, 'e'], piece: Track) -> int:
  """Frames of the shot in which a piece lies."""
  return int(np.diff(ends)[np.searchsorted(ends, piece.frames[0], 'right') - 1])


def _advance(grown, view, frame, detector, jump: bool) -> None:
  """Take one frame: extend the strands and open new ones."""
  number, time, small, _ = view
  live = [s for s in grown if s.frames[-1] == number - 1 and _trusted(s)]
  lost = [
    s
    for s in grown
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
  grown += [s for s, _, _ in new if s.frames]
  _part(grown, number)


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
  if alike < strands.CHANGED:
    true = strands.exchanged(strand)  # all else goes: memory is to be flat
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


def _part(grown: list[Strand], number: int) -> None:
  """Where two strands came to follow one face, the younger ends."""
  now = [s for s in grown if s.frames[-1] == number]
  for i, young in enumerate(now):
    for old in now[:i]:
      both = faces.overlaps(young.box()[None], old.box()[None])
      if both[0, 0] > 0.5 and _trusted(old):
        young.doubts.extend([number] * DOUBTS)
        rows = (young.frames, young.times, young.scores, young.changes)
        for values in rows:
          values.pop()
        del young.boxes[-4:]
        del young.points[-2 * len(faces.KEPT) :]
        young.news[:] = [x for x in young.news if x[0] != number]
        break
  grown[:] = [s for s in grown if s.frames]
