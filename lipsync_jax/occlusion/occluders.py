"""Pictures of faces with synthetic objects before them, and their masks.

Objects are hands of capsules in the colors of skin, handheld microphones, cups,
cloths and thin rods. They are drawn at twice the size and averaged, so that
their edges are as soft as those of a camera. Half of the pictures stay
uncovered: lips, beards and teeth must not be taken for objects.

Shapes: h w a picture, RGB in 0..1.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from lipsync_jax.models import occlusion

CROP = 112  # pixels of a face crop before it is cut to the network's size
OVERSAMPLING = 2
TURNED_SHARE = 0.4
COVERED_SHARE, BEARD_SHARE = 0.55, 0.3  # of the pictures

Picture = Float32[np.ndarray, 'h w 3']
Mask = Float32[np.ndarray, 'h w']


def training_pair(
  picture: Picture, other: Picture, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, '96 96 3'], Float32[np.ndarray, '48 48']]:
  """A face crop as a camera would show it, and its mask on the grid.

  Args:
    picture: face crop of CROP pixels.
    other: another one.
    rng: random state.
  """
  if rng.random() < 0.5:
    picture = np.ascontiguousarray(picture[:, ::-1])
  picture, mask = cover(picture, other, rng)
  both = np.concatenate([picture, mask[..., None]], -1)
  if rng.random() < TURNED_SHARE:
    both = turn_head(both, rng)
  both = jitter(both, rng)
  size = (occlusion.GRID,) * 2
  mask = cv2.resize(both[..., 3], size, interpolation=cv2.INTER_AREA)
  return photograph(both[..., :3], rng), mask


def turn_head(
  x: Float32[np.ndarray, 'h w c'], rng: np.random.Generator
) -> Float32[np.ndarray, 'h w c']:
  """A picture that is narrower on one side, as the face of a turned head."""
  side = len(x)
  near = rng.uniform(0.12, 0.3)
  corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
  moved = np.array([[near, near / 5], [1, 0], [1, 1], [near, 1 - near / 5]])
  if rng.random() < 0.5:
    corners, moved = corners * [-1, 1] + [1, 0], moved * [-1, 1] + [1, 0]
  matrix = cv2.getPerspectiveTransform(
    np.float32(corners * side), np.float32(moved * side)
  )
  return cv2.warpPerspective(
    x, matrix, (side, side), borderMode=cv2.BORDER_REFLECT
  )


def jitter(
  x: Float32[np.ndarray, 'h w c'], rng: np.random.Generator
) -> Float32[np.ndarray, 's s c']:
  """The picture cut to the network's size with errors of the crop."""
  middle, size = len(x) / 2, occlusion.SIZE
  scale = rng.uniform(0.85, 1.2) * size / len(x)
  angle = np.degrees(rng.normal(0, 0.12))
  matrix = cv2.getRotationMatrix2D((middle, middle), angle, scale)
  matrix[:, 2] += size / 2 - middle + rng.normal(0, 3, 2)
  return cv2.warpAffine(
    x, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE
  )


def photograph(
  x: Picture, rng: np.random.Generator
) -> UInt8[np.ndarray, 'h w 3']:
  """Blur, exposure, white balance, contrast, noise and JPEG."""
  if rng.random() < 0.3:
    x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.3, 1.6))
  x = x * rng.uniform(0.5, 1.3) * rng.uniform(0.85, 1.15, 3)
  x = np.clip(x, 0, 1) ** rng.uniform(0.7, 1.4)
  if rng.random() < 0.1:
    x = np.repeat(x.mean(-1, keepdims=True), 3, -1)
  x = np.clip(x + rng.normal(0, rng.uniform(0, 0.03), x.shape), 0, 1)
  x = (255 * x).astype(np.uint8)
  if rng.random() < 0.5:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(30, 90))]
    x = cv2.imdecode(cv2.imencode('.jpg', x, quality)[1], cv2.IMREAD_COLOR)
  return x


