"""HDR mastering metadata comes through H.264 of 10 bits."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_jax.media import decoder, hdr, video_writer

DISPLAY = (
  'G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)'
)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  path = tmp_path_factory.mktemp('hdr') / 'a.mp4'
  options = f'log-level=none:hdr10=1:master-display={DISPLAY}:max-cll=1000,400'
  with av.open(str(path), 'w') as file:
    stream = file.add_stream(
      'libx265', rate=25, options={'x265-params': options}
    )
    stream.width, stream.height, stream.pix_fmt = 96, 64, 'yuv420p10le'
    context = stream.codec_context
    context.colorspace = context.color_primaries = 9
    context.color_trc, context.color_range = 16, 1
    packets = []
    for i in range(5):
      gray = np.full((64, 96, 3), 30 * i, np.uint8)
      frame = av.VideoFrame.from_ndarray(gray).reformat(format='yuv420p10le')
      frame.pts, frame.time_base = i, Fraction(1, 25)
      packets += stream.encode(frame)
    file.mux(packets + stream.encode(None))
  return path


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.mov'])
def test_mastering_metadata_comes_through(tmp_path, source, suffix):
  video = decoder.probe_video(source)
  assert (video.mastering, video.light) == (DISPLAY, '1000,400')
  out = tmp_path / f'b{suffix}'
  with video_writer.VideoWriter(out, video) as writer:
    for frame in decoder.read_frames(video):
      writer.write(frame)
  again = decoder.probe_video(out)
  assert (again.mastering, again.light) == (DISPLAY, '1000,400')
  assert again.color == video.color and again.color.transfer == 16


def test_incomplete_metadata_is_left_out():
  assert hdr.mastering_display(b'') == hdr.content_light(b'') == ''
  numbers = [1, 2] * 10
  assert hdr.mastering_display(struct.pack('=20i2i', *numbers, 1, 0)) == ''
  numbers[3] = 0
  assert hdr.mastering_display(struct.pack('=20i2i', *numbers, 1, 1)) == ''
