"""sync: time, errors, flags and whole runs with a stand-in generator.

The stand-in paints what it hears, so that a video shows which sound drove
each of its frames. A face box given by hand keeps detection out of it.

LIPSYNC_JAX_MINUTES=10 sets the minutes that may not drift (default 2), and
adds the rates of whole numbers.
"""

import itertools
import json
import os
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax import audio, sync
from lipsync_jax.audio import log_mel
from lipsync_jax.inference import cli, network_cache, options, pipeline
from lipsync_jax.rendering import compositing, network_renderer, timeline
from lipsync_jax.weights import convert
from tests.helpers import test_clips

MINUTES = int(os.environ.get('LIPSYNC_JAX_MINUTES', '2'))
PERIOD = 0.5  # seconds of the saw-tooth in loudness
TONE = 1000  # Hz
LEVELS = 40.0  # gray levels per unit of mel


@pytest.fixture
def stand_in(monkeypatch):
  """A generator that paints the loudness of its window's middle."""

  def predictor(variables, size, width, dtype, batch):
    def predict(mel, face):
      assert len(mel) == len(face) == batch
      loud = mel.max(1)  # [b, 16]: the tone's bin is the loudest
      # A frame at t is the window's column 6.4, which floor() makes 6.9 on
      # average; training had the same.
      at = 0.1 * loud[:, 6] + 0.9 * loud[:, 7]
      gray = np.round(np.clip(128 + LEVELS * at, 0, 255))
      return np.broadcast_to(gray[:, None, None, None], face.shape).astype('u1')

    return predict, 'stand-in'

  net = convert.Weights(
    'generator',
    96,
    1.0,
    {},
    'test',
    sha256='0',
    mel_lead=audio.CENTERED_LEAD,
  )
  monkeypatch.setattr(pipeline.convert, 'load_any', lambda path, network: net)
  monkeypatch.setattr(network_cache.runtime, 'build_predictor', predictor)
  # The paint must arrive as it is, without mask and color matching.
  monkeypatch.setattr(
    network_renderer.compositing,
    'paste_patch',
    lambda spoken, face, crop, points, frame, *_: compositing.whole_box_patch(
      spoken, crop, frame
    ),
  )


def saw_tooth(seconds: float) -> np.ndarray:
  """A tone whose level climbs by 60 dB and falls back, every PERIOD."""
  t = np.arange(round(seconds * 16000)) / 16000
  decibel = -70 + 60 * (t % PERIOD) / PERIOD
  return 10 ** (decibel / 20) * np.sin(2 * np.pi * TONE * t)


def heard(gray: np.ndarray) -> np.ndarray:
  """Seconds within the period whose sound painted a gray level."""
  mel = log_mel(saw_tooth(4).astype(np.float32)).max(0)
  times = np.arange(mel.size) / 80
  phase = times % PERIOD
  clean = (phase > 0.06) & (phase < PERIOD - 0.06) & (times > 1) & (times < 3)
  slope, level = np.polyfit(phase[clean], mel[clean], 1)
  return ((gray - 128) / LEVELS - level) / slope


def check_time(path, rate_of):
  """Every frame's paint is of the sound at its time, to half a frame."""
  times, lumas = test_clips.read_video(path)
  # Limited range: code 16 is black, 235 white.
  gray = np.array([float(y[30:34, 30:34].mean()) for y in lumas])
  found = heard((gray - 16) * 255 / 219)
  wrong = checked = 0
  for i, (time, phase) in enumerate(zip(times, found, strict=True)):
    expected = float(time) % PERIOD
    if 0.08 < expected < PERIOD - 0.08:
      checked += 1
      wrong += abs(phase - expected) > 0.5 / rate_of(i) + 0.0015
  assert checked > len(times) / 2
  assert not wrong, f'{wrong} of {checked} frames are off'
  return times


def run(tmp_path, times, seconds, rate=30, **options):
  face = test_clips.write_video(tmp_path / 'face.mp4', times, rate=rate)
  voice = test_clips.write_wav(tmp_path / 'voice.wav', saw_tooth(seconds))
  out = tmp_path / 'out.mp4'
  given = {'box': (8, 56, 8, 56), 'crf': 4, 'quiet': True}
  given |= {'checkpoint_path': 'stand-in', 'no_noise_gate': True} | options
  return out, sync.sync(face, voice, str(out), **given)


