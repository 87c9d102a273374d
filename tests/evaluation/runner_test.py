"""A whole evaluation on synthetic faces, and its report."""

import csv
import html.parser
import json
import xml.etree.ElementTree as ET

import cv2
import jax
import numpy as np
import pytest

from lipsync_jax import evaluate
from lipsync_jax.data import synthetic
from lipsync_jax.data.clip import write_clips
from lipsync_jax.evaluation import (
  aggregate,
  cli,
  contact_sheet,
  html_report,
  runner,
  svg_charts,
)
from tests.helpers import test_clips


def weights(path, network, width=0.05):
  """Untrained weights in a file."""
  from lipsync_jax import models
  from lipsync_jax.weights import safetensors_file

  net = models.build_model(network, 96, width)
  zeros = models.dummy_inputs(network, 96)
  shapes = jax.eval_shape(
    lambda key: net.init(key, *zeros, train=False), jax.random.key(0)
  )
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: np.abs(rng.normal(0, 0.1, x.shape)).astype(np.float32),
    dict(shapes),
  )
  safetensors_file.save(
    path, safetensors_file.Weights(network, 96, width, variables, 'untrained')
  )
  return str(path)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  folder = tmp_path_factory.mktemp('drawn')
  clips = [
    synthetic.synthetic_clip(f'{name}/{i:05d}', 45, 0)
    for name in 'ab'
    for i in range(2)
  ]
  path = folder / 'lipsync_clips-test.tfrecord-00000-of-00001'
  write_clips(path, clips)
  return folder


@pytest.fixture(scope='module')
def words(drawn, tmp_path_factory):
  """A command line, and where it writes."""
  folder = tmp_path_factory.mktemp('weights')
  out = folder / 'out'
  found = ['--shards', str(drawn), '--quiet', '--out', str(out)]
  found += ['--syncnet', weights(folder / 'judge.safetensors', 'syncnet')]
  generator = weights(folder / 'net.safetensors', 'generator')
  found += ['--checkpoint', f'<b>net</b>={generator}', '--min-seconds', '1.5']
  return found, out


@pytest.mark.slow
def test_whole_run_resumes_and_reports(words, capsys, monkeypatch):
  argv, out = words
  assert evaluate.main(argv) == 0
  assert 'reconstruction:' in capsys.readouterr().out
  whole = json.loads((out / 'report.json').read_text())
  assert set(whole['summary']) == {'reconstruction', 'cross', 'silence'}
  rows = whole['summary']['cross']
  assert list(rows) == [
    'ground truth',
    'ground truth, sound 5 frames late',
    'ground truth, sound 15 frames late',
    'unmodified, foreign sound',
    '<b>net</b>',
  ]
  assert {'judge_0', 'judge_hit'} <= rows['ground truth'].keys()
  assert not {'psnr', 'lips'} & rows['<b>net</b>'].keys()
  assert 'psnr' in whole['summary']['reconstruction']['<b>net</b>']
  assert 'judge_0' not in whole['summary']['silence']['<b>net</b>']
  for protocol in whole['summary'].values():
    assert 'sharpness' in protocol['<b>net</b>']
  with open(out / 'report.csv', newline='') as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == len(whole['results']) == 4 * (5 + 5 + 2)
  text = (out / 'report.html').read_text()
  assert '<b>net</b>' not in text and '&lt;b&gt;net' in text
  assert 'http' not in text.replace('http://www.w3.org/2000/svg', '')
  # Again: nothing is measured anew, and the numbers are the same.
  monkeypatch.setattr(runner, 'score_case', None)
  assert evaluate.main(argv) == 0
  again = json.loads((out / 'report.json').read_text())
  assert again['results'] == whole['results']


def test_refusals_are_one_line(tmp_path, capsys):
  out = ['--out', str(tmp_path / 'out'), '--quiet']
  assert evaluate.main(out) == 1
  assert 'give --shards, --videos or --pairs' in capsys.readouterr().err
  assert evaluate.main([*out, '--baseline', 'them=/nowhere']) == 1
  assert '--baseline: expected NAME=DIR' in capsys.readouterr().err
  assert evaluate.main([*out, '--videos', str(tmp_path / 'no')]) == 1
  error = capsys.readouterr().err
  assert error.count('\n') == 1 and 'expected a folder of videos' in error
  assert not (tmp_path / 'out').exists()


