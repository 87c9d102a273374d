"""The inside of the mouth: what the warp cannot move, since no triangle has it.

A video fills the hole between the inner lips from its own frames: references
are frames with different openings; dynamic programming chooses one for every
output frame, and two frames are mixed around a change. A photo, or a mouth that
never opens, gets a drawn interior (`drawn_mouth`).

Shapes: n frames, k references, h w rows and columns of the mouth's region.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from lipsync_jax.faces import mesh
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame

NUM_REFERENCES = 12
MIN_OPENING = 0.045  # canonical units, of the widest reference of a video
SHADOW_OPENING = 0.06  # canonical units; narrower mouths are darker
FADE_SECONDS = 0.1  # of the mixture around a change of reference
CHANGE_COST = 0.03  # canonical units, of another reference in the next frame
NARROW_COST = 2.0  # of a reference that is less open than the target
MAX_STRETCH = 1.3  # of a reference's height
MISSING_EDGE = 0.25  # of its height, over which its lower edge fades
INNER_LIPS = (*mesh.UPPER_LIP_IDS, *mesh.LOWER_LIP_IDS[-2:0:-1])  # a polygon
NOSE_IDS = (168, 2)  # ends of its bridge, for the scale

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Reference:
  """A source frame's mouth."""

  planes: tuple[np.ndarray, ...]  # of the mouth's region
  box: Box  # of the region in the frame, even
  points: Float[np.ndarray, 'p 2']  # of the frame, pixels
  skin: Float[np.ndarray, '3']  # mean Y, U, V of the lips' surroundings


def lip_shapes(shapes: Float[np.ndarray, 'n p 3']) -> Float[np.ndarray, 'n m']:
  """The inner lips of canonical shapes, x and y relative to their center."""
  lips = shapes[:, INNER_LIPS, :2]
  return (lips - lips.mean(1, keepdims=True)).reshape(len(lips), -1)


def choose_references(
  shapes: Float[np.ndarray, 'n p 3'], usable: Bool[np.ndarray, 'n']
) -> Int[np.ndarray, 'k']:
  """Frames whose mouths cover the openings and widths of the video.

  The most open mouth comes first; each further one is the farthest from all
  chosen ones.

  Returns:
    Frame numbers, empty if no mouth opens to MIN_OPENING.
  """
  opening = mesh.lip_opening(shapes)
  frames = np.flatnonzero(usable & (opening > MIN_OPENING / 3))
  if not frames.size or opening[frames].max() < MIN_OPENING:
    return np.zeros(0, np.int64)
  lips = lip_shapes(shapes[frames])
  # The widest opening may be a failure of the landmarks: take the 98 % one.
  rank = np.argsort(opening[frames])
  chosen = [int(rank[min(int(0.98 * len(rank)), len(rank) - 1)])]
  distance = np.abs(lips - lips[chosen[0]]).mean(1)
  distance[opening[frames] > opening[frames][chosen[0]]] = 0
  while len(chosen) < min(NUM_REFERENCES, len(frames)) and distance.max() > 0:
    chosen.append(int(distance.argmax()))
    far = np.abs(lips - lips[chosen[-1]]).mean(1)
    distance = np.minimum(distance, far)
  return np.sort(frames[chosen])


def schedule_references(
  targets: Float[np.ndarray, 'n m'],
  openings: Float[np.ndarray, 'n'],
  references: Float[np.ndarray, 'k m'],
  reference_openings: Float[np.ndarray, 'k'],
) -> Int[np.ndarray, 'n']:
  """The reference of each output frame, by dynamic programming.

  The cost is the difference of the inner lips, more for a narrow reference, and
  CHANGE_COST for each change.

  Args:
    targets: lip shapes of the output frames.
    openings: lip openings of the output frames.
    references, reference_openings: the same of the references.
  """
  cost = np.empty((len(targets), len(references)), np.float32)
  for k, lips in enumerate(references):
    cost[:, k] = np.abs(targets - lips).mean(1)
  narrow = openings[:, None] - reference_openings
  cost += NARROW_COST * np.maximum(narrow, 0).astype(np.float32)
  total, back = cost[0].copy(), np.empty(cost.shape, np.int16)
  for n in range(1, len(cost)):
    best = int(total.argmin())
    stay = total <= total[best] + CHANGE_COST
    back[n] = np.where(stay, np.arange(len(references)), best)
    total = np.minimum(total, total[best] + CHANGE_COST) + cost[n]
  path = np.empty(len(cost), np.int64)
  path[-1] = int(total.argmin())
  for n in range(len(cost) - 1, 0, -1):
    path[n - 1] = back[n, path[n]]
  return path


