"""Decoder processes: the same results, and errors instead of crashes."""

import concurrent.futures
import gc
import io
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax.media import (
  audio_reader,
  decoder,
  decoder_process,
  decoder_protocol,
  decoder_worker,
  video_reader,
  video_writer,
)
from lipsync_jax.media.types import Color, Video, View
from tests.helpers import media_files

POSIX = pytest.mark.skipif(os.name != 'posix', reason='signals of POSIX')


@pytest.fixture(autouse=True)
def fresh():
  """Every test starts and ends without an idle process."""
  decoder.DEFAULT_POOL.close()
  yield
  decoder.DEFAULT_POOL.close()


def clip(folder, count=40, **options):
  return media_files.film(folder / 'a.mp4', media_files.even(count), **options)


@pytest.mark.parametrize(
  ('suffix', 'options'),
  [
    ('mp4', {}),
    ('ts', {}),
    ('mp4', {'rotation': -90, 'hflip': True}),
    ('mkv', {'pix_fmt': 'yuv420p10le'}),
    ('avi', {'codec': 'rawvideo', 'pix_fmt': 'bgr24', 'options': {}}),
    ('mkv', {'codec': 'ffv1', 'size': (97, 65), 'options': {}}),
  ],
)
def test_pictures_are_those_of_this_process(tmp_path, suffix, options):
  path = tmp_path / f'a.{suffix}'
  media_files.film(path, media_files.even(30), **options)
  for view in (None, View(2, True, (2, -1, 0, 20))):
    video = video_reader.probe_video(path, view)
    assert decoder.probe_video(path, view) == video
    frames = list(video_reader.read_frames(video))
    media_files.same(decoder.read_frames(video), frames)
    media_files.same(decoder.read_frames(video, 20), frames[20:])
    times = [frame.time for frame in frames]
    back = decoder.read_backwards(video, 25, times)
    media_files.same(back, frames[25::-1])
  plane = next(decoder.read_frames(video)).planes[0]
  assert not plane.flags.writeable and plane.dtype == frames[0].planes[0].dtype
  assert len(decoder.DEFAULT_POOL._idle) == 1, (
    'one process has served all of it'
  )


@pytest.mark.parametrize('name', ['a.wav', 'a.mp3', 'a.m4a', 'a.mkv'])
def test_sound_is_that_of_this_process(tmp_path, name):
  path = media_files.tone(tmp_path / name, 1.3, 44_100, 2)
  audio = audio_reader.probe_audio(path)
  assert decoder.probe_audio(path) == audio
  for origin in (None, Fraction(1, 3), Fraction(-2)):
    ours = np.concatenate(list(decoder.read_audio(audio, origin)), 1)
    want = np.concatenate(list(audio_reader.read_audio(audio, origin)), 1)
    assert np.array_equal(ours, want)
  assert list(decoder.read_packets(audio)) == list(
    audio_reader.read_packets(audio)
  )
  assert decoder.stream_template(
    audio, Fraction(0)
  ) == audio_reader.stream_template(audio, Fraction(0))


def test_a_name_of_any_bytes_and_another_folder(tmp_path, monkeypatch):
  path = clip(tmp_path, 3)
  strange = os.path.join(os.fsencode(tmp_path), b'a\xff\n$(x);.mp4')
  try:
    os.rename(path, strange)
  except OSError:
    pytest.skip('the file system takes no such name')
  decoder.probe_audio(media_files.tone(tmp_path / 'a.wav', 1))
  monkeypatch.chdir(tmp_path)  # after the process was started
  video = decoder.probe_video(os.fsdecode(os.path.basename(strange)))
  assert len(list(decoder.read_frames(video))) == 3


def test_a_canceled_reading_leaves_a_usable_process(tmp_path):
  video = decoder.probe_video(clip(tmp_path, 80))
  pid = decoder.DEFAULT_POOL._idle[0].process.pid
  for _ in range(5):
    frames = decoder.read_frames(video)
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]
    frames.close()
  side = decoder.read_frames(video)
  next(side)
  assert len(list(decoder.read_frames(video))) == 80  # beside it
  side.close()
  assert pid in {process.process.pid for process in decoder.DEFAULT_POOL._idle}
  assert len(decoder.DEFAULT_POOL._idle) == 2


def test_errors_and_warnings_reach_the_program(tmp_path, caplog):
  with pytest.raises(video_reader.MediaError, match='no such file'):
    decoder.probe_video(tmp_path / 'none.mp4')
  (tmp_path / 'text.mp4').write_text('nothing\n' * 99)
  with pytest.raises(video_reader.MediaError) as caught:
    decoder.probe_video(tmp_path / 'text.mp4')
  media_files.one_line(caught)
  path = clip(tmp_path, 60, options={'crf': '20', 'g': '10'})
  content = bytearray(path.read_bytes())
  content[len(content) // 3 : len(content) // 2] = bytes(
    len(content) // 2 - len(content) // 3
  )
  path.write_bytes(content)
  assert len(list(decoder.read_frames(decoder.probe_video(path)))) >= 10
  assert 'damaged packets skipped' in caplog.text


