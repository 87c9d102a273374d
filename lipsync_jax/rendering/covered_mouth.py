"""Objects before the mouth stay whole: a wrapper of both renderers.

After a mouth was drawn, pixels that the occlusion network (`models.occlusion`)
takes for a hand, microphone or other object get their old values back. Where
an object hides most of the lips, the whole mouth does.

Shapes: g cells of the network's answer, h w pixels of a region, n landmarks.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8

from lipsync_jax.faces import crop as crops
from lipsync_jax.faces import landmarks
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.models import occlusion
from lipsync_jax.rendering.renderer import (
  FrameJob,
  RendererWrapper,
  RenderPlan,
  read_chosen_frames,
)
from lipsync_jax.rendering.visibility import smooth_step

SAMPLES = 16  # frames that show a speaker's usual face
CERTAIN = (0.3, 0.7)  # probability at which source pixels begin, are all
FOUND = 0.4  # probability of a cell of an object
HIDDEN_LIPS = (0.35, 0.65)  # covered share of the lips: the mouth fades, is off
SEEN_LIPS = 0.05  # covered share of the lips of a reference, at most
MIN_CELLS = 10  # of an object
MIN_OUTSIDE = 4  # cells of an object beside the lips: teeth have none
NEW_LOOK = 0.08  # difference of an object from the usual face, relative
LOWER_FACE = 20  # row of the grid from where an object matters
LIPS = np.s_[32:43, 15:34]  # cells around the lips
EDGE = 0.3  # around the crop, relative to its sides, where mouths are drawn

Face = UInt8[np.ndarray, 's s 3']
Grid = Float32[np.ndarray, 'g g']


def even_look(face: Face) -> Float32[np.ndarray, 'g g 3']:
  """The crop on the grid, blurred, divided by the color of its middle."""
  import cv2

  x = cv2.GaussianBlur(face.astype(np.float32), (0, 0), 1.5)
  x = cv2.resize(x, (occlusion.GRID,) * 2, interpolation=cv2.INTER_AREA)
  return x / (np.median(x[10:44, 10:38].reshape(-1, 3), 0) + 8)


@dataclasses.dataclass(frozen=True)
class UsualFace:
  """What a speaker's face looks like in most frames.

  The network takes some beards and shadows of noses for objects. They stay
  where they are; a hand does not.

  Attributes:
    probability: of an object, median over the frames.
    look: `even_look`, median over the frames.
  """

  probability: Grid
  look: Float32[np.ndarray, 'g g 3']

  @classmethod
  def of(cls, faces: Sequence[Face], covered: Callable) -> 'UsualFace':
    """The usual face of some frames."""
    import cv2

    probability = np.median([covered(face) for face in faces], 0)
    look = np.median([even_look(face) for face in faces], 0)
    probability = cv2.dilate(probability, np.ones((3, 3), np.uint8))
    return cls(probability.astype(np.float32), look.astype(np.float32))

  def object_mask(self, face: Face, probability: Grid) -> Grid | None:
    """Cells of a face crop to keep from the source, 0 to 1; None: none."""
    import cv2

    probability = np.clip(probability - self.probability, 0, 1)
    probability[:LOWER_FACE] = 0
    cells = (probability > FOUND).astype(np.uint8)
    if cells.sum() < MIN_CELLS:
      return None
    change = np.abs(even_look(face) - self.look).mean(-1)
    change = cv2.GaussianBlur(change, (0, 0), 1)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(cells)
    kept = np.zeros(cells.shape, np.uint8)
    for part in range(1, count):
      inside = parts == part
      outside = inside.sum() - inside[LIPS].sum()
      large = stats[part, cv2.CC_STAT_AREA] >= MIN_CELLS
      if large and outside >= MIN_OUTSIDE:
        kept[inside] = np.quantile(change[inside], 0.7) > NEW_LOOK
    if not kept.any():
      return None
    kernel = np.ones((3, 3), np.uint8)
    mask = smooth_step(probability, CERTAIN) * cv2.dilate(kept, kernel)
    # Warped pixels come from beside the object.
    mask = cv2.dilate(mask.astype(np.float32), kernel)
    return cv2.GaussianBlur(mask, (0, 0), 0.8)


def covered_lips(
  mask: Float32[np.ndarray, 'g g'],
  points: Float[np.ndarray, 'n 2'],
  crop: crops.Crop,
) -> float:
  """Share of the outer lips that a mask covers, 0 to 1."""
  import cv2

  matrix = crops.crop_matrix(crop, len(mask))
  lips = crops.transform_points(matrix, points[landmarks.OUTER_LIPS])
  inside = np.zeros(mask.shape, np.uint8)
  cv2.fillConvexPoly(inside, cv2.convexHull(np.rint(lips).astype(np.int32)), 1)
  return float(mask[inside > 0].mean()) if inside.any() else 0.0


@dataclasses.dataclass(frozen=True)
class ObjectFinder:
  """Finds what covers the mouth of each speaker.

  Attributes:
    plan: of the output.
    covered: of `occlusion.build_occlusion`.
    usual: the faces of the speakers, in the plan's order.
  """

  plan: RenderPlan
  covered: Callable[[Face], Grid]
  usual: tuple[UsualFace, ...]

  def find(self, frame: Frame, number: int) -> tuple[Grid, float] | None:
    """What covers speaker `number` in a source frame.

    Returns:
      Cells of the speaker's crop to keep from the source, and the covered share
      of the lips. None without an object.
    """
    speaker, video = self.plan.speakers[number], self.plan.video
    crop = crops.crop_from_row(speaker.crops[frame.index])
    face = face_crop(video, frame, crop)
    if face is None:
      return None
    mask = self.usual[number].object_mask(face, self.covered(face))
    if mask is None:
      return None
    (points,) = speaker.points.read(frame.index, frame.index + 1)
    known = np.isfinite(points).all()
    return mask, covered_lips(mask, points, crop) if known else 0.0

  def hides_lips(self, frame: Frame, number: int) -> bool:
    """Whether an object covers some of the speaker's lips."""
    found = self.find(frame, number)
    return found is not None and found[1] > SEEN_LIPS


