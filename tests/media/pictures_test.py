"""Animated pictures, photos of phones, and orientations by EXIF."""

import importlib.util
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageOps

from lipsync_jax.media import decoder, pillow_reader, video_reader, yuv
from tests.helpers import heic
from tests.helpers.media_files import one_line, same

LENGTHS = [40] * 5 + [100] * 5  # ms
LOSSLESS = {'.webp': {'lossless': True}, '.avif': {'quality': 95}}


def shade(i, size=(96, 64)):
  """A picture without symmetry; `i` is in its brightness."""
  rgb = np.zeros((size[1], size[0], 3), np.uint8)
  rgb[..., 0] = np.linspace(0, 200, size[0])
  rgb[..., 1] = i * 20
  rgb[..., 2] = np.linspace(0, 200, size[1])[:, None]
  rgb[: size[1] // 4, : size[0] // 4] = 255
  return Image.fromarray(rgb)


def animate(path, lengths, **more):
  pictures = [shade(i) for i in range(len(lengths))]
  more = LOSSLESS.get(path.suffix, {}) | more
  pictures[0].save(
    path, save_all=True, append_images=pictures[1:], duration=lengths, **more
  )
  return path


def brightness(frames):
  return np.array([f.planes[0][20:40, 40:60].mean() for f in frames])


@pytest.mark.parametrize('suffix', ['.gif', '.png', '.webp', '.avif'])
def test_animated_pictures_are_videos(tmp_path, suffix):
  path = animate(tmp_path / f'a{suffix}', LENGTHS)
  video = video_reader.probe_video(path)
  assert not video.still and (video.width, video.height) == (96, 64)
  assert abs(float(video.rate) - 100 / 7) < 1
  frames = list(video_reader.read_frames(video))
  ends = np.cumsum([0, *LENGTHS]) / 1000
  assert np.allclose([float(f.time) for f in frames], ends[:-1], atol=1e-3)
  steps = np.diff(brightness(frames))
  assert (np.abs(steps - steps.mean()) < 3).all() and steps.mean() > 8
  same(decoder.read_frames(decoder.probe_video(path)), frames)


@pytest.mark.parametrize('suffix', ['.gif', '.png', '.webp', '.avif'])
def test_animated_pictures_are_read_backwards(tmp_path, suffix, monkeypatch):
  video = video_reader.probe_video(animate(tmp_path / f'a{suffix}', LENGTHS))
  frames = list(video_reader.read_frames(video))
  monkeypatch.setattr(video_reader, 'FRAME_BUDGET', 3 * 96 * 64 * 3 // 2)
  times = [frame.time for frame in frames]
  back = list(video_reader.read_backwards(video, len(frames) - 1, times))
  same(back[::-1], frames)


def test_pictures_of_no_length_last_a_tenth_of_a_second(tmp_path):
  path = animate(tmp_path / 'a.webp', [0, 10, 20])
  assert pillow_reader.webp_durations(path) == [100, 100, 20]


def test_one_picture_is_a_still(tmp_path):
  for name in ('a.gif', 'a.png', 'a.webp', 'a.avif'):
    shade(3).save(tmp_path / name)
    assert video_reader.probe_video(tmp_path / name).still


def test_a_cut_animation_ends_early_or_is_refused(tmp_path):
  path = animate(tmp_path / 'a.webp', LENGTHS)
  content = path.read_bytes()
  path.write_bytes(content[: len(content) * 2 // 3])
  try:
    video = video_reader.probe_video(path)
    assert 0 < len(list(video_reader.read_frames(video))) <= len(LENGTHS)
  except video_reader.MediaError as error:
    assert '\n' not in str(error)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tif', '.avif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_every_orientation_comes_out_upright(tmp_path, suffix, orientation):
  path, exif = tmp_path / f'a{suffix}', Image.Exif()
  exif[0x0112] = orientation
  shade(3).save(path, exif=exif, **LOSSLESS.get(suffix, {}))
  video = video_reader.probe_video(path)
  rgb = yuv.to_rgb(video, next(video_reader.read_frames(video)))
  with Image.open(path) as image:
    upright = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
  assert rgb.shape == upright.shape
  assert np.abs(rgb.astype(int) - upright).mean() < 3  # 49 if mirrored


def test_an_orientation_turns_an_animation(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 5
  path = animate(tmp_path / 'a.webp', LENGTHS, exif=exif)
  video = video_reader.probe_video(path)
  assert (video.width, video.height) == (64, 96)
  rgb = yuv.to_rgb(video, next(video_reader.read_frames(video)))
  upright = np.asarray(shade(0)).swapaxes(0, 1)
  assert np.abs(rgb.astype(int) - upright).mean() < 3


def test_a_photo_in_tiles_is_whole_or_refused(tmp_path, monkeypatch):
  rgb = np.zeros((2 * heic.TILE, 3 * heic.TILE, 3), np.uint8)
  rgb[..., 0] = np.linspace(0, 250, rgb.shape[1])
  rgb[..., 1] = np.linspace(0, 250, rgb.shape[0])[:, None]
  path = tmp_path / 'a.heic'
  heic.tiled_photo(path, rgb)
  if importlib.util.find_spec('pillow_heif'):
    video = video_reader.probe_video(path)
    got = yuv.to_rgb(video, next(video_reader.read_frames(video)))
    assert np.abs(got.astype(int) - rgb).mean() < 3
    return
  with pytest.raises(video_reader.MediaError, match='pillow-heif') as caught:
    video_reader.probe_video(path)
  assert 'HEIC' in one_line(caught)


def test_a_photo_in_one_piece_needs_no_package(tmp_path):
  """AVIF is the container of HEIC with another codec."""
  shade(3).save(tmp_path / 'a.avif', quality=95)
  video = video_reader.probe_video(tmp_path / 'a.avif')
  got = yuv.to_rgb(video, next(video_reader.read_frames(video)))
  assert np.abs(got.astype(int) - np.asarray(shade(3))).mean() < 3
  assert video.rate == Fraction(25)