RATES = [Fraction(24000, 1001), 25, Fraction(30000, 1001), 50]
RATES += [Fraction(60000, 1001)]


def steady_run(tmp_path, rate, seconds):
  out, report = run(tmp_path, test_clips.steady(seconds, rate), seconds, rate)
  times = check_time(out, lambda _: float(rate))
  assert len(times) == report['frames'] == round(seconds * Fraction(rate))
  assert max(abs(t - i / Fraction(rate)) for i, t in enumerate(times)) < 1e-4


def varying(seconds):
  """Frame times whose gaps change between 1/60 and 1/12 s."""
  gaps = itertools.cycle([1500, 3000, 7500, 2250, 3750])
  stamps = itertools.accumulate(gaps, initial=0)
  times = (Fraction(s, 90000) for s in stamps)
  return list(itertools.takewhile(lambda t: t < seconds, times))


def varying_run(tmp_path, seconds):
  wanted = varying(seconds)
  out, _ = run(tmp_path, wanted, seconds)
  gaps = [float(b - a) for a, b in itertools.pairwise(wanted)]
  gaps.append(gaps[-1])
  got = check_time(out, lambda i: 1 / gaps[i])
  assert got == wanted[: len(got)] and len(wanted) - len(got) <= 1


@pytest.mark.parametrize('rate', RATES)
def test_frames_show_the_sound_of_their_time(tmp_path, stand_in, rate):
  steady_run(tmp_path, rate, 6)


def test_variable_rate_shows_the_sound_of_its_time(tmp_path, stand_in):
  varying_run(tmp_path, 6)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(
  'rate', [x for x in RATES if x != int(x) or MINUTES >= 10]
)
def test_minutes_do_not_drift(tmp_path, stand_in, rate):
  # Where a clock divides evenly, the seconds above say as much.
  steady_run(tmp_path, rate, 60 * MINUTES)


@pytest.mark.slow
@pytest.mark.full
def test_minutes_of_variable_rate_do_not_drift(tmp_path, stand_in):
  varying_run(tmp_path, 60 * MINUTES)


def write_bursts(path, seconds: int, starts):
  """Silence, but for two seconds of the saw-tooth at each start."""
  import av

  loud = np.round(saw_tooth(1) * 32767).astype(np.int16)[None]
  spoken = {at + k for at in starts for k in (0, 1)}
  with av.open(str(path), 'w') as file:
    stream = file.add_stream('flac', rate=16000, layout='mono')
    for second in range(seconds):
      samples = loud if second in spoken else np.zeros_like(loud)
      frame = av.AudioFrame.from_ndarray(samples, 's16', 'mono')
      frame.sample_rate, frame.pts = 16000, 16000 * second
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
  return path


@pytest.mark.slow
@pytest.mark.full
def test_speech_late_in_an_hour_drives_the_lips(tmp_path, stand_in):
  """At 7:00, 15:00 and 60:00, to 20 ms; between them the mouth rests.

  A frame every two seconds, and ten a second about the speech.
  """
  starts, seconds = (420, 900, 3600), 3603
  tenths = set(range(0, 10 * seconds, 20))
  for start in starts:
    tenths.update(range(10 * start - 10, 10 * start + 30))
  wanted = [Fraction(k, 10) for k in sorted(tenths)]
  face = test_clips.write_video(tmp_path / 'face.mp4', wanted, rate=10)
  voice = write_bursts(tmp_path / 'voice.flac', seconds, starts)
  out = tmp_path / 'out.mp4'
  sync.sync(
    face, voice, out, checkpoint_path='x', box=(8, 56, 8, 56), crf=4, quiet=True
  )
  times, lumas = test_clips.read_video(out)
  # How long the last one is shown nobody says; another may fill the rest.
  assert times[: len(wanted)] == wanted and len(times) <= len(wanted) + 2
  gray = np.array([float(y[30:34, 30:34].mean()) for y in lumas])
  times, gray = np.array(times, float), (gray - 16) * 255 / 219
  speaking = np.zeros(len(times), bool)
  for start in starts:
    speaking |= (times > start - 0.3) & (times < start + 2.3)
    here = (times > start + 0.05) & (times < start + 1.95)
    here &= (times % PERIOD > 0.08) & (times % PERIOD < PERIOD - 0.08)
    assert here.sum() >= 15
    away = np.abs(heard(gray[here]) - times[here] % PERIOD)
    assert away.max() < 0.02, start
  assert np.ptp(gray[~speaking]) < 4 < np.ptp(gray) / 10