@POSIX
@pytest.mark.parametrize('name', ['SIGSEGV', 'SIGKILL', 'SIGABRT'])
def test_a_crash_is_one_line_and_the_next_reading_works(tmp_path, name):
  video = decoder.probe_video(clip(tmp_path, 80, size=(640, 480)))
  frames = decoder.read_frames(video)
  pid = decoder.DEFAULT_POOL._idle[0].process.pid
  next(frames)
  os.kill(pid, getattr(signal, name))
  with pytest.raises(
    video_reader.MediaError, match=f'decoder was ended by {name}'
  ) as e:
    list(frames)
  assert 'a.mp4' in media_files.one_line(e)
  assert len(list(decoder.read_frames(video))) == 80
  os.kill(decoder.DEFAULT_POOL._idle[0].process.pid, signal.SIGKILL)
  time.sleep(0.2)
  assert len(list(decoder.read_frames(video))) == 80  # died while idle


@POSIX
def test_a_silent_process_is_killed(tmp_path, monkeypatch):
  video = decoder.probe_video(clip(tmp_path, 80, size=(640, 480)))
  monkeypatch.setattr(decoder_process, 'TIMEOUT_SECONDS', 1.0)
  frames = decoder.read_frames(video)
  pid = decoder.DEFAULT_POOL._idle[0].process.pid
  next(frames)
  os.kill(pid, signal.SIGSTOP)
  began = time.monotonic()
  with pytest.raises(video_reader.MediaError, match='no sign of life for 1 s'):
    list(frames)
  assert time.monotonic() - began < 10


