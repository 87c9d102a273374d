"""Tags, chapters, tracks, subtitles and covers of outputs."""

from fractions import Fraction

import av
import pytest

from lipsync_jax.media import (
  container,
  decoder,
  extras,
  extras_muxer,
  video_writer,
)
from tests.helpers import rich_files
from tests.helpers.media_files import even, film

SOURCES = ('.mp4', '.mkv', '.webm', '.mov')
OUTPUTS = ('.mp4', '.mov', '.mkv', '.webm', '.avi')


def copy(source, out, end):
  """Write the first `end` seconds with the extras; returns what is left."""
  end = Fraction(end)
  video = decoder.probe_video(source)
  found = decoder.probe_extras(source, video.stream)
  sound = decoder.probe_audio(source)
  with video_writer.VideoWriter(
    out, video, audio=sound, origin=video.start, duration=end
  ) as writer:
    left = writer.carry(found, video, end)
    for frame in decoder.read_frames(video):
      if frame.time < end:
        writer.write(frame)
  return left


@pytest.mark.parametrize('suffix', OUTPUTS)
@pytest.mark.parametrize('source', SOURCES)
def test_everything_that_fits_is_there_and_the_rest_is_named(
  tmp_path, source, suffix
):
  path = rich_files.rich_film(tmp_path / f'a{source}')
  out = tmp_path / f'b{suffix}'
  left = ' '.join(copy(path, out, 3))
  had, got = rich_files.read_extras(path), rich_files.read_extras(out)
  for tag in ('title', 'artist', 'comment'):
    assert got['tags'][tag] == rich_files.TAGS[tag]
  assert len(got['sounds']) == 2
  assert abs(rich_files.pitch(out, 0)[0] - 300) < 20
  hertz, seconds = rich_files.pitch(out, 1)
  assert abs(hertz - 1000) < 20 and abs(seconds - 3) < 0.1
  if suffix == '.avi':
    assert not (got['lines'] or got['chapters'] or got['covers'])
    assert all(word in left for word in ('chapters', 'subtitles', 'timecode'))
    return
  assert got['tags']['creation_time'] == rich_files.TAGS['creation_time']
  assert got['sounds'][1][1] in ('ger', 'deu')
  assert [line[2] for line in got['lines']] == ['first', 'second', 'third']
  for line, given in zip(got['lines'], rich_files.LINES, strict=True):
    assert abs(line[0] - given[0]) < 0.03 and abs(line[1] - given[1]) < 0.03
  assert [chapter[2] for chapter in got['chapters']] == ['One', 'Two', 'Three']
  for chapter, given in zip(got['chapters'], rich_files.CHAPTERS, strict=True):
    assert abs(chapter[0] - given[0]) < 0.03
  holds = suffix in ('.mp4', '.mkv')
  assert got['covers'] == (had['covers'] if holds else 0)
  assert ('cover art' in left) == bool(had['covers'] and not holds)
  with av.open(str(out)) as file:
    sources = (file.metadata, *(s.metadata for s in file.streams))
    codes = {
      v for m in sources for k, v in m.items() if k.lower() == 'timecode'
    }
  assert codes == {'01:00:00:00'}


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm'])
def test_nothing_lies_after_the_end(tmp_path, suffix):
  path = rich_files.rich_film(tmp_path / 'a.mp4')
  out = tmp_path / f'b{suffix}'
  left = ' '.join(copy(path, out, '1.5'))
  got = rich_files.read_extras(out)
  assert [line[2] for line in got['lines']] == ['first', 'second']
  assert got['lines'][-1][1] <= 1.53
  assert [chapter[2] for chapter in got['chapters']] == ['One', 'Two']
  assert abs(got['chapters'][-1][1] - 1.5) < 0.03
  assert abs(rich_files.pitch(out, 1)[1] - 1.5) < 0.1
  assert 'chapters: 1 of 3 after 1.5 s' in left
  assert '1 of 3 after 1.5 s' in left and 'audio stream' in left


def test_tags_that_the_container_drops_are_named(tmp_path):
  tags = {'catalogue': 'X 12'}
  path = rich_files.rich_film(tmp_path / 'a.mkv', tags=tags)
  assert 'CATALOGUE' in ' '.join(copy(path, tmp_path / 'b.mp4', 3))
  assert not copy(path, tmp_path / 'c.mkv', 3)
  got = rich_files.read_extras(tmp_path / 'c.mkv')
  assert got['tags']['catalogue'] == 'X 12'


