"""A drawn interior of the mouth, for photos and mouths that never open.

Upper teeth hang from the upper lip in front of a dark cavity; a wide opening
shows the tongue. Light falls off towards the corners and under the upper lip.

Shapes: p mesh points, h w rows and columns of the mouth's region.
"""

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.faces import mesh
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Video
from lipsync_jax.rendering import mouth_light

# Relative to the brightness of the skin.
CAVITY = np.array([0.26, 0.11, 0.095])
TONGUE = np.array([0.72, 0.38, 0.35])
TEETH = np.array([1.26, 1.17, 1.18])
TINT = 0.5  # of the skin's color in cavity and tongue
SKIN_COLOR = (0.03, 0.12)  # saturation: gray pictures below, usual skin above
TEETH_TINT = 0.7  # of the skin's color in the teeth
TEETH_HEIGHT = 0.07  # canonical units, at most
TEETH_SHARE = 0.78  # of the opening, at most
TEETH_OPENING = (0.025, 0.07)  # canonical units; teeth appear between these
TONGUE_OPENING = (0.025, 0.08)  # the same for the tongue
# Right edges of the teeth from the middle, canonical units: incisors, canine.
TOOTH_EDGES = (0.0, 0.088, 0.155, 0.215, 0.27)
GAP_WIDTH = 0.006  # canonical units, deviation of the shade between teeth
SCALLOP = 0.16  # of the teeth's height, by which their corners are shorter
CORNER_POWER = 1.3  # of a parabola; above 1 lips part gradually at the corners


def taper_corners(
  target: Float[np.ndarray, 'p 2'], source: Float[np.ndarray, 'p 2']
) -> Float[np.ndarray, 'p 2']:
  """The target mesh with lips that open less towards the corners.

  Lips that were never apart stick together there; landmarks of open mouths
  separate up to the corners.

  Args:
    target, source: x, y in pixels.
  """
  upper, lower = list(mesh.UPPER_LIP_IDS), list(mesh.LOWER_LIP_IDS)
  gap = target[lower] - target[upper]
  opened = gap - (source[lower] - source[upper])
  size = np.hypot(*opened.T)
  # The profile of an open mouth from corner to corner.
  middle = (target[lower] + target[upper]) / 2
  apart = np.hypot(*(middle - middle[5]).T)
  ends = np.where(np.arange(11) < 5, apart[0], apart[-1])
  lens = np.clip(1 - (apart / np.maximum(ends, 1e-6)) ** 2, 0, 1)
  lens = lens**CORNER_POWER
  share = np.minimum(lens * size[5] / np.maximum(size, 1e-9), 1)
  excess = (1 - share)[:, None] * opened / 2
  excess[np.hypot(*gap.T) < np.hypot(*(source[lower] - source[upper]).T)] = 0
  out = target.copy()
  out[upper] += excess
  out[lower] -= excess
  return out


def draw_mouth(
  video: Video,
  points: Float[np.ndarray, 'p 2'],
  box: tuple[int, int, int, int],
  unit: float,
  skin: Float[np.ndarray, '3'],
  with_teeth: bool = True,
) -> tuple[Float32[np.ndarray, '_ _'], ...]:
  """Cavity, tongue and upper teeth, on the planes of a box.

  Args:
    video: color encoding.
    points: target mesh, pixels.
    box: region of the frame.
    unit: pixels of a canonical unit.
    skin: mean RGB of the lower face.
    with_teeth: False draws cavity and tongue only.
  """
  import cv2

  place = _Place.build(points, box, unit)
  opening = place.opening
  teeth = with_teeth * place.teeth() * _ramp(opening, TEETH_OPENING)
  falloff = 1 - 0.7 * place.side**2
  light = falloff * (0.55 + 0.45 * np.clip(place.down / 0.045, 0, 1))
  light = light * (1 - 0.15 * place.tooth_gaps())
  bottom = np.clip((place.depth - 0.55) / 0.4, 0, 1)
  tongue = bottom**2 * np.clip(1 - place.side**2, 0, 1)
  tongue = 0.9 * tongue * _ramp(opening, TONGUE_OPENING)
  # The cavity is darkest behind the teeth, in the middle.
  near_lip = np.clip((place.depth - 0.45) / 0.55, 0, 1)
  cavity = 0.75 + 0.5 * near_lip + 0.35 * place.side**2
  brightness = float(np.mean(skin))
  cast = mouth_light.colored_light(skin)
  tint = skin / max(brightness, 1.0) / cast - 1
  soft = CAVITY * cavity[..., None]
  soft = soft + (TONGUE - soft) * tongue[..., None]
  rgb = soft * (1 + TINT * tint) * cast * (1 - teeth[..., None])
  rgb += TEETH * (1 + TEETH_TINT * tint) * cast * (light * teeth)[..., None]
  # Black-and-white pictures have gray mouths.
  gray = rgb.mean(-1, keepdims=True)
  colorful = (skin.max() - skin.min()) / max(float(skin.max()), 1.0)
  rgb = gray + _ramp(colorful, SKIN_COLOR) * (rgb - gray)
  rgb = np.clip(brightness * rgb, 0, 250).astype(np.float32)
  rgb = cv2.GaussianBlur(rgb, (0, 0), max(0.5, 0.006 * unit))
  luma, *chroma = yuv.to_yuv(video, rgb)
  return (luma, *map(yuv.halve_plane, chroma))


