"""Identity of faces: tracks of one person, and the choice of a person."""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, UInt8

from lipsync_jax.faces import boxes, crop, tracks
from lipsync_jax.faces.landmarks import FaceError
from lipsync_jax.faces.tracks import Track


@dataclasses.dataclass(frozen=True)
class Person:
  """The tracks of one person in order of time, and their visible area."""

  tracks: tuple[Track, ...]
  area: float  # pixels of the face summed over frames


def appearance(rgb: UInt8[np.ndarray, '96 96 3']) -> Float32[np.ndarray, 'd']:
  """A descriptor of a head, on 1.5 times the crop.

  Histograms of edge directions on an 8 x 8 grid (512 values, unit length) and
  colors of the face on a 6 x 6 grid. See `appearance_similarity`.
  """
  import cv2

  ycc = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(np.float32)
  light = cv2.resize(ycc[..., 0], (32, 32), interpolation=cv2.INTER_AREA)
  gx = cv2.Sobel(light, cv2.CV_32F, 1, 0)
  gy = cv2.Sobel(light, cv2.CV_32F, 0, 1)
  angle = (np.arctan2(gy, gx) % np.pi) / np.pi * 8
  apart = np.abs(angle[..., None] - np.arange(8))  # [32 32 8]
  share = np.maximum(0, 1 - np.minimum(apart, 8 - apart))
  edges = np.hypot(gx, gy)[..., None] * share
  edges = edges.reshape(8, 4, 8, 4, 8).mean((1, 3))  # [8 8 8]
  # 20 levels: cells of flat skin get little weight.
  edges /= np.linalg.norm(edges, axis=-1, keepdims=True) + 20
  edges /= np.linalg.norm(edges) + 1e-6
  grid = cv2.resize(ycc[16:80, 16:80], (6, 6), interpolation=cv2.INTER_AREA)
  color = (grid - [grid[..., 0].mean(), 128, 128]) / [120, 30, 30]
  both = np.concatenate([edges.ravel(), color.ravel()])  # [512+108]
  return both.astype(np.float32)


def head_appearance(
  rgb: UInt8[np.ndarray, 'h w 3'],
  at: tuple[int, int],
  extent: tuple[int, int],
  points: Float[np.ndarray, 'n 2'],
) -> Float32[np.ndarray, 'd']:
  """Appearance of the head with these landmarks.

  Args:
    rgb: the part of the frame around the head, at any scale.
    at: (x, y) of its first pixel in the frame.
    extent: its width and height in the frame.
    points: landmarks, pixels of the frame.
  """
  zoom = np.array([rgb.shape[1], rgb.shape[0]]) / extent
  place = (points[None].astype(np.float64) - at) * zoom
  cut = crop.crop_from_row(crop.face_crops(place)[0])
  cut = dataclasses.replace(cut, w=1.5 * cut.w, h=1.5 * cut.h)
  return appearance(crop.extract_crop(rgb, cut, 96))


def appearance_similarity(
  a: Float32[np.ndarray, 'd'], b: Float32[np.ndarray, 'd']
) -> float:
  """Similarity of two appearances, at most 1.

  Over 230 pictures of some 60 persons, 80 % of the pairs of one person reach
  0.70, and 1 % of the pairs of two persons.
  """
  edges = a[:512] @ b[:512]
  edges /= np.linalg.norm(a[:512]) * np.linalg.norm(b[:512]) + 1e-6
  return float(edges - 3 * ((a[512:] - b[512:]) ** 2).mean())


def edge_likeness(
  a: Float32[np.ndarray, 'd'], b: Float32[np.ndarray, 'd']
) -> float:
  """Similarity of the edges of two appearances, at most 1.

  Light changes colors, but few edges: under each of 21 synthetic lights, 95 %
  of 199 neighboring frames reach 0.83 (spotlight 0.76); 1 % of the pairs of two
  persons reach 0.79.
  """
  size = np.linalg.norm(a[:512]) * np.linalg.norm(b[:512]) + 1e-6
  return float(a[:512] @ b[:512] / size)


def likeness(a: Float32[np.ndarray, 'd'], b: Float32[np.ndarray, 'd']) -> float:
  """Similarity of two tracks' appearances in any light, mirrored or not.

  Edges and the layout of brightness decide where colors differ. They tell
  people apart less well, so they count 0.05 less, and so does a mirrored head.
  Of 35 news anchors, 0.81 of the pairs of one person reach 0.70 in usual light
  and 0.61 to 0.69 in five others, and 0.13 of the pairs of two persons.
  """
  return max(
    appearance_similarity(a, b),
    _unlit_similarity(a, b) - 0.05,
    appearance_similarity(mirrored(a), b) - 0.05,
    _unlit_similarity(mirrored(a), b) - 0.1,
  )


def _unlit_similarity(
  a: Float32[np.ndarray, 'd'], b: Float32[np.ndarray, 'd']
) -> float:
  """Similarity without color and contrast."""
  lumas = [v[512:].reshape(36, 3)[:, 0] for v in (a, b)]
  one, two = (v / (v.std() + 0.02) for v in lumas)
  return edge_likeness(a, b) - 0.2 * float(((one - two) ** 2).mean())


