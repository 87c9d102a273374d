"""Tracks: faces over time, shot cuts, persons and the choice of one.

Alphabet: `f` frames of the video, `t` frames of one track, `n` landmarks,
`k` values a frame. Times are seconds. Everything here is arithmetic on what
`detect` measured; nothing looks at pixels but `signature` and `look`.

`people` joins tracks into persons, `choose` takes one for the whole video;
`paths` then makes of that person what is cut and drawn.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from lipsync_jax import faces
from lipsync_jax.faces import FaceError


@dataclasses.dataclass(frozen=True)
class Track:
  """One face followed within one shot; frames may be missing inside."""

  frames: Int[np.ndarray, 't']  # numbers of the frames, ascending
  boxes: Float32[np.ndarray, 't 4']  # pixels, as a detector would draw them
  scores: Float32[np.ndarray, 't']  # YuNet's latest, 0 to 1
  points: Float32[np.ndarray, 't n 2']  # the landmarks faces.KEPT, pixels
  look: Float32[np.ndarray, 'd']  # appearance


@dataclasses.dataclass(frozen=True)
class Analysis:
  """All that the first pass knows of a video."""

  times: Float[np.ndarray, 'f']  # seconds
  frame: tuple[int, int]  # height, width in pixels
  cuts: Int[np.ndarray, 'c']  # first frame of every shot but the first
  tracks: tuple[Track, ...]


@dataclasses.dataclass(frozen=True)
class Person:
  """The tracks of one person, in time order, and how much is seen of them."""

  tracks: tuple[Track, ...]
  area: float  # pixels of the face summed over frames


def signature(
  rgb: UInt8[np.ndarray, 'h w 3'],
) -> tuple[Float32[np.ndarray, '18 32'], Float32[np.ndarray, '3 64']]:
  """What two frames of one shot share: blurred structure and colours."""
  import cv2

  small = cv2.resize(rgb, (64, 36), interpolation=cv2.INTER_AREA)
  # Blurred over 10 levels: a flat wall a little lighter is the same wall.
  counts = [np.bincount(c.ravel() >> 2, minlength=64) for c in small.T]
  colours = np.array(counts, np.float32) / small[..., 0].size
  colours = cv2.GaussianBlur(
    colours, (0, 0), sigmaX=2.5, sigmaY=1e-3, borderType=cv2.BORDER_REFLECT
  )
  grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
  grey = cv2.resize(grey, (32, 18), interpolation=cv2.INTER_AREA)
  grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
  # Without mean and gain: a fade or a flash of light is no other structure.
  return (grey - grey.mean()) / (grey.std() + 4), colours


def difference(a, b) -> float:
  """How unlike two signatures are, 0 to about 1.

  The geometric mean of structure and colour: a pan changes the first only,
  a change of light the second. In 31 clips neighbours reach 0.041, while
  frames of different clips begin at 0.13 (2 % of them below 0.32).
  """
  energy = np.sqrt((a[0] ** 2).mean() * (b[0] ** 2).mean()) + 1e-3
  structure = max(1 - float((a[0] * b[0]).mean() / energy), 0.0)
  colour = max(1 - float(np.minimum(a[1], b[1]).sum() / 3), 0.0)
  return float(np.sqrt(structure * colour))


def is_jump(step: float) -> bool:
  """Whether a difference to the frame before may be a cut."""
  return step > 0.08


def find_cuts(steps: Float[np.ndarray, 'f 3']) -> Int[np.ndarray, 'c']:
  """First frames of new shots.

  Args:
    steps: difference of frame f to the frames f-1, f-2 and f-3; 0 where
      there is no such frame.

  A cut is a large step, or a middling one that stands alone. It is no cut
  when the picture is back after one or two frames: that was a flash.
  """
  one, two, three = steps.T
  padded = np.pad(one, 2)
  around = np.max([padded[:-4], padded[1:-3], padded[3:-1], padded[4:]], 0)
  jump = (one > 0.15) | ((one > 0.08) & (one > 3 * around))
  cuts = []
  for f in np.flatnonzero(jump):
    # Back where it was: seen on the way into a flash, and on the way out.
    same = [*two[f + 1 : f + 2], *three[f + 2 : f + 3]]
    same += [two[f]] if f >= 2 else []
    same += [three[f]] if f >= 3 else []
    if min(same, default=1.0) >= min(0.06, one[f] / 3):
      cuts.append(f)
  return np.array(cuts, np.int64)


def look(rgb: UInt8[np.ndarray, '96 96 3']) -> Float32[np.ndarray, 'd']:
  """A light description of a head, cut at 1.5 times the crop.

  Directions of edges on an 8 x 8 grid (512 values, unit length) and colours
  of the face on a 6 x 6 grid. See `likeness`.
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
  # 20 levels: a cell of flat skin must not shout.
  edges /= np.linalg.norm(edges, axis=-1, keepdims=True) + 20
  edges /= np.linalg.norm(edges) + 1e-6
  grid = cv2.resize(ycc[16:80, 16:80], (6, 6), interpolation=cv2.INTER_AREA)
  colour = (grid - [grid[..., 0].mean(), 128, 128]) / [120, 30, 30]
  both = np.concatenate([edges.ravel(), colour.ravel()])  # [512+108]
  return both.astype(np.float32)


def likeness(a: Float32[np.ndarray, 'd'], b: Float32[np.ndarray, 'd']) -> float:
  """How alike two looks are, at most 1.

  Over 230 single pictures of some 60 persons, 80 % of the pairs of one
  person reach 0.70, and 1 % of the pairs of two persons.
  """
  edges = a[:512] @ b[:512]
  edges /= np.linalg.norm(a[:512]) * np.linalg.norm(b[:512]) + 1e-6
  return float(edges - 3 * ((a[512:] - b[512:]) ** 2).mean())


