"""YUV planes: color against PyAV and known matrices, blending, rotation."""

import fractions

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax.media import yuv
from lipsync_jax.media.types import Color, Frame, Video

Fraction = fractions.Fraction


def video(width=64, height=48, matrix=1, range=1, depth=8) -> Video:
  return Video(
    path='',
    width=width,
    height=height,
    rate=Fraction(25),
    duration=Fraction(1),
    start=Fraction(0),
    pix_fmt='yuv420p' if depth == 8 else 'yuv420p10le',
    color=Color(matrix, range, depth=depth),
  )


def noise(width=64, height=48, depth=8, seed=0) -> Frame:
  rng = np.random.default_rng(seed)
  kind = np.uint8 if depth == 8 else np.uint16
  sizes = (height, width), *[(height // 2, width // 2)] * 2
  made = [rng.integers(0, 2**depth, size).astype(kind) for size in sizes]
  return Frame(0, Fraction(0), tuple(made))


def smooth(width=64, height=48) -> Frame:
  """Gradients, for which chroma interpolation makes no difference."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  luma = 30 + 180 * x / width
  u, v = 90 + 70 * y / height, 160 - 60 * x / width
  made = luma, u[::2, ::2], v[::2, ::2]
  made = tuple(np.rint(p).astype(np.uint8) for p in made)
  return Frame(0, Fraction(0), made)


# R, G, B from Y', Cb, Cr as printed in BT.601 and BT.709, written out anew.
FACTORS = {
  1: (1.5748, -0.187324, -0.468124, 1.8556),
  5: (1.402, -0.344136, -0.714136, 1.772),
}


@pytest.mark.parametrize('matrix', [1, 5])
@pytest.mark.parametrize('range', [1, 2])
@pytest.mark.parametrize('depth', [8, 10])
def test_rgb_is_the_standards_formula(matrix, range, depth):
  frame = noise(depth=depth)
  y, u, v = (p.astype(float) / 2 ** (depth - 8) for p in frame.planes)
  u, v = (np.kron(p, np.ones((2, 2))) for p in (u, v))
  if range == 2:
    full = (2**depth - 1) / 2 ** (depth - 8) / 255
    y, u, v = y / full, (u - 128) / full, (v - 128) / full
  else:
    y, u, v = (y - 16) / 219 * 255, (u - 128) / 224 * 255, (v - 128) / 224 * 255
  rv, gu, gv, bu = FACTORS[matrix]
  want = np.stack([y + rv * v, y + gu * u + gv * v, y + bu * u], -1)
  got = yuv.to_rgb(video(matrix=matrix, range=range, depth=depth), frame)
  assert np.abs(got - np.clip(want, 0, 255)).max() <= 1


@pytest.mark.parametrize('matrix', [1, 5])
@pytest.mark.parametrize('range', [1, 2])
def test_rgb_agrees_with_swscale(matrix, range):
  import av

  frame = smooth()
  picture = av.VideoFrame(64, 48, 'yuv420p')
  for target, plane in zip(picture.planes, frame.planes, strict=True):
    rows = np.frombuffer(target, np.uint8).reshape(target.height, -1)
    rows[:, : plane.shape[1]] = plane
  want = picture.reformat(
    format='rgb24',
    src_colorspace=matrix,
    src_color_range=range,
    # Nearest chroma, accurate rounding: the default is 1 to 2 levels dark.
    interpolation=0x10 | 0x40000 | 0x2000 | 0x4000,
  ).to_ndarray()
  got = yuv.to_rgb(video(matrix=matrix, range=range), frame)
  assert np.abs(got.astype(int) - want).max() <= 1


def test_untagged_color_uses_the_assumed_matrix():
  assert Color(2, assumed=6).weights == (0.299, 0.114)
  assert Color(2, assumed=1).weights == (0.2126, 0.0722)
  assert not Color().full


@settings(max_examples=50, deadline=None)
@given(*[st.integers(-9, 80) for _ in range(4)])
def test_rgb_of_a_box_is_a_cut_of_the_whole(x0, y0, width, height):
  frame = noise()
  box = (x0, y0, x0 + abs(width), y0 + abs(height))
  whole = yuv.to_rgb(video(), frame)
  want = whole[max(0, y0) : max(0, box[3]), max(0, x0) : max(0, box[2])]
  got = yuv.to_rgb(video(), frame, box=box)
  assert np.array_equal(got, want) or got.size == want.size == 0


def test_rgb_scales_and_keeps_the_place():
  frame = smooth(640, 480)
  small = yuv.to_rgb(video(640, 480), frame, size=(64, 48))
  whole = yuv.to_rgb(video(640, 480), frame).astype(np.float32)
  mean = whole.reshape(48, 10, 64, 10, 3).mean((1, 3))
  assert small.shape == (48, 64, 3)
  assert np.abs(small - mean).max() <= 2


@settings(max_examples=40, deadline=None)
@given(
  st.integers(-40, 70),
  st.integers(-40, 60),
  st.integers(1, 40),
  st.integers(1, 40),
  st.sampled_from([8, 10]),
)
def test_blending_leaves_every_other_code_value(x, y, width, height, depth):
  frame = noise(depth=depth)
  before = [p.copy() for p in frame.planes]
  rng = np.random.default_rng(1)
  alpha = rng.random((height, width)) * (rng.random((height, width)) > 0.5)
  patch = rng.random((height, width, 3)) * 255
  got = yuv.blend_patch(video(depth=depth), frame, patch, alpha, (x, y))
  canvas = np.zeros((48 + 200, 64 + 200))
  canvas[y + 100 : y + 100 + height, x + 100 : x + 100 + width] = alpha
  touched = canvas[100:148, 100:164] > 0
  quarter = touched.reshape(24, 2, 32, 2).any((1, 3))
  for old, kept, new, mask in zip(
    before, frame.planes, got.planes, (touched, quarter, quarter), strict=True
  ):
    assert np.array_equal(old, kept)  # the frame given is not changed
    assert new.dtype == old.dtype
    assert np.array_equal(new[~mask], old[~mask])


@pytest.mark.parametrize('depth', [8, 10])
@pytest.mark.parametrize('range', [1, 2])
def test_blending_the_same_patch_changes_nothing(depth, range):
  this = video(range=range, depth=depth)
  rng = np.random.default_rng(0)
  patch = rng.uniform(60, 190, (24, 32, 3))
  patch = np.kron(patch, np.ones((2, 2, 1)))
  ones = np.ones((48, 64))
  frame = yuv.blend_patch(this, noise(depth=depth), patch, ones, (0, 0))
  again = yuv.to_rgb(this, frame).astype(np.float64)
  assert np.abs(again - patch).max() <= 2
  back = yuv.blend_patch(this, frame, again, ones, (0, 0))
  unit = 2 ** (depth - 8)  # RGB has 8 bits, so 10 bit values come back coarser
  for old, new in zip(frame.planes, back.planes, strict=True):
    assert np.abs(old.astype(int) - new).max() <= unit


def test_blending_is_weighted_by_alpha():
  this, frame = video(), smooth()
  patch = np.full((20, 20, 3), 200.0)
  half = yuv.blend_patch(this, frame, patch, np.full((20, 20), 0.5), (11, 7))
  mean = (yuv.to_rgb(this, frame).astype(float) + 200) / 2
  got = yuv.to_rgb(this, half)[9:25, 13:29]
  assert np.abs(got - mean[9:25, 13:29]).max() <= 2


def test_display_matrices_rotate_and_mirror():
  one = 1 << 16
  plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
  for a, b, c, d in [
    *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],
    *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
  ]:
    matrix = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, one])
    got = yuv.orient_plane(plane, yuv.parse_display_matrix(matrix))
    # Pixel (x, y) goes to (a x + c y, b x + d y), moved into view.
    y, x = np.mgrid[:2, :3]
    to_x, to_y = a * x + c * y, b * x + d * y
    want = np.zeros_like(got)
    want[to_y - to_y.min(), to_x - to_x.min()] = plane
    assert np.array_equal(got, want)
