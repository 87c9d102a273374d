"""Light: neither a cut nor another person. The painting is the input."""

import pathlib

import cv2
import numpy as np
import pytest

from lipsync_jax.faces import (
  detector,
  identity,
  light,
  shots,
  track_builder,
  tracker,
)

PHOTO = pathlib.Path(__file__).resolve().parents[2] / 'examples/mona.jpg'
SIZE = (360, 480)  # rows, columns
COUNT = 24  # frames


@pytest.fixture(scope='module')
def finder():
  with detector.FaceDetector() as found:
    yield found


@pytest.fixture(scope='module')
def shot():
  """The painting under a slowly moving camera."""
  painting = cv2.imread(str(PHOTO))[..., ::-1]
  frames = []
  for i in range(COUNT):
    move = np.array([[0.5, 0, 82 + 0.3 * i], [0, 0.5, 8 - 0.2 * i]])
    frame = cv2.warpAffine(
      painting, move, SIZE[::-1], borderMode=cv2.BORDER_REFLECT
    )
    frames.append(frame)
  return frames


def analyze(pictures, finder):
  def stream():
    for i, rgb in enumerate(pictures):
      yield i, i / 25, rgb, lambda b, rgb=rgb: rgb[b[1] : b[3], b[0] : b[2]]

  return tracker.track_faces(stream(), SIZE, finder)


def clipped(values):
  return np.clip(values, 0, 255).astype(np.uint8)


def side_lamp(rgb):
  across = np.linspace(1.3, 0.2, rgb.shape[1])[:, None]
  return clipped(rgb * across)


LIGHTS = {
  'lamp off': lambda x: clipped(x * 0.06),
  'dusk': lambda x: clipped(x * [0.5, 0.3, 0.15]),
  'exposure': lambda x: clipped(x * 2.2),
  'stage': lambda x: x[..., [1, 0, 2]],
  'red': lambda x: clipped(x * [1, 0.1, 0.1]),
  'blue': lambda x: clipped(x * [0.15, 0.3, 1.4]),
  'gray': lambda x: np.repeat(
    cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None], 3, 2
  ),
  'side lamp': side_lamp,
  'flash': lambda x: np.full_like(x, 252),
  'dark': np.zeros_like,
}


@pytest.mark.parametrize('name', LIGHTS)
def test_light_is_no_cut_and_no_other_person(name, shot, finder):
  """A change of nine frames, far longer than the flash that cuts allow."""
  change = LIGHTS[name]
  lit = [change(x) if 7 <= i < 16 else x for i, x in enumerate(shot)]
  found = analyze(lit, finder)
  people = identity.group_people(found)
  assert found.cuts.tolist() == [] and len(people) == 1
  seen = np.concatenate([t.frames for t in people[0].tracks])
  hidden = set(range(7, 16)) if name in ('flash', 'dark') else set()
  # A lamp that goes off may cost a frame until the face is found again.
  assert len(set(range(COUNT)) - hidden - set(seen.tolist())) <= 1


@pytest.mark.parametrize('blank', ['flash', 'dark'])
@pytest.mark.parametrize('move', ['turn', 'shear'])
def test_a_head_that_moves_in_darkness_is_no_cut(blank, move, shot, finder):
  """The picture after the blank frames differs from the one before."""
  if move == 'turn':
    matrix = cv2.getRotationMatrix2D((240, 150), 4, 1.02)
    matrix[:, 2] += 8, 4
  else:
    matrix = np.array([[0.9, 0.1, 19], [0, 1, 0]])
  edge = cv2.BORDER_REFLECT
  after = [
    cv2.warpAffine(x, matrix, SIZE[::-1], borderMode=edge) for x in shot[16:]
  ]
  hidden = [LIGHTS[blank](x) for x in shot[7:16]]
  found = analyze([*shot[:7], *hidden, *after], finder)
  assert found.cuts.tolist() == []
  assert len(identity.group_people(found)) == 1