def _ramp(value: float, limits: tuple[float, float]) -> float:
  """0 below the limits, 1 above, smooth between."""
  x = float(np.clip((value - limits[0]) / (limits[1] - limits[0]), 0, 1))
  return x * x * (3 - 2 * x)


class _Place:
  """Positions of the pixels of a box within the mouth, canonical units.

  Attributes:
    across: along the lips from their middle, positive to the right.
    down: below the upper lip.
    depth: 0 at the upper lip, 1 at the lower.
    side: 0 in the middle, 1 at the corners.
    opening: mean gap of the middle half.
  """

  def __init__(self, across, down, depth, side, opening):
    self.across, self.down, self.depth = across, down, depth
    self.side, self.opening = side, opening

  @classmethod
  def build(cls, points, box, unit) -> '_Place':
    upper = points[list(mesh.UPPER_LIP_IDS)]
    lower = points[list(mesh.LOWER_LIP_IDS)]
    right = upper[-1] - upper[0]
    right = right / max(float(np.hypot(*right)), 1e-6)
    below = np.array([-right[1], right[0]])
    middle = points[mesh.UPPER_LIP_MIDDLE]
    x = np.arange(box[0], box[2]) + 0.5 - middle[0]
    y = (np.arange(box[1], box[3]) + 0.5 - middle[1])[:, None]
    across = (x * right[0] + y * right[1]) / unit
    level = (x * below[0] + y * below[1]) / unit
    edges = []
    for lip in (upper, lower):
      along, height = (lip - middle) @ right, (lip - middle) @ below
      order = np.argsort(along)
      edges.append(np.interp(across, along[order] / unit, height[order] / unit))
    height = np.maximum(edges[1] - edges[0], 1e-3)
    down = level - edges[0]
    # The halves differ in length on a turned head.
    ends = np.maximum(np.abs((upper[[0, -1]] - middle) @ right) / unit, 1e-3)
    half = np.where(across < 0, ends[0], ends[1])
    side = np.clip(np.abs(across) / half, 0, 1)
    inner = height[side < 0.5]
    opening = float(inner.mean()) if inner.size else 0.0
    # Teeth of a turned head are foreshortened with the lips.
    across = across * float(ends.mean()) / half
    return cls(across, down, np.clip(down / height, 0, 1), side, opening)

  def teeth(self) -> Float[np.ndarray, 'h w']:
    """Opacity of the upper teeth: soft lower edges, shorter to the corners."""
    height = min(TEETH_HEIGHT, TEETH_SHARE * self.opening)
    row = height * np.sqrt(np.maximum(1 - (self.side / 0.92) ** 2, 0))
    row = row * (1 - SCALLOP * self._between() ** 2)
    soft = 0.2 * height + 0.006
    return np.clip((row - self.down) / soft + 0.5, 0, 1)

  def tooth_gaps(self) -> Float[np.ndarray, 'h w']:
    """Shade between neighboring teeth, 0 to 1."""
    place = np.abs(self.across)
    apart = np.min([np.abs(place - edge) for edge in TOOTH_EDGES], axis=0)
    return np.exp(-((apart / GAP_WIDTH) ** 2) / 2)

  def _between(self) -> Float[np.ndarray, 'h w']:
    """0 in the middle of a tooth, 1 at its edges."""
    place = np.abs(self.across)
    edges = np.array(TOOTH_EDGES)
    number = np.clip(np.searchsorted(edges, place) - 1, 0, len(edges) - 2)
    low, high = edges[number], edges[number + 1]
    return np.clip(np.abs(2 * (place - low) / (high - low) - 1), 0, 1)
