"""Files that are written here are read again, and compared exactly."""

import dataclasses
import fractions
import itertools
import math
import os

import av
import numpy as np
import pytest

from lipsync_jax.media import audio_reader, video_reader, video_writer, yuv
from lipsync_jax.media.types import View
from tests.helpers.media_files import even, film, one_line, picture, same, tone

Fraction = fractions.Fraction


def onset(path, origin=None):
  """Seconds at which the sine of `tone` begins."""
  audio = audio_reader.probe_audio(path)
  heard = np.concatenate(list(audio_reader.read_audio(audio, origin)), axis=1)
  assert np.isfinite(heard).all()
  return np.argmax(np.abs(heard[0]) > 0.1) / audio.rate, heard.shape[1]


def copy(source, out, **options):
  video = video_reader.probe_video(source)
  with video_writer.VideoWriter(out, video, **options) as writer:
    for frame in video_reader.read_frames(video):
      writer.write(frame)
  return video, video_reader.probe_video(out)


@pytest.mark.parametrize(
  'times',
  [
    even(30),
    even(30, Fraction(30000, 1001)),
    even(30, Fraction(24000, 1001)),
    [Fraction(n, 90_000) for n in (0, 3000, 3600, 9001, 12000, 90_000, 93_007)],
  ],
  ids=['25', '29.97', '23.976', 'vfr'],
)
def test_written_frames_come_back_bit_by_bit_at_their_time(tmp_path, times):
  rate = Fraction(1 / times[1])
  first = film(tmp_path / 'a.mp4', times, rate=rate)
  video, again = copy(first, tmp_path / 'b.mp4', crf=0, rate=rate)
  frames = list(video_reader.read_frames(again))
  assert [frame.time for frame in frames] == times
  same(video_reader.read_frames(video), frames)
  if len(times) == 30:
    assert video.rate == again.rate == rate
    with av.open(str(tmp_path / 'b.mp4')) as file:
      assert file.streams.video[0].average_rate == rate


def test_times_of_matroska_return_to_their_grid(tmp_path):
  rate = Fraction(30000, 1001)
  copy(film(tmp_path / 'a.mkv', even(60, rate), rate=rate), tmp_path / 'b.mp4')
  again = video_reader.probe_video(tmp_path / 'b.mp4')
  assert [f.time for f in video_reader.read_frames(again)] == even(60, rate)


def test_lossless_copy_with_a_patch_differs_only_inside(tmp_path):
  video = video_reader.probe_video(film(tmp_path / 'a.mp4', even(5)))
  alpha = np.zeros((20, 30))
  alpha[5:15, 5:25] = 1
  patch = np.full((20, 30, 3), 250.0)
  out = tmp_path / 'b.mp4'
  with video_writer.VideoWriter(out, video, crf=0) as writer:
    for frame in video_reader.read_frames(video):
      writer.write(yuv.blend_patch(video, frame, patch, alpha, (40, 21)))
  again = video_reader.probe_video(out)
  inside = np.zeros((64, 96), bool)
  inside[26:36, 45:65] = True
  pairs = zip(
    video_reader.read_frames(video),
    video_reader.read_frames(again),
    strict=True,
  )
  for old, new in pairs:
    differs = old.planes[0] != new.planes[0]
    assert not differs[~inside].any() and differs[inside].mean() > 0.9
    chroma = inside.reshape(32, 2, 48, 2).any((1, 3))
    assert not (old.planes[1] != new.planes[1])[~chroma].any()