def test_files_attached_to_matroska_stay(tmp_path):
  path = tmp_path / 'a.mkv'
  film(tmp_path / 'p.mkv', even(10))
  with av.open(str(tmp_path / 'p.mkv')) as old, av.open(str(path), 'w') as new:
    stream = new.add_stream_from_template(old.streams.video[0])
    new.add_attachment('letters.ttf', 'font/ttf', b'font' * 9)
    for packet in old.demux(old.streams.video[0]):
      if packet.size:
        packet.stream = stream
        new.mux(packet)
  video = decoder.probe_video(path)
  found = decoder.probe_extras(path, video.stream)
  for suffix in ('.mkv', '.mp4'):
    out = tmp_path / f'b{suffix}'
    with video_writer.VideoWriter(out, video) as writer:
      left = writer.carry(found, video, Fraction(1))
      for frame in decoder.read_frames(video):
        writer.write(frame)
    assert bool(left) == (suffix == '.mp4')
  with av.open(str(tmp_path / 'b.mkv')) as file:
    attached = [s for s in file.streams if s.type == 'attachment']
    assert [bytes(s.data) for s in attached] == [b'font' * 9]


def test_lines_of_mp4_do_not_overlap():
  def line(start, end, text):
    event = f'0,0,Default,,0,0,0,,{text}'
    return extras.SubtitleLine(Fraction(start), Fraction(end), event)

  given = [line(0, 2, 'a'), line(0, 3, 'b'), line(1, 2, 'c'), line(5, 6, 'd')]
  got = list(extras_muxer.without_overlaps(given))
  assert [(float(x.start), float(x.end)) for x in got] == [
    (0, 1), (1, 2), (5, 6),
  ]  # fmt: skip
  assert got[0].text.endswith(',a\\Nb') and got[1].text.endswith(',c')


def test_a_damaged_track_ends_alone(tmp_path, monkeypatch):
  path = rich_files.rich_film(tmp_path / 'a.mkv')
  read = decoder.DEFAULT_POOL.read_packets

  def breaks(audio):
    for number, packet in enumerate(read(audio)):
      if audio.stream == 2 and number == 20:
        raise container.MediaError('a.mkv: damaged')
      yield packet

  monkeypatch.setattr(decoder.DEFAULT_POOL, 'read_packets', breaks)
  copy(path, tmp_path / 'b.mkv', 3)
  assert rich_files.pitch(tmp_path / 'b.mkv', 0)[1] > 2.8
  assert rich_files.pitch(tmp_path / 'b.mkv', 1)[1] < 1


@pytest.mark.parametrize(
  'code, rate, fits',
  [
    ('01:00:00:00', 25, True),
    ('01:00:00:24', 25, True),
    ('01:00:00:25', 25, False),
    ('01:00:00;02', Fraction(30000, 1001), True),
    ('01:00:00;02', 25, False),
    ('01:00:00', 25, False),
    ('nonsense', 25, False),
  ],
)
def test_only_timecodes_that_can_be_written_are(tmp_path, code, rate, fits):
  assert extras_muxer.fits_timecode(code, Fraction(rate)) == fits
  if rate == 25:
    source = extras.Extras('a', timecode=code)
    video = decoder.probe_video(film(tmp_path / 'a.mp4', even(5)))
    with video_writer.VideoWriter(tmp_path / 'b.mov', video) as writer:
      left = writer.carry(source, video, Fraction(1))
      for frame in decoder.read_frames(video):
        writer.write(frame)
    assert bool(left) != fits


def test_chapters_out_of_order_are_sorted(tmp_path):
  chapters = [
    extras.Chapter(Fraction(start), Fraction(end), (('title', name),))
    for start, end, name in ((1, 2, 'b'), (0, 2, 'a'), (1, 3, 'c'))
  ]
  source = extras.Extras('a', chapters=tuple(chapters))
  video = decoder.probe_video(film(tmp_path / 'a.mp4', even(75)))
  for suffix in ('.mp4', '.mkv'):
    out = tmp_path / f'b{suffix}'
    with video_writer.VideoWriter(out, video) as writer:
      left = writer.carry(source, video, Fraction(3))
      for frame in decoder.read_frames(video):
        writer.write(frame)
    found = rich_files.read_extras(out)['chapters']
    assert [chapter[2] for chapter in found] == ['a', 'b'] and left


def test_a_packet_that_is_refused_ends_nothing(tmp_path, monkeypatch):
  path = rich_files.rich_film(tmp_path / 'a.mkv')

  def refused(target, lines):
    for time, packet in subtitle_packets(target, lines):
      packet.pts, packet.dts = 1, 5  # shown before it is decoded
      yield time, packet

  subtitle_packets = extras_muxer.subtitle_packets
  monkeypatch.setattr(extras_muxer, 'subtitle_packets', refused)
  copy(path, tmp_path / 'b.mp4', 3)
  got = rich_files.read_extras(tmp_path / 'b.mp4')
  assert not got['lines'] and len(got['sounds']) == 2


def test_names_of_streams_are_printable():
  tags = (('title', 'a\nb\x1b[31m' * 50),)
  name = extras.Stream(3, 'audio', 'aac', tags, 0).name
  assert '\n' not in name and '\x1b' not in name and len(name) < 100