def test_audio_longer_bounces_in_time(tmp_path, stand_in):
  out, report = run(tmp_path, test_clips.steady(2, 25), 7, 25)
  assert report['frames'] == 175
  check_time(out, lambda _: 25.0)


def test_video_longer_keeps_its_rest_untouched(tmp_path, stand_in):
  out, report = run(
    tmp_path, test_clips.steady(4, 25), 2, 25, when_video_longer='keep', crf=0
  )
  assert (
    report['frames'] == 100 and report['speakers'][0]['frames_spoken'] == 50
  )
  assert report['speakers'][0]['skipped'] == [
    {'from': 2.0, 'to': 4.0, 'why': 'no sound'}
  ]
  _, source = test_clips.read_video(tmp_path / 'face.mp4')
  _, lumas = test_clips.read_video(out)
  for a, b in zip(source[50:], lumas[50:], strict=True):
    np.testing.assert_array_equal(a, b)


def test_outside_the_box_nothing_changes(tmp_path, stand_in):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 255, (64, 64, 3), np.uint8)
  times = test_clips.steady(1, 25)
  face = test_clips.write_video(
    tmp_path / 'face.mp4', times, picture=lambda i: np.roll(noise, i, 0)
  )
  voice = test_clips.write_wav(tmp_path / 'voice.wav', saw_tooth(1))
  out = tmp_path / 'out.mp4'
  options = {'box': (8, 40, 16, 48), 'crf': 0, 'quiet': True}
  sync.sync(face, voice, out, checkpoint_path='x', **options)
  _, before = test_clips.read_video(face)
  _, after = test_clips.read_video(out)
  outside = np.ones((64, 64), bool)
  outside[8:40, 16:48] = False
  for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a[outside], b[outside])
    assert (a[20:30, 24:40] != b[20:30, 24:40]).any()


def test_preview_photo_and_final_audio(tmp_path, stand_in):
  from PIL import Image

  photo = tmp_path / 'face.v2.png'
  Image.new('RGB', (80, 64), (90, 120, 150)).save(photo)
  voice = test_clips.write_wav(tmp_path / 'voice.wav', saw_tooth(9))
  music = test_clips.write_wav(tmp_path / 'music.wav', saw_tooth(9) * 0, 44100)
  out = tmp_path / 'out.mkv'
  report = sync.sync(
    photo, voice, out, checkpoint_path='x', box=(8, 56, 8, 56), fps=30.0,
    preview=2.0, final_audio=str(music), quiet=True,
    report=str(tmp_path / 'report.json'),
  )  # fmt: skip
  assert report['frames'] == 60
  stored = json.loads((tmp_path / 'report.json').read_text())
  assert stored == report
  import av

  with av.open(str(out)) as file:
    sound = [f for f in file.decode(audio=0)]
    assert sound[0].sample_rate == 44100
    assert sum(f.samples for f in sound) / 44100 == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize('longer', timeline.AUDIO_LONGER)
def test_a_photo_lasts_as_long_as_the_sound(longer, tmp_path, stand_in):
  from PIL import Image

  photo, out = tmp_path / 'face.png', tmp_path / 'out.mp4'
  Image.new('RGB', (80, 64), (90, 120, 150)).save(photo)
  voice = test_clips.write_wav(tmp_path / 'voice.wav', saw_tooth(2))
  report = sync.sync(
    photo, voice, out, checkpoint_path='x', box=(8, 56, 8, 56), quiet=True,
    when_audio_longer=longer,
    when_video_longer='remap' if longer == 'remap' else 'cut',
  )  # fmt: skip
  _, pictures = test_clips.read_video(out)
  assert report['frames'] == len(pictures) == 50
  for picture in pictures:
    still, mouth = picture[2:6, 2:6].astype(int), picture[20:30, 24:40]
    assert abs(mouth.mean() - still.mean()) > 4  # the loudness is not gray


def test_compat_ends_where_the_original_does(tmp_path, stand_in):
  out, report = run(tmp_path, test_clips.steady(3, 25), 5, 25, compat=True)
  assert report['frames'] == 122  # of 125 (spec 1.6)
  times, _ = test_clips.read_video(out)
  assert times[-1] == Fraction(121, 25)


