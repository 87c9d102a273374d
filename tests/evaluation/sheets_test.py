"""Strips of mouths, and the sheets of the report."""

import base64

import cv2
import numpy as np

from lipsync_jax.evaluation import (
  clip,
  contact_sheet,
  html_report,
  html_sheets,
)
from lipsync_jax.faces import landmarks
from tests.evaluation.runner_test import Checker, results
from tests.helpers import synthetic_face


def jpeg(text):
  data = np.frombuffer(base64.b64decode(text), np.uint8)
  return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).astype(int)


def still_face(size):
  """A clip of one picture with a red mouth, and its landmarks."""
  points = synthetic_face.face(cx=size / 2, cy=size / 2, width=size / 2)
  picture = np.full((size, size, 3), 128, np.uint8)
  lips = np.rint(points[landmarks.OUTER_LIPS]).astype(np.int32)
  cv2.fillPoly(picture, [lips], (220, 30, 30))
  crops = np.tile([size / 2, size / 2, size / 2, size * 0.65, 0.0], (20, 1))
  wave = np.zeros(20 * 640, np.int16)
  made = clip.EvalClip('a', 'a', (picture,) * 20, crops, wave)
  return made, np.tile(points, (20, 1, 1))


def test_strips_of_mouths_show_the_same_place_at_any_size():
  source, points = still_face(240)
  double, _ = still_face(480)
  strips = [
    jpeg(contact_sheet.mouth_strip(made, source, points))
    for made in (source, double)
  ]
  width, height = contact_sheet.MOUTH_SIZE
  assert strips[0].shape == (height, contact_sheet.MOUTHS * width, 3)
  for strip in strips:
    red = (strip[..., 0] > 170) & (strip[..., 1] < 90)
    rows, columns = np.nonzero(red[:, :width])
    assert abs(rows.mean() - height / 2) < 3
    assert abs(columns.mean() - width / 2) < 3
    assert 0.4 * width < np.ptp(columns) < 0.75 * width
  lost = np.full_like(points, np.nan)
  assert contact_sheet.mouth_strip(source, source, lost) == ''


def test_sheets_have_the_source_above_every_system():
  found = results()[:-1]
  for r in found:
    r['strips'] |= {'source_mouths': 'SRC=', 'mouths': f'{r["row"][:2]}=='}
  sheets = html_sheets.clip_sheets(found, 'cross')
  assert len(sheets) == 2 + 12 and '12 of 12 clips' in sheets[1]
  order = [sheets[2].index(x) for x in ('SRC=', 'gr==', 'us==')]
  assert order == sorted(order) and 'clip &lt;0&gt;' in sheets[2]
  assert html_sheets.clip_sheets(found, 'silence') == []
  many = [{**r, 'case': f'{i}'} for i, r in enumerate(100 * found[:1])]
  assert '24 of 100 clips' in html_sheets.clip_sheets(many, 'cross')[1]
  checker = Checker()
  facts = {'what': 'a test', 'command': 'x'}
  checker.feed(html_report.render_page(found, facts))
  assert not checker.open and checker.count['figure'] == 6 + 12


def test_values_of_fewer_clips_say_so():
  found = results()[:-1]
  text = html_report.metric_table(found, 'cross', 'sync')
  assert '12 clips' in text and 'of 11' not in text
  del found[0]['values']['judge_0']  # such as of a source without sound
  text = html_report.metric_table(found, 'cross', 'sync')
  assert text.count('of 11') == 1