def mirrored(a: Float32[np.ndarray, 'd']) -> Float32[np.ndarray, 'd']:
  """The appearance of the mirrored head."""
  edges = a[:512].reshape(8, 8, 8)[:, ::-1, (8 - np.arange(8)) % 8]
  colors = a[512:].reshape(6, 6, 3)[:, ::-1]
  return np.concatenate([edges.ravel(), colors.ravel()])


def group_people(
  analysis: tracks.Analysis, min_similarity: float = 0.7
) -> list[Person]:
  """Join tracks into persons, the most visible first.

  Two tracks are of one person if they never share a frame and either follow
  each other within two seconds of one shot at one position, or have similar
  appearances in any light, mirrored or not. Limits: relatives may be joined; a
  person seen from the front and from the side may count as two.
  """
  order = sorted(analysis.tracks, key=lambda track: -_total_area(track))
  groups: list[list[tracks.Track]] = []
  for track in order:
    scores = [_same_person_score(analysis, group, track) for group in groups]
    best = int(np.argmax(scores)) if scores else -1
    if best >= 0 and scores[best] >= min_similarity:
      groups[best].append(track)
    else:
      groups.append([track])
  people = [
    Person(
      tuple(sorted(group, key=lambda track: int(track.frames[0]))),
      float(sum(_total_area(track) for track in group)),
    )
    for group in groups
  ]
  return sorted(people, key=lambda person: -person.area)


def _total_area(track: tracks.Track) -> float:
  return float(np.prod(track.boxes[:, 2:] - track.boxes[:, :2], -1).sum())


def _same_person_score(
  analysis: tracks.Analysis, group: list[tracks.Track], track: tracks.Track
) -> float:
  """Score of a track belonging to a group, 0 to 1; 1 for a continuation."""
  best = 0.0
  for other in group:
    if np.intersect1d(other.frames, track.frames).size:
      return 0.0
    first, second = sorted((other, track), key=lambda v: int(v.frames[0]))
    end, start = int(first.frames[-1]), int(second.frames[0])
    same_shot = not ((analysis.cuts > end) & (analysis.cuts <= start)).any()
    # The next frame continues the same track, unless the face became
    # another's.
    near = start > end + 1 and analysis.times[start] - analysis.times[end] < 2
    if same_shot and near:
      place = boxes.iou_matrix(first.boxes[-1:], second.boxes[:1])[0, 0]
      if place > 0.4:
        return 1.0
    best = max(best, likeness(other.appearance, track.appearance))
  return best


def choose_person(people: list[Person], spec: str) -> Person:
  """The person to lip-sync in the whole video.

  Args:
    people: the result of `group_people`.
    spec: 'largest' or 'auto' (over all frames); 'left' or 'right' (by median
      position, of those at least a tenth as visible as the largest); a number
      (0 is the largest); or 'x,y', pixels in the person's first frame.

  Raises:
    FaceError: nobody fits; the message lists all people.
  """
  if not people:
    raise FaceError(
      'found no face in the video; a face must be upright and at least '
      'some 20 pixels wide, or be given with --box top bottom left right'
    )
  spec = str(spec).strip().lower()
  if spec in ('largest', 'auto'):
    return people[0]
  if spec in ('left', 'right'):
    ready = [p for p in people if p.area >= 0.1 * people[0].area]
    pick = min if spec == 'left' else max
    return pick(ready, key=lambda p: _median_center(p)[0])
  if spec.isdecimal() and int(spec) < len(people):
    return people[int(spec)]
  parts = spec.split(',')
  if len(parts) == 2:
    try:
      point = np.array([float(v) for v in parts])
    except ValueError:
      point = np.array([np.nan, np.nan])
    away = [_distance_to_point(p, point) for p in people]
    if np.isfinite(away).all() and min(away) <= 1:
      return people[int(np.argmin(away))]
  raise FaceError(
    f'--person {spec!r} is nobody here; give largest, left, right, a number '
    f'or x,y. In this video: {describe_people(people)}'
  )


def describe_people(people: list[Person], most: int = 8) -> str:
  """All people in one line: number, size, position and frames."""
  words = []
  for i, person in enumerate(people[:most]):
    boxes = np.concatenate([track.boxes for track in person.tracks])
    w, h = np.median(boxes[:, 2:] - boxes[:, :2], 0)
    x, y = _median_center(person)
    words.append(
      f'{i}: {w:.0f}x{h:.0f} px at {x:.0f},{y:.0f} in {len(boxes)} frames'
    )
  more = [f'and {len(people) - most} more'] * (len(people) > most)
  return '; '.join(words + more)


def _median_center(person: Person) -> Float[np.ndarray, '2']:
  boxes = np.concatenate([track.boxes for track in person.tracks])
  return np.median((boxes[:, :2] + boxes[:, 2:]) / 2, 0)


def _distance_to_point(person: Person, point: Float[np.ndarray, '2']) -> float:
  """Distance of a point to the person's first box, in box widths; 0 inside."""
  box = person.tracks[0].boxes[0].astype(np.float64)
  gap = np.maximum(np.maximum(box[:2] - point, point - box[2:]), 0)
  return float(np.hypot(*gap) / max(box[2] - box[0], 1e-6))