@pytest.mark.skipif(sys.platform != 'linux', reason='needs prlimit')
def test_memory_is_limited(tmp_path):
  import resource

  path = clip(tmp_path, 3)
  decoder.probe_video(path)
  pid = decoder.DEFAULT_POOL._idle[0].process.pid
  assert (
    resource.prlimit(pid, resource.RLIMIT_AS)[0] <= decoder_worker.MEMORY_LIMIT
  )
  with open(f'/proc/{pid}/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  most = used + 40 * 2**20
  resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
  from PIL import Image

  Image.new('RGB', (9000, 9000)).save(tmp_path / 'big.png')
  with pytest.raises(video_reader.MediaError) as caught:
    list(decoder.read_frames(decoder.probe_video(tmp_path / 'big.png')))
  assert 'memory' in media_files.one_line(caught)


def test_nonsense_is_one_line(tmp_path, monkeypatch):
  path = clip(tmp_path, 3)
  script = 'import sys, time; sys.stdout.write("x" * 99); time.sleep(9)'
  monkeypatch.setattr(
    decoder_process, 'COMMAND', (sys.executable, '-c', script)
  )
  with pytest.raises(
    video_reader.MediaError, match='answered nonsense'
  ) as caught:
    decoder.probe_video(path)
  media_files.one_line(caught)
  monkeypatch.setattr(decoder_process, 'COMMAND', (str(tmp_path / 'none'),))
  with pytest.raises(video_reader.MediaError, match='could not be started'):
    decoder.probe_video(path)


@POSIX
def test_no_process_outlives_the_program(tmp_path):
  path = clip(tmp_path, 200, size=(640, 480))
  script = (
    'import sys; from lipsync_jax.media import decoder\n'
    'frames = decoder.read_frames(decoder.probe_video(sys.argv[1]))\n'
    'print(decoder.DEFAULT_POOL._idle[0].process.pid, flush=True)\n'
    'next(frames); sys.stdin.read()\n'
  )
  root = str(pathlib.Path(video_reader.__file__).parents[2])
  with subprocess.Popen(
    [sys.executable, '-c', script, str(path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': root},
  ) as program:
    pid = int(program.stdout.readline())
    os.kill(pid, 0)
    program.kill()
  for _ in range(100):
    try:
      with open(f'/proc/{pid}/stat') as file:
        if file.read().split()[2] == 'Z':
          return
      time.sleep(0.1)
    except FileNotFoundError:
      return
  raise AssertionError('the decoder process lives on')


def test_messages_return_as_they_were():
  pipe = io.BytesIO()
  color = Color(9, 1, 9, 16, 10)
  video = Video(
    'ü\udcff',
    4,
    2,
    Fraction(30000, 1001),
    Fraction(0),
    Fraction(-1, 3),
    'x',
    color,
  )
  sent = {'v': video, 'n': None, 'l': [1, 2.5, Fraction(2, 3)]}
  decoder_protocol.send(pipe, sent, np.arange(6, dtype=np.uint16), b'ab')
  pipe.seek(0)
  facts, body = decoder_protocol.receive(pipe)
  assert facts == sent
  assert bytes(body) == np.arange(6, dtype=np.uint16).tobytes() + b'ab'
  with pytest.raises(EOFError):
    decoder_protocol.receive(pipe)
  with pytest.raises(TypeError):
    decoder_protocol.send(pipe, {'x': object()})
  with pytest.raises(ValueError, match='a message of'):
    decoder_protocol.receive(io.BytesIO(b'\xff' * 12))


@POSIX
def test_a_crash_while_sound_is_copied_leaves_no_output(tmp_path, monkeypatch):
  video = decoder.probe_video(clip(tmp_path, 100))
  # More of it is needed than a pipe holds when its source has died.
  track = media_files.tone(tmp_path / 's.wav', 10, 192_000, 2)
  audio = decoder.probe_audio(track)
  pool = decoder.DEFAULT_POOL
  hired, real = [], pool._acquire
  monkeypatch.setattr(
    pool, '_acquire', lambda: hired.append(real()) or hired[-1]
  )
  out = tmp_path / 'out' / 'b.mkv'
  with (
    pytest.raises(
      video_reader.MediaError, match=r's\.wav: its decoder was ended'
    ),
    video_writer.VideoWriter(out, video, audio=audio) as writer,
  ):
    pid = hired[-1].process.pid  # reads the packets
    assert pid > 1
    os.kill(pid, signal.SIGKILL)
    for frame in video_reader.read_frames(video):
      writer.write(frame)
  assert os.listdir(out.parent) == []


def test_a_pool_has_its_own_processes_and_ends_them(tmp_path):
  path = clip(tmp_path, 80)
  with decoder.DecoderPool(max_idle=1) as pool:
    pool.start_idle_worker()
    (process,) = pool._idle
    video = pool.probe_video(path)
    frames = pool.read_frames(video)
    assert next(frames).index == 0
    assert pool.peak_bytes == process.peak > 2**20
    side = pool.read_frames(video)
    next(side)
    side.close()
    frames.close()
    assert len(pool._idle) == 1 and not pool._busy
    frames = pool.read_frames(video)
    next(frames)
    assert not decoder.DEFAULT_POOL._idle
  assert len(list(frames)) == 79, 'a reading outlives the close of its pool'
  assert not pool._idle and not pool._busy and pool.peak_bytes == 0
  assert not process.is_alive()
  assert len(list(pool.read_frames(video))) == 80, 'it can be used again'
  (process,) = pool._idle
  del pool
  gc.collect()
  assert not process.is_alive()


def test_threads_share_a_pool(tmp_path):
  path = clip(tmp_path, 5)

  def count(pool):
    video = pool.probe_video(path)
    return sum(len(list(pool.read_frames(video))) for _ in range(4))

  with (
    decoder.DecoderPool() as pool,
    concurrent.futures.ThreadPoolExecutor(5) as threads,
  ):
    assert list(threads.map(count, [pool] * 10)) == [20] * 10
    assert 1 <= len(pool._idle) <= decoder.MAX_IDLE and not pool._busy


def test_the_garbage_collector_may_end_a_reading_anywhere(
  tmp_path, monkeypatch
):
  path = clip(tmp_path, 5)
  with decoder.DecoderPool() as pool:
    video = pool.probe_video(path)
    lost, found = [pool.read_frames(video)], []
    next(lost[0])
    pool.probe_video(path)  # in a second process, which is idle now

    def is_alive(process):
      lost.clear()  # as if the garbage collector ran here
      return process.process.poll() is None

    monkeypatch.setattr(decoder_process.DecoderProcess, 'is_alive', is_alive)
    reading = threading.Thread(
      target=lambda: found.extend(pool.read_frames(video)), daemon=True
    )
    reading.start()
    reading.join(20)
    assert [frame.index for frame in found] == list(range(5))
    assert len(pool._idle) == 2 and not pool._busy


@POSIX
def test_a_fork_leaves_the_processes_of_its_parent_alone(tmp_path):
  script = (
    'import os, sys; from lipsync_jax.media import decoder\n'
    'video = decoder.probe_video(sys.argv[1])\n'
    '(process,) = decoder.DEFAULT_POOL._idle\n'
    'child = os.fork()\n'
    'if not child: sys.exit(decoder.DEFAULT_POOL.close())\n'
    'assert os.waitpid(child, 0)[1] == 0 and process.is_alive()\n'
    'assert len(list(decoder.read_frames(video))) == 3\n'
    'assert list(decoder.DEFAULT_POOL._idle) == [process]\n'
  )
  root = str(pathlib.Path(video_reader.__file__).parents[2])
  subprocess.run(
    [sys.executable, '-c', script, str(clip(tmp_path, 3))],
    env={**os.environ, 'PYTHONPATH': root},
    check=True,
    timeout=60,
  )
