"""Reads what both renderers need of some source frames, in one pass.

Shapes: n coefficients, p mesh points.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from lipsync_jax.faces.mesh_trajectory import MeshTrajectory
from lipsync_jax.objects.object_finder import ObjectFinder
from lipsync_jax.rendering import chosen_frames
from lipsync_jax.rendering.mouth_reader import MouthReader, make_reader
from lipsync_jax.rendering.renderer import RenderPlan


def read_samples(
  plan: RenderPlan,
  meshes: Sequence[MeshTrajectory],
  basis: Float[np.ndarray, 'n p 3'] | None,
  covered: Callable | None,
) -> tuple[ObjectFinder | None, list[MouthReader]]:
  """Read the source's mouths and usual faces.

  Args:
    plan: of the whole output.
    meshes: of the speakers; () without the mesh renderer.
    basis: of the articulator, with `meshes`.
    covered: of `occlusion.build_occlusion`; None searches no objects.

  Returns:
    The finder of objects, if any are searched, and a reader for each mesh.
  """
  readers = [make_reader(face, basis) for face in meshes]
  visits = [(reader.frames, reader.visit) for reader in readers]
  objects = None
  if covered:
    objects = ObjectFinder(plan, covered)
    visits += objects.visits([reader.frames for reader in readers])
  chosen_frames.visit_frames(plan.video, plan.times, visits)
  if objects:
    objects.learn()
  return objects, readers
