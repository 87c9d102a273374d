"""The extras of a source, carried over into an output.

Everything lies at its time in the source, counted from the first frame. What
begins after the end of the output, and what the container cannot hold, is left
behind and named.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from lipsync_jax.common.errors import reason_of
from lipsync_jax.media import audio_muxer, decoder, extras
from lipsync_jax.media.container import MediaError, log
from lipsync_jax.media.output_format import Format
from lipsync_jax.media.types import Video

Packets = Iterator[tuple[Fraction, object]]

MAX_TRACKS = 8  # further audio tracks: each is read by a process of its own
DEFAULT_TRACK = 1  # AV_DISPOSITION_DEFAULT
TICK = Fraction(1, 1000)  # s, of subtitles and chapters
# Of FFmpeg's muxers: keys that are written and read again.
MOV_TAGS = frozenset(
  (
    *('title', 'artist', 'album', 'date', 'comment', 'genre'),
    *('copyright', 'make', 'location', 'creation_time'),
  )
)
MP4_TAGS = (MOV_TAGS - {'make'}) | frozenset(
  (
    *('album_artist', 'composer', 'grouping', 'lyrics', 'description'),
    *('synopsis', 'show', 'episode_id', 'network', 'keywords', 'track'),
  )
)
AVI_TAGS = MOV_TAGS & MP4_TAGS - {'album', 'location', 'creation_time'}
# Facts on the source file itself, which are wrong for another file.
TECHNICAL = frozenset(
  (
    *('major_brand', 'minor_version', 'compatible_brands', 'encoder'),
    *('duration', 'handler_name', 'vendor_id', 'timecode', 'language'),
    *(
      'software',
      'bps',
      'number_of_frames',
      'number_of_bytes',
      'filename',
      'mimetype',
    ),
  )
)
TIMECODE = re.compile(r'\d\d:[0-5]\d:[0-5]\d([:;.])(\d\d)')
COVERS = {
  'mjpeg': ('cover.jpg', 'image/jpeg'),
  'png': ('cover.png', 'image/png'),
}
ASS_HEADER = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, \
OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, \
ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, \
MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,\
2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


@dataclasses.dataclass(frozen=True)
class Room:
  """What a container holds besides picture and sound.

  Attributes:
    tags: keys that it holds; None: all.
    subtitles: encoder for any text subtitles, '' for none.
    kept: subtitle codecs that stay what they are.
    cover: 'stream', 'attachment' or '' for none.
    chapters: whether it holds chapters.
    files: whether it holds attached files.
    timecode: whether it holds a timecode.
  """

  tags: frozenset[str] | None = None
  subtitles: str = ''
  kept: tuple[str, ...] = ()
  cover: str = ''
  chapters: bool = True
  files: bool = False
  timecode: bool = True


ROOMS = {
  'mp4': Room(MP4_TAGS, 'mov_text', cover='stream'),
  'mov': Room(MOV_TAGS, 'mov_text'),
  'matroska': Room(
    None, 'subrip', ('ass', 'ssa', 'subrip'), 'attachment', files=True
  ),
  'webm': Room(None, 'webvtt'),
  'avi': Room(AVI_TAGS, chapters=False, timecode=False),
}


class ExtrasMuxer:
  """Writes extras into an open output, whose header is not yet written.

  Attributes:
    left: what is left behind, each in a few words.
    tracks: packets of every stream added, in order of time.
  """

  def __init__(
    self,
    target,
    kind: Format,
    source: extras.Extras,
    video: Video,
    end: Fraction,
    pool: decoder.DecoderPool = decoder.DEFAULT_POOL,
  ):
    """Add everything that the container holds.

    Args:
      target: PyAV's container.
      kind: of the container.
      source: of `decoder.probe_extras`.
      video: the picture of the same file.
      end: seconds of the output.
      pool: decoder processes that read the source.
    """
    self.target, self.kind, self.room = target, kind, ROOMS[kind.muxer]
    self.source, self.video, self.end, self.pool = source, video, end, pool
    self.left: list[str] = []
    self.tracks: list[Packets] = []
    self._add_tags()
    if video.still:  # its time does not pass
      self._leave_timed()
    else:
      self._add_chapters()
      self._add_sound()
      self._try_each('subtitle', self._add_subtitles)
    self._try_each('cover', self._add_cover)
    self._try_each('attachment', self._add_file)
    self.left += [s.name for s in self._streams('video', 'data')]

  def _streams(self, *kinds: str) -> list[extras.Stream]:
    return [s for s in self.source.streams if s.kind in kinds]

  def _try_each(self, kind: str, add) -> None:
    """Add streams of a kind; one that cannot be read is left behind."""
    for stream in self._streams(kind):
      try:
        add(stream)
      except MediaError as error:
        log.warning('%s', error)
        self.left.append(f'{stream.name}: unreadable')

  def _add_tags(self) -> None:
    """Write the tags of the file, and its timecode."""
    lost = []
    for key, value in self.source.tags:
      plain = key.lower()
      derived = plain.startswith(('_statistics', 'location-', 'encoder'))
      if plain in TECHNICAL or derived:
        continue
      if self.room.tags is None:
        self.target.metadata[key] = value
      elif plain in self.room.tags:
        self.target.metadata[plain] = value
      else:
        lost.append(key)
    if lost:
      names = ', '.join(sorted(lost)[:8]) + (', …' if len(lost) > 8 else '')
      self.left.append(f'tags ({names})')
    code = self.source.timecode
    if code and self.room.timecode and fits_timecode(code, self.video.rate):
      self.target.metadata['timecode'] = code
    elif code:
      self.left.append('timecode')

  def _leave_timed(self) -> None:
    timed = [*self._further_sound(), *self._streams('subtitle')]
    self.left += ['chapters'] if self.source.chapters else []
    self.left += [stream.name for stream in timed]

  def _add_chapters(self) -> None:
    """Write the chapters that begin within the output."""
    chapters, kept = self.source.chapters, []
    ordered = sorted(chapters, key=lambda chapter: chapter.start)
    for number, chapter in enumerate(ordered, 1):
      start = max(chapter.start - self.video.start, Fraction(0))
      end = min(chapter.end - self.video.start, self.end)
      # Muxers want every chapter to begin after the one before.
      later = not kept or round(start / TICK) > kept[-1]['start']
      if end > start and later and self.room.chapters:
        kept.append(
          {
            'id': number,
            'start': round(start / TICK),
            'end': round(end / TICK),
            'time_base': TICK,
            'metadata': dict(chapter.tags),
          }
        )
    if kept:
      self.target.set_chapters(kept)
    self._tell_cut('chapters', len(kept), len(chapters), self.room.chapters)

  def _tell_cut(self, name: str, kept: int, total: int, held: bool) -> None:
    if not held and total:
      self.left.append(name)
    elif kept < total:
      self.left.append(
        f'{name}: {total - kept} of {total} after {float(self.end):.1f} s'
      )

  def _further_sound(self) -> list[extras.Stream]:
    """Every audio track but the one that new speech replaces."""
    streams = self._streams('audio')
    default = [s for s in streams if s.disposition & DEFAULT_TRACK]
    replaced = next(iter([*default, *streams]), None)
    return [stream for stream in streams if stream is not replaced]

  def _add_sound(self) -> None:
    """Add the further audio tracks."""
    others = self._further_sound()
    self.left += [stream.name for stream in others[MAX_TRACKS:]]
    for stream in others[:MAX_TRACKS]:
      try:
        self._add_track(stream)
      except MediaError as error:
        log.warning('%s', error)
        self.left.append(f'{stream.name}: unreadable')

  def _add_track(self, stream: extras.Stream) -> None:
    audio = self.pool.probe_audio(self.source.path, stream.index)
    form = None
    if audio.codec in self.kind.copied:
      form = self.pool.stream_template(audio, self.video.start)
    tags = self._stream_tags(stream)
    if form is not None:
      track = audio_muxer.copy_packets(
        self.target,
        audio,
        form,
        self.video.start,
        self.kind.edits,
        self.pool,
        tags=tags,
      )
    else:
      track = audio_muxer.encode_packets(
        self.target,
        audio,
        self.video.start,
        self.kind.audio,
        self.pool,
        tags=tags,
      )
    self.tracks.append(track)
    if audio.duration and audio.start - self.video.start + audio.duration > (
      self.end + Fraction(1, 2)
    ):
      self.left.append(f'{stream.name} after {float(self.end):.1f} s')

  def _stream_tags(self, stream: extras.Stream) -> dict[str, str]:
    tags = {key.lower(): value for key, value in stream.tags}
    tags = {'title': tags.get('name')} | tags  # MP4 calls it name
    return {key: tags[key] for key in ('language', 'title') if tags.get(key)}

  def _add_subtitles(self, stream: extras.Stream) -> None:
    """Add a subtitle stream, in the container's own format."""
    import av

    room = self.room
    codec = stream.codec if stream.codec in room.kept else room.subtitles
    if not codec or stream.codec not in extras.TEXT_SUBTITLES:
      self.left.append(stream.name)
      return
    header, lines = self.pool.read_subtitles(self.source.path, stream.index)
    shown = []
    for line in lines:
      start = max(line.start - self.video.start, Fraction(0))
      end = min(line.end - self.video.start, self.end)
      if end > start:
        shown.append(dataclasses.replace(line, start=start, end=end))
    self._tell_cut(stream.name, len(shown), len(lines), held=True)
    shown.sort(key=lambda line: line.start)
    if codec == 'mov_text':
      shown = list(without_overlaps(shown))
    if not shown:
      return
    target = self.target.add_stream(codec)
    target.metadata.update(self._stream_tags(stream))
    flags = stream.disposition & ~DEFAULT_TRACK  # such as forced
    target.disposition = av.stream.Disposition(flags)
    target.codec_context.subtitle_header = (header or ASS_HEADER).encode()
    target.time_base = TICK
    self.tracks.append(subtitle_packets(target, shown))

  def _add_cover(self, stream: extras.Stream) -> None:
    import av

    if not self.room.cover or stream.codec not in COVERS:
      self.left.append(stream.name)
      return
    data = self.pool.read_file(self.source.path, stream.index)
    if self.room.cover == 'attachment':
      self.target.add_attachment(*COVERS[stream.codec], data)
      return
    target = self.target.add_mux_stream(stream.codec, width=1, height=1)
    target.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(data)
    packet.pts = packet.dts = 0
    packet.time_base, packet.stream = TICK, target
    packet.is_keyframe = True
    self.tracks.append(iter([(Fraction(0), packet)]))

  def _add_file(self, stream: extras.Stream) -> None:
    if not (self.room.files and stream.codec):  # Matroska needs its type
      self.left.append(stream.name)
      return
    data = self.pool.read_file(self.source.path, stream.index)
    name = dict(stream.tags).get('filename') or f'file{stream.index}'
    self.target.add_attachment(name, stream.codec, data)


