"""Transparent pictures: kept in .webm and .mov, or laid over one color."""

import dataclasses

import av
import numpy as np
import pytest
from PIL import Image

from lipsync_jax.media import (
  decoder,
  frame_converter,
  video_reader,
  video_writer,
  yuv,
)
from lipsync_jax.media.types import View
from tests.helpers.media_files import one_line

SIZE = (96, 64)
RED = (200, 40, 30)


def cutout(i, opacity=255):
  """A red disk that moves; its hidden surroundings are green."""
  x, y = np.arange(SIZE[0]), np.arange(SIZE[1])[:, None]
  inside = (x - 40 - 2 * i) ** 2 + (y - 32) ** 2 < 24**2
  rgba = np.zeros((*SIZE[::-1], 4), np.uint8)
  rgba[...] = (0, 255, 0, 0)
  rgba[inside] = (*RED, opacity)
  return rgba


def write_cutout(path, count=6, **more):
  pictures = [Image.fromarray(cutout(i)) for i in range(count)]
  pictures[0].save(
    path, save_all=True, append_images=pictures[1:], duration=40, **more
  )
  return path


def opacity(frame, video):
  return frame.alpha.astype(float) / (2**video.color.depth - 1)


def check_alpha(path, count=6):
  """Alpha is the disk's, and its inside is red."""
  video = decoder.probe_video(path)
  frames = list(decoder.read_frames(video))
  assert video.alpha and len(frames) == count
  for i, frame in enumerate(frames):
    wanted = cutout(i)[..., 3] / 255
    assert np.abs(opacity(frame, video) - wanted).max() < 0.02
  rgb = yuv.to_rgb(video, frames[0])
  assert np.abs(rgb[26:38, 34:46].astype(float) - RED).mean() < 8
  return video, frames


def copy(source, out, **changes):
  video = dataclasses.replace(decoder.probe_video(source), **changes)
  with video_writer.VideoWriter(out, video) as writer:
    for frame in decoder.read_frames(video):
      writer.write(frame)


@pytest.mark.parametrize('suffix', ['.gif', '.png', '.webp'])
@pytest.mark.parametrize('out', ['.webm', '.mov'])
def test_alpha_comes_back(tmp_path, suffix, out):
  more = {'.gif': {'disposal': 2}, '.webp': {'lossless': True}}
  path = write_cutout(tmp_path / f'a{suffix}', **more.get(suffix, {}))
  check_alpha(path)
  copy(path, tmp_path / f'b{out}')
  check_alpha(tmp_path / f'b{out}')
  other = '.mov' if out == '.webm' else '.webm'
  copy(tmp_path / f'b{out}', tmp_path / f'c{other}')
  check_alpha(tmp_path / f'c{other}')


def test_codecs_are_those_that_editors_open(tmp_path):
  path = write_cutout(tmp_path / 'a.png')
  for name, codec, form in (
    ('b.mov', 'prores', 'yuva444p12le'),
    ('b.webm', 'vp9', 'yuv420p'),
  ):
    copy(path, tmp_path / name)
    with av.open(str(tmp_path / name)) as file:
      stream = file.streams.video[0]
      assert (stream.codec_context.name, stream.codec_context.pix_fmt) == (
        codec,
        form,
      )
      assert (stream.metadata.get('alpha_mode') == '1') == (codec == 'vp9')


def test_appended_segments_stay_transparent(tmp_path):
  video = decoder.probe_video(write_cutout(tmp_path / 'a.png'))
  frames = list(decoder.read_frames(video))
  for suffix in ('.webm', '.mov'):
    parts = []
    for number, part in enumerate((frames[:3], frames[3:])):
      parts.append(tmp_path / f'part{number}{suffix}')
      with video_writer.VideoWriter(parts[-1], video) as writer:
        for frame in part:
          writer.write(frame, frame.time - part[0].time)
    out = tmp_path / f'whole{suffix}'
    with video_writer.VideoWriter(out, video, like=parts[0]) as writer:
      for path, start in zip(parts, (0, frames[3].time), strict=True):
        writer.append(path, frames[0].time + start)
    check_alpha(out)


def test_frames_are_read_backwards_with_their_alpha(tmp_path, monkeypatch):
  copy(write_cutout(tmp_path / 'a.png'), tmp_path / 'a.webm')
  video = video_reader.probe_video(tmp_path / 'a.webm')
  frames = list(video_reader.read_frames(video))
  monkeypatch.setattr(video_reader, 'FRAME_BUDGET', 2 * 96 * 64 * 3 // 2)
  times = [frame.time for frame in frames]
  back = list(video_reader.read_backwards(video, len(frames) - 1, times))
  for one, other in zip(back[::-1], frames, strict=True):
    assert np.array_equal(one.alpha, other.alpha)


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.avif', '.tif', '.gif'])
def test_photos_keep_alpha(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  Image.fromarray(cutout(0)).save(path)
  video, _ = check_alpha(path, count=1)
  assert video.still


def test_opaque_channels_are_no_alpha(tmp_path):
  for suffix in ('.png', '.webp', '.gif'):
    path = tmp_path / f'a{suffix}'
    rgba = cutout(0)
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(path)
    assert not decoder.probe_video(path).alpha


@pytest.mark.parametrize('out', ['.mp4', '.mkv', '.avi'])
def test_other_containers_refuse_alpha_in_one_line(tmp_path, out):
  path = write_cutout(tmp_path / 'a.png')
  with pytest.raises(video_reader.MediaError, match='holds no alpha') as caught:
    copy(path, tmp_path / f'b{out}')
  assert '.webm' in one_line(caught)
  assert not list(tmp_path.glob('b*'))


@pytest.mark.parametrize('color', [(0, 0, 0), (255, 255, 255), (20, 60, 250)])
def test_hidden_pixels_do_not_show(tmp_path, color):
  path = tmp_path / 'a.png'
  Image.fromarray(cutout(0)).save(path)
  view = View(background=color)
  video = decoder.probe_video(path, view)
  assert not video.alpha
  frame = next(decoder.read_frames(video))
  assert frame.alpha is None
  rgb = yuv.to_rgb(video, frame).astype(int)
  hidden = cutout(0)[..., 3] == 0
  assert np.abs(rgb[:8] - color).max() <= 3
  assert np.abs(rgb[26:38, 34:46] - RED).mean() < 8
  # At the edge no pixel has the green of what is hidden.
  assert (rgb[..., 1] <= max(color[1], RED[1]) + 60).all()
  assert np.abs(rgb[hidden] - color).mean() < 12


def test_half_opacity_is_the_mean_of_both():
  planes = tuple(
    np.full(shape, value, np.uint8)
    for shape, value in (((4, 4), 200), ((2, 2), 90), ((2, 2), 160))
  )
  alpha = np.full((4, 4), 128, np.uint8)
  got = frame_converter.flatten(planes, alpha, (16.0, 128.0, 128.0))
  for plane, value in zip(got, (108, 109, 144), strict=True):
    assert np.abs(plane.astype(int) - value).max() <= 1


def test_turns_and_crops_apply_to_alpha(tmp_path):
  path = tmp_path / 'a.png'
  Image.fromarray(cutout(0)).save(path)
  view = View(rotate=True, crop=(8, 88, 4, 60))
  video = decoder.probe_video(path, view)
  frame = next(decoder.read_frames(video))
  wanted = np.rot90(cutout(0)[..., 3], -1)[8:88, 4:60]
  assert frame.alpha.shape == (video.height, video.width) == (80, 56)
  assert np.array_equal(frame.alpha, wanted)
