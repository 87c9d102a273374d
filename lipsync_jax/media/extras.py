"""Everything in a media file besides its picture and its sound.

Tags, chapters, further audio tracks, subtitles, cover art, attached files and
the timecode. The rest of the package reads them through `decoder`.
"""

import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction

from lipsync_jax.common.errors import printable
from lipsync_jax.media.container import (
  ATTACHED_PICTURE,
  STOPPED,
  Heartbeat,
  MediaError,
  as_media_error,
  no_heartbeat,
  open_media,
  to_seconds,
)

Tags = tuple[tuple[str, str], ...]

MAX_FILE_BYTES = 2**26  # of a cover or another attached file
MAX_LINES = 100_000  # of a subtitle stream
MAX_LINE_BYTES = 10_000
MAX_TAG = 10_000  # characters
DISCARD_ALL = 48  # AVDISCARD_ALL: the text track of an MP4's chapters
TEXT_SUBTITLES = frozenset(
  {'ass', 'ssa', 'subrip', 'srt', 'mov_text', 'webvtt', 'text'}
)


@dataclasses.dataclass(frozen=True)
class Stream:
  """A stream other than the picture.

  Attributes:
    index: in the file.
    kind: audio, subtitle, cover, attachment, video or data.
    codec: its name, '' if unknown; the MIME type of an attachment.
    tags: its tags.
    disposition: AV_DISPOSITION_... flags.
  """

  index: int
  kind: str
  codec: str
  tags: Tags
  disposition: int

  @property
  def name(self) -> str:
    """What the stream is, for notes."""
    tags = dict(self.tags)
    words = [tags.get('language'), tags.get('title') or tags.get('filename')]
    words = [self.codec, *(word for word in words if word)]
    kind = {'cover': 'cover art', 'subtitle': 'subtitles'}.get(
      self.kind, f'{self.kind} stream'
    )
    text = printable(' '.join(filter(None, words)))
    return f'{kind} {self.index} ({text[:60]})' if text else kind


@dataclasses.dataclass(frozen=True)
class Chapter:
  """A chapter; file times in seconds."""

  start: Fraction
  end: Fraction
  tags: Tags


@dataclasses.dataclass(frozen=True)
class Extras:
  """What a file has besides picture and sound; `streams` has no picture."""

  path: str
  tags: Tags = ()
  chapters: tuple[Chapter, ...] = ()
  streams: tuple[Stream, ...] = ()
  timecode: str = ''  # of the first frame


@dataclasses.dataclass(frozen=True)
class SubtitleLine:
  """A line of subtitles; file times in seconds, `text` as an ASS event."""

  start: Fraction
  end: Fraction
  text: str


def probe_extras(path: str | os.PathLike, picture: int) -> Extras:
  """Describe the extras of a file by its header.

  Args:
    path: the file.
    picture: index of the stream that is the video.

  Raises:
    MediaError: not media.
  """
  with as_media_error(path, STOPPED), open_media(path) as file:
    others = [s for s in file.streams if s.index != picture]
    streams = [_describe(stream) for stream in others if _counts(stream)]
    timecodes = [
      source.metadata.get('timecode') or source.metadata.get('TIMECODE')
      for source in (file, *file.streams)
    ]
    chapters = []
    for chapter in file.chapters():
      unit = chapter['time_base']
      start, end = (to_seconds(chapter[at], unit) for at in ('start', 'end'))
      if start is not None and end is not None and end > start:
        chapters.append(Chapter(start, end, _tags(chapter['metadata'])))
    return Extras(
      os.fspath(path),
      _tags(file.metadata),
      tuple(chapters),
      tuple(streams),
      next(filter(None, timecodes), ''),
    )


def read_file(path: str | os.PathLike, index: int) -> bytes:
  """The bytes of a cover or an attached file."""
  with as_media_error(path, STOPPED), open_media(path) as file:
    stream = file.streams[index]
    if stream.type == 'attachment':
      data = bytes(stream.data)
    else:
      data = next((bytes(p) for p in file.demux(stream) if p.size), b'')
  if not 0 < len(data) <= MAX_FILE_BYTES:
    raise MediaError(
      f'{printable(path)}: an attached file of 1 byte to '
      f'{MAX_FILE_BYTES // 2**20} MB is needed, found {len(data)} bytes'
    )
  return data


def read_subtitles(
  path: str | os.PathLike, index: int, heartbeat: Heartbeat = no_heartbeat
) -> Iterator[SubtitleLine | str]:
  """Stream the lines of a text subtitle stream; first its ASS header or ''."""
  with as_media_error(path, STOPPED), open_media(path) as file:
    stream, count = file.streams[index], 0
    styled = stream.codec_context.name in ('ass', 'ssa')
    header = stream.codec_context.extradata if styled else b''
    yield (header or b'').decode('utf-8', 'replace')
    for packet in file.demux(stream):
      heartbeat()
      if not packet.size or packet.pts is None or count >= MAX_LINES:
        continue
      shown = stream.decode2(packet)
      start = packet.pts * packet.time_base
      for part in shown.rects if shown else ():
        end = start + (packet.duration or 0) * packet.time_base
        if end == start:
          end += Fraction(shown.end_display_time, 1000)
        text = getattr(part, 'ass', b'')[:MAX_LINE_BYTES]
        if text and end > start:
          count += 1
          yield SubtitleLine(start, end, text.decode('utf-8', 'replace'))


def _counts(stream) -> bool:
  """Whether a stream is more than a part of another one."""
  if stream.type == 'data':
    hidden = int(stream.discard) >= DISCARD_ALL  # text of chapters
    return not (hidden or 'timecode' in stream.metadata)
  if stream.type == 'video' and not stream.disposition.value & ATTACHED_PICTURE:
    return bool(stream.duration or stream.frames != 1)
  return True


def _describe(stream) -> Stream:
  kind, codec = stream.type, ''
  if kind == 'attachment':
    codec = stream.metadata.get('mimetype', '')
  elif stream.codec_context is not None:
    codec = stream.codec_context.codec.canonical_name
  if kind == 'video' and stream.disposition.value & ATTACHED_PICTURE:
    kind = 'cover'
  value = int(stream.disposition.value)
  return Stream(stream.index, kind, codec, _tags(stream.metadata), value)


def _tags(metadata: dict) -> Tags:
  """Tags as pairs of text, sorted; very long ones are cut."""
  return tuple(
    (str(key)[:MAX_TAG], str(value)[:MAX_TAG])
    for key, value in sorted(metadata.items())
    if value
  )