def test_bundled_weights_and_scorers_are_the_default(drawn, tmp_path):
  out = tmp_path / 'out'
  argv = [
    '--shards',
    str(drawn),
    '--min-seconds',
    '1.5',
    '--limit',
    '2',
    '--quiet',
  ]
  argv += ['--protocol', 'reconstruction', '--out', str(out)]
  assert evaluate.main(argv) == 0
  found = json.loads((out / 'report.json').read_text())
  assert not [r['error'] for r in found['results'] if 'error' in r]
  row = found['summary']['reconstruction']['lipsync_jax']
  assert {'judge_0', 'psnr'} <= row.keys()


def test_one_file_for_many_cases_is_refused(drawn, tmp_path, capsys):
  file = tmp_path / 'theirs.mp4'
  file.touch()
  argv = ['--shards', str(drawn), '--min-seconds', '1.5', '--quiet']
  argv += ['--baseline', f'them={file}', '--out', str(tmp_path / 'out')]
  assert evaluate.main(argv) == 1
  assert 'expected one case for one file' in capsys.readouterr().err


@pytest.mark.parametrize('old, new', cli.RENAMED.items())
def test_renamed_flags_are_understood(old, new, capsys):
  value = '1.5' if 'seconds' in new else 'x'
  args = cli.parse_arguments(['--out', 'o', old, value])
  assert args == _with_words(
    cli.parse_arguments(['--out', 'o', new, value]), old
  )
  assert capsys.readouterr().err == f'note: {old} is now {new}\n'


def _with_words(args, old):
  args.words[2] = old
  return args


def test_contact_sheet_shows_the_frames_at_the_times(tmp_path, capsys):
  def picture(i):
    return np.full((64, 96, 3), 10 * i, np.uint8)

  paths = [str(tmp_path / name) for name in ('a.mp4', 'b.mp4')]
  for path in paths:
    test_clips.write_video(path, test_clips.steady(0.8, 25), (96, 64), picture)
  out = tmp_path / 'sheet.png'
  words = [str(out), *paths, '--at', '0.2', '0.6', '--height', '64']
  assert contact_sheet.main(words) == 0
  assert capsys.readouterr().out.strip() == str(out)
  sheet = cv2.imread(str(out))
  assert sheet.shape == (128, 192, 3)
  for row, column, level in ((0, 0, 50), (1, 0, 50), (0, 1, 150), (1, 1, 150)):
    part = sheet[64 * row :][:64, 96 * column :][:, :96]
    assert abs(part.mean() - level) < 4
  assert contact_sheet.main([str(out), *paths, '--at', '5']) == 1
  assert 'found the end' in capsys.readouterr().err


# --- the report alone


def results(count=12):
  rng = np.random.default_rng(0)
  found = []
  for i in range(count):
    for row, kind, level in (
      ('ground truth', 'truth', 1.0),
      ('us', 'checkpoint', 2.0),
    ):
      values = {'judge_0': level + rng.normal(0, 0.1), 'judge_offset': 0.0}
      curve = [None, *np.linspace(2, 1, 14), *np.linspace(1, 2, 15), None]
      found.append({
        'protocol': 'cross', 'case': f'clip <{i}>', 'subject': f'{i}',
        'speaker': 'a', 'row': row, 'kind': kind, 'frames': 50,
        'values': values, 'curves': {'judge': curve},
        'strips': {'truth': 'AAAA', 'made': 'BBBB'},
      })  # fmt: skip
  lost = {'error': 'no face', 'values': {}, 'row': 'us', 'kind': 'checkpoint'}
  lost |= {'protocol': 'cross', 'case': 'lost', 'subject': 'l', 'speaker': 'a'}
  return [*found, lost]


def test_intervals_hold_the_mean_and_shrink_with_clips():
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(100):
    cell = aggregate.bootstrap_interval(rng.normal(3, 1, 40))
    inside += cell.low <= 3 <= cell.high
  assert inside >= 86
  wide, narrow = (
    aggregate.bootstrap_interval(rng.normal(0, 1, n)) for n in (10, 1000)
  )
  assert wide.high - wide.low > 4 * (narrow.high - narrow.low)
  assert (
    aggregate.bootstrap_interval(np.array([0.0, 0, 9]), median=True).value == 0
  )


