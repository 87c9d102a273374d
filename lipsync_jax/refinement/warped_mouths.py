"""Mouths as the mesh renderer draws them, on the canvases of training.

The order of the parts is that of `rendering.mesh_renderer`: warp, line between
the lips, interior.

Shapes: p mesh points, s side of a canvas.
"""

from fractions import Fraction

import numpy as np
from jaxtyping import Float, Float32, UInt8

from lipsync_jax.faces import mesh
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame
from lipsync_jax.refinement.face_frames import (
  JPEG_COLOR,
  Canvas,
  canvas_video,
)
from lipsync_jax.rendering import (
  drawn_mouth,
  lip_edges,
  lip_seam,
  mesh_renderer,
  mesh_warp,
  mouth_interior,
  mouth_light,
  own_interior,
)
from lipsync_jax.rendering.mouth_interior import Reference


def target_mesh(
  source: Float[np.ndarray, 'p 2'],
  goal: Float[np.ndarray, 'p 2'],
  drawn: bool,
) -> Float[np.ndarray, 'p 2']:
  """The source's upper face with the lower face of the goal.

  Args:
    source, goal: meshes on their canvases.
    drawn: whether the interior is drawn.
  """
  share = mesh.displacement_weights()[:, None]
  target = source + share * (goal - source)
  if drawn:
    target = drawn_mouth.taper_corners(target, source)
  return lip_edges.limit_stretch(source, target)


def read_reference(canvas: Canvas) -> Reference:
  """The mouth of a canvas as a reference of the interior."""
  return mouth_interior.read_reference(canvas.frame(), canvas.points)


def warp_mouth(
  source: Canvas,
  target: Float[np.ndarray, 'p 2'],
  reference: Reference | None,
) -> tuple[UInt8[np.ndarray, 's s 3'], Float32[np.ndarray, 's s']]:
  """A canvas with the lips of another mesh, and the hole between them.

  Args:
    source: the canvas whose pixels move.
    target: of `target_mesh`.
    reference: lends the interior; None draws it.
  """
  frame = source.frame()
  planes = [plane.copy() for plane in frame.planes]
  side = len(source.rgb)
  edges = lip_edges.inner_edges(frame, source.points, JPEG_COLOR.depth)
  field = mesh_warp.warp_field(source.points, target, (side, side), edges)
  if field is not None:
    moved = mesh_warp.warp_frame(frame, field)
    lip_seam.shade_line(
      moved, field.box, source.points, target, source.unit, JPEG_COLOR
    )
    patch = mesh_renderer.Patch(field.box, moved)
    mesh_renderer.blend(planes, patch, 255)
  hole = np.zeros((side, side), np.float32)
  patch = fill_hole(source, frame, target, reference)
  if patch is not None:
    mesh_renderer.blend(planes, patch, 255)
    x0, y0, x1, y1 = patch.box
    hole[y0:y1, x0:x1] = patch.planes[3]
  return to_picture(planes), hole


def to_picture(planes: list[np.ndarray]) -> UInt8[np.ndarray, 's s 3']:
  """The picture of the planes of a canvas."""
  side = len(planes[0])
  frame = Frame(0, Fraction(0), tuple(planes))
  # Scaled to its own size: chroma is interpolated, not repeated.
  return yuv.to_rgb(canvas_video(side), frame, None, (side, side))


def fill_hole(
  source: Canvas,
  frame: Frame,
  target: Float[np.ndarray, 'p 2'],
  reference: Reference | None,
) -> mesh_renderer.Patch | None:
  """The interior with its opacity as a fourth plane; None for closed lips."""
  side = len(source.rgb)
  box = mouth_interior.mouth_box(target, (side, side), 0.05)
  opacity = mouth_interior.hole_mask(target, box)
  if not opacity.any():
    return None
  unit, video = source.unit, canvas_video(side)
  if reference is None:
    skin = mesh_renderer.skin_color(video, frame, target)
    planes = drawn_mouth.draw_mouth(video, target, box, unit, skin)
  else:
    gap = float(np.hypot(*(target[14] - target[13]))) / unit
    shift = mouth_interior.interior_shift(target, reference.points, box)
    shade = mouth_interior.shadow(gap)
    planes = mouth_interior.reference_planes(reference, shift, box, shade)
    skin = mouth_interior.surrounding_skin(frame, target)
    planes = mouth_light.relight(planes, reference.skin, skin, JPEG_COLOR)
  opacity = opacity * own_interior.opening_share(target, unit)
  return mesh_renderer.Patch(box, (*planes, opacity))
