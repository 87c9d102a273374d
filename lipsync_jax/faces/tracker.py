"""Detect: find and follow every face of a video in one streamed pass.

The landmarker runs on every frame for every face followed, on a crop where
the face is expected; YuNet every few frames, at cuts, and wherever a face is
lost or none is followed. What comes out is small (under 1 kB a face and
frame); `analyzes` remembers it.
"""

import array
import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.faces import crop, identity, landmarks, shots, track_builder
from lipsync_jax.faces.boxes import detector_boxes, iou_matrix
from lipsync_jax.faces.detector import FaceDetector
from lipsync_jax.faces.track_builder import TrackBuilder
from lipsync_jax.faces.tracks import Analysis, Track

DETECT_EVERY = 5  # frames between two searches for faces
MAX_FACES = 6  # faces followed at once, the largest
LOST_SECONDS = 0.5  # seconds after which a lost face is a new track
MARGIN = 1.8  # side of the landmarker's crop against the face's
TIGHT_MARGIN = 1.2  # the same, where another face is in the way
MIN_SCORE = 0.65  # YuNet's score that starts a track
MAX_UNCONFIRMED = 4  # searches in a row without the face that end its track
MIN_TRACK_FRAMES = 3  # frames; fewer are no track, unless the shot is as short
APPEARANCE_EVERY = 25  # frames between two looks at a face's appearance …
APPEARANCE_SOON = 5  # … and while it is new: what hides it then must not count
APPEARANCE_AFTER = (
  4  # frames, after which a face that changed must be another still
)

# (number, seconds, frame of at most 640 pixels a side, the function that
# cuts the whole-pixel box (x0, y0, x1, y1) out of the frame at full size)
Fetch = Callable[[tuple[int, int, int, int]], np.ndarray]
Frame = tuple[int, float, np.ndarray, Fetch]


