"""Lips that the source shows thinner than the target has them.

Pressed or rolled-in lips show few rows of pixels. A target with full lips would
stretch these over twice their height and more, and the line between the lips
would become a smear. Such lips stay thin.

Shapes: p mesh points.
"""

import numpy as np
from jaxtyping import Float

from lipsync_jax.faces import mesh

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

Points = Float[np.ndarray, 'p 2']


def limit_stretch(source: Points, target: Points) -> Points:
  """The target mesh with lips at most MAX_STRETCH as thick as the source's.

  The inner edges keep their places; the outer edges move to them. Lips without
  stretch keep their exact values.

  Args:
    source, target: x, y in pixels.
  """
  out = target.copy()
  for inner, rows in (
    (mesh.UPPER_LIP_IDS[1:-1], UPPER_ROWS),
    (mesh.LOWER_LIP_IDS[1:-1], LOWER_ROWS),
  ):
    inner, outer = list(inner), list(rows[0])
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