@pytest.mark.parametrize('rotation', [0, 90, 180, 270])
@pytest.mark.parametrize('hflip', [False, True])
def test_rotated_video_stands_upright(tmp_path, rotation, hflip):
  path = tmp_path / 'a.mp4'
  film(path, even(2), size=(96, 64), rotation=-rotation, hflip=hflip)
  video = video_reader.probe_video(path)
  size = (96, 64) if rotation % 180 == 0 else (64, 96)
  assert (video.width, video.height) == size
  frame = next(video_reader.read_frames(video))
  assert frame.planes[0].shape == size[::-1]
  plain = video_reader.probe_video(film(tmp_path / 'b.mp4', even(2)))
  want = yuv.to_rgb(plain, next(video_reader.read_frames(plain)))
  want = np.rot90(want, -rotation // 90)
  want = want[:, ::-1] if hflip else want
  assert np.array_equal(yuv.to_rgb(video, frame), want)


def test_view_resizes_then_rotates_then_crops(tmp_path):
  path = film(tmp_path / 'a.mp4', even(2), size=(192, 128))
  view = View(resize_factor=2, rotate=True, crop=(10, -1, 0, 41))
  video = video_reader.probe_video(path, view)
  assert (video.width, video.height) == (40, 86)
  got = yuv.to_rgb(video, next(video_reader.read_frames(video))).astype(int)
  plain = video_reader.probe_video(path)
  whole = yuv.to_rgb(
    plain, next(video_reader.read_frames(plain)), size=(96, 64)
  )
  want = np.rot90(whole, -1)[10:, :40].astype(int)
  assert np.abs(got - want).mean() < 2
  with pytest.raises(video_reader.MediaError, match='nothing is left'):
    video_reader.probe_video(path, View(crop=(10, 10, 0, -1)))


def test_odd_sizes_lose_a_row_and_a_column(tmp_path):
  path = film(
    tmp_path / 'a.mkv', even(3), size=(97, 65), codec='ffv1', options={}
  )
  video = video_reader.probe_video(path)
  assert (video.width, video.height) == (96, 64)
  video, again = copy(path, tmp_path / 'b.mp4', crf=0)
  same(video_reader.read_frames(video), video_reader.read_frames(again))


def test_ten_bits_stay_ten_bits_with_their_tags(tmp_path):
  path = tmp_path / 'a.mp4'
  tags = 'colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc'
  options = {'crf': '0', 'x264-params': tags}
  film(path, even(3), pix_fmt='yuv420p10le', options=options)
  video, again = copy(path, tmp_path / 'b.mp4', crf=0)
  assert again.pix_fmt == 'yuv420p10le' and again.color.depth == 10
  color = again.color
  assert (color.matrix, color.primaries, color.transfer) == (9, 9, 16)
  same(video_reader.read_frames(video), video_reader.read_frames(again))


@pytest.mark.parametrize('pix_fmt', ['yuv444p', 'yuv422p10le', 'bgr24'])
def test_other_pixel_formats_keep_their_colors(tmp_path, pix_fmt):
  codec = 'rawvideo' if pix_fmt == 'bgr24' else 'ffv1'
  path = tmp_path / 'a.avi'  # raw pictures are stored bottom up in it
  film(path, even(2), pix_fmt=pix_fmt, codec=codec, options={})
  video = video_reader.probe_video(path)
  assert video.pix_fmt == ('yuv420p10le' if '10' in pix_fmt else 'yuv420p')
  got = yuv.to_rgb(video, next(video_reader.read_frames(video))).astype(int)
  want = picture(0, pix_fmt='rgb24').to_ndarray().astype(int)
  if video.color.matrix == 2:  # small and untagged: taken for BT.601
    assert video.color.assumed == 6
    right = dataclasses.replace(video.color, matrix=1)
    video = dataclasses.replace(video, color=right)
    got = yuv.to_rgb(video, next(video_reader.read_frames(video))).astype(int)
  assert np.abs(got - want)[20:, 30:].max() <= 4


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp', 'bmp'])
def test_a_photo_is_a_still_in_right_colors(tmp_path, suffix):
  import cv2

  image = np.zeros((50, 70, 3), np.uint8)
  image[:24, :40], image[24:, :40], image[:, 40:] = (
    (220, 30, 40),
    (30, 200, 60),
    (20, 60, 210),
  )
  named = tmp_path / f'a.{suffix}'
  cv2.imwrite(str(named), image[..., ::-1])
  path = named.rename(tmp_path / 'photo.mp4')  # the content counts
  video = video_reader.probe_video(path)
  frames = list(video_reader.read_frames(video))
  assert video.still and len(frames) == 1
  assert (video.color.matrix, video.color.range) == (1, 1)
  got = yuv.to_rgb(video, frames[0]).astype(int)
  for y, x in [(10, 10), (40, 10), (25, 60)]:
    assert np.abs(got[y, x] - image[y, x]).max() <= 4


@pytest.mark.parametrize('budget', [1, 7, 1000])
@pytest.mark.parametrize('suffix', ['mp4', 'ts', 'avi'])
def test_backwards_is_forwards_reversed(tmp_path, monkeypatch, budget, suffix):
  path = tmp_path / f'a.{suffix}'
  if suffix == 'avi':
    film(path, even(40), codec='mpeg4', options={'g': '30', 'bf': '2'})
  else:
    film(path, even(80), options={'g': '60', 'bf': '3', 'crf': '20'})
  video = video_reader.probe_video(path)
  frames = list(video_reader.read_frames(video))
  times = [frame.time for frame in frames]
  monkeypatch.setattr(video_reader, 'FRAME_BUDGET', budget * 96 * 64 * 3 // 2)
  same(video_reader.read_backwards(video, 37, times), frames[37::-1])
  same(video_reader.read_frames(video, start=30), frames[30:])


@pytest.mark.parametrize('skip', [0, 3, 64])
@pytest.mark.parametrize('suffix', ['mp4', 'ts', 'avi', 'mkv'])
def test_chosen_frames_are_those_of_the_whole(tmp_path, suffix, skip):
  path = tmp_path / f'a.{suffix}'
  if suffix == 'avi':
    film(path, even(120), codec='mpeg4', options={'g': '30', 'bf': '2'})
  else:
    film(path, even(120), options={'g': '25', 'bf': '3', 'crf': '20'})
  video = video_reader.probe_video(path)
  frames = list(video_reader.read_frames(video))
  for chosen in ([0], [5, 6, 7, 90], [70, 71, 100, 119], [1, 66, 118], []):
    times = [frames[k].time for k in chosen]
    wanted = [frames[k] for k in chosen]
    same(video_reader.read_chosen(video, chosen, times, skip), wanted)
    # Times of another file: the frames are counted.
    wrong = [time + Fraction(1, 997) for time in times]
    same(video_reader.read_chosen(video, chosen, wrong, skip), wanted)
  ends = [Fraction(200), Fraction(201)]
  found = video_reader.read_chosen(
    video, [80, 300, 301], [frames[80].time, *ends], skip
  )
  same(found, [frames[80]])


def test_far_frames_are_sought(tmp_path, monkeypatch):
  path = tmp_path / 'a.mp4'
  film(path, even(120), options={'g': '25', 'bf': '3', 'crf': '20'})
  video = video_reader.probe_video(path)
  frames = list(video_reader.read_frames(video))
  monkeypatch.setattr(video_reader, 'read_frames', None)  # nothing is counted
  chosen = [40, 41, 90, 119]
  times = [frames[k].time for k in chosen]
  same(
    video_reader.read_chosen(video, chosen, times, 3),
    [frames[k] for k in chosen],
  )


@pytest.mark.parametrize('suffix', ['mp4', 'mkv', 'ts'])
def test_start_offset_keeps_sound_and_picture_together(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  with av.open(str(path), 'w') as file:
    pictures = file.add_stream('libx264', rate=25)
    pictures.width, pictures.height, pictures.pix_fmt = 96, 64, 'yuv420p'
    sounds = file.add_stream('aac', rate=48_000, layout='mono')
    wave = np.zeros((1, 96_000), np.float32)
    wave[0, 24_000:] = 0.5 * np.sin(np.arange(72_000) / 10)
    frame = av.AudioFrame.from_ndarray(wave, 'fltp', 'mono')
    # Sound begins at 5.3 s, pictures at 5 s of the file's time.
    frame.sample_rate, frame.pts = 48_000, int(5.3 * 48_000)
    frame.time_base = Fraction(1, 48_000)
    file.mux(sounds.encode(frame))
    for i in range(50):
      frame = picture(i)
      frame.pts, frame.time_base = 125 + i, Fraction(1, 25)
      file.mux(pictures.encode(frame))
    file.mux(pictures.encode(None))
    file.mux(sounds.encode(None))
  video = video_reader.probe_video(path)
  assert next(video_reader.read_frames(video)).time == 0
  heard, _ = onset(path, origin=video.start)
  assert heard == pytest.approx(0.8, abs=0.02)
  audio = audio_reader.probe_audio(path)
  for out in ('b.mp4', 'b.mkv', 'b.avi'):
    _, again = copy(path, tmp_path / out, audio=audio, origin=video.start)
    heard, _ = onset(tmp_path / out, origin=again.start)
    assert heard == pytest.approx(0.8, abs=0.02), out


def packets(path):
  with av.open(str(path)) as file:
    return [bytes(p) for p in file.demux(audio=0) if p.size]


@pytest.mark.parametrize(
  ('source', 'out', 'copied'),
  [
    *[('s.m4a', 'o.mp4', True), ('s.mp3', 'o.mp4', True)],
    *[('s.m4a', 'o.mkv', True), ('s.wav', 'o.mp4', False)],
    *[('s.m4a', 'o.mov', True), ('s.mp3', 'o.mkv', True)],
    *[('s.wav', 'o.mkv', True), ('s.m4a', 'o.avi', False)],
    *[('s.wav', 'o.mov', True), ('s.wav', 'o.webm', False)],
  ],
)
@pytest.mark.parametrize('channels', [1, 2])
def test_sound_is_copied_or_encoded_in_time(
  tmp_path, source, out, copied, channels
):
  track = tone(tmp_path / source, 2.2, 44_100, channels)
  clip, out = film(tmp_path / 'a.mp4', even(50)), tmp_path / out
  audio = audio_reader.probe_audio(track)
  _, again = copy(clip, out, audio=audio)
  heard, length = onset(out, origin=again.start)
  assert heard == pytest.approx(onset(track)[0], abs=0.02)
  result = audio_reader.probe_audio(out)
  assert result.channels == channels
  assert length / result.rate == pytest.approx(2, abs=0.06)  # the video's end
  assert again.start == 0
  if copied:
    given, written = packets(track), packets(out)
    if source == 's.wav':  # containers cut PCM into packets of their own
      assert b''.join(given).startswith(b''.join(written))
    else:
      skipped = given.index(written[0])
      assert skipped <= 2 and len(written) > 70
      assert written == given[skipped : skipped + len(written)]


def test_odd_rates_and_many_channels_are_encoded(tmp_path):
  clip = film(tmp_path / 'a.mp4', even(25))
  for rate, channels in [(9_000, 1), (192_000, 2), (48_000, 6)]:
    track = tone(tmp_path / 't.wav', 1.5, rate, channels)
    audio = audio_reader.probe_audio(track)
    copy(clip, tmp_path / 'b.mp4', audio=audio, duration=Fraction(1))
    heard, _ = onset(tmp_path / 'b.mp4')
    assert heard == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize('codec', ['pcm_u8', 'pcm_s24le', 'pcm_f64le'])
def test_every_sample_format_means_the_same(tmp_path, codec):
  path = tone(tmp_path / 'a.wav', 1, codec=codec)
  blocks = list(audio_reader.read_audio(audio_reader.probe_audio(path)))
  assert np.abs(np.concatenate(blocks, 1)).max() == pytest.approx(0.5, abs=0.02)


def test_not_a_number_becomes_silence(tmp_path):
  import wave as _  # noqa: F401

  path = tone(tmp_path / 'a.wav', 1, codec='pcm_f32le')
  data = bytearray(path.read_bytes())
  data[-400:-392] = np.array([np.nan, np.inf], '<f4').tobytes()
  path.write_bytes(data)
  onset(path)  # asserts finite
  start = data.index(b'data') + 8
  data[start:] = np.full((len(data) - start) // 4, np.nan, '<f4').tobytes()
  path.write_bytes(data)
  with pytest.raises(video_reader.MediaError, match='no number'):
    onset(path)


def test_vertical_pixels_and_tags_reach_the_output(tmp_path):
  path = tmp_path / 'a.mkv'
  options = {'crf': '0', 'x264-params': 'sar=4/3:colormatrix=smpte170m'}
  film(path, even(3), options=options)
  video, again = copy(path, tmp_path / 'b.mp4')
  assert video.sar == again.sar == Fraction(4, 3)
  assert video.color == again.color
  assert video.color.matrix == 6
  turned = video_reader.probe_video(path, View(rotate=True))
  assert turned.sar == Fraction(3, 4)


def test_an_interrupted_writer_leaves_nothing(tmp_path):
  video = video_reader.probe_video(film(tmp_path / 'a.mp4', even(10)))
  out = tmp_path / 'new' / 'b.mp4'
  out.parent.mkdir()
  out.write_bytes(b'older')
  for error in (KeyboardInterrupt, RuntimeError):
    with pytest.raises(error), video_writer.VideoWriter(out, video) as writer:
      for frame in video_reader.read_frames(video):
        writer.write(frame)
        if frame.index == 5:
          raise error
    assert os.listdir(out.parent) == ['b.mp4']
    assert out.read_bytes() == b'older'
  with (
    pytest.raises(video_reader.MediaError),
    video_writer.VideoWriter(out, video),
  ):
    pass
  assert os.listdir(out.parent) == ['b.mp4']


def test_bad_outputs_are_one_line(tmp_path):
  video = video_reader.probe_video(film(tmp_path / 'a.mp4', even(2)))
  (tmp_path / 'file').write_text('')
  for name in ('b', 'b.txt', 'file/b.mp4', '.mp4'):
    with pytest.raises(video_reader.MediaError) as caught:
      video_writer.VideoWriter(tmp_path / name, video)
    one_line(caught)
  with pytest.raises(video_reader.MediaError, match='crf'):
    video_writer.VideoWriter(tmp_path / 'b.mp4', video, crf=99)
  (tmp_path / 'c.mp4').mkdir()
  with pytest.raises(video_reader.MediaError, match='folder'):
    video_writer.VideoWriter(tmp_path / 'c.mp4', video)
  assert not list(tmp_path.glob('*part'))


def test_bad_inputs_are_one_line(tmp_path):
  good = film(tmp_path / 'a.mp4', even(30)).read_bytes()
  (tmp_path / 'empty').write_bytes(b'')
  (tmp_path / 'text.mp4').write_text('not a video\n' * 99)
  (tmp_path / 'no_index.mp4').write_bytes(good[: len(good) // 2])
  (tmp_path / 'list.m3u8').write_text('#EXTM3U\n#EXTINF:1,\na.mp4\n')
  session = 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n'
  session += 'm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n'
  (tmp_path / 'session.mp4').write_text(session)  # would wait for a sender
  (tmp_path / 'folder').mkdir()
  names = (
    'empty',
    'text.mp4',
    'no_index.mp4',
    'list.m3u8',
    'folder',
    'gone',
    'session.mp4',
  )
  for name in names:
    for probe in (video_reader.probe_video, audio_reader.probe_audio):
      with pytest.raises(video_reader.MediaError) as caught:
        probe(tmp_path / name)
      assert name in one_line(caught)
  with pytest.raises(video_reader.MediaError, match='no audio stream'):
    audio_reader.probe_audio(tmp_path / 'a.mp4')
  with pytest.raises(video_reader.MediaError, match='no video stream'):
    video_reader.probe_video(tone(tmp_path / 't.wav', 0.5))
  with pytest.raises(video_reader.MediaError):
    audio_reader.probe_audio(tone(tmp_path / 'none.wav', 0))


def test_damaged_packets_are_skipped(tmp_path):
  path = film(tmp_path / 'a.ts', even(60), options={'g': '10', 'bf': '0'})
  data = bytearray(path.read_bytes())
  rng = np.random.default_rng(0)
  for at in rng.integers(len(data) // 4, len(data), 20):
    data[at] ^= 1 << rng.integers(8)
  path.write_bytes(data[: len(data) * 9 // 10])
  video = video_reader.probe_video(path)
  times = [frame.time for frame in video_reader.read_frames(video)]
  assert 40 < len(times) < 60
  assert all(a < b for a, b in itertools.pairwise(times))


def test_an_impossible_rate_is_replaced(tmp_path):
  path = tmp_path / 'a.mkv'
  film(path, [Fraction(n, 1000) for n in range(0, 4000, 83)], rate=1000)
  assert video_reader.probe_video(path).rate == pytest.approx(12, abs=0.1)


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
  first = film(tmp_path / 'a.ts', even(5)).read_bytes()
  later = [Fraction(5 + i, 25) for i in range(5)]
  second = film(tmp_path / 'b.ts', later, size=(160, 120)).read_bytes()
  (tmp_path / 'c.ts').write_bytes(first + second)
  video = video_reader.probe_video(tmp_path / 'c.ts')
  shapes = {f.planes[0].shape for f in video_reader.read_frames(video)}
  assert shapes == {(64, 96)}


def test_cover_art_is_no_video(tmp_path):
  path = tmp_path / 'a.mp3'
  with av.open(str(path), 'w') as file:
    sounds = file.add_stream('libmp3lame', rate=16_000, layout='mono')
    cover = file.add_stream('mjpeg', rate=1)
    cover.width, cover.height, cover.pix_fmt = 96, 64, 'yuvj420p'
    file.mux(cover.encode(picture(0).reformat(format='yuvj420p')))
    file.mux(cover.encode(None))
    wave = np.full((1, 16_000), 0.1, np.float32)
    frame = av.AudioFrame.from_ndarray(wave, 'fltp', 'mono')
    frame.sample_rate = 16_000
    file.mux(sounds.encode(frame))
    file.mux(sounds.encode(None))
  with av.open(str(path)) as file:
    assert len(file.streams.video) == 1  # the cover is there
  with pytest.raises(video_reader.MediaError, match='only cover art'):
    video_reader.probe_video(path)
  audio = audio_reader.probe_audio(path)
  assert audio.origin == audio.start  # the cover's time 0 does not count


def test_real_clips(shared):
  clips = shared / 'media/clips'
  video = video_reader.probe_video(clips / 'mono_29.97fps.mp4')
  frames = sum(1 for _ in video_reader.read_frames(video))
  assert (frames, video.rate) == (539, Fraction(30000, 1001))
  odd = video_reader.probe_video(clips / 'retalking1_22fps.mp4')
  assert odd.start == Fraction(507, 15360)
  assert math.isclose(odd.rate, 22.13, abs_tol=0.01)
