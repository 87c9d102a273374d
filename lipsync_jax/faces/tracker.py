"""Detection and tracking of every face of a video in one streamed pass.

The landmarker runs on every frame for every tracked face, on a crop at its
expected position. YuNet runs every few frames, at cuts, and while a face is
lost or none is tracked, beside the landmarker where the need is known before.
Results take under 1 kB a face and frame.
"""

import array
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.common.disk_array import RowFile
from lipsync_jax.faces import (
  identity,
  landmarks,
  light,
  mesh,
  shots,
  track_builder,
)
from lipsync_jax.faces.boxes import detector_boxes, iou_matrix
from lipsync_jax.faces.detector import FaceDetector
from lipsync_jax.faces.track_builder import TrackBuilder
from lipsync_jax.faces.tracks import Analysis, Track

DETECT_EVERY = 5  # frames between two runs of YuNet
MAX_FACES = 6  # faces tracked at once, the largest
MARGIN = 1.8  # side of the landmarker's crop relative to the face's
TIGHT_MARGIN = 1.2  # the same, beside another face
MIN_SCORE = 0.65  # YuNet's score that starts a track
MAX_UNCONFIRMED = 4  # searches without the face after which its track ends
MIN_TRACK_FRAMES = 3  # minimum frames of a track, except in shorter shots
APPEARANCE_EVERY = 25  # frames between two descriptors of a face …
APPEARANCE_SOON = 5  # … and while it is new, when it may be partly hidden
APPEARANCE_AFTER = 4  # frames after which a replaced face must still differ

# (number, seconds, frame of at most 640 pixels a side, function that returns
# the whole-pixel box (x0, y0, x1, y1) of the frame, scaled down if larger than
# the landmarker's input)
Fetch = Callable[[tuple[int, int, int, int]], np.ndarray]
Frame = tuple[int, float, np.ndarray, Fetch]


def track_faces(
  stream: Iterable[Frame], frame: tuple[int, int], detector: FaceDetector
) -> Analysis:
  """Faces, cuts and times of the frames of a stream.

  Args:
    stream: frames in order, numbered from 0. Their `fetch` is called before the
      next frame is read, and only from this thread.
    frame: height and width at full size, pixels.
    detector: an open FaceDetector.
  """
  times = array.array('d')
  series = shots.ShotBuilder()
  builders: list[TrackBuilder] = []
  meshes = RowFile((mesh.NUM_POINTS, 3), np.int16)
  for number, time, small, fetch in stream:
    jump = shots.add_frame(series, small)
    times.append(float(time))
    view = (number, float(time), small, fetch, meshes)
    _advance_frame(builders, view, frame, detector, jump)
  cuts = shots.cuts_of(series)
  cuts = np.setdiff1d(
    cuts, track_builder.changes_of_light(builders, cuts, times)
  )
  switches = [track_builder.identity_switches(builder) for builder in builders]
  cuts = np.union1d(
    cuts, track_builder.simultaneous_changes(builders, switches)
  ).astype(np.int64)
  ends = np.array([0, *cuts, len(times)])
  found = [
    piece
    for builder, own in zip(builders, switches, strict=True)
    for piece in track_builder.build_tracks(
      builder, np.union1d(cuts, own).astype(np.int64)
    )
    if len(piece.frames) >= min(MIN_TRACK_FRAMES, _shot_range(ends, piece))
  ]
  return Analysis(np.array(times), frame, cuts, tuple(found), meshes)


def _shot_range(ends: Int[np.ndarray, 'e'], piece: Track) -> int:
  """Frames of the shot of a track."""
  return int(np.diff(ends)[np.searchsorted(ends, piece.frames[0], 'right') - 1])


def _advance_frame(builders, view, frame, detector, jump: bool) -> None:
  """Process one frame: extend tracks and start new ones."""
  number, time, small, *_ = view
  live = [
    s for s in builders if s.frames[-1] == number - 1 and _is_confirmed(s)
  ]
  lost = [
    s
    for s in builders
    if s.frames[-1] < number - 1
    and time - s.times[-1] < track_builder.LOST_SECONDS
    and _is_confirmed(s)
  ]
  scale = frame[1] / small.shape[1]
  due = not number % DETECT_EVERY or not live or jump or bool(lost)
  even = light.even_light(small, 95)
  search = detector.submit_faces(even, scale) if due else None
  jobs = [] if jump else [(s, _predict_box(s), s.scores[-1]) for s in live]
  done = _read_landmarks(jobs, view, frame, detector)
  failed = [s for s in live if id(s) not in done]
  if not (search or failed):
    return
  boxes, scores = search.result() if search else detector.faces(even, scale)
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
  builders += [s for s, _, _ in new if s.frames]
  _resolve_merged(builders, number)


def _is_confirmed(builder: TrackBuilder) -> bool:
  return len(builder.misses) < MAX_UNCONFIRMED


def _predict_box(builder: TrackBuilder) -> Float[np.ndarray, '4']:
  """The expected box: the last step repeated, within limits."""
  last = builder.box()
  if len(builder.frames) < 2 or builder.frames[-2] != builder.frames[-1] - 1:
    return last
  reach = 0.2 * (last[2] - last[0])
  return last + np.clip(last - builder.box(2), -reach, reach)


def _match_detections(live: list[TrackBuilder], boxes, scores) -> list[bool]:
  """Match YuNet's boxes with tracked faces; count missing ones."""
  taken = [False] * len(boxes)
  for builder in live:
    shared = iou_matrix(builder.box()[None], boxes)[0]
    if shared.size and shared.max() > 0.3:
      best = int(shared.argmax())
      taken[best] = True
      builder.scores[-1] = float(scores[best])
      builder.misses.clear()
    else:
      builder.misses.append(builder.frames[-1])
  return taken


