"""Corrections of the lips in the meshes of source and target.

Pressed or rolled-in lips show few rows of pixels. A target with full lips would
stretch these over twice their height and more, and the line between the lips
would become a smear. Such lips stay thin.

Landmarks of an open mouth lie up to half a lip's thickness inside the mouth.
Closing lips would take teeth and dark pixels with them. The true inner edges
are found by color.

Shapes: p mesh points, k = 11 points of the contour of a lip from corner to
corner, t samples from its inner to its outer edge.
"""

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.faces import mesh
from lipsync_jax.media.types import Frame

MAX_STRETCH = 1.45  # of a lip's thickness, relative to the source
# Points between the outer and the inner edge, in the order of the edges.
UPPER_ROWS = (
  (185, 40, 39, 37, 0, 267, 269, 270, 409),
  (184, 74, 73, 72, 11, 302, 303, 304, 408),
  (183, 42, 41, 38, 12, 268, 271, 272, 407),
)
LOWER_ROWS = (
  (146, 91, 181, 84, 17, 314, 405, 321, 375),
  (77, 90, 180, 85, 16, 315, 404, 320, 307),
  (96, 89, 179, 86, 15, 316, 403, 319, 325),
)
# Columns of the contour with their rows; corners have none between the edges.
LIPS = (
  (mesh.UPPER_LIP_IDS, mesh.OUTER_UPPER_IDS, UPPER_ROWS),
  (mesh.LOWER_LIP_IDS, mesh.OUTER_LOWER_IDS, LOWER_ROWS),
)
SAMPLES = 24  # from the inner to the outer edge
LIP_SPAN = (0.5, 0.85)  # of these samples, which show the lip itself
# Brightness relative to the lip: the cavity is darker, teeth are brighter.
DARK = (0.45, 0.65)
BRIGHT = (1.35, 1.6)
# Redness relative to the lip, of teeth; lips below MIN_REDNESS have no color.
PALE = (0.35, 0.6)
MIN_REDNESS = 8.0  # levels
MAX_INSET = 0.75  # of a lip's thickness
MARGIN = 0.012  # canonical units beyond the edge that is found
CLOSING = 0.03  # canonical units of closing with the full inset

Points = Float[np.ndarray, 'p 2']


def limit_stretch(source: Points, target: Points) -> Points:
  """The target mesh with lips at most MAX_STRETCH as thick as the source's.

  The inner edges keep their places; the outer edges move to them. Lips without
  stretch keep their exact values.

  Args:
    source, target: x, y in pixels.
  """
  out = target.copy()
  for contour, _, rows in LIPS:
    inner, outer = list(contour[1:-1]), list(rows[0])
    thick = np.hypot(*(target[outer] - target[inner]).T)
    limit = MAX_STRETCH * np.hypot(*(source[outer] - source[inner]).T)
    if (thick <= limit).all():
      continue
    # One factor for neighbors, so that the outline stays smooth.
    share = np.minimum(limit / np.maximum(thick, 1e-6), 1)
    padded = np.concatenate([share[:1], share, share[-1:]])
    share = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    moved = np.flatnonzero(share < 1)
    for row in rows:
      ids, base = np.array(row)[moved], np.array(inner)[moved]
      away = target[ids] - target[base]
      out[ids] = target[base] + share[moved, None] * away
  return out


def inner_edges(
  frame: Frame, points: Points, depth: int
) -> Float32[np.ndarray, '2 k']:
  """Where the lips begin, from the inner landmarks, 0, to the outer ones, 1.

  Args:
    frame: with the mouth.
    points: its mesh, pixels.
    depth: bits of a sample.

  Returns:
    Of the upper and the lower lip; 0 where landmarks lie on the lip.
  """
  place = np.linspace(0, 1, SAMPLES)[:, None, None]
  out = []
  for inner, outer, _ in LIPS:
    start, end = points[list(inner)], points[list(outer)]
    colors = _read_planes(frame, start + place * (end - start))
    colors = colors / 2 ** (depth - 8)
    apart = _not_lip(colors)
    # As far as no sample before shows the lip.
    edge = np.minimum.accumulate(apart, 0).mean(0)
    near = np.pad(edge, 1, mode='edge')
    out.append(np.maximum(edge, (near[:-2] + 2 * edge + near[2:]) / 4))
  return np.array(out, np.float32)