@pytest.mark.parametrize('style', ['-', '_'])
def test_an_old_command_line_is_understood(style):
  line = (
    '--checkpoint_path w.pth --face f.mp4 --audio a.wav --outfile o.mp4 '
    '--static False --fps 30 --pads 0 20 0 0 --face_det_batch_size 4 '
    '--wav2lip_batch_size 64 --resize_factor 2 --crop 0 -1 0 -1 '
    '--box -1 -1 -1 -1 --rotate --nosmooth --cpu --face_detector sfd'
  )
  words = [
    w.replace('_', style) if w.startswith('--') else w for w in line.split()
  ]
  got = cli.parse_options(words)
  assert got == {
    'checkpoint_path': 'w.pth', 'face': 'f.mp4', 'audio': 'a.wav',
    'outfile': 'o.mp4', 'static': False, 'fps': 30.0,
    'pads': (0, 20, 0, 0), 'batch': 64, 'resize_factor': 2,
    'crop': (0, -1, 0, -1), 'rotate': True, 'nosmooth': True,
  }  # fmt: skip
  options.SyncOptions(**got)


def refused(capsys, tmp_path, *words) -> str:
  """The one line with which a command is refused; nothing is left behind."""
  before = sorted(p.name for p in tmp_path.rglob('*'))
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path)
    try:
      code = sync.main([*words, '--quiet'])
    except SystemExit as stop:
      code = stop.code
  error = capsys.readouterr().err
  assert code not in (0, None)
  assert error.count('\n') == 1 and error.startswith('error: '), error
  after = sorted(p.name for p in tmp_path.rglob('*'))
  assert [n for n in after if n not in before] == []
  return error


@pytest.fixture
def scene(tmp_path):
  """A faceless video, a voice, a text file and an empty one."""
  test_clips.write_video(tmp_path / 'gray.mp4', test_clips.steady(1, 25))
  test_clips.write_wav(tmp_path / 'voice.wav', saw_tooth(1))
  test_clips.write_wav(tmp_path / 'empty.wav', np.zeros(0))
  (tmp_path / 'text.mp4').write_text('not media at all')
  (tmp_path / 'void.mp4').write_bytes(b'')
  (tmp_path / 'full').mkdir()
  return tmp_path


BAD = [
  ('missing.mp4', 'voice.wav', 'o.mp4', 'expected a file'),
  ('gray.mp4', 'missing.wav', 'o.mp4', 'expected a file'),
  ('text.mp4', 'voice.wav', 'o.mp4', 'text.mp4'),
  ('void.mp4', 'voice.wav', 'o.mp4', 'void.mp4'),
  ('voice.wav', 'voice.wav', 'o.mp4', 'no video stream'),
  ('gray.mp4', 'gray.mp4', 'o.mp4', 'no audio stream'),
  ('gray.mp4', 'empty.wav', 'o.mp4', 'empty'),
  ('gray.mp4', 'text.mp4', 'o.mp4', 'text.mp4'),
  ('gray.mp4', 'voice.wav', 'o.mp4', 'no face'),
  ('gray.mp4', 'voice.wav', 'o.xyz', 'suffix'),
  ('gray.mp4', 'voice.wav', 'full', 'suffix'),
  ('gray.mp4', 'voice.wav', 'voice.wav/o.mp4', 'cannot be written'),
  ('gray.mp4', 'voice.wav', 'gray.mp4', 'overwrite'),
]


@pytest.mark.parametrize('face, voice, out, words', BAD)
def test_bad_input_is_one_line(
  scene, capsys, stand_in, face, voice, out, words
):
  error = refused(
    capsys, scene, '--face', face, '--audio', voice, '--outfile', out,
    '--checkpoint_path', 'x',
  )  # fmt: skip
  assert words in error


def test_the_weights_of_the_package_are_named(
  scene, capsys, stand_in, monkeypatch
):
  monkeypatch.setattr(convert, 'DEFAULT_GENERATOR', scene / 'voice.wav')
  words = ['--face', scene / 'gray.mp4', '--audio', scene / 'voice.wav']
  words += ['--outfile', scene / 'o.mp4', '--box', '8', '56', '8', '56']
  assert sync.main([str(word) for word in words]) == 0
  lines = capsys.readouterr().err.splitlines()
  assert sum('no --checkpoint_path, using' in line for line in lines) == 1