def test_failures_are_counted_and_in_no_mean():
  cells = aggregate.protocol_table(results(), 'cross')
  assert cells['us']['judge_0'].count == 12
  assert aggregate.failed_results(results()) == [('cross', 'us', 'no face', 1)]
  assert np.isnan(aggregate.mean_curve(results()[:2], 'judge')[0])


def test_terminal_has_a_table_for_each_group():
  found = results(2)
  found[0]['values'] |= {'amplitude': 0.5, 'sharpness': 0.25}
  lines = aggregate.table_lines(found, 'cross')
  heads = [
    i
    for key in ('judge_0', 'amplitude', 'sharpness')
    for i, line in enumerate(lines)
    if key in line.split()
  ]
  assert lines[0] == 'cross:' and len(heads) == 3 and heads == sorted(heads)
  assert '0.500' in lines[heads[1] + 1] and '–' in lines[heads[1] + 2]


class Checker(html.parser.HTMLParser):
  """Counts tags, and fails where they do not close in order."""

  void = frozenset(('meta', 'br', 'img', 'line', 'circle', 'polyline'))

  def __init__(self):
    super().__init__()
    self.open, self.count = [], {}

  def handle_starttag(self, tag, attrs):
    self.count[tag] = self.count.get(tag, 0) + 1
    if tag not in self.void:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.count[tag] = self.count.get(tag, 0) + 1

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_page_is_whole_and_escaped():
  facts = {'what': 'a test', 'command': 'x & y'}
  text = html_report.render_page(results(), facts)
  checker = Checker()
  checker.feed(text)
  assert not checker.open
  assert checker.count['svg'] == 2 and checker.count['figure'] == 6
  assert 'clip &lt;3&gt;' in text and 'x &amp; y' in text
  assert 'Failed, and in no mean' in text and '1 × no face' in text


def test_scorers_are_tried_on_what_is_known():
  found = results(4)
  for r in found[:8:2]:
    r['values']['judge_offset'] = float(r['subject']) - 1  # -1 0 1 2
    late = {'kind': 'shifted', 'shift': 5, 'row': 'late'}
    value = r['values']['judge_offset'] - 5 - (r['subject'] == '3')
    found.append({**r, **late, 'values': {'judge_offset': value}})
  own, moved = aggregate.offset_accuracy(found, 'judge_offset')
  assert (own.value, own.count) == (0.75, 4)
  assert (moved.value, moved.count) == (0.75, 4)
  assert '75 % of 4' in html_report.scorer_check(found)


def test_colors_are_those_of_the_row_in_every_chart():
  order = ['truth', 'us', 'them']
  made = svg_charts.scatter_chart('t', {'them': ([1], [2])}, 'x', 'y', order)
  assert svg_charts.COLORS[2] in made and svg_charts.COLORS[0] not in made


def test_best_and_worst_are_in_order():
  key, order = html_report.ranked_clips(results(), 'cross', 'us')
  values = [r['values']['judge_0'] for r in order]
  assert key == 'judge_0' and values == sorted(values) and len(values) == 12


def test_charts_are_xml_and_put_values_where_they_belong():
  series = {'a < b': ([-1, 0, 1], [2.0, 1.0, float('nan')])}
  root = ET.fromstring(svg_charts.line_chart('title & more', series, 'x', 'y'))
  (path,) = [e for e in root.iter() if e.tag.endswith('polyline')]
  points = [tuple(map(float, p.split(','))) for p in path.get('points').split()]
  assert len(points) == 2
  assert points[0][0] < points[1][0] and points[0][1] < points[1][1]  # y down
  ET.fromstring(
    svg_charts.scatter_chart('t', {}, 'x', 'y')
  )  # nothing to show is fine


def test_ticks_are_round_and_inside():
  assert svg_charts.axis_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
  assert svg_charts.axis_ticks(0.93, 1.21) == [0.95, 1.0, 1.05, 1.1, 1.15, 1.2]