def fits_timecode(code: str, rate: Fraction) -> bool:
  """Whether FFmpeg writes a timecode; a wrong one would end the job."""
  match = TIMECODE.fullmatch(code)
  if not match or int(match.group(2)) >= round(rate):
    return False
  drops = match.group(1) != ':'
  return not drops or (round(rate) % 30 == 0 and rate.denominator == 1001)


def without_overlaps(
  lines: Sequence[extras.SubtitleLine],
) -> Iterator[extras.SubtitleLine]:
  """Lines one after the other, as MP4 needs them.

  Args:
    lines: sorted by start. Lines of one start are joined; a line ends where
      the next one starts.
  """
  held = None
  for line in lines:
    same = held and round(line.start / TICK) == round(held.start / TICK)
    if same:
      text = line.text.split(',', 8)[-1]
      end = max(held.end, line.end)
      held = dataclasses.replace(held, text=f'{held.text}\\N{text}', end=end)
      continue
    if held:
      yield dataclasses.replace(held, end=min(held.end, line.start))
    held = line
  if held:
    yield held


def subtitle_packets(target, lines: Sequence[extras.SubtitleLine]) -> Packets:
  """Packets of an encoder of subtitles; lines count from the first frame."""
  from av.subtitles.subtitle import SubtitleSet

  for line in lines:
    start, end = (round(time / TICK) for time in (line.start, line.end))
    text, length = line.text.encode(), max(1, end - start)
    shown = SubtitleSet.create(text, 0, length, pts=start * 1000)
    try:
      packet = target.codec_context.encode_subtitle(shown)
    except Exception as error:  # a line must not end the job
      log.warning('a line of subtitles is left out: %s', reason_of(error))
      continue
    packet.pts = packet.dts = start
    packet.duration, packet.time_base = length, TICK
    packet.stream = target
    yield line.start, packet
