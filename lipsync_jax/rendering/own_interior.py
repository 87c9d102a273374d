"""The interior of a mouth on the way from the source's to the new one.

The lips of both are the same: the warp has moved them. Only what lies between
them is mixed.

Shapes: p mesh points.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import mouth_interior

FADE_GAP = 0.03  # canonical units; the interior of narrower lips fades


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


@dataclasses.dataclass(frozen=True)
class OwnInterior:
  """The interior of a source frame, between other lips.

  Attributes:
    frame: the source frame.
    source, target: its mesh, and the mesh of the other lips, pixels.
    unit: pixels of a canonical unit.
    share: of the new interior; closed lips have no other.
  """

  frame: Frame
  source: Float[np.ndarray, 'p 2']
  target: Float[np.ndarray, 'p 2']
  unit: float
  share: float

  def planes(
    self,
    new: tuple[Float32[np.ndarray, '_ _'], ...],
    box: tuple[int, int, int, int],
  ) -> tuple[Float32[np.ndarray, '_ _'], ...]:
    """A new interior mixed with this one; its fourth plane, opacity, stays.

    Args:
      new: planes of the new interior.
      box: region of the frame.
    """
    own = mouth_interior.read_reference(self.frame, self.source)
    shift = mouth_interior.interior_shift(self.target, self.source, box)
    old = mouth_interior.reference_planes(own, shift, box)
    rest = np.float32(1 - self.share) * opening_share(self.source, self.unit)
    mixed = (a + rest * (b - a) for a, b in zip(new, old, strict=False))
    return (*mixed, *new[3:])
