"""Videos with everything that a container holds besides picture and sound."""

import io
from fractions import Fraction

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet

from lipsync_jax.media.extras_muxer import ASS_HEADER

TAGS = {
  'title': 'An interview',
  'artist': 'Someone',
  'comment': 'take 3',
  'creation_time': '2021-02-03T04:05:06.000000Z',
  'timecode': '01:00:00:00',
}
LINES = ((0.2, 1.0, 'first'), (1.2, 1.8, 'second'), (2.5, 2.9, 'third'))
CHAPTERS = ((0, 1, 'One'), (1, 2, 'Two'), (2, 3, 'Three'))
MS = Fraction(1, 1000)


def jpeg() -> bytes:
  from PIL import Image

  out = io.BytesIO()
  Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(out, 'JPEG')
  return out.getvalue()


def tone_frames(seconds, hertz, rate=48_000):
  time = np.arange(round(seconds * rate)) / rate
  wave = (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
  for i in range(0, len(wave), 1024):
    block = np.tile(wave[i : i + 1024], (2, 1))
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), 'fltp')
    frame.sample_rate, frame.pts = rate, i
    frame.time_base = Fraction(1, rate)
    yield frame


def rich_film(path, seconds=3, size=(64, 64), tags=None):
  """A gray video with two audio tracks, subtitles, chapters, tags, a cover.

  The first track is 300 Hz (English), the second 1000 Hz (German).
  """
  subtitles = {'.mkv': 'ass', '.webm': 'webvtt'}.get(path.suffix, 'mov_text')
  video, sound = 'libx264', 'aac'
  if path.suffix == '.webm':
    video, sound = 'libvpx-vp9', 'libopus'
  with av.open(str(path), 'w') as file:
    picture = file.add_stream(video, rate=25)
    picture.width, picture.height = size
    picture.pix_fmt = 'yuv420p'
    file.metadata.update(TAGS | (tags or {}))
    file.set_chapters(
      [
        {
          'id': i, 'start': start * 1000, 'end': end * 1000,
          'time_base': MS, 'metadata': {'title': name},
        }
        for i, (start, end, name) in enumerate(CHAPTERS, 1)
      ]
    )  # fmt: skip
    sounds = []
    for language in ('eng', 'ger'):
      stream = file.add_stream(sound, rate=48_000, layout='stereo')
      stream.metadata['language'] = language
      sounds.append(stream)
    lines = file.add_stream(subtitles)
    lines.codec_context.subtitle_header = ASS_HEADER.encode()
    lines.metadata['language'], lines.time_base = 'fre', MS
    if path.suffix == '.mkv':
      file.add_attachment('cover.jpg', 'image/jpeg', jpeg())
    if path.suffix == '.mp4':
      cover = file.add_mux_stream('mjpeg', width=16, height=16)
      cover.disposition = av.stream.Disposition.attached_pic
      packet = av.Packet(jpeg())
      packet.pts = packet.dts = 0
      packet.time_base, packet.stream = MS, cover
      packet.is_keyframe = True
      file.mux(packet)
    for start, end, text in LINES:
      event = f'0,0,Default,,0,0,0,,{text}'.encode()
      shown = SubtitleSet.create(event, 0, round(1000 * (end - start)))
      packet = lines.codec_context.encode_subtitle(shown)
      packet.pts = packet.dts = round(1000 * start)
      packet.duration = round(1000 * (end - start))
      packet.time_base, packet.stream = MS, lines
      file.mux(packet)
    for i in range(round(25 * seconds)):
      gray = np.full((size[1], size[0], 3), 128, np.uint8)
      frame = av.VideoFrame.from_ndarray(gray)
      frame.pts, frame.time_base = i, Fraction(1, 25)
      file.mux(picture.encode(frame))
    for stream, hertz in zip(sounds, (300, 1000), strict=True):
      for frame in tone_frames(seconds, hertz):
        file.mux(stream.encode(frame))
      file.mux(stream.encode(None))
    file.mux(picture.encode(None))
  return path


def read_extras(path) -> dict:
  """What a file has, as a player sees it."""
  found = {'lines': [], 'sounds': [], 'covers': 0}
  with av.open(str(path)) as file:
    found['tags'] = {k.lower(): v for k, v in file.metadata.items()}
    found['chapters'] = [
      (
        float(c['start'] * c['time_base']),
        float(c['end'] * c['time_base']),
        c['metadata']['title'],
      )
      for c in file.chapters()
    ]
    kinds = [(stream.index, stream.type) for stream in file.streams]
    for index, kind in kinds:
      stream = file.streams[index]
      if kind == 'subtitle':
        found['language'] = stream.metadata.get('language')
      elif kind == 'audio':
        found['sounds'].append(
          (stream.codec_context.name, stream.metadata.get('language'))
        )
      elif kind == 'video' and stream.disposition.value & 0x400:
        found['covers'] += 1
  for index, kind in kinds:
    if kind == 'subtitle':
      found['lines'] += read_lines(path, index)
  return found


def read_lines(path, index):
  with av.open(str(path)) as file:
    stream, lines = file.streams[index], []
    for packet in file.demux(stream):
      shown = stream.decode2(packet) if packet.size else None
      for part in shown.rects if shown else ():
        start = float(packet.pts * packet.time_base)
        end = start + float(packet.duration * packet.time_base)
        text = part.dialogue.decode()
        lines.append((round(start, 3), round(end, 3), text))
    return lines


def pitch(path, track) -> tuple[float, float]:
  """(Hz, seconds) of an audio track, by its spectrum."""
  with av.open(str(path)) as file:
    stream = file.streams.audio[track]
    blocks, rate = [], stream.rate
    for frame in file.decode(stream):
      samples = frame.to_ndarray()
      count = 1 if frame.format.is_planar else frame.layout.nb_channels
      blocks.append(samples[0, ::count])
  wave = np.concatenate(blocks).astype(np.float32)
  middle = wave[len(wave) // 4 : 3 * len(wave) // 4]
  peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))))
  return peak * rate / len(middle), len(wave) / rate
