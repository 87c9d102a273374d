"""Live streams: no drift, any chunks, bounded delay, the offline motion."""

import dataclasses
import importlib.util
import pathlib
from fractions import Fraction

import numpy as np
import pytest

import lipsync_jax
from lipsync_jax import audio
from lipsync_jax.audio import incremental, noise_gate
from lipsync_jax.common import disk_array
from lipsync_jax.faces import mesh
from lipsync_jax.inference import live, live_speech
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.media import decoder
from lipsync_jax.rendering import mesh_renderer
from lipsync_jax.weights import articulation

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO, SPEECH = ROOT / 'examples/mona.jpg', ROOT / 'examples/jfk.flac'


@pytest.fixture(scope='module')
def session():
  with lipsync_jax.Session() as opened:
    yield opened


@pytest.fixture(scope='module')
def networks():
  return NetworkCache()


@pytest.fixture(scope='module')
def speech() -> np.ndarray:
  sound = decoder.probe_audio(SPEECH)
  blocks = audio.resample_blocks(sound.rate, decoder.read_audio(sound))
  return np.concatenate(list(blocks))


@pytest.fixture(scope='module')
def photo() -> np.ndarray:
  import cv2

  picture = cv2.resize(cv2.imread(str(PHOTO)), (240, 240))
  return np.ascontiguousarray(picture[..., ::-1])