def cover(
  picture: Picture, other: Picture, rng: np.random.Generator
) -> tuple[Picture, Mask]:
  """A picture with or without an object, and the object's mask.

  Args:
    picture: of a face.
    other: another picture, a source of colors and textures.
    rng: random state.
  """
  side = picture.shape[0] * OVERSAMPLING
  if rng.random() < BEARD_SHARE:
    picture = grow_beard(picture, rng)
  if rng.random() > COVERED_SHARE:
    return picture, np.zeros(picture.shape[:2], np.float32)
  draw = rng.choice(
    [draw_hand, draw_microphone, draw_cup, draw_cloth, draw_rod, draw_blob],
    p=[0.45, 0.15, 0.1, 0.1, 0.1, 0.1],
  )
  color, mask = draw(picture, other, side, rng)
  color = color * illumination(side, rng)[..., None]
  color = color + rng.normal(0, rng.uniform(0, 0.03), color.shape)
  size = picture.shape[1::-1]
  mask = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), rng.uniform(0.5, 3))
  shade = cv2.GaussianBlur(mask, (0, 0), rng.uniform(2, 10))
  shade = cv2.resize(shade, size, interpolation=cv2.INTER_AREA)
  mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
  color = cv2.resize(
    color.astype(np.float32), size, interpolation=cv2.INTER_AREA
  )
  below = picture * (1 - rng.uniform(0, 0.4) * shade[..., None])
  out = below + mask[..., None] * (color - below)
  return np.clip(out, 0, 1).astype(np.float32), mask


def grow_beard(picture: Picture, rng: np.random.Generator) -> Picture:
  """A picture with the texture of a beard around the lips: no object."""
  side = picture.shape[0]
  y, x = np.mgrid[:side, :side].astype(np.float32) / side
  x, y = x - 0.5 + rng.normal(0, 0.02), y - 0.78 + rng.normal(0, 0.02)
  reach = rng.uniform(0.2, 0.42), rng.uniform(0.18, 0.35)
  lips = rng.uniform(0.11, 0.17), rng.uniform(0.035, 0.07)
  outer = 1 - np.hypot(x / reach[0], (y - 0.04) / reach[1])
  inner = np.hypot(x / lips[0], y / lips[1]) - 1
  shape = np.clip(6 * np.minimum(outer, 0.5 * inner), 0, 1)  # of the beard
  noise = rng.normal(0, 1, (side, side)).astype(np.float32)
  hair = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.4, 1.2), sigmaY=1.5)
  patches = cv2.resize(
    rng.uniform(0.3, 1, (5, 5)).astype(np.float32), (side, side)
  )
  density = patches * rng.uniform(0.3, 1.1) + 0.5 * hair
  share = np.clip(shape * density, 0, 0.9)
  color = rng.uniform(0.02, 0.3) * np.array([1, 0.9, 0.8])
  if rng.random() < 0.2:
    color = np.full(3, rng.uniform(0.4, 0.8))
  return (picture + share[..., None] * (color - picture)).astype(np.float32)


def skin_color(
  picture: Picture, rng: np.random.Generator
) -> Float[np.ndarray, '3']:
  """The median color of a cheek, a little changed."""
  side = picture.shape[0]
  x = int(side * rng.choice([0.25, 0.75]))
  y = int(side * rng.uniform(0.5, 0.65))
  patch = picture[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
  color = np.median(patch, 0)
  return color * rng.uniform(0.65, 1.35) * rng.uniform(0.93, 1.07, 3)


def illumination(
  side: int, rng: np.random.Generator
) -> Float[np.ndarray, 's s']:
  """Slow changes of brightness over an object, around 1."""
  coarse = rng.normal(1, 0.12, (5, 5)).astype(np.float32)
  return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def capsule(
  side: int, start, end, radius: float
) -> tuple[Float[np.ndarray, 's s'], Float[np.ndarray, 's s']]:
  """Mask of a line of a given radius, and its shading as of a cylinder."""
  y, x = np.mgrid[:side, :side].astype(np.float32)
  ax, ay = start
  dx, dy = end[0] - ax, end[1] - ay
  along = ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-6)
  along = np.clip(along, 0, 1)
  away = np.hypot(x - ax - along * dx, y - ay - along * dy) / radius
  shading = 0.6 + 0.4 * np.sqrt(np.clip(1 - away * away, 0, 1))
  return (away < 1).astype(np.float32), shading


def draw_hand(picture, other, side: int, rng: np.random.Generator):
  """One to five fingers, often with a palm, over the lower face."""
  color = skin_color(picture if rng.random() < 0.7 else other, rng)
  angle = rng.uniform(0, 2 * np.pi)
  tip = side * np.array([rng.uniform(0.15, 0.85), rng.uniform(0.45, 1.0)])
  length = side * rng.uniform(0.3, 0.8)
  radius = side * rng.uniform(0.035, 0.085)
  mask = np.zeros((side, side), np.float32)
  shading = np.ones((side, side), np.float32)
  spread, gap = rng.uniform(0, 0.25), rng.uniform(1.6, 2.8)
  fingers = rng.integers(1, 6)
  across = np.array([-np.sin(angle), np.cos(angle)])
  for finger in range(fingers):
    turn = angle + spread * (finger - fingers / 2)
    direction = np.array([np.cos(turn), np.sin(turn)])
    base = tip + across * gap * radius * (finger - fingers / 2)
    base = base + direction * length * rng.uniform(-0.15, 0.15)
    part, light = capsule(side, base, base + direction * length, radius)
    mask = np.maximum(mask, part)
    shading = np.where(part > 0, light, shading)
  if rng.random() < 0.5:
    center = tip + np.array([np.cos(angle), np.sin(angle)]) * length
    end = center + across * radius * rng.uniform(1, 3)
    part, light = capsule(side, center, end, radius * rng.uniform(1.5, 3.5))
    mask = np.maximum(mask, part)
    shading = np.where(part > 0, light, shading)
  return color * shading[..., None], mask


