"""A hand or microphone before the mouth stays whole, on both renderers."""

import pathlib

import cv2
import numpy as np
import pytest

from lipsync_jax import sync
from tests.helpers import test_clips

EXAMPLES = pathlib.Path(__file__).parents[2] / 'examples'
FRAMES, RATE = 40, 25
SIDE, MOUTH = 360, (157, 226)  # pixels of the painting
COVERED = range(16, 24)  # frames in which the object stands before the mouth


def capsule(shape, start, end, radius) -> np.ndarray:
  mask = np.zeros(shape, np.float32)
  points = [tuple(int(v) for v in point) for point in (start, end)]
  cv2.line(mask, *points, 1.0, int(2 * radius))
  return cv2.GaussianBlur(mask, (0, 0), 0.8)


def hand(picture, x, y) -> np.ndarray:
  """Mask of four fingers whose tips stand around (x, y)."""
  parts = [
    capsule(
      picture.shape[:2], (x + 17 * i, y - 5 * (i % 2)), (x + 25 * i, 500), 7
    )
    for i in range(-2, 2)
  ]
  return np.max(parts, 0)


def microphone(picture, x, y) -> np.ndarray:
  """Mask of a ball on a stem."""
  ball = capsule(picture.shape[:2], (x, y), (x + 1, y), 22)
  return np.maximum(ball, capsule(picture.shape[:2], (x, y), (x + 60, 500), 9))


OBJECTS = {
  'hand': (hand, np.array([196, 140, 96])),
  'microphone': (microphone, np.array([40, 40, 45])),
}


def build(kind: str, path) -> list[np.ndarray]:
  """A video of the painting with an object that comes and goes; the masks."""
  photo = cv2.imread(str(EXAMPLES / 'mona.jpg'))[..., ::-1]
  photo = cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
  draw, color = OBJECTS[kind]
  x, y = MOUTH
  shade = 0.85 + 0.15 * np.sin(np.arange(SIDE) / 5)[None, :, None]
  frames, masks = [], []
  for i in range(FRAMES):
    away = max(COVERED[0] - i, i - COVERED[-1], 0)
    mask = draw(photo, x, y + 40 * away)
    frame = photo + mask[..., None] * (color * shade - photo)
    frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    masks.append(mask)
  times = test_clips.steady(FRAMES / RATE, RATE)
  test_clips.write_video(path, times, (SIDE, SIDE), frames.__getitem__, RATE)
  return masks


def changes(source, out, masks) -> tuple[list[float], list[float]]:
  """Mean change of luma in the object and beside it around the mouth."""
  x, y = MOUTH
  region = np.s_[y - 30 : y + 35, x - 45 : x + 45]
  inside, beside = [], []
  _, before = test_clips.read_video(source)
  _, after = test_clips.read_video(out)
  for a, b, mask in zip(before, after, masks, strict=True):
    change = np.abs(a.astype(float) - b)[region]
    core = cv2.erode(mask, np.ones((3, 3)))[region] > 0.9
    inside.append(float(change[core].mean()) if core.sum() > 50 else 0.0)
    beside.append(float(change[mask[region] < 0.01].mean()))
  return inside, beside


@pytest.mark.parametrize('kind', sorted(OBJECTS))
@pytest.mark.parametrize('renderer', ['mesh', 'network'])
def test_object_before_the_mouth_stays_whole(kind, renderer, tmp_path):
  source, out = tmp_path / 'face.mp4', tmp_path / 'out.mp4'
  masks = build(kind, source)
  words = ['--face', source, '--audio', EXAMPLES / 'jfk.flac', '--outfile', out]
  words += ['--renderer', renderer, '--when-audio-longer', 'cut', '--quiet']
  assert sync.main([str(word) for word in [*words, '--strength', 2]]) == 0
  inside, beside = changes(source, out, masks)
  assert max(inside[i] for i in COVERED) < 3, inside
  assert max(beside) > 2, beside  # lips move in other frames


def test_a_hand_in_a_photo_stays_whole(tmp_path):
  photo = cv2.imread(str(EXAMPLES / 'mona.jpg'))
  photo = cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
  draw, color = OBJECTS['hand']
  x, y = MOUTH
  mask = draw(photo, x, y + 6)
  photo = photo + mask[..., None] * (color[::-1] - photo)
  source, out = tmp_path / 'face.png', tmp_path / 'out.mp4'
  cv2.imwrite(str(source), photo.astype(np.uint8))
  report = sync.sync(
    source, EXAMPLES / 'jfk.flac', out, preview=1.0, strength=2.0, crf=0,
    quiet=True,
  )  # fmt: skip
  _, frames = test_clips.read_video(out)
  core = cv2.erode(mask, np.ones((3, 3))) > 0.9
  first = frames[0].astype(float)
  change = [np.abs(frame - first)[core].mean() for frame in frames]
  assert max(change) < 1, change
  assert report['speakers'][0]['frames_covered'] == len(frames)


def test_segments_and_strength_zero(tmp_path):
  """The count is that of one run; at strength 0 nothing is searched."""
  source, reports = tmp_path / 'face.mp4', {}
  build('hand', source)
  voice = EXAMPLES / 'jfk.flac'
  given = {'quiet': True, 'when_audio_longer': 'cut'}
  for name, more in (
    ('whole', {}), ('parts', {'resume': True}), ('none', {'strength': 0.0})
  ):  # fmt: skip
    report = sync.sync(source, voice, tmp_path / f'{name}.mp4', **given, **more)
    reports[name] = report['speakers'][0]
  assert reports['whole']['frames_covered'] >= 6
  assert reports['whole'] == reports['parts']
  assert 'frames_covered' not in reports['none']
