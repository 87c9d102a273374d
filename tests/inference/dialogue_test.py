"""Several speakers take turns; the video's own sound stays between them."""

import itertools
import json
import pathlib

import av
import cv2
import numpy as np
import pytest

from lipsync_jax import sync
from lipsync_jax.faces import detector
from lipsync_jax.inference import dialogue, speech
from lipsync_jax.inference.options import SyncError, SyncOptions
from lipsync_jax.media import decoder
from tests.helpers import test_clips

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / 'examples'
# Seconds of five turns within the first words of jfk.flac.
TURNS = (
  ('left', 0.3, 1.5),
  ('right', 1.5, 3.0),
  ('left', 3.3, 5.0),
  ('right', 5.3, 6.5),
  ('left', 7.0, 8.5),
)


def tone(pitch, seconds, level=0.3, rate=16_000):
  t = np.arange(round(seconds * rate)) / rate
  return level * np.sin(2 * np.pi * pitch * t)


def amplitude(samples, pitch, start, end, rate=48_000):
  part = samples[round(start * rate) : round(end * rate)]
  t = np.arange(len(part)) / rate
  return 2 * abs(np.mean(part * np.exp(-2j * np.pi * pitch * t)))


def srt(path, turns):
  def clock(seconds):
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f'00:{whole // 60:02d}:{whole % 60:02d},{thousandths:03d}'

  cues = (
    f'{i}\n{clock(start)} --> {clock(end)}\n{who}: words\n'
    for i, (who, start, end) in enumerate(turns, 1)
  )
  path.write_text('\n'.join(cues))
  return str(path)


def gray_film(path, seconds, sound=None):
  """A gray video, with a sound of its own if given."""
  picture = test_clips.write_video(path, test_clips.steady(seconds, 25))
  if sound is None:
    return picture
  test_clips.write_wav(path.with_suffix('.wav'), sound)
  out = path.with_suffix('.mkv')
  with (
    av.open(str(picture)) as video,
    av.open(str(path.with_suffix('.wav'))) as voice,
    av.open(str(out), 'w') as file,
  ):
    sources = (video.streams.video[0], voice.streams.audio[0])
    targets = [file.add_stream_from_template(source) for source in sources]
    for source, target in zip(sources, targets, strict=True):
      for packet in source.container.demux(source):
        if packet.size:
          packet.stream = target
          file.mux(packet)
  return out


def samples_of(sound, origin=None):
  return np.concatenate(list(dialogue.stereo_blocks(sound, origin)), 1)[0]


def test_each_speaker_has_the_sound_of_their_turns(tmp_path):
  voice = test_clips.write_wav(tmp_path / 'v.wav', tone(500, 9))
  video = decoder.probe_video(gray_film(tmp_path / 'f.mp4', 9))
  options = SyncOptions(
    video.path, str(voice), subtitles=srt(tmp_path / 'a.srt', TURNS)
  )
  with speech.open_speech(options, video) as tracks:
    assert [track.who for track in tracks] == ['left', 'right']
    for track in tracks:
      got = samples_of(track.sound)
      assert abs(len(got) - 9 * 48_000) < 50
      for who, start, end in TURNS:
        level = amplitude(got, 500, start + 0.02, end - 0.02)
        wanted = 0.3 if who == track.who else 0
        assert level == pytest.approx(wanted, abs=0.01)
    assert tracks[0].facts(options)['turns'][0] == [0.3, 1.5]
    path = pathlib.Path(tracks[0].sound.path)
    # The output has the dialogue itself, not a mix.
    with speech.output_audio(options, video, tracks) as (final, _):
      assert final.path == str(voice)
  assert not path.exists()


def test_files_of_json_lie_at_their_time(tmp_path):
  rows = []
  for i, (who, start, end) in enumerate(TURNS):
    test_clips.write_wav(tmp_path / f'{i}.wav', tone(400 + 100 * i, 2))
    rows.append({'who': who, 'from': start, 'to': end, 'audio': f'{i}.wav'})
  del rows[-1]['to']  # it ends with its file
  (tmp_path / 'a.json').write_text(json.dumps(rows))
  video = decoder.probe_video(gray_film(tmp_path / 'f.mp4', 9))
  options = SyncOptions(video.path, subtitles=str(tmp_path / 'a.json'))
  with (
    speech.open_speech(options, video) as tracks,
    speech.output_audio(options, video, tracks) as (final, origin),
  ):
    mix = samples_of(final, origin)
    assert abs(len(mix) - 9 * 48_000) < 50  # 7 s + 2 s
    for i, (_, start, end) in enumerate(TURNS[:-1]):
      pitch = 400 + 100 * i
      inside = amplitude(mix, pitch, start + 0.05, end - 0.05)
      assert inside == pytest.approx(0.3, abs=0.02)
      assert amplitude(mix, pitch, end + 0.05, end + 0.25) < 0.02
    assert amplitude(mix, 800, 7.05, 8.95) == pytest.approx(0.3, abs=0.02)