def fade_schedule(
  schedule: Int[np.ndarray, 'n'], rate: float
) -> tuple[Int[np.ndarray, 'n'], Float32[np.ndarray, 'n']]:
  """The second reference of each frame, and its share, at most 0.5.

  Around a change the share of the other reference rises and falls linearly, in
  at least one frame on either side.

  Args:
    schedule: of `schedule_references`.
    rate: frames a second.
  """
  other, share = schedule.copy(), np.zeros(len(schedule), np.float32)
  changes = np.flatnonzero(np.diff(schedule)) + 1
  edges = [0, *changes.tolist(), len(schedule)]
  reach = max(FADE_SECONDS * rate / 2, 1.0)
  for before, at, after in zip(edges, edges[1:], edges[2:], strict=False):
    # Half of a short run belongs to its own fade.
    first = max(at - int(np.ceil(reach)), (before + at) // 2)
    last = min(at + int(np.ceil(reach)), (at + after + 1) // 2)
    for n in range(first, last):
      apart = abs(n + 0.5 - at)
      value = 0.5 * (1 - apart / (reach + 0.5))
      if value > share[n]:
        other[n] = schedule[at] if n < at else schedule[at - 1]
        share[n] = value
  return other, share


def mouth_box(
  points: Float[np.ndarray, 'p 2'], frame: tuple[int, int], margin: float = 0.35
) -> Box:
  """The even box of the inner lips with a margin of their width."""
  lips = points[list(INNER_LIPS)]
  room = margin * np.ptp(lips[:, 0]) + 4
  low = np.floor((lips.min(0) - room) / 2).astype(int) * 2
  high = np.ceil((lips.max(0) + room) / 2).astype(int) * 2
  h, w = frame[0] // 2 * 2, frame[1] // 2 * 2
  x0, y0 = np.clip(low, 0, [w - 2, h - 2])
  x1, y1 = np.clip(high, [x0 + 2, y0 + 2], [w, h])
  return int(x0), int(y0), int(x1), int(y1)


def read_reference(frame: Frame, points: Float[np.ndarray, 'p 2']) -> Reference:
  """The mouth of a source frame."""
  h, w = frame.planes[0].shape
  box = mouth_box(points, (h, w))
  planes = tuple(
    plane[box[1] // s : box[3] // s, box[0] // s : box[2] // s].copy()
    for plane, s in zip(frame.planes, (1, 2, 2), strict=True)
  )
  skin = surrounding_skin(frame, points)
  return Reference(planes, box, points, skin)


def surrounding_skin(
  frame: Frame, points: Float[np.ndarray, 'p 2']
) -> Float[np.ndarray, '3']:
  """Mean Y, U, V of the skin around the lips, in code values."""
  h, w = frame.planes[0].shape
  x0, y0, x1, y1 = mouth_box(points, (h, w))
  means = []
  for plane, step in zip(frame.planes, (1, 2, 2), strict=True):
    ring = plane[y0 // step : y1 // step, x0 // step : x1 // step]
    third = max(len(ring) // 6, 1)
    means.append(float(np.concatenate([ring[:third], ring[-third:]]).mean()))
  return np.array(means)


def hole_mask(
  points: Float[np.ndarray, 'p 2'], box: Box
) -> Float32[np.ndarray, 'h w']:
  """Opacity of the interior: 1 inside the inner lips, soft at their edge."""
  import cv2

  polygon = points[list(INNER_LIPS)] - box[:2] - 0.5
  area = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
  fixed = np.rint(polygon * 16).astype(np.int32)
  cv2.fillPoly(area, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
  cover = area.astype(np.float32) / 255
  width = np.ptp(polygon[:, 0])
  soft = cv2.GaussianBlur(cover, (0, 0), max(0.6, 0.012 * width))
  return cover * np.minimum(1, 1.3 * soft)


def interior_shift(
  target: Float[np.ndarray, 'p 2'],
  source: Float[np.ndarray, 'p 2'],
  box: Box,
  excess: float = 1.0,
) -> tuple[Float32[np.ndarray, 'h w 2'], Float32[np.ndarray, 'h w']]:
  """Shift from the pixels of a box to the mouth of a reference.

  Along x the lips' corners correspond; between the lips the position is linear.

  Args:
    target, source: meshes of the frame and of the reference, pixels.
    box: region of the frame.
    excess: of `excess_stretch`.

  Returns:
    The shift, and the depth in the reference: 0 at its upper lip, 1 at its
    lower one.
  """
  tu, tl = (
    target[list(ids)] for ids in (mesh.UPPER_LIP_IDS, mesh.LOWER_LIP_IDS)
  )
  su, sl = (
    source[list(ids)] for ids in (mesh.UPPER_LIP_IDS, mesh.LOWER_LIP_IDS)
  )
  origin, axis = tu[0], tu[-1] - tu[0]
  length = max(float(np.hypot(*axis)), 1e-3)
  axis = axis / length
  normal = np.array([-axis[1], axis[0]])
  x = np.arange(box[0], box[2]) + 0.5
  y = np.arange(box[1], box[3]) + 0.5
  dx, dy = np.meshgrid(x - origin[0], y - origin[1])
  along = (dx * axis[0] + dy * axis[1]).ravel()
  across = (dx * normal[0] + dy * normal[1]).ravel()
  # Lips as functions of the position along the mouth.
  knots_u, knots_l = (tu - origin) @ axis, (tl - origin) @ axis
  order_u, order_l = np.argsort(knots_u), np.argsort(knots_l)

  def at(values, knots, order):
    return np.interp(along, knots[order], values[order])

  top = at((tu - origin) @ normal, knots_u, order_u)
  bottom = at((tl - origin) @ normal, knots_l, order_l)
  depth = excess * (across - top) / np.maximum(bottom - top, 1e-3)
  share = np.clip(depth, -0.2, 1.2)
  out = []
  for axis_index in (0, 1):
    upper = at(su[:, axis_index], knots_u, order_u)
    lower = at(sl[:, axis_index], knots_l, order_l)
    out.append(upper + share * (lower - upper))
  shape = dx.shape
  shift = np.stack(
    [
      out[0].reshape(shape) - x[None, :],
      out[1].reshape(shape) - y[:, None],
    ],
    -1,
  )
  return shift.astype(np.float32), depth.reshape(shape).astype(np.float32)


def excess_stretch(
  target: Float[np.ndarray, 'p 2'], source: Float[np.ndarray, 'p 2']
) -> float:
  """How much more than MAX_STRETCH a mouth opens, relative to a reference.

  Args:
    target, source: meshes of the frame and of the reference, pixels.

  Returns:
    At least 1.
  """
  gaps = [
    _distance(
      points[list(mesh.LOWER_LIP_IDS)].mean(0),
      points[list(mesh.UPPER_LIP_IDS)].mean(0),
    )
    / max(_distance(*points[list(NOSE_IDS)]), 1e-6)
    for points in (target, source)
  ]
  return max(1.0, gaps[0] / max(gaps[1], 1e-6) / MAX_STRETCH)


def _distance(a: Float[np.ndarray, '2'], b: Float[np.ndarray, '2']) -> float:
  return float(np.hypot(*(b - a)))


def missing_share(
  depth: Float32[np.ndarray, 'h w'], excess: float
) -> Float32[np.ndarray, 'h w']:
  """Share of a mouth that a stretched reference does not reach.

  Args:
    depth: of `interior_shift`.
    excess: of `excess_stretch`.
  """
  edge = np.float32(max(min(MISSING_EDGE, excess - 1), 1e-3))
  return np.clip((depth - (1 - edge)) / edge, 0, 1)


def shadow(opening: float) -> float:
  """Luma of the interior relative to that of an open mouth.

  Lips that are nearly closed shade the teeth between them.

  Args:
    opening: gap in the middle of the lips, canonical units.
  """
  return float(np.clip(0.3 + 0.7 * opening / SHADOW_OPENING, 0.3, 1))


def reference_planes(
  reference: Reference,
  shift: Float32[np.ndarray, 'h w 2'],
  box: Box,
  shade: float = 1.0,
) -> tuple[Float32[np.ndarray, '_ _'], ...]:
  """The interior from a reference in its own light, on the planes of a box.

  Args:
    reference: of `read_reference`.
    shift: of `interior_shift`.
    box: region of the frame.
    shade: factor of luma and color, see `shadow`.
  """
  import cv2

  out = []
  for plane, step in zip(reference.planes, (1, 2, 2), strict=True):
    part = shift if step == 1 else yuv.halve_plane(shift) / 2
    h, w = part.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    new = cv2.remap(
      plane,
      x + part[..., 0] + np.float32((box[0] - reference.box[0]) / step),
      y + part[..., 1] + np.float32((box[1] - reference.box[1]) / step),
      cv2.INTER_CUBIC,
      borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)
    if step == 1:
      out.append(new * shade)
    else:
      gray = np.float32(127.5 if plane.dtype == np.uint8 else 511.5)
      out.append((new - gray) * np.float32(np.sqrt(shade)) + gray)
  return tuple(out)