def test_frames_in_another_light_do_not_shift_the_usual_appearance(shot):
  heads = [cv2.resize(x[40:320, 100:380], (96, 96)) for x in shot[:9]]
  usual = [identity.appearance(x) for x in heads[:5]]
  red = [identity.appearance(LIGHTS['red'](x)) for x in heads[5:]]
  np.testing.assert_array_equal(
    track_builder.usual_appearance([*usual, *red]),
    track_builder.usual_appearance(usual),
  )


def other_scene(i):
  rng = np.random.default_rng(7)
  cells = rng.integers(20, 230, (9, 12, 3))
  scene = np.kron(cells, np.ones((40, 40, 1)))
  return np.roll(scene, 2 * i, 1).astype(np.uint8)


@pytest.mark.parametrize('change', [lambda x: x, LIGHTS['dusk']])
def test_a_cut_is_found_in_any_light(change, shot, finder):
  mixed = [x if i < 8 else change(other_scene(i)) for i, x in enumerate(shot)]
  assert analyze(mixed, finder).cuts.tolist() == [8]


def test_another_scene_after_a_fade_through_black_is_a_cut(shot, finder):
  parts = [*shot[:8], *[np.zeros_like(shot[0])] * 5]
  parts += [clipped(other_scene(i) * min(1, 0.1 * (i + 1))) for i in range(11)]
  assert len(analyze(parts, finder).cuts) == 1
  same = [*shot[:8], *[np.zeros_like(shot[0])] * 5]
  same += [clipped(x * min(1, 0.1 * (i + 1))) for i, x in enumerate(shot[8:18])]
  assert analyze(same, finder).cuts.tolist() == []


def test_a_mirrored_shot_shows_the_same_person(shot, finder):
  mirrored = [np.ascontiguousarray(x[:, ::-1]) for x in shot[8:]]
  moved = [np.roll(x, 90, 1) for x in mirrored]
  found = analyze([*shot[:8], *moved], finder)
  (person,) = identity.group_people(found)
  assert found.cuts.tolist() == [8] and len(person.tracks) == 2


@pytest.mark.parametrize('name', ['gray', 'dusk', 'stage', 'red'])
def test_another_shot_in_another_light_shows_the_same_person(
  name, shot, finder
):
  turn = cv2.getRotationMatrix2D((240, 200), 4, 0.85)
  later = [
    LIGHTS[name](cv2.warpAffine(x, turn, SIZE[::-1])) for x in shot[10:20]
  ]
  between = [other_scene(i) for i in range(6)]
  found = analyze([*shot[:8], *between, *later], finder)
  assert found.cuts.tolist() == [8, 14]
  assert len(identity.group_people(found)) == 1


def test_mirrored_appearance_is_that_of_the_mirrored_picture(shot):
  head = cv2.resize(shot[0][40:320, 100:380], (96, 96))
  flipped = identity.appearance(np.ascontiguousarray(head[:, ::-1]))
  own = identity.mirrored(identity.appearance(head))
  np.testing.assert_allclose(own, flipped, atol=0.02)


def test_edges_do_not_depend_on_light_but_on_the_scene(shot):
  sign = shots.frame_signature(shot[0])
  for name in ('lamp off', 'dusk', 'exposure', 'stage', 'red', 'gray'):
    other = shots.frame_signature(LIGHTS[name](shot[1]))
    assert shots.edge_similarity(sign, other) > shots.SAME_EDGES, name
  scene = shots.frame_signature(other_scene(0))
  assert shots.edge_similarity(sign, scene) < shots.SAME_EDGES - 0.1
  assert shots.shows_nothing(shots.frame_signature(LIGHTS['flash'](shot[0])))


def test_usual_light_is_left_alone_and_dim_light_lifted():
  rng = np.random.default_rng(0)
  usual = rng.integers(60, 220, (80, 80, 3), np.uint8)
  assert light.even_light(usual) is usual
  for gains in ([0.1, 0.1, 0.1], [1, 0.1, 0.1], [0.1, 0.2, 1]):
    dim = (usual * np.array(gains)).astype(np.uint8)
    level = np.percentile(light.even_light(dim), 80, axis=(0, 1))
    np.testing.assert_allclose(level, light.USUAL, atol=8)
  black = np.zeros((8, 8, 3), np.uint8)
  assert not light.even_light(black).any()
