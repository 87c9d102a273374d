"""The changed regions of a frame whose mouth gets other lips.

One region is the warp with the line between the lips, the other the inside of
the mouth. The mesh renderer, the live stream and the pairs of the refiner all
use them.

Shapes: p mesh points.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.rendering import (
  drawn_mouth,
  lip_edges,
  lip_seam,
  mesh_warp,
  mouth_interior,
  mouth_light,
)
from lipsync_jax.rendering.mouth_interior import Box, Reference

FADE_GAP = 0.03  # canonical units; the interior of narrower lips fades
SKIN_IDS = (50, 205, 187, 280, 425, 411, 199)  # cheeks and chin

Planes = tuple[Float32[np.ndarray, '_ _'], ...]


@dataclasses.dataclass(frozen=True)
class Patch:
  """New planes of a region of a frame; a fourth plane is their opacity."""

  box: Box
  planes: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Mouth:
  """A mouth that gets other lips.

  Attributes:
    video: color encoding.
    frame: with the mouth.
    source, target: its mesh, and that of the new lips; pixels.
    unit: pixels of a canonical unit.
  """

  video: Video
  frame: Frame
  source: Float[np.ndarray, 'p 2']
  target: Float[np.ndarray, 'p 2']
  unit: float

  @functools.cached_property
  def surroundings(self) -> Float[np.ndarray, '3']:
    """Mean Y, U, V of the skin around the new lips, in code values."""
    return mouth_interior.surrounding_skin(self.frame, self.target)


def fit_target(
  source: Float[np.ndarray, 'p 2'],
  target: Float[np.ndarray, 'p 2'],
  drawn: bool,
) -> Float[np.ndarray, 'p 2']:
  """The target mesh as these lips can reach it.

  Args:
    source, target: x, y in pixels.
    drawn: whether the inside of the mouth is drawn.
  """
  if drawn:
    target = drawn_mouth.taper_corners(target, source)
  return lip_edges.limit_stretch(source, target)


def warped_patch(mouth: Mouth) -> Patch | None:
  """The pixels of the source, moved; None if no point moves."""
  source, target = mouth.source, mouth.target
  frame, color = mouth.frame, mouth.video.color
  edges = None
  if np.abs(target - source).max() > mesh_warp.MIN_MOTION:
    edges = lip_edges.inner_edges(frame, source, color.depth)
  size = frame.planes[0].shape
  field = mesh_warp.warp_field(source, target, size, edges)
  if field is None:
    return None
  planes = mesh_warp.warp_frame(frame, field)
  lip_seam.shade_line(planes, field.box, source, target, mouth.unit, color)
  return Patch(field.box, planes)


def interior_patch(
  mouth: Mouth, mixture: Sequence[tuple[Reference, float]]
) -> Patch | None:
  """The inside of the mouth with its opacity; None for closed lips.

  Args:
    mouth: with open lips.
    mixture: references and their shares, of sum 1; () draws the inside.
  """
  target, frame = mouth.target, mouth.frame
  box = mouth_interior.mouth_box(target, frame.planes[0].shape, 0.05)
  opacity = mouth_interior.hole_mask(target, box)
  if not opacity.any():
    return None
  if mixture:
    parts = [(lent_planes(mouth, lent, box), part) for lent, part in mixture]
    planes = tuple(
      sum(share * part[k] for part, share in parts) for k in range(3)
    )
  else:
    planes = _drawn_planes(mouth, box)
  # Closed lips touch: the interior fades with the gap.
  opacity = opacity * opening_share(target, mouth.unit)
  return Patch(box, (*planes, opacity))


def lent_planes(mouth: Mouth, reference: Reference, box: Box) -> Planes:
  """The inside of a reference, in the light of the frame.

  Teeth do not grow: a mouth that opens much wider than the reference shows its
  inside under the upper lip and a drawn cavity below.
  """
  target = mouth.target
  gap = float(np.hypot(*(target[14] - target[13]))) / mouth.unit
  excess = mouth_interior.excess_stretch(target, reference.points)
  shift, depth = mouth_interior.interior_shift(
    target, reference.points, box, excess
  )
  shade = mouth_interior.shadow(gap)
  planes = mouth_interior.reference_planes(reference, shift, box, shade)
  planes = mouth_light.relight(
    planes, reference.skin, mouth.surroundings, mouth.video.color
  )
  if excess == 1:
    return planes
  missing = mouth_interior.missing_share(depth, excess)
  return _mix(planes, _drawn_planes(mouth, box, teeth=False), missing)


def toward_source(mouth: Mouth, inside: Patch, share: float) -> Patch:
  """The inside of a mouth on the way from the source's to the new one.

  The lips of both are the same: the warp has moved them. Only what lies between
  them is mixed.

  Args:
    mouth: with the lips on the way.
    inside: of `interior_patch`.
    share: of the new inside; closed lips of the source have no other.
  """
  own = mouth_interior.read_reference(mouth.frame, mouth.source)
  shift, _ = mouth_interior.interior_shift(
    mouth.target, mouth.source, inside.box
  )
  old = mouth_interior.reference_planes(own, shift, inside.box)
  rest = np.float32(1 - share) * opening_share(mouth.source, mouth.unit)
  return Patch(
    inside.box, (*_mix(inside.planes[:3], old, rest), inside.planes[3])
  )


def opening_share(
  points: Float[np.ndarray, 'p 2'], unit: float
) -> Float32[np.ndarray, '']:
  """0 for lips that touch, 1 for a gap of FADE_GAP or more.

  Args:
    points: mesh, pixels.
    unit: pixels of a canonical unit.
  """
  gap = float(np.hypot(*(points[14] - points[13]))) / unit
  return np.asarray(np.clip(gap / FADE_GAP, 0, 1), np.float32)


def _drawn_planes(mouth: Mouth, box: Box, teeth: bool = True) -> Planes:
  """A drawn inside in the colors of the person."""
  skin = skin_color(mouth.video, mouth.frame, mouth.target)
  return drawn_mouth.draw_mouth(
    mouth.video, mouth.target, box, mouth.unit, skin, teeth
  )


def _mix(first: Planes, second: Planes, share) -> Planes:
  """Planes with a share of others: a number, or one of each pixel."""
  whole = np.asarray(share, np.float32)
  half = yuv.halve_plane(whole) if whole.ndim else whole
  shares = (whole, half, half)
  return tuple(
    a + s * (b - a) for a, b, s in zip(first, second, shares, strict=True)
  )


def skin_color(
  video: Video, frame: Frame, points: Float[np.ndarray, 'p 2']
) -> Float[np.ndarray, '3']:
  """Median RGB of the cheeks and the chin."""
  places = np.floor(points[list(SKIN_IDS)]).astype(int)
  colors = [
    yuv.to_rgb(video, frame, (x - 1, y - 1, x + 2, y + 2)).reshape(-1, 3)
    for x, y in places.tolist()
  ]
  colors = np.concatenate(colors)
  return np.median(colors, axis=0) if len(colors) else np.full(3, 128.0)


def blend(planes: list, patch: Patch, limit: int) -> None:
  """Blend a patch into planes, in place.

  Args:
    planes: of a frame.
    patch: with or without opacity.
    limit: largest code value.
  """
  x0, y0, x1, y1 = patch.box
  mask = patch.planes[3] if len(patch.planes) > 3 else None
  for plane, new, step in zip(planes, patch.planes, (1, 2, 2), strict=False):
    where = np.s_[y0 // step : y1 // step, x0 // step : x1 // step]
    if mask is None:
      plane[where] = new
      continue
    share = mask if step == 1 else yuv.halve_plane(mask)
    old = plane[where].astype(np.float32)
    mixed = np.rint(old + share * (new.astype(np.float32) - old))
    plane[where] = np.clip(mixed, 0, limit)
