"""Memory of the second pass: what stays in memory and what is on disk."""

import gc
import threading
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from lipsync_jax import audio
from lipsync_jax.common import disk_array, threads
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.inference import pipeline, speech
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import audio_reader
from lipsync_jax.media.types import Color, Frame, Video
from lipsync_jax.rendering import network_renderer, renderer, timeline
from lipsync_jax.weights import convert
from tests.helpers import synthetic_face

RATE = 25


def test_mel_windows_are_those_of_the_whole_mel():
  mel = np.random.default_rng(0).normal(size=(80, 50)).astype(np.float32)
  starts = np.array([-99, -16, -15, -1, 0, 7, 34, 35, 49, 50, 99])
  one = speaker(path_of(len(starts)), mel, starts)
  for position in range(len(starts)):
    np.testing.assert_array_equal(
      network_renderer.mel_window(one, position),
      audio.mel_windows(mel, starts[[position]]),
    )


def path_of(count: int) -> FaceTrajectory:
  points = np.repeat(synthetic_face.face()[None].astype(np.float32), count, 0)
  there, gone = np.ones(count, bool), np.zeros(count, bool)
  crops = np.tile([32.0, 32, 40, 40, 0], (count, 1))
  return FaceTrajectory(there, gone, crops, points, np.array([[0, count]]))


def speaker(path, mel, starts) -> renderer.SpeakerTrack:
  opacity = np.ones(len(starts))
  mel = disk_array.to_disk(mel.T)
  return renderer.make_speaker(path, mel, starts, opacity)


VIDEO = Video(
  'face.mp4', 64, 64, Fraction(RATE), Fraction(1), Fraction(0), 'yuv420p',
  Color(),
)  # fmt: skip
SOUND = audio_reader.AudioStream(
  'voice.wav', 16000, 1, 'pcm', Fraction(1), Fraction(0), Fraction(0), 0
)


@pytest.fixture
def kept(monkeypatch):
  """Bytes in memory from the plan until the last frame, by seconds."""
  net = convert.Weights(
    'generator',
    96,
    1.0,
    {},
    'test',
    sha256='0',
    mel_lead=audio.CENTERED_LEAD,
  )

  def measure(seconds: int) -> int:
    count = RATE * seconds

    def voiced_mel(track, preview, alone):
      return np.zeros((80, 80 * seconds), np.float32), Fraction(seconds), 1.0

    def find(*_):
      times = [Fraction(i, RATE) for i in range(count)]
      return times, [path_of(count)], {'speakers': [{}]}

    monkeypatch.setattr(speech, 'voiced_mel', voiced_mel)
    monkeypatch.setattr(pipeline.face_tracks, 'locate_speakers', find)
    job = pipeline.SyncJob(
      SyncOptions('face.mp4'),
      net,
      VIDEO,
      (speech.SpeechTrack('largest', SOUND, None),),
      pipeline.NetworkCache(),
      threads.StageTimer(),
    )
    tracemalloc.start()
    try:
      before = tracemalloc.get_traced_memory()[0]
      made = job.build_plan()
      gc.collect()
      after = tracemalloc.get_traced_memory()[0]
    finally:
      tracemalloc.stop()
    assert made[1]['frames'] == count
    return after - before

  return measure


def test_a_second_more_is_little_more(kept):
  kept(2)  # what is made but once
  # Landmarks of a second are 18 kB, its mel 26 kB, its shows as objects 8 kB;
  # crops and time line as numbers are 2.2 kB.
  assert kept(22) - kept(2) < 20 * 3.4e3


def test_a_failed_writing_ends_the_reading_at_once(monkeypatch):
  times = [Fraction(i, RATE) for i in range(99)]
  length = Fraction(1, RATE)
  frames = [timeline.OutputFrame(t, length, i) for i, t in enumerate(times)]
  plan = renderer.RenderPlan(VIDEO, times, frames, ())
  planes = tuple(np.zeros((side, side), np.uint8) for side in (64, 32, 32))
  picture = Frame(0, Fraction(0), planes)
  reading = []

  def read(plan):
    reading.append(True)
    try:
      while True:
        yield picture
    finally:
      reading.clear()

  def write(frame, time):
    raise OSError('the disk is full')

  monkeypatch.setattr(renderer, 'read_scheduled_frames', read)
  mouths = network_renderer.NetworkRenderer(lambda mel, faces: faces, 96, 2)
  count = threading.active_count()
  # The exception and with it every frame of the stack lives on in `caught`.
  with pytest.raises(OSError, match='full') as caught:
    renderer.render_frames(
      plan, mouths, write, threads.StageTimer(), lambda: None
    )
  assert caught.tb is not None
  assert not reading and threading.active_count() == count