def draw_microphone(picture, other, side: int, rng: np.random.Generator):
  """A ball or foam on a stem, mostly dark or gray."""
  color = np.full(3, rng.uniform(0.02, 0.5)) * rng.uniform(0.9, 1.1, 3)
  if rng.random() < 0.25:
    color = rng.uniform(0, 1, 3)
  head = side * np.array([rng.uniform(0.15, 0.85), rng.uniform(0.6, 1.0)])
  foot = side * np.array([rng.uniform(-0.3, 1.3), 1.4])
  radius = side * rng.uniform(0.06, 0.17)
  ball, light = capsule(side, head, head + rng.normal(0, 4, 2), radius)
  stem, stem_light = capsule(side, head, foot, radius * rng.uniform(0.3, 0.7))
  shading = np.where(ball > 0, light, stem_light)
  grid = 1 + rng.uniform(0, 0.4) * np.sin(
    np.mgrid[:side, :side].sum(0) * rng.uniform(0.5, 2)
  )
  return color * (shading * grid)[..., None], np.maximum(ball, stem)


def draw_cup(picture, other, side: int, rng: np.random.Generator):
  """A quadrilateral of one color."""
  center = side * np.array([rng.uniform(0.2, 0.8), rng.uniform(0.65, 1.05)])
  width, height = side * rng.uniform(0.1, 0.3), side * rng.uniform(0.12, 0.4)
  corners = np.array([[-1, -1], [1, -1], [0.8, 1], [-0.8, 1]])
  corners = corners * [width, height] + rng.normal(0, side * 0.02, (4, 2))
  turn = rng.normal(0, 0.3)
  rotation = np.array(
    [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
  )
  mask = np.zeros((side, side), np.float32)
  points = np.rint(corners @ rotation.T + center).astype(np.int32)
  cv2.fillConvexPoly(mask, points, 1)
  color = np.broadcast_to(rng.uniform(0, 1, 3), (side, side, 3))
  return color, mask


def draw_cloth(picture, other, side: int, rng: np.random.Generator):
  """Everything below a wavy edge, as of a veil, scarf or mask."""
  y, x = np.mgrid[:side, :side].astype(np.float32) / side
  edge = rng.uniform(0.5, 0.95) + rng.normal(0, 0.25) * (x - 0.5)
  edge = edge + rng.uniform(0, 0.04) * np.sin(x * rng.uniform(3, 20))
  folds = 1 + rng.uniform(0, 0.2) * np.sin(
    x * rng.uniform(5, 40) + y * rng.normal(0, 15)
  )
  return rng.uniform(0, 1, 3) * folds[..., None], (y > edge).astype(np.float32)


def draw_rod(picture, other, side: int, rng: np.random.Generator):
  """A thin rod, as of a cigarette, a pen or the arm of a headset."""
  start = side * np.array([rng.uniform(0.25, 0.75), rng.uniform(0.6, 0.85)])
  angle, length = rng.uniform(-0.6, np.pi + 0.6), side * rng.uniform(0.2, 0.6)
  end = start + length * np.array([np.cos(angle), np.sin(angle)])
  mask, shading = capsule(side, start, end, side * rng.uniform(0.01, 0.03))
  color = (
    rng.uniform(0, 1, 3) if rng.random() < 0.5 else rng.choice([0.05, 0.9])
  )
  return np.ones(3) * color * shading[..., None], mask


def draw_blob(picture, other, side: int, rng: np.random.Generator):
  """An irregular piece of another picture."""
  noise = rng.normal(0, 1, (6, 6)).astype(np.float32)
  field = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
  y, x = np.mgrid[:side, :side].astype(np.float32) / side
  cx, cy = rng.uniform(0.1, 0.9), rng.uniform(0.5, 1.0)
  field = field * 0.25 - np.hypot(x - cx, y - cy) / rng.uniform(0.15, 0.4) + 0.8
  texture = cv2.resize(other[::-1], (side, side)) * rng.uniform(0.6, 1.3)
  return np.roll(texture, rng.integers(side), 1), (field > 0).astype(np.float32)
