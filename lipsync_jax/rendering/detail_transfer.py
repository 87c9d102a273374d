"""Transfer of fine detail from the source frame to the generated face.

A network of 96 pixels blurs skin, stubble and the edges of lips. The source
frame has them, a few pixels away. Optical flow maps each point of the generated
face to the source. The source's high frequencies in brightness replace those
of the generated face. Where the two differ even when blurred, such as an open
mouth over a closed one, the generated face is kept.

Shapes: s side of the network's square, h w the part of the frame that changes,
y x a larger part of the frame. Brightness is in 0..255.
"""

import numpy as np
from jaxtyping import Float32, Shaped

from lipsync_jax.faces.crop import Crop, crop_matrix, opencv_affine

# Sigmas of Gaussian blurs, relative to the width of the face.
FINE_SIGMA = 0.026  # detail is finer
SOFT_SIGMA = 0.012  # before pictures are compared
BROAD_SIGMA = 0.06  # shading is broader
MIN_CROP = 4.0  # pixels; blurs of twice this sigma use a smaller picture
MIN_CONFIDENCE = 0.7  # pixels of the frame; no detail below this sigma
MAX_DIFFERENCE = 6.0  # levels of blurred shape at confidence 1/2
MAX_DARKENING = 30.0  # levels of shading at confidence 1/2
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def high_pass(
  light: Float32[np.ndarray, 'h w'], sigma: float
) -> Float32[np.ndarray, 'h w']:
  """The picture minus its Gaussian blur of `sigma` pixels.

  A broad blur uses a smaller picture: for a face of 2000 pixels the kernel
  would have 400 rows and take seconds.
  """
  import cv2

  (h, w), shrink = light.shape, int(sigma / MIN_CROP)
  if shrink < 2:
    return light - cv2.GaussianBlur(light, (0, 0), sigma)
  size = -(-w // shrink), -(-h // shrink)
  small = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
  across, down = sigma * size[0] / w, sigma * size[1] / h
  # Reflection is at the edge of the cells.
  edge = cv2.BORDER_REFLECT
  small = cv2.GaussianBlur(small, (0, 0), across, None, down, edge)
  return light - cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)


def flow_and_confidence(
  generated: Float32[np.ndarray, 's s 3'], source: Float32[np.ndarray, 's s 3']
) -> Float32[np.ndarray, 's s 3']:
  """Optical flow from the generated face to the source.

  Returns:
    Displacement x, y in pixels of the square, and the confidence in 0..1.
  """
  import cv2

  size = len(source)
  soft = [
    cv2.GaussianBlur(x, (0, 0), SOFT_SIGMA * size) for x in (generated, source)
  ]
  gray = [np.clip(x @ LUMA, 0, 255).astype(np.uint8) for x in soft]
  estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
  flow = estimator.calc(gray[0], gray[1], None)  # [s s 2]
  flow = cv2.GaussianBlur(flow, (0, 0), FINE_SIGMA * size)
  y, x = np.mgrid[:size, :size].astype(np.float32)
  warped = cv2.remap(
    soft[1], x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )  # fmt: skip
  apart = warped - soft[0]
  # Small differences of broad shading are tolerated.
  shape = apart - cv2.GaussianBlur(apart, (0, 0), BROAD_SIGMA * size)
  far = (
    np.abs(shape).max(-1) / MAX_DIFFERENCE,
    np.abs(apart).max(-1) / MAX_DARKENING,
  )
  share = 1 / (1 + far[0] ** 4 + far[1] ** 4)
  share = cv2.GaussianBlur(share, (0, 0), SOFT_SIGMA * size)
  return np.dstack([flow, share])


def transfer_detail(
  patch: Float32[np.ndarray, 'h w 3'],
  corner: tuple[int, int],
  flow: Float32[np.ndarray, 's s 3'],
  crop: Crop,
  picture: Shaped[np.ndarray, 'y x 3'],
  at: tuple[int, int],
) -> Float32[np.ndarray, 'h w 3']:
  """The patch with the source's detail.

  Args:
    patch: the generated face in pixels of the frame.
    corner: (x, y) of its first pixel.
    flow: of `flow_and_confidence`.
    crop: place of the network's square in the frame.
    picture: the frame around the patch, 0..255 in the patch's light.
    at: (x, y) of the first pixel of `picture`.

  Returns:
    The patch, unchanged if the face is too small to have detail.
  """
  import cv2

  size, shape, sigma = len(flow), patch.shape[:2], FINE_SIGMA * crop.w
  if sigma < MIN_CONFIDENCE:
    return patch
  to_square = crop_matrix(crop, size)
  flow = cv2.warpAffine(
    flow,
    opencv_affine(to_square, (*corner, 1, 1)),
    shape[::-1],
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REPLICATE,
  )
  back = np.linalg.inv(to_square[:, :2]).astype(np.float32)
  moved = flow[..., :2] @ back.T  # pixels of the frame
  y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
  source = high_pass(picture.astype(np.float32) @ LUMA, sigma)
  source = cv2.remap(
    source,
    x + moved[..., 0] + (corner[0] - at[0]),
    y + moved[..., 1] + (corner[1] - at[1]),
    cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )
  own = high_pass(patch @ LUMA, sigma)
  return patch + (flow[..., 2] * (source - own))[..., None]