@pytest.mark.parametrize('kind', ['text', 'cut', 'none', 'missing'])
def test_bad_weights_are_one_line(scene, capsys, kind, monkeypatch):
  monkeypatch.setattr(convert, 'DEFAULT_GENERATOR', scene / 'nothing')
  (scene / 'w.pth').write_bytes(b'PK\x03\x04' + bytes(100))
  (scene / 'w.txt').write_text('<!DOCTYPE html>')
  given = {'text': 'w.txt', 'cut': 'w.pth', 'missing': 'nope.pth'}
  words = ['--face', 'gray.mp4', '--audio', 'voice.wav', '--outfile', 'o.mp4']
  if kind == 'none':
    words += ['--renderer', 'network']
  else:
    words += ['--checkpoint_path', given[kind]]
  assert given.get(kind, 'checkpoint') in refused(capsys, scene, *words)


@pytest.mark.parametrize(
  'words',
  [
    ['--face_enhancement'],
    ['--crf', '99'],
    ['--when-audio-longer', 'dance'],
    ['--nonsense'],
    ['--fps', '0'],
    ['--batch', '0'],
  ],
)
def test_bad_flags_are_one_line(scene, capsys, words):
  base = [
    '--face',
    'gray.mp4',
    '--audio',
    'voice.wav',
    '--checkpoint_path',
    'x',
  ]
  refused(capsys, scene, *base, *words)


