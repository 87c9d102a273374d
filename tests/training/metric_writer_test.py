"""metrics.py: lines and pictures that come back."""

import json

import numpy as np

from lipsync_jax.training import metric_writer


def test_strip_shows_reference_masked_made_and_truth():
  face = np.zeros((2, 5, 8, 6, 6), np.float32)
  face[..., 3] = 1  # the reference is red, the masked part black
  made = np.full((2, 5, 8, 6, 3), 0.5, np.float32)
  true = np.full((2, 5, 8, 6, 3), 2.0, np.float32)
  found = metric_writer.sample_grid(face, made, true)
  assert found.shape == (2 * 5 * 8, 4 * 6, 3)
  row = found[11]
  np.testing.assert_array_equal(row[:6], [[255, 0, 0]] * 6)
  np.testing.assert_array_equal(row[6:12], 0)
  np.testing.assert_array_equal(row[12:18], 128)
  np.testing.assert_array_equal(row[18:], 255)


def test_resumed_run_goes_on_after_its_checkpoint(tmp_path):
  with metric_writer.MetricWriter(tmp_path) as writer:
    for step in (1, 2, 3):
      writer.write(step, 'train', {'l1': step / 3})
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 4, "ki')  # killed here
  with metric_writer.MetricWriter(tmp_path, start=2) as writer:
    writer.write(3, 'train', {'l1': float('nan')})
    writer.write(3, 'validation', {'l1': 0.5})
  lines = metric_writer.read_metrics(tmp_path)
  assert [line['step'] for line in lines] == [1, 2, 3]
  assert lines[0]['l1'] == 0.3333333
  assert lines[2]['l1'] == 'nan'
  assert metric_writer.read_metrics(tmp_path, 'validation')[0]['l1'] == 0.5
  for line in (tmp_path / 'metrics.jsonl').read_text().splitlines():
    json.loads(line)


def test_pictures_come_back(tmp_path):
  import cv2

  rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
  with metric_writer.MetricWriter(tmp_path) as writer:
    writer.picture(7, 'some', rgb)
  found = cv2.imread(str(tmp_path / 'strips/00000007-some.png'))
  np.testing.assert_array_equal(found[..., ::-1], rgb)
  events = list((tmp_path / 'tensorboard').iterdir())
  assert events
  assert events[0].stat().st_size > rgb.nbytes // 4


def test_other_processes_write_nothing(tmp_path):
  with metric_writer.MetricWriter(tmp_path / 'none', active=False) as writer:
    writer.write(1, 'train', {'l1': 1.0})
    writer.picture(1, 'some', np.zeros((4, 4, 3), np.uint8))
  assert not (tmp_path / 'none').exists()
