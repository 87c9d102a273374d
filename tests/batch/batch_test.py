"""Batches: manifests, good and bad rows, killed and continued."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lipsync_jax import __main__ as command
from lipsync_jax.batch import manifest, runner
from lipsync_jax.common import atomic_file
from lipsync_jax.faces import tracker
from lipsync_jax.inference.options import SyncOptions
from tests.helpers import test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO = ROOT / 'examples/mona.jpg'


@pytest.fixture
def folder(tmp_path):
  """A small photo, two voices and a file that is no media."""
  import cv2

  side = 256
  picture = cv2.resize(cv2.imread(str(PHOTO)), (side, side))
  cv2.imwrite(str(tmp_path / 'face.png'), picture)
  cv2.imwrite(str(tmp_path / 'gray.png'), picture * 0 + 128)
  for name, seconds in (('a', 0.4), ('b', 0.8)):
    t = np.arange(round(16_000 * seconds)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * 150 * t) * (np.sin(2 * np.pi * 3 * t) > 0)
    test_clips.write_wav(tmp_path / f'{name}.wav', wave)
  (tmp_path / 'text.mp4').write_text('no media')
  return tmp_path


def write_csv(path, rows: list[dict]):
  names = list(dict.fromkeys(name for row in rows for name in row))
  with open(path, 'w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    writer.writerows(rows)
  return path


def write_jsonl(path, rows: list):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text('\n'.join(lines), encoding='utf-8')
  return path


def results_of(folder) -> list[dict]:
  text = (folder / runner.RESULTS).read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


ROWS = [
  {'face': 'face.png', 'audio': 'a.wav', 'outfile': 'one.mp4'},
  {'face': 'nobody.png', 'audio': 'a.wav', 'outfile': 'missing.mp4'},
  {'face': 'face.png', 'audio': 'b.wav', 'outfile': 'sub/two.mp4'},
  {'face': 'gray.png', 'audio': 'a.wav', 'outfile': 'faceless.mp4'},
  {'face': 'text.mp4', 'audio': 'a.wav', 'outfile': 'text.mp4'},
  {'face': 'face.png', 'audio': 'a.wav', 'strength': '9'},
  {'face': 'face.png', 'audio': 'a.wav', 'outfile': '../escape.mp4'},
  {'face': 'face.png', 'audio': 'a.wav', 'outfile': 'one.mp4'},
  {'face': 'face.png', 'audio': 'b.wav', 'strength': '0.5'},
]
REASONS = {
  2: 'expected a file',
  4: 'no face',
  5: 'text.mp4',
  6: 'expected 0 to 2',
  7: 'inside the output folder',
  8: 'row 1 writes',
}


@pytest.mark.parametrize('suffix', ['.csv', '.jsonl'])
def test_bad_rows_do_not_stop_the_others(folder, capsys, suffix):
  write = write_csv if suffix == '.csv' else write_jsonl
  path, out = write(folder / f'rows{suffix}', ROWS), folder / 'out'
  words = ['batch', str(path), '--out', str(out), '--jobs', '3', '--quiet']
  assert command.main(words) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('error: 6 of 9 rows failed')
  results = results_of(out)
  assert [r['row'] for r in results] == list(range(1, 10))
  for result in results:
    reason = REASONS.get(result['row'], '')
    assert result['status'] == ('failed' if reason else 'done'), result
    assert reason in result['reason'] and '\n' not in result['reason']
  files = {p.relative_to(out).as_posix() for p in out.rglob('*.*')}
  assert files == {'one.mp4', 'sub/two.mp4', '00009_b.mp4', runner.RESULTS}
  assert results[8]['report']['frames'] == 20
  assert not (folder / 'escape.mp4').exists()


def test_the_same_command_does_only_what_is_left(folder, capsys, monkeypatch):
  path = write_csv(folder / 'rows.csv', ROWS[:3])
  words = ['batch', str(path), '--out', str(folder / 'out'), '--quiet']
  assert command.main(words) == 1
  first = folder / 'out/one.mp4'
  kept = first.stat().st_mtime_ns
  with open(folder / 'out' / runner.RESULTS, 'a') as file:
    file.write('{"row": 3, "status": "do')  # torn by a kill
  (folder / 'out/sub/two.mp4').unlink()
  (folder / 'nobody.png').write_bytes((folder / 'face.png').read_bytes())
  assert command.main(words) == 0
  assert capsys.readouterr().out.strip().endswith(runner.RESULTS)
  assert first.stat().st_mtime_ns == kept
  assert [r['status'] for r in results_of(folder / 'out')] == ['done'] * 3
  # A changed input is another job.
  os.utime(folder / 'b.wav')
  session_run, done = runner.Session.run, []

  def counted(self, options, **more):
    done.append(pathlib.Path(options.outfile).name)
    return session_run(self, options, **more)

  monkeypatch.setattr(runner.Session, 'run', counted)
  assert command.main(words) == 0
  assert done == ['two.mp4']


def test_every_input_is_part_of_the_key(tmp_path):
  """A row is done again if any file that it names has changed."""
  names = ('a.mp4', 'a.wav', 'other.wav', 'w.pth', 'm.onnx', 'turn.wav')
  for name in names:
    (tmp_path / name).write_text(name)
  turns = tmp_path / 'turns.json'
  turns.write_text('[{"who": "left", "from": 0, "audio": "turn.wav"}]')
  path = {name: str(tmp_path / name) for name in names}
  options = SyncOptions(
    path['a.mp4'],
    path['a.wav'],
    final_audio=path['other.wav'],
    checkpoint_path=path['w.pth'],
    face_enhancement=path['m.onnx'],
    subtitles=str(turns),
  )
  before = runner.input_key(options)
  assert runner.input_key(options) == before
  for file in (*path.values(), str(turns)):
    os.utime(file, (1, 1))
    after = runner.input_key(options)
    assert after != before, file
    before = after
  for broken in ('[1]', '{"turns": 3}', '[', ''):
    turns.write_text(broken)  # the job says why
    assert runner.input_key(options)
  turns.unlink()
  assert runner.input_key(options)


def test_faces_are_searched_once_for_rows_with_one_face(folder, monkeypatch):
  """In three threads, and the longest search first."""
  times = test_clips.steady(0.8, 25)
  import cv2

  rgb = cv2.imread(str(folder / 'face.png'))[..., ::-1]
  test_clips.write_video(
    folder / 'face.mp4', times, (256, 256), lambda i: np.ascontiguousarray(rgb)
  )
  track, searches = tracker.track_faces, []

  def counted(stream, *rest):
    found = track(stream, *rest)
    searches.append(len(found.times))
    return found

  monkeypatch.setattr(tracker, 'track_faces', counted)
  monkeypatch.setenv('LIPSYNC_JAX_CACHE', str(folder / 'cache'))
  rows = [
    {'face': 'face.mp4', 'audio': audio, 'strength': strength}
    for audio in ('a.wav', 'b.wav')
    for strength in ('1', '0.5')
  ]
  path = write_csv(folder / 'rows.csv', rows)
  jobs = manifest.read_manifest(path, folder / 'out', {})
  results = runner.run_batch(jobs, folder / 'out', jobs=3)
  assert [r['status'] for r in results] == ['done'] * 4
  assert searches == [20]


def test_cells_have_the_meaning_of_flags(folder):
  rows = [
    {
      'face': 'face.png', 'audio': 'a.wav', 'rotate': 'true', 'static': 'no',
      'pads': '0 20 0 0', 'crop': '0 -1 0 -1', 'from': '0.5', 'crf': '',
      'when_audio_longer': 'hold', 'audio-for': 'left=b.wav;right=a.wav',
      'nosmooth': '0',
    },
  ]  # fmt: skip
  (row,) = manifest.read_manifest(
    write_csv(folder / 'rows.csv', rows), folder / 'out', {'crf': 20}
  )
  options = row.options
  assert options.rotate and not options.static and not options.nosmooth
  assert options.pads == (0, 20, 0, 0) and options.crop == (0, -1, 0, -1)
  assert (options.since, options.crf) == (0.5, 20)
  assert options.when_audio_longer == 'hold'
  assert options.audio_for == (
    ('left', str(folder / 'b.wav')),
    ('right', str(folder / 'a.wav')),
  )
  assert options.outfile == str(folder / 'out/00001_a.mp4')
  typed = {
    'face': 'face.png', 'audio': 'a.wav', 'rotate': True, 'static': False,
    'pads': [0, 20, 0, 0], 'crop': [0, -1, 0, -1], 'since': 0.5,
    'when-audio-longer': 'hold',
    'audio_for': {'left': 'b.wav', 'right': 'a.wav'},
  }  # fmt: skip
  typed['from'] = typed.pop('since')
  (again,) = manifest.read_manifest(
    write_jsonl(folder / 'rows.jsonl', [typed]), folder / 'out', {'crf': 20}
  )
  assert again.options == options


@pytest.mark.parametrize(
  'line, said',
  [
    ('{"face": ', 'expected a JSON object'),
    ('[1]', 'found list'),
    ('{"audio": "a.wav"}', 'expected a face'),
    ('{"face": "face.png", "loudness": 3}', "found 'loudness'"),
    ('{"face": "face.png", "rotate": "maybe"}', 'true or false'),
    ('{"face": "face.png", "fps": "fast"}', 'invalid float'),
    ('{"face": "face.png", "pads": "1 2"}', 'expected 4'),
    ('{"face": "face.png", "report": "r.json"}', "found 'report'"),
    ('{"face": "face.png", "face-enhancement": true}', 'expected a model'),
  ],
)
def test_a_bad_line_is_a_bad_row(folder, line, said):
  good = {'face': 'face.png', 'audio': 'a.wav'}
  path = write_jsonl(folder / 'rows.jsonl', [line, good])
  bad, fine = manifest.read_manifest(path, folder, {})
  assert bad.options is None and said in bad.reason
  assert fine.options is not None and fine.number == 2


@pytest.mark.parametrize(
  'name, content, said',
  [
    ('rows.txt', 'face', 'suffix .csv or .jsonl'),
    ('none.csv', None, 'found no file'),
    ('rows.csv', 'face,loudness\nx,1\n', 'found loudness'),
    ('rows.csv', 'audio\nx\n', 'found no face'),
    ('rows.csv', 'face,audio\n', 'expected rows'),
    ('rows.csv', b'face,audio\n\xff\xfe,\xff\n', 'UTF-8'),
  ],
)
def test_a_manifest_that_is_none_is_one_line(
  folder, capsys, name, content, said
):
  if content is not None:
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(content)
  words = ['batch', str(folder / name), '--out', str(folder / 'out')]
  assert command.main(words) == 1
  error = capsys.readouterr().err
  assert error.count('\n') == 1 and said in error
  assert not (folder / 'out').exists()


@pytest.mark.parametrize(
  'words, said',
  [
    (['--outfile', 'x.mp4'], 'expected in the manifest'),
    (['--jobs', '0'], 'expected at least 1'),
  ],
)
def test_bad_words_of_the_command(folder, capsys, words, said):
  path = write_csv(folder / 'rows.csv', ROWS[:1])
  line = ['batch', str(path), '--out', str(folder / 'out'), *words]
  assert command.main(line) == 1
  assert said in capsys.readouterr().err


@pytest.mark.skipif(os.name != 'posix', reason='Windows locks no folders')
def test_two_batches_do_not_share_a_folder(folder):
  rows = manifest.read_manifest(
    write_csv(folder / 'rows.csv', ROWS[:1]), folder / 'out', {}
  )
  (folder / 'out').mkdir()
  with (
    runner.exclusive(folder / 'out'),
    pytest.raises(manifest.BatchError, match='another batch'),
  ):
    runner.run_batch(rows, folder / 'out')


def test_the_first_word_chooses_the_command(capsys):
  with pytest.raises(SystemExit) as stop:
    command.main(['batch', '--help'])
  assert stop.value.code == 0 and 'manifest' in capsys.readouterr().out
  with pytest.raises(SystemExit) as stop:
    command.main(['--help'])
  assert stop.value.code == 0 and '--face' in capsys.readouterr().out


def kill_and_continue(folder, count: int, bad: set[int], kills: int) -> None:
  """Kill a batch `kills` times, let it end, and check every file."""
  rows = [
    {
      'face': 'nobody.png' if i in bad else 'face.png',
      'audio': 'ab'[i % 2] + '.wav',
      'outfile': f'{i}.mp4',
      'strength': str(0.5 + i % 4 / 4),
    }
    for i in range(count)
  ]
  path, out = write_csv(folder / 'rows.csv', rows), folder / 'out'
  command_line = [sys.executable, '-m', 'lipsync_jax', 'batch', str(path)]
  command_line += ['--out', str(out), '--jobs', '2', '--quiet']
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  lengths = [0]
  for _ in range(kills):
    process = subprocess.Popen(command_line, env=env, stderr=subprocess.PIPE)
    wanted = lengths[-1] + (count - len(bad)) // (kills + 1)
    while process.poll() is None and len(list(out.glob('*.mp4'))) < wanted:
      time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lengths.append(len(list(out.glob('*.mp4'))))
  assert lengths == sorted(set(lengths)) and lengths[-1] < count - len(bad)
  ended = subprocess.run(command_line, env=env, capture_output=True, text=True)
  assert ended.returncode == 1
  assert f'{len(bad)} of {count} rows failed' in ended.stderr
  results = results_of(out)
  assert [r['row'] for r in results] == list(range(1, count + 1))
  failed = {r['row'] - 1 for r in results if r['status'] == 'failed'}
  assert failed == bad and all(
    r['reason'] for r in results if r['row'] - 1 in bad
  )
  names = {p.name for p in out.iterdir()}
  good = {f'{i}.mp4' for i in range(count) if i not in bad}
  assert names == good | {runner.RESULTS}
  assert not [n for n in names if n.endswith(atomic_file.PART_SUFFIX)]
  first: dict[tuple, bytes] = {}
  for i in set(range(count)) - bad:  # rows of the same options, same bytes
    same = (rows[i]['audio'], rows[i]['strength'])
    content = (out / f'{i}.mp4').read_bytes()
    assert first.setdefault(same, content) == content
  assert len(set(first.values())) == len(first) == min(4, count)


@pytest.mark.slow
def test_a_killed_batch_continues(folder):
  kill_and_continue(folder, 12, {3, 7}, 1)


@pytest.mark.slow
@pytest.mark.full
def test_fifty_rows_with_five_bad_ones_killed_twice(folder):
  kill_and_continue(folder, 50, {0, 11, 12, 33, 49}, 2)
