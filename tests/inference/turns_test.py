"""Turns of a dialogue, read from subtitles and JSON."""

import json
from fractions import Fraction

import pytest

from lipsync_jax.inference import turns
from lipsync_jax.inference.options import SyncError, SyncOptions
from lipsync_jax.inference.turns import Turn

SRT = """1
00:00:00,000 --> 00:00:01,500
left: Good morning.

2
00:00:01,500 --> 00:00:02,250
Right: Morning! It is 10:30.

3
00:00:02,500 --> 00:00:03,000
and it rains.
"""
VTT = """WEBVTT

NOTE nothing

first
00:00.000 --> 00:01.500 align:start
<v left>Good morning.

00:01.500 --> 00:02.250
<v.loud right>Morning! It is <i>10:30</i>.

00:02.500 --> 00:03.000
and it rains.
"""
WANTED = [
  Turn('left', Fraction(0), Fraction(3, 2)),
  Turn('right', Fraction(3, 2), Fraction(9, 4)),
  Turn('right', Fraction(5, 2), Fraction(3)),
]


def read(path, text, cast=None, encoding='utf-8'):
  path.write_bytes(text.encode(encoding))
  return turns.read_turns(path, cast)


@pytest.mark.parametrize('text', [SRT, VTT], ids=['srt', 'vtt'])
@pytest.mark.parametrize('ends', ['\n', '\r\n'])
def test_subtitles_give_turns(tmp_path, text, ends):
  assert read(tmp_path / 'a.txt', text.replace('\n', ends)) == WANTED


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'latin-1'])
def test_old_encodings_are_read(tmp_path, encoding):
  text = SRT.replace('Good', 'Schön')
  assert read(tmp_path / 'a.srt', text, encoding=encoding) == WANTED


def test_a_cast_names_the_speakers(tmp_path):
  text = SRT.replace('left:', 'Anna Bell:').replace('Right:', '[BEN]:')
  cast = {'anna bell': 'left', 'Ben': 'right'}
  assert read(tmp_path / 'a.srt', text, cast) == WANTED
  with pytest.raises(SyncError, match='--cast') as caught:
    read(tmp_path / 'a.srt', text, {'Ben': 'right'})
  assert 'Anna Bell' in str(caught.value) and '\n' not in str(caught.value)


def test_a_narrator_moves_no_lips(tmp_path):
  text = SRT.replace('left:', 'Narrator:')
  got = read(tmp_path / 'a.srt', text, {'Narrator': 'none'})
  assert got == WANTED[1:]


def test_two_may_speak_at_once(tmp_path):
  text = '00:00:01,000 --> 00:00:02,000\n- left: Yes!\n- right: No!\n'
  assert read(tmp_path / 'a.srt', text) == [
    Turn('left', Fraction(1), Fraction(2)),
    Turn('right', Fraction(1), Fraction(2)),
  ]


def test_json_gives_turns_with_files(tmp_path):
  rows = [
    {'who': 'Ben', 'from': 2, 'audio': 'b.wav'},
    {'who': '0', 'from': 0.5, 'to': 1.25},
    {'who': '120,80', 'from': 3, 'to': 4, 'audio': '/x/c.wav', 'text': 'Hi'},
  ]
  path = tmp_path / 'a.json'
  own = str(tmp_path / 'b.wav')
  wanted = [
    Turn('0', Fraction(1, 2), Fraction(5, 4)),
    Turn('right', Fraction(2), None, own),
    Turn('120,80', Fraction(3), Fraction(4), '/x/c.wav'),
  ]
  for content in (rows, {'turns': rows}):
    assert read(path, json.dumps(content), {'Ben': 'right'}) == wanted
  assert turns.audio_files(path) == sorted(['/x/c.wav', own])
  assert turns.audio_files(None) == []


@pytest.mark.parametrize(
  'text, said',
  [
    ('', 'expected turns'),
    ('00:00:01,000 --> 00:00:02,000\nhello\n', 'expected a speaker'),
    ('00:00:02,000 --> 00:00:01,000\nleft: hello\n', 'end after the start'),
    ('[1, 2]', 'expected a list'),
    ('{"a": 1', 'expected JSON'),
    ('[{"who": "left", "from": 1}]', 'turn 1: expected'),
    ('[{"who": "left", "from": 2, "to": 1}]', 'turn 1: expected'),
    ('[{"who": "left", "from": -2, "to": 1}]', 'turn 1: expected'),
    ('[{"who": "left", "from": true, "to": 1}]', 'turn 1: expected'),
    ('[{"who": "left", "from": 0, "to": 1, "x": 1}]', 'turn 1: expected'),
    ('[{"who": "nobody?", "from": 0, "to": 1}]', '--cast'),
  ],
)
def test_wrong_turns_are_one_line(tmp_path, text, said):
  with pytest.raises(SyncError) as caught:
    read(tmp_path / 'a', text)
  assert said in str(caught.value) and '\n' not in str(caught.value)
  assert str(tmp_path / 'a') in str(caught.value)


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'audio_for': (('left', 'a'),)}, '--subtitles: expected'),
    ({'box': (1, 2, 3, 4)}, 'no --box'),
    ({'subtitles': None, 'cast': (('a', 'left'),)}, '--cast'),
    ({'keep_background': 90.0}, '--keep_background: expected'),
    ({'subtitles': 'nope.srt'}, '--subtitles: expected a file'),
  ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, changes, said):
  for name in ('a', 'f'):
    (tmp_path / name).write_bytes(b'x')
  given = {'face': str(tmp_path / 'f'), 'audio': str(tmp_path / 'a')}
  given |= {'subtitles': str(tmp_path / 'a')} | changes
  if 'audio_for' in changes:
    given['audio_for'] = (('left', str(tmp_path / 'a')),)
  with pytest.raises(SyncError) as caught:
    SyncOptions(**given).validate()
  assert said in str(caught.value)
