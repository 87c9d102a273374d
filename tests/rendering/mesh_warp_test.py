"""The mesh warp and the interior of the mouth, on synthetic frames."""

from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.faces import mesh
from lipsync_jax.media.types import Color, Frame, Video
from lipsync_jax.rendering import drawn_mouth, mesh_warp, mouth_interior
from tests.faces.mesh_test import opened, posed

SIZE = (360, 480)  # height, width
POSE = ((0.0, 0.0, 0.0), 110.0, np.array([240.0, 140, 0]))


def jaw(gap):
  """The closed face with everything below the lip line moved down."""
  shape = opened(0.0)
  moved = shape[:, 1] > shape[14, 1] + 1e-6
  moved[list(mesh.LOWER_LIP_IDS[1:-1])] = True
  shape[:, 1] += gap * moved * mesh.displacement_weights()
  return shape


def points_of(shape):
  return posed(shape, *POSE)[:, :2]


def picture(depth=8, seed=0):
  """A smooth random frame."""
  import cv2

  rng = np.random.default_rng(seed)
  planes = []
  for step in (1, 2, 2):
    noise = rng.uniform(0, 1, (SIZE[0] // step, SIZE[1] // step))
    smooth = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 5 / step)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    kind = np.uint8 if depth == 8 else np.uint16
    planes.append((16 + smooth * (2**depth - 40)).astype(kind))
  return Frame(0, Fraction(0), tuple(planes))


def video_of(depth=8):
  return Video(
    'face.mp4', SIZE[1], SIZE[0], Fraction(25), Fraction(1), Fraction(0),
    'yuv420p', Color(depth=depth),
  )  # fmt: skip


def test_no_motion_has_no_field():
  points = points_of(opened(0.05))
  assert mesh_warp.warp_field(points, points, SIZE) is None


def test_face_outside_the_frame_has_no_field():
  source, target = points_of(opened(0.0)), points_of(opened(0.1))
  assert mesh_warp.warp_field(source - 2000, target - 2000, SIZE) is None


@pytest.mark.parametrize('depth', [8, 10])
def test_unmoved_pixels_keep_their_values(depth):
  frame = picture(depth)
  field = mesh_warp.warp_field(
    points_of(opened(0.0)), points_of(opened(0.15)), SIZE
  )
  x0, y0, x1, y1 = field.box
  assert x0 % 2 == y0 % 2 == 0 and 0 <= x0 < x1 <= SIZE[1] and y1 <= SIZE[0]
  planes = mesh_warp.warp_frame(frame, field)
  old = frame.planes[0][y0:y1, x0:x1]
  still = (np.abs(field.shift) <= mesh_warp.MIN_MOTION).all(-1)
  assert planes[0].dtype == old.dtype and still.any() and not still.all()
  np.testing.assert_array_equal(planes[0][still], old[still])
  assert (planes[0] != old).any()


def test_vertices_move_to_their_targets():
  """A lower lip moved down shows the source's lip at its new place."""
  source, target = points_of(jaw(0.0)), points_of(jaw(0.15))
  field = mesh_warp.warp_field(source, target, SIZE)
  x0, y0, _, _ = field.box
  for i in (17, 200, mesh.CHIN):  # lower lip and chin
    x, y = target[i] - [x0, y0] - 0.5
    shift = field.shift[round(y), round(x)]
    np.testing.assert_allclose(shift, source[i] - target[i], atol=1.0)


def test_lips_move_apart_without_a_blur_between():
  """Closing lips: the field jumps at the lip line, not over several pixels."""
  source, target = points_of(jaw(0.15)), points_of(jaw(0.0))
  field = mesh_warp.warp_field(source, target, SIZE)
  x0, y0, _, _ = field.box
  x, y = np.rint(target[13] - [x0, y0]).astype(int)
  column = field.shift[y - 6 : y + 6, x, 1]
  steps = np.abs(np.diff(column))
  gap = source[14, 1] - source[13, 1]
  assert steps.max() > 0.8 * gap
  assert np.sort(steps)[-2] < 0.2 * gap


def test_a_seam_of_many_pixels():
  """A mouth of 880 pixels: the seam has more than OpenCV's 32766 rows."""
  frame = (960, 1120)
  source, target = points_of(opened(0.0)), points_of(opened(0.1))
  lips = 16 * source[list(mesh.UPPER_LIP_IDS)].mean(0)
  corner = lips - np.array(frame[::-1]) / 2
  field = mesh_warp.warp_field(
    16 * source - corner, 16 * target - corner, frame
  )
  assert len(field.luma.rows) > 32766
  rng = np.random.default_rng(3)
  noise = rng.integers(16, 235, (frame[0] // 16, frame[1] // 16))
  plane = np.kron(noise, np.ones((16, 16))).astype(np.uint8)
  whole = Frame(0, Fraction(0), (plane, plane[::2, ::2], plane[::2, ::2]))
  planes = mesh_warp.warp_frame(whole, field)
  rows, columns = field.luma.rows[-5:], field.luma.columns[-5:]
  x, y = (field.luma.other[-5:] + np.stack([columns, rows], -1)).T
  x0, y0, *_ = field.box
  first = field.shift[rows, columns] + np.stack([columns, rows], -1)
  for k, (row, column) in enumerate(zip(rows, columns, strict=True)):
    near = [
      plane[
        int(b + y0) - 2 : int(b + y0) + 3, int(a + x0) - 2 : int(a + x0) + 3
      ]
      for a, b in ((x[k], y[k]), first[k])
    ]
    low, high = (int(f(np.concatenate(near, None))) for f in (np.min, np.max))
    assert low - 40 <= planes[0][row, column] <= high + 40


def test_closing_lips_take_no_pixels_of_the_open_mouth():
  """A bright hole in the source leaves no bright line."""
  frame = picture()
  source, target = points_of(jaw(0.15)), points_of(jaw(0.0))
  hole = mouth_interior.hole_mask(source, (0, 0, SIZE[1], SIZE[0])) > 0.5
  luma = np.full(SIZE, 80, np.uint8)
  luma[hole] = 250
  planes = (luma, *frame.planes[1:])
  bright = Frame(0, Fraction(0), planes)
  field = mesh_warp.warp_field(source, target, SIZE)
  warped = mesh_warp.warp_frame(bright, field)[0]
  assert (warped > 200).sum() < 0.02 * hole.sum()


def test_ring_stays_and_field_is_continuous_at_the_border():
  field = mesh_warp.warp_field(
    points_of(opened(0.0)), points_of(opened(0.3)), SIZE
  )
  border = np.concatenate(
    [field.shift[0], field.shift[:, 0], field.shift[:, -1]]
  )
  assert np.abs(border).max() < 0.5


# --- interior


def test_references_cover_the_openings():
  gaps = np.r_[np.zeros(20), np.linspace(0, 0.2, 60)]
  shapes = np.stack([opened(gap) for gap in gaps])
  found = mouth_interior.choose_references(shapes, np.ones(80, bool))
  assert len(found) == mouth_interior.NUM_REFERENCES
  assert gaps[found].max() > 0.18
  usable = np.arange(80) < 40
  some = mouth_interior.choose_references(shapes, usable)
  assert some.max(initial=0) < 40


def test_mouth_that_never_opens_has_no_reference():
  shapes = np.stack([opened(gap) for gap in np.linspace(0, 0.02, 30)])
  assert not len(mouth_interior.choose_references(shapes, np.ones(30, bool)))


def test_schedule_follows_the_lips_and_seldom_changes():
  gaps = np.array([0.02, 0.1, 0.2])
  shapes = np.stack([opened(gap) for gap in gaps])
  lips, openings = mouth_interior.lip_shapes(shapes), mesh.lip_opening(shapes)
  wanted = np.r_[np.full(20, 0.2), np.full(20, 0.02), np.full(20, 0.2)]
  wanted = wanted + np.random.default_rng(0).normal(0, 0.004, 60)
  targets = np.stack([opened(gap) for gap in wanted])
  path = mouth_interior.schedule_references(
    mouth_interior.lip_shapes(targets),
    mesh.lip_opening(targets),
    lips,
    openings,
  )
  assert path[10] == path[50] == 2 and (np.diff(path) != 0).sum() <= 2


def test_schedule_is_the_best_of_all_paths():
  """Dynamic programming against a search of all paths."""
  import itertools

  rng = np.random.default_rng(1)
  targets, lips = rng.normal(0, 0.05, (5, 8)), rng.normal(0, 0.05, (3, 8))
  openings, widths = rng.uniform(0, 0.1, 5), rng.uniform(0, 0.1, 3)

  def cost(path):
    total = sum(
      np.abs(targets[n] - lips[k]).mean()
      + mouth_interior.NARROW_COST * max(openings[n] - widths[k], 0)
      for n, k in enumerate(path)
    )
    changes = sum(a != b for a, b in itertools.pairwise(path))
    return total + mouth_interior.CHANGE_COST * changes

  best = min(itertools.product(range(3), repeat=5), key=cost)
  found = mouth_interior.schedule_references(targets, openings, lips, widths)
  assert cost(found.tolist()) == pytest.approx(cost(best), abs=1e-5)


def test_interior_maps_lips_to_lips():
  target, source = (
    points_of(opened(0.1)),
    points_of(opened(0.2)) + np.array([30, 10]),
  )
  box = mouth_interior.mouth_box(target, SIZE, 0.05)
  shift, _ = mouth_interior.interior_shift(target, source, box)
  for ids in (mesh.UPPER_LIP_IDS, mesh.LOWER_LIP_IDS):
    for i in ids[2:-2]:
      x, y = np.rint(target[i] - box[:2] - 0.5).astype(int)
      np.testing.assert_allclose(shift[y, x], (source - target)[i], atol=1.5)


def test_reference_of_the_same_mouth_is_the_source():
  frame = picture()
  points = points_of(opened(0.2))
  reference = mouth_interior.read_reference(frame, points)
  box = mouth_interior.mouth_box(points, SIZE, 0.05)
  shift, _ = mouth_interior.interior_shift(points, points, box)
  planes = mouth_interior.reference_planes(reference, shift, box)
  opacity = mouth_interior.hole_mask(points, box)
  old = frame.planes[0][box[1] : box[3], box[0] : box[2]]
  inside = opacity > 0.9
  assert inside.any() and np.abs(planes[0] - old)[inside].max() < 2


def test_hole_is_inside_the_lips_only():
  points = points_of(opened(0.2))
  box = mouth_interior.mouth_box(points, SIZE)
  opacity = mouth_interior.hole_mask(points, box)
  x, y = np.rint(points[[13, 14]].mean(0) - box[:2]).astype(int)
  assert opacity[y, x] > 0.95 and opacity[0].max() == opacity[:, 0].max() == 0
  closed = mouth_interior.hole_mask(points_of(opened(0.0)), box)
  assert closed.sum() < 0.15 * opacity.sum()


@pytest.mark.parametrize('depth', [8, 10])
def test_drawn_interior_is_dark_below_bright_teeth(depth):
  points = points_of(opened(0.25))
  box = mouth_interior.mouth_box(points, SIZE, 0.05)
  skin = np.array([190.0, 150, 120])
  planes = drawn_mouth.draw_mouth(video_of(depth), points, box, POSE[1], skin)
  assert planes[0].shape == (box[3] - box[1], box[2] - box[0])
  assert planes[1].shape == tuple(n // 2 for n in planes[0].shape)
  unit = 2 ** (depth - 8)
  x, top = np.rint(points[13] - box[:2]).astype(int)
  bottom = round(points[14, 1] - box[1])
  column = planes[0][top:bottom, x] / unit
  assert column[2] > 110 > 90 > column[len(column) // 2 + 2]


def test_mouths_of_black_and_white_pictures_are_gray():
  points = points_of(opened(0.15))
  box = mouth_interior.mouth_box(points, SIZE, 0.05)

  def color_of(skin):
    _, cb, cr = drawn_mouth.draw_mouth(
      video_of(), points, box, POSE[1], np.array(skin)
    )
    return max(abs(cb - 128).max(), abs(cr - 128).max())

  assert color_of([150.0, 150.0, 150.0]) < 1.5
  assert color_of([150.0, 146.0, 142.0]) < 0.6 * color_of([190.0, 150.0, 125.0])


def test_narrow_mouths_are_darker():
  limit = mouth_interior.SHADOW_OPENING
  values = [mouth_interior.shadow(x) for x in (-0.1, 0, 0.02, limit, 0.3)]
  assert values == sorted(values) and values[-1] == values[-2] == 1


def test_drawn_teeth_are_shaded_and_only_in_open_mouths():
  skin = np.array([190.0, 150, 120])
  box = mouth_interior.mouth_box(points_of(opened(0.25)), SIZE, 0.05)

  def bright(gap):
    points = points_of(opened(gap))
    planes = drawn_mouth.draw_mouth(video_of(), points, box, POSE[1], skin)
    inside = mouth_interior.hole_mask(points, box) > 0.9
    return planes[0], inside, points

  luma, inside, points = bright(0.2)
  middle = round(points[13, 0] - box[0])
  row = round(points[13, 1] - box[1]) + 3
  corner = round(points[81, 0] - box[0])
  assert luma[row, middle - 5] > 1.1 * luma[row, corner - 4]
  # Teeth end softly: no step takes all of the contrast.
  column = luma[row : row + 10, middle - 5]
  steps = -np.diff(column)
  assert steps.max() < 0.75 * np.ptp(column) and np.ptp(column) > 40
  assert luma[row, middle - 5] > luma[row, middle]  # a gap between teeth
  narrow, inside, _ = bright(0.02)
  assert not inside.any() or narrow[inside].max() < 60


def test_drawn_mouths_open_less_at_the_corners():
  source, target = points_of(opened(0.0)), points_of(opened(0.2))
  found = drawn_mouth.taper_corners(target, source)
  gap, old = (
    (p[list(mesh.LOWER_LIP_IDS)] - p[list(mesh.UPPER_LIP_IDS)])[:, 1]
    for p in (found, target)
  )
  assert gap[5] == pytest.approx(old[5]) and gap[1] < 0.7 * old[1]
  assert (np.diff(gap[:6]) > -1e-9).all()
  np.testing.assert_array_equal(
    drawn_mouth.taper_corners(source, source), source
  )


# --- changes of the reference


def test_references_fade_around_a_change():
  schedule = np.repeat([0, 2, 1], [20, 20, 2])
  other, share = mouth_interior.fade_schedule(schedule, 25)
  assert (share[:18] == 0).all() and (share[23:38] == 0).all()
  assert (other[18:20] == 2).all() and (other[20:22] == 0).all()
  # The share of the second reference rises in equal steps over the change.
  weight = np.where(np.arange(42) < 20, share, 1 - share)[17:24]
  assert (np.diff(weight) >= 0).all() and np.diff(weight).max() < 0.5
  assert weight[0] == 0 and weight[-1] == 1
  assert share.max() <= 0.5 and (share[other == schedule] == 0).all()
  still, none = mouth_interior.fade_schedule(np.zeros(5, int), 25)
  assert not none.any() and not still.any()


def test_fades_last_as_long_at_every_rate():
  counts = [
    (mouth_interior.fade_schedule(np.repeat([0, 1], 60), rate)[1] > 0).sum()
    for rate in (10, 25, 60)
  ]
  assert counts[0] >= 2 and counts[1] in (2, 3, 4) and counts[2] in (6, 7, 8)


def test_drawn_mouths_have_the_profile_of_a_lens():
  """Gaps that are as wide beside the corners as in the middle are narrowed."""
  source, target = points_of(opened(0.0)), points_of(opened(0.2))
  upper, lower = list(mesh.UPPER_LIP_IDS), list(mesh.LOWER_LIP_IDS)
  middle = (target[upper] + target[lower]) / 2
  target[upper[1:-1]] = middle[1:-1] - np.array([0, 11.0])
  target[lower[1:-1]] = middle[1:-1] + np.array([0, 11.0])
  found = drawn_mouth.taper_corners(target, source)
  gap = (found[lower] - found[upper])[:, 1] / 22
  half = np.ptp(middle[:, 0]) / 2
  place = np.abs(middle[:, 0] - middle[5, 0]) / half
  assert gap[5] == pytest.approx(1)
  beside = (place > 0.6) & (place < 0.95)
  assert beside.any() and (gap[beside] < 0.7).all()
  assert (gap[[1, -2]] < 0.45).all()
