"""Face restoration by a model that the user has, in ONNX.

GFPGAN, GPEN, CodeFormer and their kind take a face aligned as in FFHQ, RGB in
[-1, 1], [1, 3, s, s], and return it restored. The result is blended by the
mask of the lower face (`compositing.face_mask`).

Shapes: s side of the model's square, n landmarks, h w a part of the frame.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from lipsync_jax.common.errors import printable, reason_of
from lipsync_jax.faces.crop import crop_bounds, crop_from_row
from lipsync_jax.faces.landmarks import EYES, NOSE, OUTER_LIPS
from lipsync_jax.inference.options import SyncError, SyncOptions
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame
from lipsync_jax.models import runtime_openvino
from lipsync_jax.rendering import compositing
from lipsync_jax.rendering.renderer import (
  FrameJob,
  MouthRenderer,
  RendererWrapper,
  RenderPlan,
)

SIDE = 512  # pixels, of models that leave it open
# Eyes, tip of the nose and corners of the mouth in FFHQ's alignment, as shares
# of its side.
FFHQ_POINTS = (
  np.array(
    [
      [192.98, 239.95],
      [318.90, 240.19],
      [256.63, 314.02],
      [201.26, 371.41],
      [313.09, 371.15],
    ]
  )
  / 512
)
FIDELITY = 0.7  # CodeFormer's second input: 0 invents more, 1 keeps more
NEEDED = 'a face restorer in ONNX with one RGB picture in and out is needed'

Restorer = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class EnhancingRenderer(RendererWrapper):
  """A `MouthRenderer` whose faces are restored.

  Attributes:
    restore: aligned face [s, s, 3], uint8, to float in 0..255.
    side: of the aligned face in pixels.
    strength: opacity of the restored face, 0 to 1.
  """

  restore: Restorer
  side: int
  strength: float

  def composite(
    self, plan: RenderPlan, job: FrameJob, number: int, frame: Frame
  ) -> Frame:
    """The frame with the new mouth and its lower face restored."""
    import cv2

    video, speaker = plan.video, plan.speakers[number]
    frame = self.inner.composite(plan, job, number, frame)
    index = plan.frames[job.position].index
    (points,) = speaker.points.read(index, index + 1)
    if not np.isfinite(points).all():
      return frame
    shape = (video.height, video.width)
    crop = crop_from_row(speaker.crops[index])
    box = tuple(int(v) for v in crop_bounds(crop, shape))
    mask = compositing.face_mask(points, crop)
    alpha = compositing.resample_mask(mask, crop, box)
    if not alpha.any():
      return frame
    matrix = alignment(points, self.side)
    face = self.restore(aligned_face(video, frame, matrix, self.side))
    matrix[:, 2] += matrix[:, :2] @ box[:2]
    patch = cv2.warpAffine(
      face,
      matrix,
      alpha.shape[::-1],
      flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
      borderMode=cv2.BORDER_REPLICATE,
    )
    opacity = np.float32(speaker.opacity[job.position] * self.strength)
    return yuv.blend_patch(video, frame, patch, alpha * opacity, box[:2])


def alignment(
  points: Float[np.ndarray, 'n 2'], side: int
) -> Float[np.ndarray, '2 3']:
  """Similarity from OpenCV's pixels of the frame to FFHQ's alignment."""
  lips, eyes = points[OUTER_LIPS], points[EYES]
  found = [eyes[:2].mean(0), eyes[2:].mean(0), points[NOSE], lips[0], lips[10]]
  x, y = (np.array(found, np.float64) - 0.5).T
  one, none = np.ones(5), np.zeros(5)
  rows = np.concatenate(
    [np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)]
  )  # [10, 4]
  target = (FFHQ_POINTS * side).T.reshape(-1)  # [10]
  a, b, c, d = np.linalg.lstsq(rows, target, rcond=None)[0]
  return np.array([[a, -b, c], [b, a, d]])


def aligned_face(
  video, frame: Frame, matrix: Float[np.ndarray, '2 3'], side: int
) -> UInt8[np.ndarray, 's s 3']:
  """The face of a frame in FFHQ's alignment; the edge is repeated outside."""
  import cv2

  inverse = cv2.invertAffineTransform(matrix)
  corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]])
  where = corners @ inverse.T  # [4, 2]
  low, high = np.floor(where.min(0)) - 1, np.ceil(where.max(0)) + 2
  box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
  x0, y0, x1, y1 = yuv.clip_box(box, video.width, video.height)
  picture = yuv.to_rgb(video, frame, (x0, y0, x1, y1))
  shift = matrix.copy()
  shift[:, 2] += shift[:, :2] @ (x0, y0)
  return cv2.warpAffine(
    picture,
    shift,
    (side, side),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )


def load_restorer(options: SyncOptions) -> tuple[Restorer, int] | None:
  """The model of the options and the side of its picture; None without one.

  Raises:
    SyncError: no engine is installed, or the file is no such model.
  """
  path = options.face_enhancement
  if path is None:
    return None
  try:
    try:
      return load_openvino(path)
    except ImportError:
      return load_onnxruntime(path)
  except ImportError:
    raise SyncError(
      '--face_enhancement: OpenVINO or ONNX Runtime is needed: pip install '
      'openvino'
    ) from None
  except SyncError:
    raise
  except Exception as error:
    raise SyncError(
      f'{printable(path)}: {NEEDED}: {reason_of(error)[:200]}'
    ) from error


def load_openvino(path: str) -> tuple[Restorer, int]:
  """A restorer that runs in OpenVINO, on the CPU."""
  core = runtime_openvino.openvino_core()
  from openvino.frontend import FrontEndManager

  # Of the readers, only that of ONNX gets to see the file.
  reader = FrontEndManager().load_by_framework('onnx')
  model = reader.convert(reader.load(path))
  shapes = {
    port.any_name: [
      None if size.is_dynamic else size.get_length()
      for size in port.partial_shape
    ]
    for port in model.inputs
  }
  picture, side = picture_input(path, shapes)
  fixed = {name: [1] * len(shape) for name, shape in shapes.items()}
  model.reshape(fixed | {picture: [1, 3, side, side]})
  request = core.compile_model(model, 'CPU').create_infer_request()
  kinds = {port.any_name: port.element_type.to_dtype() for port in model.inputs}

  def run(inputs: dict) -> np.ndarray:
    return request.infer(inputs)[0]

  return restorer(run, picture, fixed, kinds, side), side


def load_onnxruntime(path: str) -> tuple[Restorer, int]:
  """A restorer that runs in ONNX Runtime, on the CPU."""
  import onnxruntime

  session = onnxruntime.InferenceSession(
    path, providers=['CPUExecutionProvider']
  )
  shapes = {
    port.name: [size if isinstance(size, int) else None for size in port.shape]
    for port in session.get_inputs()
  }
  picture, side = picture_input(path, shapes)
  fixed = {name: [1] * len(shape) for name, shape in shapes.items()}
  names = {'tensor(double)': np.float64, 'tensor(float16)': np.float16}
  kinds = {
    port.name: names.get(port.type, np.float32) for port in session.get_inputs()
  }

  def run(inputs: dict) -> np.ndarray:
    return session.run(None, inputs)[0]

  return restorer(run, picture, fixed, kinds, side), side


def picture_input(path: str, shapes: dict[str, list]) -> tuple[str, int]:
  """The name and side of a model's picture; its other inputs are scalars."""
  for name, shape in shapes.items():
    if len(shape) == 4 and shape[1] in (3, None):
      sides = {size for size in shape[2:] if size is not None} or {SIDE}
      if len(sides) == 1 and 64 <= min(sides) <= 2048:
        return name, sides.pop()
  raise SyncError(f'{printable(path)}: {NEEDED}, found inputs {shapes}')


def restorer(
  run: Callable[[dict], np.ndarray],
  picture: str,
  shapes: dict[str, list],
  kinds: dict[str, Any],
  side: int,
) -> Restorer:
  """The function from an aligned face to the restored one, both 0..255."""
  others = {
    name: np.full(shape, FIDELITY, kinds[name])
    for name, shape in shapes.items()
    if name != picture
  }

  def restore(
    face: UInt8[np.ndarray, 's s 3'],
  ) -> Float32[np.ndarray, 's s 3']:
    x = face.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    y = np.asarray(run(others | {picture: x.astype(kinds[picture])}))
    if y.shape != x.shape:
      raise SyncError(
        f'--face_enhancement: expected a picture {x.shape} from the model, '
        f'found {y.shape}; export it at {side} pixels'
      )
    y = (y[0].transpose(1, 2, 0).astype(np.float32) + 1) * 127.5
    return np.clip(np.nan_to_num(y), 0, 255)

  return restore


def enhance(
  options: SyncOptions,
  mouths: MouthRenderer,
  model: tuple[Restorer, int] | None,
) -> MouthRenderer:
  """The renderer with the model of `load_restorer`; itself without one."""
  if model is None:
    return mouths
  return EnhancingRenderer(mouths, *model, options.enhancement_strength)