@pytest.fixture(scope='module')
def clip(photo) -> np.ndarray:
  """A video of three frames, which differ in brightness."""
  return np.stack([photo, photo // 8 * 7, photo // 4 * 3])


def chunks_of(wave, sizes):
  """Chunks of these lengths, again and again."""
  at, number = 0, 0
  while at < len(wave):
    size = sizes[number % len(sizes)]
    yield wave[at : at + size]
    at, number = at + size, number + 1


def all_frames(stream, wave, sizes=(640,)) -> np.ndarray:
  frames = [f for part in chunks_of(wave, sizes) for f in stream.push(part)]
  return np.stack([*frames, *stream.finish()])


def all_coefficients(speech_stream, wave, sizes=(640,)) -> np.ndarray:
  out = []
  for part in chunks_of(wave, sizes):
    speech_stream.push(part)
    out += [c for c, _ in speech_stream.ready()]
  speech_stream.finish()
  return np.stack([*out, *(c for c, _ in speech_stream.ready())])


@pytest.mark.parametrize('rate', [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize('fps', [Fraction(25), Fraction(30_000, 1001)])
def test_no_drift_and_bounded_delay(networks, rate, fps):
  """Frame k comes with k / fps + delay of sound, for odd chunks."""
  stream = live_speech.LiveSpeech(networks.articulator(), rate, fps)
  wave = np.zeros(round(2.01 * rate), np.float32)
  rng, at = np.random.default_rng(rate), 0
  while at < len(wave):
    size = int(rng.integers(1, rate // 20))
    stream.push(wave[at : at + size])
    at = min(at + size, len(wave))
    list(stream.ready())
    in_time = (Fraction(at, rate) - Fraction(1, 4)) * fps
    assert stream.frames >= in_time // 1 + (in_time >= 0)
    assert stream.frames <= stream.total
  stream.finish()
  list(stream.ready())
  assert stream.frames == round(Fraction(len(wave), rate) * fps)


@pytest.mark.parametrize('count', [0, 1, 300, 401, 1000])
def test_short_sounds(networks, count):
  stream = live_speech.LiveSpeech(networks.articulator(), 16_000, Fraction(25))
  stream.push(np.zeros(count, np.float32))
  stream.finish()
  assert len(list(stream.ready())) == round(count / 640)


def test_a_frame_uses_no_more_sound_than_stated(networks, speech):
  """Other sound after the delay changes no frame before it."""
  one, two = speech[:32_000], speech[:32_000].copy()
  known = 40  # frames
  two[round((known - 1) * 640 + 0.25 * 16_000) :] = 0.5
  a, b = (
    all_coefficients(
      live_speech.LiveSpeech(networks.articulator(), 16_000, Fraction(25)), w
    )
    for w in (one, two)
  )
  np.testing.assert_array_equal(a[:known], b[:known])
  assert np.abs(a[known:] - b[known:]).max() > 0.01


def test_chunks_of_any_length_give_the_same_bytes(session, photo, speech):
  wave = speech[8000:24_000]
  first = all_frames(session.stream(photo), wave)
  assert len(first) == 25
  assert np.abs(first[5:].astype(int) - first[0]).max() > 40  # it speaks
  for sizes in ((1, 977, 3), (len(wave),)):
    same = all_frames(session.stream(photo), wave, sizes)
    np.testing.assert_array_equal(first, same)
  exact = audio.float_to_int16(wave, 32768)
  short = all_frames(session.stream(photo), exact, (640,))
  assert np.abs(short.astype(int) - first).max() <= 2


@pytest.mark.parametrize('rate', [8000, 44_100, 48_000])
def test_resampling_does_not_depend_on_chunks(rate):
  t = np.arange(rate) / rate
  wave = np.sin(2 * np.pi * 440 * t).astype(np.float32)
  whole, parts = incremental.Resampler(rate), incremental.Resampler(rate)
  first = np.concatenate([whole.push(wave), whole.finish()])
  second = [parts.push(part) for part in chunks_of(wave, (1, 333, 7))]
  second = np.concatenate([*second, parts.finish()])
  np.testing.assert_array_equal(first, second)
  expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
  assert len(first) == 16_000
  np.testing.assert_allclose(first[200:-200], expected[200:-200], atol=1e-4)


def test_high_tones_do_not_alias():
  t = np.arange(48_000) / 48_000
  resampler = incremental.Resampler(48_000)
  out = resampler.push(np.sin(2 * np.pi * 11_000 * t).astype(np.float32))
  assert np.abs(out[200:]).max() < 1e-3


def test_incremental_mel_is_the_mel(speech):
  wave, stream = speech[:20_123], incremental.MelStream()
  columns = [stream.push(part) for part in chunks_of(wave, (1, 1300, 77))]
  columns = np.concatenate([*columns, stream.finish()]).T
  np.testing.assert_allclose(columns, audio.log_mel(wave), atol=1e-5)


def test_motion_is_that_of_the_offline_command(networks, speech):
  """Measured on jfk.flac: 0.989 for coefficients, 0.981 for the opening."""
  predict, count = networks.articulator(), round(len(speech) / 640)
  mel = noise_gate.apply_noise_gate(audio.log_mel(speech))
  times = (np.arange(count) + 0.5) / 25 + mesh_renderer.LEAD_SECONDS
  offline = mesh_renderer.predict_coefficients(
    disk_array.to_disk(mel.T), times, predict
  )
  stream = live_speech.LiveSpeech(predict, 16_000, Fraction(25))
  found = all_coefficients(stream, speech)
  gaps = mesh.lip_gaps(networks.articulation().basis).mean(1)
  assert found.shape == offline.shape
  assert np.corrcoef(found.ravel(), offline.ravel())[0, 1] > 0.98
  assert np.corrcoef(found @ gaps, offline @ gaps)[0, 1] > 0.97


def test_silence_leaves_the_lips_at_rest(session, networks, photo, speech):
  """Digital silence, and faint noise from the first sample on."""
  rng = np.random.default_rng(0)
  gaps = mesh.lip_gaps(networks.articulation().basis).mean(1)
  quiet = [np.zeros(32_000), rng.normal(0, 0.001, 32_000)]
  # A pause of speech is silent too, after the gate's tail.
  quiet.append(np.concatenate([speech[:32_000], np.zeros(32_000)]))
  for wave in quiet:
    stream = live_speech.LiveSpeech(
      networks.articulator(), 16_000, Fraction(25)
    )
    opening = all_coefficients(stream, wave.astype(np.float32)) @ gaps
    assert np.abs(opening[-20:]).max() < 0.008  # speech: more than 0.05
  still, spoken = (
    all_frames(session.stream(photo), wave.astype(np.float32)).astype(int)
    for wave in (quiet[1][:8000], speech[8000:16_000])
  )
  moved = [np.abs(x - x[0]).mean() for x in (still, spoken)]
  assert moved[0] < 0.1 * moved[1]


def test_the_running_gate_finds_the_pauses_of_the_whole(speech):
  mel = audio.log_mel(speech)
  gate = noise_gate.RunningGate()
  found = np.array([gate.push(column) for column in mel.T])
  assert np.mean(found == noise_gate.speech_mask(mel)) > 0.85


def test_a_long_pause_does_not_make_noise_speech(speech):
  rng = np.random.default_rng(0)
  noise = rng.normal(0, 0.002, 40 * 16_000)
  wave = np.concatenate([speech[:48_000], noise])
  gate = noise_gate.RunningGate()
  found = [gate.push(column) for column in audio.log_mel(wave).T]
  assert np.mean(found[:240]) > 0.5 and not any(found[300:])


def test_strength_zero_is_the_source(session, clip, speech):
  """Bit for bit, forwards and backwards without a jump."""
  wave = speech[: 10 * 640]
  frames = all_frames(session.stream(clip, strength=0.0), wave)
  order = [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
  np.testing.assert_array_equal(frames, clip[order])
  spoken = all_frames(session.stream(clip), wave)
  changed = (spoken != clip[order]).any((0, 3))
  assert changed.any() and not changed[:80].any()  # the upper face


def test_a_file_and_its_cache(session, photo, speech, tmp_path):
  import cv2

  path = tmp_path / 'face.png'
  cv2.imwrite(str(path), photo[..., ::-1])
  a, b = session.stream(path), session.stream(str(path), strength=0.5)
  assert a._face is b._face and a.size == (240, 240) and a.fps == 25
  wave = speech[8000:16_000]
  strong, weak = all_frames(a, wave), all_frames(b, wave)
  rest = all_frames(session.stream(path, strength=0), wave)
  assert (rest == rest[0]).all()
  moved = [np.abs(x.astype(int) - rest).mean() for x in (strong, weak)]
  assert moved[0] > moved[1] > 0


def test_two_streams_are_independent(session, photo, speech):
  waves = speech[8000:16_000], speech[40_000:48_000]
  alone = [all_frames(session.stream(photo), wave) for wave in waves]
  streams = [session.stream(photo) for _ in waves]
  both = [[], []]
  for parts in zip(*(chunks_of(w, (500,)) for w in waves), strict=True):
    for out, stream, part in zip(both, streams, parts, strict=True):
      out += stream.push(part)
  for out, stream, frames in zip(both, streams, alone, strict=True):
    np.testing.assert_array_equal(np.stack([*out, *stream.finish()]), frames)


def test_a_profile_moves_the_lips(session, tmp_path, speech):
  value = articulation.load_articulation()
  path = tmp_path / 'still.safetensors'
  still = dataclasses.replace(value, basis=0 * value.basis)
  articulation.save_articulation(path, still)
  wave = speech[8000:16_000]
  usual = all_frames(session.stream(PHOTO), wave)
  frames = all_frames(session.stream(PHOTO, profile=path), wave)
  again = all_frames(session.stream(PHOTO), wave)
  assert (usual != usual[0]).any() and (frames == frames[0]).all()
  np.testing.assert_array_equal(again, usual)


def test_frames_that_were_not_taken_come_later(session, photo):
  with session.stream(photo) as stream:
    stream.push(np.zeros(8000, np.float32))
    assert stream.frames == 0
    later = list(stream.push(np.zeros(8000, np.float32)))
  assert len(later) == stream.frames >= 18
  assert stream.frames + len(list(stream.finish())) == 25
  with pytest.raises(lipsync_jax.LipSyncError, match='finished'):
    stream.push(np.zeros(1, np.float32))


@pytest.mark.parametrize(
  'samples',
  [
    np.zeros(8, np.int32),
    np.zeros((8, 2), np.float32),
    np.zeros(8, np.complex64),
  ],
)
def test_wrong_samples_are_one_line(session, photo, samples):
  stream = session.stream(photo)
  with pytest.raises(lipsync_jax.LipSyncError, match='push: expected') as bad:
    stream.push(samples)
  assert '\n' not in str(bad.value)


def test_wrong_faces_and_options_are_one_line(session, photo, tmp_path):
  text = tmp_path / 'notes.txt'
  text.write_text('no picture')
  empty = np.full((64, 64, 3), 90, np.uint8)
  for face, options, match in (
    (empty, {}, 'face'),
    (tmp_path / 'nobody.jpg', {}, 'none at'),
    (text, {}, 'notes.txt'),
    (photo.astype(np.float32), {}, 'uint8'),
    (photo, {'rate': 100}, 'rate'),
    (photo, {'strength': 3.0}, 'strength'),
    (photo, {'fps': 5.0}, 'fps'),
    (photo, {'seconds': 0.0}, 'seconds'),
  ):
    with pytest.raises(lipsync_jax.LipSyncError, match=match) as bad:
      session.stream(face, **options)
    assert '\n' not in str(bad.value)


def test_a_large_video_is_refused(session, clip, monkeypatch):
  monkeypatch.setattr(live, 'MAX_BYTES', 2 * 240 * 240 * 3 // 2)
  with pytest.raises(lipsync_jax.LipSyncError, match=r'give seconds=0\.1'):
    session.stream(clip)
  assert session.stream(clip, seconds=0.08).size == (240, 240)


def test_the_example_measures_and_writes(photo, tmp_path, capsys):
  import cv2

  path = ROOT / 'examples/live.py'
  spec = importlib.util.spec_from_file_location('live_example', path)
  example = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(example)
  face, out = tmp_path / 'face.png', tmp_path / 'out.mp4'
  cv2.imwrite(str(face), photo[..., ::-1])
  words = [str(face), '--audio', str(SPEECH), '--size', '200']
  example.run([*words, '--measure', '0.5'])
  printed = capsys.readouterr().out
  assert '200x200: 12' in printed and 'drift: 0 of 12' in printed
  monkey = example.read_speech
  example.read_speech = lambda path: monkey(path)[:8000]
  example.run([*words, '--outfile', str(out)])
  video = cv2.VideoCapture(str(out))
  assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 12
  with pytest.raises(lipsync_jax.LipSyncError, match='--audio'):
    example.run([str(face), '--measure', '1'])
