"""Reads the frames of a video that lend the inside of the mouth.

Shapes: k references, n coefficients, p mesh points.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.faces.mesh_trajectory import MeshTrajectory
from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import mouth_interior
from lipsync_jax.rendering.mouth_interior import Reference


@dataclasses.dataclass(frozen=True)
class MouthReader:
  """Reads the interior references of a speaker.

  Attributes:
    face: the speaker's mesh with closed lips.
    frames: source frames with a reference, ascending.
    mouths: of the frames that were read.
  """

  face: MeshTrajectory
  frames: Int[np.ndarray, 'k']
  mouths: dict[int, Reference] = dataclasses.field(default_factory=dict)

  def visit(self, frame: Frame) -> None:
    """Cut out the mouth of one of the frames."""
    points = self.face.source_points(frame.index, self.face.shape(frame.index))
    self.mouths[frame.index] = mouth_interior.read_reference(frame, points)

  def references(
    self, hidden: Callable[[int], bool] | None
  ) -> dict[int, Reference]:
    """The mouths that are not hidden, by their frames.

    Nothing if the file has become shorter; the second pass reports it.

    Args:
      hidden: whether an object covers the lips of a frame.
    """
    if len(self.mouths) < len(self.frames):
      return {}
    return {
      index: mouth
      for index, mouth in self.mouths.items()
      if not (hidden and hidden(index))
    }


def make_reader(
  face: MeshTrajectory, basis: Float[np.ndarray, 'n p 3']
) -> MouthReader:
  """The reader of a speaker's references.

  Args:
    face: the speaker's mesh.
    basis: of the articulator.
  """
  face = face.with_closed_lips(basis)
  return MouthReader(face, reference_frames(face))


def reference_frames(face: MeshTrajectory) -> Int[np.ndarray, 'k']:
  """Frames of the interior references (`mouth_interior.choose_references`)."""
  known = np.flatnonzero(face.present)
  if not known.size:
    return known
  # A long video is sampled: a thousand mouths show all openings.
  chosen = known[:: max(1, len(known) // 1000)]
  shapes = np.stack([face.shape(int(k)) for k in chosen])
  picked = mouth_interior.choose_references(shapes, np.ones(len(chosen), bool))
  return chosen[picked]
