"""Face restoration: models, alignment, mask and strength."""

import importlib.util
import pathlib

import cv2
import numpy as np
import pytest

from lipsync_jax import sync
from lipsync_jax.faces import landmarks
from lipsync_jax.inference import cli, enhancement
from lipsync_jax.inference.options import SyncError, SyncOptions
from tests.helpers import onnx_files, synthetic_face, test_clips

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / 'examples'
# Importing openvino by itself starts its telemetry.
pytestmark = pytest.mark.skipif(
  importlib.util.find_spec('openvino') is None, reason='needs openvino'
)


def load(path):
  return enhancement.load_restorer(SyncOptions('', face_enhancement=path))


def noise(side):
  return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


@pytest.mark.parametrize('side', [256, 512])
def test_a_model_runs(tmp_path, side):
  restore, found = load(onnx_files.negative(tmp_path / 'm.onnx', side))
  face = noise(side)
  assert found == side
  assert np.abs(restore(face) - (255.0 - face)).max() < 1


def test_an_open_size_is_512(tmp_path):
  restore, side = load(onnx_files.copy(tmp_path / 'm.onnx'))
  assert side == 512
  assert np.abs(restore(noise(512)) - noise(512)).max() < 1


def test_a_second_input_gets_the_fidelity(tmp_path):
  restore, _ = load(onnx_files.weighted(tmp_path / 'm.onnx'))
  face = noise(512)
  wanted = (face / 127.5 - 1) * enhancement.FIDELITY * 127.5 + 127.5
  assert np.abs(restore(face) - wanted).max() < 2


@pytest.mark.parametrize(
  'content', [b'', b'nonsense', b'\x08\x08' + bytes(50), None]
)
def test_other_files_are_refused_in_one_line(tmp_path, content):
  path = tmp_path / 'm.onnx'
  if content is None:  # a model without a picture
    ports = [onnx_files.port(name, [4]) for name in 'xy']
    neg = onnx_files.node('Neg', ['x'], 'y')
    onnx_files.write_model(path, [neg], ports[:1], ports[1:])
  else:
    path.write_bytes(content)
  with pytest.raises(SyncError, match='restorer') as caught:
    load(str(path))
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


def test_the_bare_flag_says_what_to_give():
  words = ['--face', 'f', '--audio', 'a', '--face_enhancement']
  with pytest.raises(SyncError, match=r'MODEL\.onnx'):
    cli.parse_options(words)
  given = cli.parse_options([*words, 'm.onnx', '--enhancement_strength', '.5'])
  assert given['face_enhancement'] == 'm.onnx'
  assert given['enhancement_strength'] == 0.5


@pytest.mark.parametrize('roll', [0.0, 0.5, -1.2])
def test_eyes_and_mouth_lie_where_ffhq_has_them(roll):
  points = synthetic_face.face(300, 200, 150, roll)
  matrix = enhancement.alignment(points, 512)
  eyes = points[landmarks.EYES]
  both = np.stack([eyes[:2].mean(0), eyes[2:].mean(0)]) - 0.5
  got = both @ matrix[:, :2].T + matrix[:, 2]
  assert np.abs(got - enhancement.FFHQ_POINTS[:2] * 512).max() < 30
  assert abs(got[0, 1] - got[1, 1]) < 2  # level
  scale = np.hypot(*matrix[:, 0])
  assert np.allclose(matrix[:, :2] @ matrix[:, :2].T, scale**2 * np.eye(2))


@pytest.mark.slow
@pytest.mark.parametrize('resume', [False, True])
def test_the_lower_face_alone_is_restored(tmp_path, resume):
  """A negative shows which pixels changed; a copy changes hardly any."""
  portrait = cv2.imread(str(EXAMPLES / 'mona.jpg'))
  scale = 384 / portrait.shape[0]
  portrait = cv2.resize(portrait, None, fx=scale, fy=scale)
  cv2.imwrite(str(tmp_path / 'f.png'), portrait)

  def run(name, **options):
    sync.sync(
      tmp_path / 'f.png', EXAMPLES / 'jfk.flac', tmp_path / name,
      preview=0.4, crf=4, quiet=True, resume=resume, **options,
    )  # fmt: skip
    return np.array(test_clips.read_video(tmp_path / name)[1], float)

  plain = run('a.mp4')
  negative = onnx_files.negative(tmp_path / 'n.onnx')
  changed = run('n.mp4', face_enhancement=negative)
  half = run('h.mp4', face_enhancement=negative, enhancement_strength=0.5)
  copied = run('c.mp4', face_enhancement=onnx_files.copy(tmp_path / 'c.onnx'))
  where = np.abs(changed - plain).mean(0) > 12
  rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
  assert 0.005 < where.mean() < 0.1
  middle = np.median(rows) / plain.shape[1], np.median(columns) / plain.shape[2]
  print(f'{where.mean():.4f} of the picture, middle {middle}')
  strong = np.abs(changed - plain)[:, where].mean()
  assert np.abs(half - plain)[:, where].mean() == pytest.approx(
    strong / 2, rel=0.2
  )
  assert np.abs(copied - plain)[:, where].mean() < 4
  assert np.abs(changed - plain)[:, ~where].mean() < 1
