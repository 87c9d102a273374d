"""Objects before the mouth stay whole: a wrapper of both renderers.

After a mouth was drawn, pixels that `object_finder` takes for a hand,
microphone or other object get their old values back. Where an object hides
most of the lips, the whole mouth does.

Shapes: g cells of the network's answer.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from lipsync_jax.faces import crop as crops
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.objects.object_finder import ObjectFinder
from lipsync_jax.rendering.renderer import (
  FrameJob,
  RendererWrapper,
  RenderPlan,
)

EDGE = 0.3  # around the crop, relative to its sides, where mouths are drawn


@dataclasses.dataclass(frozen=True)
class CoveredMouthRenderer(RendererWrapper):
  """A `MouthRenderer` that leaves objects before the mouth whole.

  Attributes:
    objects: before the mouths.
    first: number of the first output frame, for a part of the output.
  """

  objects: ObjectFinder
  first: int = 0

  def part(self, first: int) -> 'CoveredMouthRenderer':
    """The renderer of the output from frame `first` on."""
    inner = self.inner.part(first)
    return dataclasses.replace(self, inner=inner, first=self.first + first)

  def follow(self, jobs: Iterator[FrameJob]) -> Iterator[FrameJob]:
    """The jobs with what covers their mouths."""
    return self.objects.follow(jobs, self.first)

  def composite(
    self, plan: RenderPlan, job: FrameJob, number: int, frame: Frame
  ) -> Frame:
    """The frame with the new mouth behind what covers it."""
    if job.uncovered.get(number) == 0:
      return frame
    out = self.inner.composite(plan, job, number, frame)
    mask = job.covers.get(number)
    if out is frame or mask is None:
      return out
    row = plan.speakers[number].crops[job.frame.index]
    return restore_pixels(
      out, frame, mask, crops.crop_from_row(row), plan.video
    )


def restore_pixels(
  out: Frame,
  source: Frame,
  mask: Float32[np.ndarray, 'g g'],
  crop: crops.Crop,
  video: Video,
) -> Frame:
  """`out` with the pixels of `source` where the mask of a crop is 1.

  The mask goes on beyond the crop's edge as it is there.
  """
  import cv2

  bounds = crops.crop_bounds(crop, (video.height, video.width), EDGE)
  # Chroma has a value for every 2 x 2 pixels.
  x0, y0, x1, y1 = (int(v) // 2 * 2 for v in bounds)
  matrix = crops.crop_matrix(crop, len(mask))
  keep = cv2.warpAffine(
    mask,
    crops.opencv_affine(matrix, (x0, y0, 1, 1)),
    (x1 - x0, y1 - y0),
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REPLICATE,
  )
  limit, planes = 2**video.color.depth - 1, []
  for new, old, step in zip(out.planes, source.planes, (1, 2, 2), strict=True):
    plane = new.copy()
    where = np.s_[y0 // step : y1 // step, x0 // step : x1 // step]
    share = keep if step == 1 else yuv.halve_plane(keep)
    a, b = new[where].astype(np.float32), old[where].astype(np.float32)
    plane[where] = np.clip(np.rint(a + share * (b - a)), 0, limit)
    planes.append(plane)
  return dataclasses.replace(out, planes=tuple(planes))
