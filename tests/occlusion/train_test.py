"""The occlusion network learns, and the command writes its file."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from lipsync_jax.occlusion import train
from lipsync_jax.weights import occlusion_weights, safetensors_file
from tests.helpers import synthetic_speech


def test_faces_come_equally_from_all_speakers(tmp_path):
  synthetic_speech.build(tmp_path, {'a': 3, 'b': 1})
  faces = train.read_faces(str(tmp_path), 'train', 8, 0)
  again = train.read_faces(str(tmp_path), 'train', 8, 0)
  assert faces.shape[1:] == (112, 112, 3) and len(faces) == 8
  assert (faces == again).all()


@pytest.mark.slow
def test_training_lowers_the_loss():
  rng = np.random.default_rng(0)
  faces = np.full((4, 112, 112, 3), (200, 150, 120), np.uint8)
  faces += rng.integers(0, 20, (4, 1, 1, 3), np.uint8)
  batch = [jnp.asarray(x) for x in next(train.pairs(faces, 5, 32))]
  before = train.train(faces, 1)
  after = train.train(faces, 60)
  loss = train.loss
  assert float(loss(after, *batch)) < 0.9 * float(loss(before, *batch))


def test_command(tmp_path, capsys):
  for split in ('train', 'val'):
    synthetic_speech.build(tmp_path, {split: 2}, split=split)
  out = tmp_path / 'occlusion.safetensors'
  assert train.main([str(tmp_path), '--out', str(out), '--steps=2']) == 0
  meta = json.loads(safetensors_file.read_metadata(out)['meta'])
  assert set(meta) == {'iou', 'recall', 'wrong_area'}
  occlusion_weights.load_occlusion(out)