def split(track: Track, cuts: Int[np.ndarray, 'c']) -> list[Track]:
  """A track cut where the shot changes; the pieces share its memory."""
  edges = np.unique(np.searchsorted(track.frames, cuts)).tolist()
  ends = itertools.pairwise([0, *edges, len(track.frames)])
  return [
    dataclasses.replace(
      track,
      frames=track.frames[first:end],
      boxes=track.boxes[first:end],
      scores=track.scores[first:end],
      points=track.points[first:end],
    )
    for first, end in ends
    if end > first
  ]


def prefix(analysis: Analysis, until: float) -> Analysis:
  """The analysis of the frames up to `until` seconds, at least the first."""
  count = max(int(np.searchsorted(analysis.times, until, side='right')), 1)
  if count >= len(analysis.times):
    return analysis
  pieces = [
    piece
    for track in analysis.tracks
    for piece in split(track, np.array([count]))
  ]
  return dataclasses.replace(
    analysis,
    times=analysis.times[:count],
    cuts=analysis.cuts[analysis.cuts < count],
    tracks=tuple(p for p in pieces if p.frames[0] < count),
  )


def people(analysis: Analysis, alike: float = 0.7) -> list[Person]:
  """Join tracks into persons, most visible first.

  Two tracks are one person when they never share a frame and either follow
  each other within two seconds of one shot at one place, or look alike.
  Limits: relatives in like light may be joined, and a person seen from the
  front and then from the side may count as two.
  """
  order = sorted(analysis.tracks, key=lambda track: -_area(track))
  groups: list[list[Track]] = []
  for track in order:
    scores = [_kinship(analysis, group, track) for group in groups]
    best = int(np.argmax(scores)) if scores else -1
    if best >= 0 and scores[best] >= alike:
      groups[best].append(track)
    else:
      groups.append([track])
  found = [
    Person(
      tuple(sorted(group, key=lambda track: int(track.frames[0]))),
      float(sum(_area(track) for track in group)),
    )
    for group in groups
  ]
  return sorted(found, key=lambda person: -person.area)


def _area(track: Track) -> float:
  return float(np.prod(track.boxes[:, 2:] - track.boxes[:, :2], -1).sum())


def _kinship(analysis: Analysis, group: list[Track], track: Track) -> float:
  """How surely a track belongs to a group: 0 to 1, 1 for a continuation."""
  best = 0.0
  for other in group:
    if np.intersect1d(other.frames, track.frames).size:
      return 0.0
    first, second = sorted((other, track), key=lambda v: int(v.frames[0]))
    end, start = int(first.frames[-1]), int(second.frames[0])
    same_shot = not ((analysis.cuts > end) & (analysis.cuts <= start)).any()
    # The very next frame goes on in the same track, unless the face became
    # another's.
    near = start > end + 1 and analysis.times[start] - analysis.times[end] < 2
    if same_shot and near:
      place = faces.overlaps(first.boxes[-1:], second.boxes[:1])[0, 0]
      if place > 0.4:
        return 1.0
    best = max(best, likeness(other.look, track.look))
  return best


def choose(found: list[Person], spec: str) -> Person:
  """The one person to dub, for the whole video.

  Args:
    found: the result of `people`.
    spec: 'largest' (over all its frames); 'left' or 'right' (by median place,
      among those at least a tenth as visible as the largest); a number
      (0 is the largest); or 'x,y', pixels in the first frame that shows them.

  Raises:
    FaceError: nobody fits; the message lists who is there.
  """
  if not found:
    raise FaceError(
      'found no face in the video; a face must be upright and at least '
      'some 20 pixels wide, or be given with --box top bottom left right'
    )
  spec = str(spec).strip().lower()
  if spec == 'largest':
    return found[0]
  if spec in ('left', 'right'):
    ready = [p for p in found if p.area >= 0.1 * found[0].area]
    pick = min if spec == 'left' else max
    return pick(ready, key=lambda p: _place(p)[0])
  if spec.isdecimal() and int(spec) < len(found):
    return found[int(spec)]
  parts = spec.split(',')
  if len(parts) == 2:
    try:
      point = np.array([float(v) for v in parts])
    except ValueError:
      point = np.array([np.nan, np.nan])
    away = [_distance(p, point) for p in found]
    if np.isfinite(away).all() and min(away) <= 1:
      return found[int(np.argmin(away))]
  raise FaceError(
    f'--person {spec!r} is nobody here; give largest, left, right, a number '
    f'or x,y. In this video: {describe(found)}'
  )


def describe(found: list[Person], most: int = 8) -> str:
  """Who is there, in one line: number, size, place and frames."""
  words = []
  for i, person in enumerate(found[:most]):
    boxes = np.concatenate([track.boxes for track in person.tracks])
    w, h = np.median(boxes[:, 2:] - boxes[:, :2], 0)
    x, y = _place(person)
    words.append(
      f'{i}: {w:.0f}x{h:.0f} px at {x:.0f},{y:.0f} in {len(boxes)} frames'
    )
  more = [f'and {len(found) - most} more'] * (len(found) > most)
  return '; '.join(words + more)


def _place(person: Person) -> Float[np.ndarray, '2']:
  boxes = np.concatenate([track.boxes for track in person.tracks])
  return np.median((boxes[:, :2] + boxes[:, 2:]) / 2, 0)


def _distance(person: Person, point: Float[np.ndarray, '2']) -> float:
  """From a point to the person's first box, in box widths; 0 inside."""
  box = person.tracks[0].boxes[0].astype(np.float64)
  gap = np.maximum(np.maximum(box[:2] - point, point - box[2:]), 0)
  return float(np.hypot(*gap) / max(box[2] - box[0], 1e-6))