def _read_planes(
  frame: Frame, places: Float[np.ndarray, 't k 2']
) -> Float32[np.ndarray, '3 t k']:
  """Y, Cb and Cr at places in pixels of the frame."""
  import cv2

  found = []
  for plane, step in zip(frame.planes, (1, 2, 2), strict=True):
    x, y = np.moveaxis((places / step - 0.5).astype(np.float32), -1, 0)
    top, left = max(int(y.min()), 0), max(int(x.min()), 0)
    part = plane[top : int(y.max()) + 3, left : int(x.max()) + 3]
    if not part.size:
      return np.zeros((3, *places.shape[:2]), np.float32)
    read = cv2.remap(
      np.ascontiguousarray(part), x - left, y - top, cv2.INTER_LINEAR,
      borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    found.append(read.astype(np.float32))
  return np.stack(found)


def _not_lip(
  colors: Float32[np.ndarray, '3 t k'],
) -> Float32[np.ndarray, 't k']:
  """0 for the color of the lip, 1 for that of teeth or of the cavity."""
  bright, cb, cr = colors[0] - 16, colors[1] - 128, colors[2] - 128
  red = cr - 0.5 * cb
  first, last = (int(share * SAMPLES) for share in LIP_SPAN)
  usual = max(float(np.median(bright[first:last, 1:-1])), 8.0)
  redness = float(np.median(red[first:last, 1:-1]))
  relative = bright / usual
  dark = 1 - _ramp(relative, DARK)
  teeth = _ramp(relative, BRIGHT)
  if redness > MIN_REDNESS:
    # A shadow or a highlight on the lip is red, cavity and teeth are not.
    pale = 1 - _ramp(red / redness, PALE)
    dark = dark * pale
    teeth = pale * _ramp(relative, (0.8, 1.0))
  return np.maximum(dark, teeth).astype(np.float32)


def _ramp(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
  """0 below the span, 1 above, linear between."""
  return np.clip((values - span[0]) / (span[1] - span[0]), 0, 1)


def without_teeth(
  source: Points,
  target: Points,
  unit: float,
  down: Float[np.ndarray, '2'],
  edges: Float[np.ndarray, '2 k'],
) -> Points:
  """The source mesh with its lips where their color is, as far as they close.

  Args:
    source, target: x, y in pixels.
    unit: pixels of a canonical unit.
    down: direction from the upper to the lower lip.
    edges: of `inner_edges`.
  """
  upper, lower = list(mesh.UPPER_LIP_IDS), list(mesh.LOWER_LIP_IDS)
  gap = (source[lower] - source[upper]) @ down
  closing = gap - (target[lower] - target[upper]) @ down
  share = np.clip(closing / (CLOSING * unit), 0, 1)
  share[[0, -1]] = share[[1, -2]]  # at the corners the lips always meet
  margin = np.clip(0.5 * gap, 0, MARGIN * unit)
  out = source.copy()
  for (inner, outer, rows), edge in zip(LIPS, edges, strict=True):
    inner, outer = np.array(inner), np.array(outer)
    thick = np.hypot(*(source[outer] - source[inner]).T)
    inset = share * np.minimum(edge + margin / np.maximum(thick, 1), MAX_INSET)
    for ids in (inner[1:-1], *(np.array(row) for row in rows[1:])):
      away = source[outer[1:-1]] - source[ids]
      out[ids] += inset[1:-1, None] * away
  for corner in (0, -1):
    inner, outer = mesh.UPPER_LIP_IDS[corner], mesh.OUTER_UPPER_IDS[corner]
    inset = share[corner] * min(edges[:, corner].max(), MAX_INSET)
    out[inner] += inset * (source[outer] - source[inner])
  return out