def track_faces(
  stream: Iterable[Frame], frame: tuple[int, int], detector: FaceDetector
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
  grown: list[TrackBuilder] = []
  for number, time, small, fetch in stream:
    sign = shots.frame_signature(small)
    step = [shots.signature_distance(sign, other) for other in past]
    past = [sign, *past[:2]]
    steps.extend(step + [0.0] * (3 - len(step)))
    times.append(float(time))
    view = (number, float(time), small, fetch)
    _advance_frame(grown, view, frame, detector, shots.may_be_cut(steps[-3]))
  cuts = shots.find_cuts(np.array(steps).reshape(-1, 3))
  news = [track_builder.identity_switches(strand) for strand in grown]
  cuts = np.union1d(
    cuts, track_builder.simultaneous_changes(grown, news)
  ).astype(np.int64)
  ends = np.array([0, *cuts, len(times)])
  found = [
    piece
    for strand, own in zip(grown, news, strict=True)
    for piece in track_builder.build_tracks(
      strand, np.union1d(cuts, own).astype(np.int64)
    )
    if len(piece.frames) >= min(MIN_TRACK_FRAMES, _shot_range(ends, piece))
  ]
  return Analysis(np.array(times), frame, cuts, tuple(found))


def _shot_range(ends: Int[np.ndarray, 'e'], piece: Track) -> int:
  """Frames of the shot in which a piece lies."""
  return int(np.diff(ends)[np.searchsorted(ends, piece.frames[0], 'right') - 1])


def _advance_frame(grown, view, frame, detector, jump: bool) -> None:
  """Take one frame: extend the strands and open new ones."""
  number, time, small, _ = view
  live = [s for s in grown if s.frames[-1] == number - 1 and _is_confirmed(s)]
  lost = [
    s
    for s in grown
    if s.frames[-1] < number - 1
    and time - s.times[-1] < LOST_SECONDS
    and _is_confirmed(s)
  ]
  jobs = [] if jump else [(s, _predict_box(s), s.scores[-1]) for s in live]
  done = _read_landmarks(jobs, view, frame, detector)
  failed = [s for s in live if id(s) not in done]
  if number % DETECT_EVERY and live and not (jump or lost or failed):
    return
  boxes, scores = detector.faces(small, frame[1] / small.shape[1])
  taken = _match_detections([s for s in live if id(s) in done], boxes, scores)
  again, new = [], []
  for i, box in enumerate(boxes):
    if taken[i] or len(live) + len(new) >= MAX_FACES:
      continue
    waiting = [s for s in failed + lost if all(s is not a[0] for a in again)]
    match = _nearest_lost(waiting, box)
    if match is not None:
      again.append((match, box, scores[i]))
    elif scores[i] >= MIN_SCORE:
      new.append((TrackBuilder(), box, scores[i]))
  _read_landmarks(again + new, view, frame, detector, jump)
  grown += [s for s, _, _ in new if s.frames]
  _resolve_merged(grown, number)


def _is_confirmed(strand: TrackBuilder) -> bool:
  return len(strand.doubts) < MAX_UNCONFIRMED


def _predict_box(strand: TrackBuilder) -> Float[np.ndarray, '4']:
  """Where the face should be now: its last step once more, within reason."""
  last = strand.box()
  if len(strand.frames) < 2 or strand.frames[-2] != strand.frames[-1] - 1:
    return last
  reach = 0.2 * (last[2] - last[0])
  return last + np.clip(last - strand.box(2), -reach, reach)


def _match_detections(live: list[TrackBuilder], boxes, scores) -> list[bool]:
  """Match YuNet's boxes with faces already read; count who is missing."""
  taken = [False] * len(boxes)
  for strand in live:
    shared = iou_matrix(strand.box()[None], boxes)[0]
    if shared.size and shared.max() > 0.3:
      best = int(shared.argmax())
      taken[best] = True
      strand.scores[-1] = float(scores[best])
      strand.doubts.clear()
    else:
      strand.doubts.append(strand.frames[-1])
  return taken


def _nearest_lost(waiting: list[TrackBuilder], box) -> TrackBuilder | None:
  """The lost strand that a newly found box continues, if any."""
  if not waiting:
    return None
  last = np.stack([s.box() for s in waiting])
  shared = iou_matrix(box[None], last)[0]
  return waiting[int(shared.argmax())] if shared.max() > 0.3 else None


def _read_landmarks(
  jobs, view, frame, detector: FaceDetector, jump=False
) -> set[int]:
  """Landmarks of every (strand, box, score); the ids of strands that grew.

  After a jump the face in the same place may be another's: look again.
  """
  number, time, _, fetch = view

  def crop(box, margin):
    x0, y0, x1, y1 = _square_region(box, margin, frame)
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
    points = _landmarks_in_box(mesh, box)
    if points is None and part:
      # Those points are a neighbor's: a tighter crop keeps it out.
      part = crop(box, TIGHT_MARGIN)
      points = _landmarks_in_box(read(part), box)
    if points is None:
      continue
    _update_appearance(strand, number, points, part, jump)
    strand.frames.append(number)
    strand.times.append(time)
    strand.boxes.extend(detector_boxes(points[None])[0])
    strand.scores.append(float(score))
    strand.points.frombytes(points.astype(np.float32).tobytes())
    grown.add(id(strand))
  return grown


def _update_appearance(
  strand: TrackBuilder, number: int, points, part, jump: bool
) -> None:
  """Remember how the face looks, and whether it became another's."""
  cut = crop.crop_from_row(crop.face_crops(points[None].astype(np.float64))[0])
  cut = dataclasses.replace(cut, w=1.5 * cut.w, h=1.5 * cut.h)
  seen = identity.appearance(crop.extract_crop(part[0], cut, 96, part[1]))
  if strand.news and number - strand.news[-1][0] <= APPEARANCE_AFTER:
    strand.news[-1][2] = seen
  alike = (
    identity.appearance_similarity(strand.last[0], seen) if strand.last else 1.0
  )
  strand.changes.append(1 - alike)
  if alike < track_builder.CHANGED_BELOW:
    true = track_builder.identity_switches(
      strand
    )  # all else goes: memory is to be flat
    old = [
      x
      for x in strand.news
      if x[0] in true or number - x[0] <= APPEARANCE_AFTER
    ]
    strand.news[:] = [*old, [number, strand.last[0], seen]]
    jump = True
  strand.last[:] = [seen]
  if jump or not strand.looks:
    strand.born[:] = [number]
  pause = (
    APPEARANCE_SOON
    if number - strand.born[0] <= APPEARANCE_EVERY
    else APPEARANCE_EVERY
  )
  if number in strand.born or number - strand.looks[-1][0] >= pause:
    strand.looks.append((number, seen))


def _landmarks_in_box(mesh, box) -> Float[np.ndarray, 'n 2'] | None:
  """The landmarks kept, if they are those of the face in the box."""
  if mesh is None:
    return None
  points = mesh[list(landmarks.LANDMARK_IDS), :2]
  found = detector_boxes(points[None])
  return points if iou_matrix(found, box[None])[0, 0] > 0.35 else None


def _square_region(box, margin: float, frame) -> tuple[int, int, int, int]:
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


def _resolve_merged(grown: list[TrackBuilder], number: int) -> None:
  """Where two strands came to follow one face, the younger ends."""
  now = [s for s in grown if s.frames[-1] == number]
  for i, young in enumerate(now):
    for old in now[:i]:
      both = iou_matrix(young.box()[None], old.box()[None])
      if both[0, 0] > 0.5 and _is_confirmed(old):
        young.doubts.extend([number] * MAX_UNCONFIRMED)
        rows = (young.frames, young.times, young.scores, young.changes)
        for values in rows:
          values.pop()
        del young.boxes[-4:]
        del young.points[-2 * len(landmarks.LANDMARK_IDS) :]
        young.news[:] = [x for x in young.news if x[0] != number]
        break
  grown[:] = [s for s in grown if s.frames]