@dataclasses.dataclass(frozen=True)
class CoveredMouthRenderer(RendererWrapper):
  """A `MouthRenderer` that leaves objects before the mouth whole.

  Attributes:
    objects: before the mouths.
  """

  objects: ObjectFinder

  def composite(
    self, plan: RenderPlan, job: FrameJob, number: int, frame: Frame
  ) -> Frame:
    """The frame with the new mouth behind what covers it."""
    out = self.inner.composite(plan, job, number, frame)
    if out is frame:
      return frame
    found = self.objects.find(job.frame, number)
    if found is None:
      return out
    mask = np.maximum(found[0], np.float32(smooth_step(found[1], HIDDEN_LIPS)))
    row = plan.speakers[number].crops[job.frame.index]
    return restore_pixels(
      out, frame, mask, crops.crop_from_row(row), plan.video
    )


def face_crop(video: Video, frame: Frame, crop: crops.Crop) -> Face | None:
  """The network's view of a face; None if the crop is outside the frame."""
  import cv2

  try:
    box = crops.crop_bounds(crop, (video.height, video.width))
  except landmarks.FaceError:
    return None
  x0, y0, x1, y1 = (int(v) for v in box)
  # `crop.extract_crop` of the whole picture, with planes that are averaged
  # before they become RGB: a fourth of the time on a large face.
  shrink = max(int(min(crop.w, crop.h) / occlusion.SIZE), 1)
  size = (max((x1 - x0) // shrink, 1), max((y1 - y0) // shrink, 1))
  rgb = yuv.to_rgb(video, frame, (x0, y0, x1, y1), size)
  pixel = (x1 - x0) / size[0], (y1 - y0) / size[1]
  matrix = crops.crop_matrix(crop, occlusion.SIZE)
  return cv2.warpAffine(
    rgb,
    crops.opencv_affine(matrix, (x0, y0, *pixel)),
    (occlusion.SIZE, occlusion.SIZE),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )


def find_objects(
  plan: RenderPlan, covered: Callable[[Face], Grid]
) -> ObjectFinder:
  """The finder, with usual faces from frames of the whole output."""
  usual = []
  for speaker in plan.speakers:
    spoken = np.flatnonzero(speaker.opacity > 0)
    chosen = np.linspace(0, max(len(spoken) - 1, 0), SAMPLES).astype(int)
    numbers = {plan.frames[int(p)].index for p in spoken[chosen[: len(spoken)]]}
    faces = [
      face_crop(
        plan.video, frame, crops.crop_from_row(speaker.crops[frame.index])
      )
      for frame in read_chosen_frames(
        plan.video, np.array(sorted(numbers), np.int64)
      )
    ]
    faces = [face for face in faces if face is not None]
    blank = np.zeros((occlusion.SIZE,) * 2 + (3,), np.uint8)
    usual.append(UsualFace.of(faces or [blank], covered))
  return ObjectFinder(plan, covered, tuple(usual))


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
