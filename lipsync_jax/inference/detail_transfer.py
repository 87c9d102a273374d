"""Detail: what a soft generated face lacks, carried over from its source.

A network of 96 pixels blurs skin, stubble and the edges of lips. The source
frame shows them, of the same face in the same light, a few pixels away. So
the generated face is taken as the guide: optical flow says where each of its
points is in the source, and what is finer there than the network draws is
laid over it, in brightness alone. Where the two do not look alike even when
blurred (an open mouth over a closed one) the network's own picture stays.

Alphabet: `s` side of the network's square, `h w` the part of the frame that
changes, `y x` a part of the frame about it. Brightness is in 0..255.
"""

import numpy as np
from jaxtyping import Float32, UInt8

from lipsync_jax.faces.crop import Crop, crop_matrix, opencv_affine

FINE_SIGMA = 0.026  # of the face's width: what is finer is carried over
SOFT_SIGMA = 0.012  # of the face's width: blur before pictures are compared
MIN_CROP = 4.0  # pixels: blurs from twice that on are done on smaller pictures
MIN_CONFIDENCE = 0.7  # pixels of the frame; less than that is no detail
BROAD_SIGMA = 0.06  # of the face's width: what is broader is shading
MAX_DIFFERENCE = (
  6.0  # levels between blurred shapes that share half their detail
)
MAX_DARKENING = 30.0  # levels of shading that do the same
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def high_pass(
  light: Float32[np.ndarray, 'h w'], sigma: float
) -> Float32[np.ndarray, 'h w']:
  """What a blur of `sigma` pixels takes away.

  A broad blur is done on a smaller picture: on a face of 2000 pixels the
  kernel would have 400 rows, and take seconds.
  """
  import cv2

  (h, w), shrink = light.shape, int(sigma / MIN_CROP)
  if shrink < 2:
    return light - cv2.GaussianBlur(light, (0, 0), sigma)
  size = -(-w // shrink), -(-h // shrink)
  small = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
  across, down = sigma * size[0] / w, sigma * size[1] / h
  # Cells mirror at their edge, where pixels mirror at their middle.
  edge = cv2.BORDER_REFLECT
  small = cv2.GaussianBlur(small, (0, 0), across, None, down, edge)
  return light - cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)


def flow_and_confidence(
  generated: Float32[np.ndarray, 's s 3'], source: Float32[np.ndarray, 's s 3']
) -> Float32[np.ndarray, 's s 3']:
  """Where each point of the generated face is in the source, and how surely.

  Returns:
    Displacement x, y in pixels of the square, and a share in 0..1.
  """
  import cv2

  size = len(source)
  soft = [
    cv2.GaussianBlur(x, (0, 0), SOFT_SIGMA * size) for x in (generated, source)
  ]
  gray = [np.clip(x @ LUMA, 0, 255).astype(np.uint8) for x in soft]
  seeker = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
  flow = seeker.calc(gray[0], gray[1], None)  # [s s 2]
  flow = cv2.GaussianBlur(flow, (0, 0), FINE_SIGMA * size)
  y, x = np.mgrid[:size, :size].astype(np.float32)
  found = cv2.remap(
    soft[1], x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )  # fmt: skip
  apart = found - soft[0]
  # Shading that differs a little, and broadly, does not matter.
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
  led: Float32[np.ndarray, 's s 3'],
  crop: Crop,
  picture: UInt8[np.ndarray, 'y x 3'],
  at: tuple[int, int],
) -> Float32[np.ndarray, 'h w 3']:
  """The patch with the source's detail.

  Args:
    patch: the generated face on pixels of the frame, its first at `corner`.
    led: of `flow_and_confidence`.
    crop: where the network's square lies in the frame.
    picture: the frame about the patch, its first pixel at `at`.

  Returns:
    As the patch; the patch itself where a face is too small to have more.
  """
  import cv2

  size, shape, sigma = len(led), patch.shape[:2], FINE_SIGMA * crop.w
  if sigma < MIN_CONFIDENCE:
    return patch
  to_square = crop_matrix(crop, size)
  led = cv2.warpAffine(
    led,
    opencv_affine(to_square, (*corner, 1, 1)),
    shape[::-1],
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REPLICATE,
  )
  back = np.linalg.inv(to_square[:, :2]).astype(np.float32)
  moved = led[..., :2] @ back.T  # pixels of the frame
  y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
  there = high_pass(picture.astype(np.float32) @ LUMA, sigma)
  there = cv2.remap(
    there,
    x + moved[..., 0] + (corner[0] - at[0]),
    y + moved[..., 1] + (corner[1] - at[1]),
    cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )
  here = high_pass(patch @ LUMA, sigma)
  return patch + (led[..., 2] * (there - here))[..., None]
