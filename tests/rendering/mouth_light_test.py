"""The mouth has the light of its frame, in both renderers."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from lipsync_jax.common import disk_array
from lipsync_jax.faces import landmarks
from lipsync_jax.faces.crop import face_crops
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import (
  drawn_mouth,
  mouth_interior,
  mouth_light,
  network_renderer,
  renderer,
  timeline,
)
from tests.faces.mesh_test import opened
from tests.helpers.synthetic_face import face
from tests.rendering.mesh_warp_test import POSE, SIZE, points_of, video_of

LIGHTS = {
  'night': np.array([0.12, 0.12, 0.12]),
  'dusk': np.array([0.5, 0.35, 0.2]),
  'red': np.array([0.9, 0.1, 0.1]),
  'blue': np.array([0.15, 0.3, 1.1]),
  'exposure': np.array([1.3, 1.3, 1.3]),
}
MOUTH = np.array([170, 70, 70])  # RGB of a mouth in daylight


def skin_picture():
  """RGB of a smooth skin-colored picture, 60 to 180."""
  noise = np.random.default_rng(0).uniform(0, 1, (*SIZE, 1)).astype(np.float32)
  smooth = cv2.GaussianBlur(noise, (0, 0), 9)
  smooth = (smooth - smooth.min()) / np.ptp(smooth)
  return (80 + 60 * smooth)[..., None] * np.array([1.25, 0.95, 0.8])


def frame_of(video, rgb):
  luma, *chroma = yuv.to_yuv(video, np.clip(rgb, 0, 255))
  size = SIZE[1] // 2, SIZE[0] // 2
  chroma = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in chroma]
  kind = np.uint8 if video.color.depth == 8 else np.uint16
  planes = tuple(np.rint(p).astype(kind) for p in (luma, *chroma))
  return Frame(0, Fraction(0), planes)


@pytest.mark.parametrize('depth', [8, 10])
@pytest.mark.parametrize('name', LIGHTS)
def test_a_reference_takes_the_light_of_the_frame(name, depth):
  video, points = video_of(depth), points_of(opened(0.2))
  day = frame_of(video, skin_picture())
  now = frame_of(video, skin_picture() * LIGHTS[name])
  reference = mouth_interior.read_reference(day, points)
  box = mouth_interior.mouth_box(points, SIZE, 0.05)
  still, _ = mouth_interior.interior_shift(points, points, box)
  planes = mouth_interior.reference_planes(reference, still, box)
  skin = mouth_interior.surrounding_skin(now, points)
  gains = mouth_light.light_change(reference.skin, skin, video.color)
  np.testing.assert_allclose(gains, LIGHTS[name], rtol=0.15, atol=0.02)
  planes = mouth_light.relight(planes, reference.skin, skin, video.color)
  x0, y0, x1, y1 = box
  inside = mouth_interior.hole_mask(points, box) > 0.9
  assert inside.any()
  for plane, whole, step in zip(planes, now.planes, (1, 2, 2), strict=True):
    part = whole[y0 // step : y1 // step, x0 // step : x1 // step]
    apart = np.abs(plane - part) / 2 ** (depth - 8)
    assert apart[inside[::step, ::step]].max() < 4


def test_no_change_of_light_changes_nothing():
  video = video_of()
  frame = frame_of(video, skin_picture())
  planes = tuple(plane[:20, :20] for plane in frame.planes)
  planes = (planes[0], planes[1][:10, :10], planes[2][:10, :10])
  skin = np.array([float(p.mean()) for p in frame.planes])
  same = mouth_light.relight(planes, skin, skin, video.color)
  np.testing.assert_allclose(same[0], planes[0], atol=0.01)


def test_a_mouth_of_another_hue_takes_the_hue_of_the_skin():
  """Stage light that exchanges channels: no gain gives the new colors."""
  video = video_of()
  dark = np.full((*SIZE, 3), [40.0, 12, 12])
  planes = frame_of(video, dark).planes
  before = np.array([float(p[0, 0]) for p in frame_of(video, dark * 4).planes])
  green = np.full((*SIZE, 3), [50.0, 160, 60])
  now = np.array([float(p[0, 0]) for p in frame_of(video, green).planes])
  lit = mouth_light.relight(planes, before, now, video.color)
  rgb = mouth_light.rgb_of(
    np.array([float(p[20, 20]) for p in lit]), video.color
  )
  assert rgb[1] > 1.5 * max(rgb[0], rgb[2]) and rgb.max() < 80


@pytest.mark.parametrize(
  'skin', [[190, 150, 120], [90, 60, 45], [220, 190, 175]]
)
def test_skin_in_white_light_is_no_colored_light(skin):
  cast = mouth_light.colored_light(np.array(skin, float))
  np.testing.assert_allclose(cast, 1, atol=0.05)


@pytest.mark.parametrize('name', ['red', 'blue', 'night'])
def test_drawn_teeth_have_the_color_of_the_light(name):
  video, points = video_of(), points_of(opened(0.25))
  box = mouth_interior.mouth_box(points, SIZE, 0.05)
  skin = np.array([190.0, 150, 120]) * LIGHTS[name]
  planes = drawn_mouth.draw_mouth(video, points, box, POSE[1], skin)
  x, y = np.rint(points[13] - box[:2]).astype(int)
  code = np.array(
    [planes[0][y + 2, x], *(p[y // 2 + 1, x // 2] for p in planes[1:])]
  )
  teeth = mouth_light.rgb_of(code.astype(float), video.color)
  assert (teeth < 2.2 * skin + 8).all(), (teeth, skin)
  assert teeth.max() > 0.6 * skin.max()


def network_output(rgb):
  """The mouth from a network of daylight mouths, and the network's input."""
  video, points = video_of(), face(240, 180, 150).astype(np.float32)
  seen = []

  def predict(mel, faces):
    seen.append(faces[0])
    painted = faces.copy()
    painted[:, 64:80, 34:62] = MOUTH
    return painted

  track = renderer.SpeakerTrack(
    face_crops(points[None]),
    disk_array.to_disk(points[None]),
    disk_array.to_disk(np.zeros((20, 80), np.float32)),
    np.zeros(1, np.int64),
    np.ones(1),
    np.array([[0, 1]]),
  )
  shown = timeline.OutputFrame(Fraction(0), Fraction(1, 25), 0)
  plan = renderer.RenderPlan(video, [Fraction(0)], [shown], (track,))
  mouths = network_renderer.NetworkRenderer(predict, 96, 1)
  frame = frame_of(video, rgb)
  job = renderer.FrameJob(0, frame)
  job.inputs[0] = mouths.extract(plan, job, 0)
  job.outputs[0] = mouths.render(plan, [(job, 0)])[0]
  after = mouths.composite(plan, job, 0, frame)
  x, y = points[landmarks.INNER_LIPS].mean(0).astype(int).tolist()
  rgb = yuv.to_rgb(video, after, (x - 4, y - 2, x + 4, y + 2))
  return rgb.mean((0, 1)), seen[0]


@pytest.mark.parametrize('name', ['night', 'red', 'blue'])
def test_a_network_sees_usual_light_and_paints_that_of_the_frame(name):
  painted, face_seen = network_output(skin_picture() * LIGHTS[name])
  level = np.percentile(face_seen, 80, axis=(0, 1))
  np.testing.assert_allclose(level, 150, atol=12)
  # The mouth is to the skin as in daylight.
  skin = np.percentile(skin_picture(), 80, axis=(0, 1)) * LIGHTS[name]
  np.testing.assert_allclose(painted, MOUTH * skin / 150, rtol=0.3, atol=5)


def test_usual_light_reaches_the_network_unchanged():
  rgb = skin_picture()
  _, face_seen = network_output(rgb)
  assert abs(face_seen.mean() - rgb[100:260, 160:320].mean()) < 12