def test_old_output_survives_a_failure(scene, capsys, stand_in, monkeypatch):
  old = scene / 'o.mp4'
  old.write_text('an older result')

  def breaks(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(pipeline.renderer, 'render_frames', breaks)
  words = ['--face', 'gray.mp4', '--audio', 'voice.wav', '--outfile', 'o.mp4']
  words += ['--box', '8', '56', '8', '56', '--checkpoint_path', 'x', '--quiet']
  monkeypatch.chdir(scene)
  assert sync.main(words) == 130
  assert old.read_text() == 'an older result'
  assert not [p for p in os.listdir(scene) if p.endswith('part')]


def test_only_the_segment_changes(tmp_path, stand_in):
  out, report = run(
    tmp_path, test_clips.steady(3, 25), 3, 25, since=1.0, until=2.2, crf=0
  )
  _, source = test_clips.read_video(tmp_path / 'face.mp4')
  _, lumas = test_clips.read_video(out)
  changed = [
    i
    for i, (a, b) in enumerate(zip(source, lumas, strict=True))
    if not np.array_equal(a, b)
  ]
  assert set(changed) <= set(range(25, 55)) and len(changed) > 25
  (speaker,) = report['speakers']
  assert speaker['frames_spoken'] == 30
  assert [(r['from'], r['to']) for r in speaker['skipped']] == [
    (0.0, 1.0),
    (2.2, 3.0),
  ]


def test_two_people_speak_with_voices_of_their_own(
  tmp_path, stand_in, monkeypatch
):
  """The left face shows the loudness of one file, the right of another."""
  face = test_clips.write_video(
    tmp_path / 'f.mp4', test_clips.steady(2, 25), (128, 64)
  )
  loud = test_clips.write_wav(tmp_path / 'a.wav', saw_tooth(2))
  still = test_clips.write_wav(tmp_path / 'b.wav', np.zeros(2 * 16000))
  times = test_clips.steady(2, 25)

  def find(wanted, video, who, duration, *_):
    assert who == ['left', 'right']
    rows = [np.tile([x, 32.0, 48, 48, 0], (50, 1)) for x in (32, 96)]
    paths = [
      pipeline.face_tracks.constant_trajectory(row, np.ones(50, bool))
      for row in rows
    ]
    return times, paths, {'speakers': [{'person': 1}, {'person': 0}]}

  monkeypatch.setattr(pipeline.face_tracks, 'locate_speakers', find)
  out = tmp_path / 'o.mp4'
  report = sync.sync(
    face, outfile=out, checkpoint_path='x', crf=0, quiet=True,
    audio_for=(('left', str(loud)), ('right', str(still))), no_noise_gate=True,
  )  # fmt: skip
  _, lumas = test_clips.read_video(out)
  left = np.array([float(y[20:44, 20:44].mean()) for y in lumas])
  right = np.array([float(y[20:44, 84:108].mean()) for y in lumas])
  assert np.ptp(left) > 40 and np.ptp(right) < 2
  assert [s['person'] for s in report['speakers']] == [1, 0]
  assert [os.path.basename(s['audio']) for s in report['speakers']] == [
    'a.wav',
    'b.wav',
  ]
  import av

  with av.open(str(out)) as file:
    assert file.streams.audio[0].rate == 48000


@pytest.mark.parametrize(
  'words, said',
  [
    (('--audio-for', 'left'), 'WHO=FILE'),
    (('--audio-for', 'left=nope.wav'), '--audio-for: expected a file'),
    ((), 'expected --audio FILE or --audio-for'),
    (('--audio', 'voice.wav', '--from', '2', '--to', '1'), '--to: expected'),
    (('--audio', 'voice.wav', '--from', '-1'), '--from: expected'),
  ],
)
def test_segments_and_voices_that_make_no_sense(
  scene, capsys, stand_in, words, said
):
  words = ['--face', 'gray.mp4', '--outfile', 'o.mp4', *words]
  assert said in refused(capsys, scene, *words, '--checkpoint_path', 'x')


def packets(path):
  """(time, size) of every picture's packet, by time."""
  import av

  with av.open(str(path)) as file:
    found = [
      (packet.pts * packet.time_base, packet.duration * packet.time_base)
      for packet in file.demux(file.streams.video[0])
      if packet.pts is not None
    ]
  return sorted(found)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.avi'])
def test_a_killed_job_goes_on_and_ends_as_the_unbroken_one(
  tmp_path, stand_in, monkeypatch, suffix
):
  monkeypatch.setattr(pipeline.segments, 'SEGMENT_FRAMES', 40)
  times = test_clips.steady(5, 25) if suffix == '.avi' else varying(5)
  given = {
    'face': test_clips.write_video(tmp_path / 'face.mp4', times),
    'audio': test_clips.write_wav(tmp_path / 'voice.wav', saw_tooth(5)),
    'box': (8, 56, 8, 56), 'crf': 4, 'quiet': True, 'checkpoint_path': 'x',
    'no_noise_gate': True,
  }  # fmt: skip
  whole, out = tmp_path / f'whole{suffix}', tmp_path / f'out{suffix}'
  plain = sync.sync(outfile=whole, **given)
  given |= {'outfile': out, 'resume': True}
  render, rendered = pipeline.renderer.render_frames, []

  def breaks(scene, *rest):
    rendered.append(len(scene.frames))
    if len(rendered) == 3:
      raise MemoryError('killed')
    render(scene, *rest)

  monkeypatch.setattr(pipeline.renderer, 'render_frames', breaks)
  with pytest.raises(MemoryError):
    sync.sync(**given)
  left = sorted(p.name for p in tmp_path.iterdir())
  assert out.name not in left and f'{out.name}.reels' in left
  parts = [p.suffix for p in (tmp_path / f'{out.name}.reels').iterdir()]
  assert len(parts) == 4 and parts.count('.json') == 2
  report = sync.sync(**given)
  assert sum(rendered) == plain['frames'] + 40  # the broken one was begun
  assert not (tmp_path / f'{out.name}.reels').exists()
  assert report['frames'] == plain['frames']
  first, second = (test_clips.read_video(path) for path in (whole, out))
  assert len(first[0]) == len(second[0])
  slack = 0.0011 if suffix == '.mkv' else 1e-6  # it counts milliseconds
  for a, b in zip(first[0], second[0], strict=True):
    assert abs(a - b) <= slack
  for a, b in zip(first[1], second[1], strict=True):
    assert np.abs(a.astype(int) - b)[20:44, 20:44].mean() < 6
  if suffix != '.avi':
    check_time(out, lambda i: 30.0)


def test_reels_of_another_request_have_other_names(tmp_path):
  face = tmp_path / 'f.mp4'
  face.write_bytes(b'one')

  def label(weights='w', **values):
    return pipeline.segments.fingerprint(
      options.SyncOptions(str(face), **values), weights
    )

  marks = {label(), label('other'), label(crf=5), label(person='left')}
  marks |= {label(outfile='b.mkv'), label(since=1.0)}
  assert len(marks) == 6
  assert label(quiet=True, report='r', final_audio='x') == label()
  before = label()
  face.write_bytes(b'two')
  assert label() != before