def _nearest_lost(waiting: list[TrackBuilder], box) -> TrackBuilder | None:
  """The lost track that a new box continues, if any."""
  if not waiting:
    return None
  last = np.stack([s.box() for s in waiting])
  shared = iou_matrix(box[None], last)[0]
  return waiting[int(shared.argmax())] if shared.max() > 0.3 else None


def _read_landmarks(
  jobs, view, frame, detector: FaceDetector, jump=False
) -> set[int]:
  """Read landmarks of every (track, box, score); returns extended tracks.

  After a jump the face at the same position may be another: detect again.
  """
  number, time, _, fetch, meshes = view

  def crop(box, margin):
    x0, y0, x1, y1 = _square_region(box, margin, frame)
    if x1 - x0 < 8 or y1 - y0 < 8:
      return None
    # Only this thread reads the decoder's frames: two at once can hang it.
    rgb = np.ascontiguousarray(fetch((x0, y0, x1, y1)))
    return rgb, (x0, y0), (x1 - x0, y1 - y0)

  def read(part):
    return part and detector.landmarks(light.even_light(part[0]), *part[1:])

  parts = [crop(box, MARGIN) for _, box, _ in jobs]
  read_meshes = detector.map(read, parts)
  extended = set()
  for (builder, box, score), part, found in zip(
    jobs, parts, read_meshes, strict=True
  ):
    points = _landmarks_in_box(found, box)
    if points is None and part:
      # These points belong to a neighbor: a smaller crop excludes it.
      part = crop(box, TIGHT_MARGIN)
      found = read(part)
      points = _landmarks_in_box(found, box)
    if points is None:
      continue
    _update_appearance(builder, number, points, part, jump)
    builder.frames.append(number)
    builder.times.append(time)
    place = detector_boxes(points[None])
    builder.boxes.extend(place[0])
    builder.mesh_rows.append(len(meshes))
    # The track stores boxes as float32.
    place = place.astype(np.float32)
    meshes.append(mesh.pack(mesh.in_box(found[None], place)))
    builder.scores.append(float(score))
    builder.points.frombytes(points.astype(np.float32).tobytes())
    extended.add(id(builder))
  return extended


def _update_appearance(
  builder: TrackBuilder, number: int, points, part, jump: bool
) -> None:
  """Record the appearance, and whether the face was replaced."""
  seen = identity.head_appearance(*part, points)
  if builder.switches and number - builder.switches[-1][0] <= APPEARANCE_AFTER:
    builder.switches[-1][2] = seen
  alike = (
    identity.appearance_similarity(builder.last[0], seen)
    if builder.last
    else 1.0
  )
  if builder.last and (jump or alike < track_builder.CHANGED_BELOW):
    there = identity.head_appearance(*part, builder.latest_points())
    hidden = number > builder.frames[-1] + 1
    same = track_builder.same_face(builder, points, seen, there, hidden)
    if same and jump:
      builder.steady.append(number)
    if same:
      edges = identity.edge_likeness(builder.last[0], seen)
      alike = max(alike, edges, track_builder.CHANGED_BELOW)
  builder.changes.append(1 - alike)
  if alike < track_builder.CHANGED_BELOW:
    # Everything else is dropped, for constant memory.
    true = track_builder.identity_switches(builder)
    old = [
      x
      for x in builder.switches
      if x[0] in true or number - x[0] <= APPEARANCE_AFTER
    ]
    builder.switches[:] = [*old, [number, builder.last[0], seen]]
    jump = True
  builder.last[:] = [seen]
  if jump or not builder.appearances:
    builder.born[:] = [number]
  pause = (
    APPEARANCE_SOON
    if number - builder.born[0] <= APPEARANCE_EVERY
    else APPEARANCE_EVERY
  )
  if number in builder.born or number - builder.appearances[-1][0] >= pause:
    builder.appearances.append((number, seen))


def _landmarks_in_box(found, box) -> Float[np.ndarray, 'n 2'] | None:
  """The landmarks, if they belong to the face in the box."""
  if found is None:
    return None
  points = found[list(landmarks.LANDMARK_IDS), :2]
  place = detector_boxes(points[None])
  return points if iou_matrix(place, box[None])[0, 0] > 0.35 else None


def _square_region(box, margin: float, frame) -> tuple[int, int, int, int]:
  """A square of `margin` times the box around it, cut at the frame."""
  h, w = frame
  cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
  half = margin * max(box[2] - box[0], box[3] - box[1]) / 2
  return (
    max(int(cx - half), 0),
    max(int(cy - half), 0),
    min(int(np.ceil(cx + half)), w),
    min(int(np.ceil(cy + half)), h),
  )


def _resolve_merged(builders: list[TrackBuilder], number: int) -> None:
  """End the younger of two tracks that follow one face."""
  now = [s for s in builders if s.frames[-1] == number]
  for i, young in enumerate(now):
    for old in now[:i]:
      both = iou_matrix(young.box()[None], old.box()[None])
      if both[0, 0] > 0.5 and _is_confirmed(old):
        young.misses.extend([number] * MAX_UNCONFIRMED)
        rows = (young.frames, young.times, young.scores, young.changes)
        for values in rows:
          values.pop()
        del young.boxes[-4:]
        del young.points[-2 * len(landmarks.LANDMARK_IDS) :]
        young.switches[:] = [x for x in young.switches if x[0] != number]
        young.steady[:] = [x for x in young.steady if x != number]
        break
  builders[:] = [s for s in builders if s.frames]