def test_turns_without_sound_are_refused(tmp_path):
  video = decoder.probe_video(gray_film(tmp_path / 'f.mp4', 1))
  options = SyncOptions(video.path, subtitles=srt(tmp_path / 'a.srt', TURNS))
  with (
    pytest.raises(SyncError, match='expected --audio'),
    speech.open_speech(options, video),
  ):
    pass


@pytest.mark.parametrize('level', [-6.0, -20.0])
def test_the_background_stays_where_nobody_speaks(tmp_path, level):
  face = gray_film(tmp_path / 'f.mp4', 6, tone(300, 6))
  wave = np.zeros(6 * 16_000)
  wave[2 * 16_000 : 4 * 16_000] = tone(1000, 2)
  voice = test_clips.write_wav(tmp_path / 'v.wav', wave)
  video = decoder.probe_video(face)
  options = SyncOptions(
    str(face), str(voice), keep_background=level, no_noise_gate=True
  )
  with (
    speech.open_speech(options, video) as tracks,
    speech.output_audio(options, video, tracks) as (final, origin),
  ):
    mix = samples_of(final, origin)
  loud = 0.3 * 10 ** (level / 20)
  for start, end in ((0.2, 1.5), (4.8, 5.8)):
    got = amplitude(mix, 300, start, end)
    assert got == pytest.approx(loud, abs=0.01)
  assert amplitude(mix, 300, 2.05, 3.95) < 0.005
  assert amplitude(mix, 1000, 2.05, 3.95) == pytest.approx(0.3, abs=0.01)
  # No click: the level changes over at least 0.1 s.
  envelope = [amplitude(mix, 300, t, t + 0.02) for t in np.arange(1, 5, 0.02)]
  assert np.abs(np.diff(envelope)).max() < 0.25 * loud


def test_gains_have_soft_ends_and_do_not_depend_on_blocks():
  spans = [(1000, 5000), (6000, 6100)]
  whole = dialogue.turn_gain(spans, 0, 8000)
  parts = [dialogue.turn_gain(spans, i, 1000) for i in range(0, 8000, 1000)]
  assert np.array_equal(whole, np.concatenate(parts))
  assert (whole[:1001] == 0).all() and (whole[5000:6000] == 0).all()
  assert (whole[1500:4500] == 1).all()
  assert np.abs(np.diff(whole)).max() <= 1 / dialogue.FADE + 1e-6


def mouth_motion(frames, box):
  """Mean change of the lower face from frame to frame, in gray levels."""
  x0, y0, x1, y1 = (round(float(side)) for side in box)
  part = np.s_[y0 + (y1 - y0) // 2 : y1, x0:x1]
  return np.array(
    [
      np.abs(b[part].astype(int) - a[part]).mean()
      for a, b in itertools.pairwise(frames)
    ]
  )


@pytest.mark.slow
def test_two_people_speak_only_in_their_turns(tmp_path):
  """A picture of two people, five turns: nothing but the speaker moves."""
  portrait = cv2.imread(str(EXAMPLES / 'mona.jpg'))
  scale = 384 / portrait.shape[0]
  portrait = cv2.resize(portrait, None, fx=scale, fy=scale)
  cv2.imwrite(str(tmp_path / 'f.png'), np.hstack([portrait, portrait]))
  report = sync.sync(
    tmp_path / 'f.png', EXAMPLES / 'jfk.flac', tmp_path / 'o.mp4',
    subtitles=srt(tmp_path / 'a.srt', TURNS), preview=9, crf=8, quiet=True,
  )  # fmt: skip
  assert [s['person'] for s in report['speakers']] in ([0, 1], [1, 0])
  times, lumas = test_clips.read_video(tmp_path / 'o.mp4')
  with detector.FaceDetector() as finder:
    faces = finder.faces(cv2.cvtColor(lumas[0], cv2.COLOR_GRAY2RGB))[0]
  boxes = sorted(faces, key=lambda box: box[0])
  assert len(boxes) == 2
  middles = np.array([float(time) for time in times[1:]])
  for who, box in zip(('left', 'right'), boxes, strict=True):
    motion = mouth_motion(lumas, box)
    own = np.zeros(len(motion), bool)
    near = np.zeros(len(motion), bool)
    for name, start, end in TURNS:
      if name == who:
        own |= (middles > start + 0.1) & (middles < end - 0.1)
        # Lips prepare for the first sound.
        near |= (middles > start - 0.45) & (middles < end + 0.35)
    print(
      f'{who}: {motion[own].mean():.2f} in turns, {motion[~near].mean():.3f} '
      f'mean and {motion[~near].max():.2f} largest outside'
    )
    # In gray levels: they depend on the contrast of the drawn teeth.
    assert motion[own].mean() > 0.4
    assert motion[~near].mean() < 0.05 * motion[own].mean()
    for name, start, end in TURNS:
      if name == who:  # they speak in every turn
        inside = (middles > start) & (middles < end)
        assert motion[inside].max() > 3 * motion[~near].max()
