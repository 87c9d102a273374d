"""Mouths as the mesh renderer draws them, on the canvases of training.

Shapes: p mesh points, s side of a canvas.
"""

from fractions import Fraction

import numpy as np
from jaxtyping import Float, Float32, UInt8

from lipsync_jax.faces import mesh
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame
from lipsync_jax.refinement.face_frames import Canvas, canvas_video
from lipsync_jax.rendering import mouth_interior, mouth_patches
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
  return mouth_patches.fit_target(source, target, drawn)


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
  side, frame = len(source.rgb), source.frame()
  mouth = mouth_patches.Mouth(
    canvas_video(side), frame, source.points, target, source.unit
  )
  planes = [plane.copy() for plane in frame.planes]
  warped = mouth_patches.warped_patch(mouth)
  if warped is not None:
    mouth_patches.blend(planes, warped, 255)
  hole = np.zeros((side, side), np.float32)
  mixture = [(reference, 1.0)] if reference is not None else []
  inside = mouth_patches.interior_patch(mouth, mixture)
  if inside is not None:
    mouth_patches.blend(planes, inside, 255)
    x0, y0, x1, y1 = inside.box
    hole[y0:y1, x0:x1] = inside.planes[3]
  return to_picture(planes), hole


def to_picture(planes: list[np.ndarray]) -> UInt8[np.ndarray, 's s 3']:
  """The picture of the planes of a canvas."""
  side = len(planes[0])
  frame = Frame(0, Fraction(0), tuple(planes))
  # Scaled to its own size: chroma is interpolated, not repeated.
  return yuv.to_rgb(canvas_video(side), frame, None, (side, side))
