"""Sound of media files: probe it, stream its samples or its packets.

Shapes: c channels, n samples.
"""

import dataclasses
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float32

from lipsync_jax.common.errors import printable
from lipsync_jax.media.container import (
  ATTACHED_PICTURE,
  MAX_GAP_SECONDS,
  STOPPED,
  Heartbeat,
  MediaError,
  as_media_error,
  decode_stream,
  no_heartbeat,
  open_media,
  stream_duration,
  to_seconds,
)

NEEDS_SOUND = 'a file with sound is needed'
MAX_GAP = Fraction(1, 10)  # s; a smaller gap between time stamps is rounding
MAX_SHIFT = Fraction(1, 50)  # s; copied sound may begin late by no more


@dataclasses.dataclass(frozen=True)
class AudioStream:
  """An audio stream as `read_audio` will deliver it.

  Attributes:
    path: the file.
    rate: samples per second.
    channels: number of channels.
    codec: name of the codec, such as 'aac'.
    duration: seconds by the file's header, 0 if unknown.
    start: file time of the first sample in seconds.
    origin: file time of the first sample or picture, whichever is earlier.
    stream: index of the stream in the file.
  """

  path: str
  rate: int
  channels: int
  codec: str
  duration: Fraction
  start: Fraction
  origin: Fraction
  stream: int


@dataclasses.dataclass(frozen=True)
class Packet:
  """Compressed sound; `pts`, `dts` and `duration` count `unit` seconds."""

  data: bytes
  pts: int
  dts: int
  duration: int
  unit: Fraction


def probe_audio(
  path: str | os.PathLike,
  heartbeat: Heartbeat = no_heartbeat,
  stream: int | None = None,
) -> AudioStream:
  """Describe the default audio stream of a file, or the first that decodes.

  Args:
    path: the file.
    heartbeat: called before every packet.
    stream: index of the stream, instead of the default one.

  Raises:
    MediaError: not media, or no sound in it.
  """
  with as_media_error(path, NEEDS_SOUND), open_media(path) as container:
    streams = [
      s
      for s in container.streams.audio
      if s.codec_context and stream in (None, s.index)
    ]
    if not streams:
      raise MediaError(
        f'{printable(path)}: {NEEDS_SOUND}: it has no audio stream'
      )
    order = sorted(streams, key=lambda s: not s.disposition.value & 1)
    indices = [found.index for found in order]
  for index in indices:
    with as_media_error(path, NEEDS_SOUND), open_media(path) as container:
      found = container.streams[index]
      frames = decode_stream(path, container, found, heartbeat)
      first = next((f for f in frames if f.samples and f.sample_rate), None)
      if first is None:
        continue
      start = to_seconds(first.pts, first.time_base) or Fraction(0)
      return AudioStream(
        path=os.fspath(path),
        rate=first.sample_rate,
        channels=first.layout.nb_channels,
        codec=found.codec_context.codec.canonical_name,
        duration=stream_duration(container, found),
        start=start,
        origin=min([start, *_video_starts(container)]),
        stream=index,
      )
  raise MediaError(
    f'{printable(path)}: {NEEDS_SOUND}: its audio is empty or damaged'
  )


def read_audio(
  audio: AudioStream,
  origin: Fraction | None = None,
  heartbeat: Heartbeat = no_heartbeat,
) -> Iterator[Float32[np.ndarray, 'c n']]:
  """Stream blocks of samples at `audio.rate`; full scale is -1..1.

  The first sample is that of file time `origin`. Samples before it are cut.
  Silence fills the time before the first sample of the file, and gaps between
  time stamps. NaN and infinity become 0.

  Args:
    audio: of `probe_audio`.
    origin: seconds; default the beginning of the file, `audio.origin`.
    heartbeat: called before every packet.

  Raises:
    MediaError: the file can no longer be read, or all samples are NaN.
  """
  zero = audio.origin if origin is None else origin
  place, done = None, 0  # sample index of the next sample; samples delivered
  has_number = False
  # A longer gap is damage.
  longest = (audio.duration + MAX_GAP_SECONDS) * audio.rate
  with as_media_error(audio.path, STOPPED), open_media(audio.path) as file:
    stream = file.streams[audio.stream]
    frames = decode_stream(audio.path, file, stream, heartbeat)
    for time, samples in _samples(audio, frames):
      numbers = np.isfinite(samples)
      has_number = has_number or bool(numbers.any())
      samples = np.where(numbers, samples, np.float32(0))
      stamped = place if time is None else round((time - zero) * audio.rate)
      if place is None:
        place = stamped if stamped and stamped <= longest else 0
      elif MAX_GAP * audio.rate < stamped - place <= longest:
        place = stamped
      if place < 0:
        samples, place = samples[:, -place:], min(place + samples.shape[1], 0)
      if samples.shape[1]:
        yield from _silence(audio, place - done)
        yield samples
        place += samples.shape[1]
        done = place
  if place is not None and not has_number:
    raise MediaError(
      f'{printable(audio.path)}: {NEEDS_SOUND}: it holds no number'
    )


def stream_template(audio: AudioStream, origin: Fraction) -> bytes | None:
  """Describe the stream for an output that copies its packets.

  Args:
    audio: of `probe_audio`.
    origin: file time of the sound that becomes time 0 of the output.

  Returns:
    A small NUT file with the stream's header and first packets, from which
    `audio_muxer` creates the output's stream. None if the sound must be
    encoded again.
  """
  import av

  if audio.start - origin > MAX_SHIFT:
    return None
  content = io.BytesIO()
  with as_media_error(audio.path, STOPPED), open_media(audio.path) as file:
    stream = file.streams[audio.stream]
    # Raw AAC has its header in every packet and none for the container.
    if audio.codec == 'aac' and not stream.codec_context.extradata:
      return None
    first = list(itertools.islice(file.demux(stream), 4))
    timed = all(p.duration for p in first if p.size)
    if not timed or any(None in (p.pts, p.dts) for p in first if p.size):
      return None
    try:
      with av.open(content, 'w', format='nut') as copy:
        target = copy.add_stream_from_template(stream)
        for packet in first:
          if packet.size:
            packet.stream = target
            copy.mux(packet)
      # The file is checked here, in the process with limits.
      with av.open(io.BytesIO(content.getvalue()), format='nut') as copy:
        fits = copy.streams.audio[0].codec_context is not None
    except av.error.MemoryError:
      raise
    except (av.error.FFmpegError, ValueError, IndexError):
      return None  # NUT has no name for the codec
  return content.getvalue() if fits else None


def read_packets(audio: AudioStream) -> Iterator[Packet]:
  """Stream the packets of the file that have time stamps."""
  with as_media_error(audio.path, STOPPED), open_media(audio.path) as file:
    for packet in file.demux(file.streams[audio.stream]):
      if packet.size and packet.pts is not None and packet.dts is not None:
        yield Packet(
          bytes(packet),
          packet.pts,
          packet.dts,
          packet.duration or 0,
          packet.time_base,
        )


def _samples(
  audio: AudioStream, frames: Iterable
) -> Iterator[tuple[Fraction | None, Float32[np.ndarray, 'c n']]]:
  """Yield decoded sound as float32 with its file time."""
  import av

  resampler = None
  for frame in frames:
    time = to_seconds(frame.pts, frame.time_base)
    parts = [frame]
    same = frame.layout.nb_channels == audio.channels
    if not same or frame.sample_rate != audio.rate:
      # Rate or layout changes within the stream, as in broadcasts.
      layout = {1: 'mono', 2: 'stereo'}.get(audio.channels)
      resampler = av.AudioResampler('fltp', layout, audio.rate)
      parts = resampler.resample(frame) + resampler.resample(None)
    for part in parts:
      samples = _as_float(part)
      if len(samples) == audio.channels:
        yield time, samples
        time = None


def _as_float(frame) -> Float32[np.ndarray, 'c n']:
  """Convert a decoded frame of any sample format to -1..1."""
  samples = frame.to_ndarray()
  if not frame.format.is_planar:
    samples = samples.reshape(-1, frame.layout.nb_channels).T  # [c n]
  if samples.dtype == np.uint8:
    return (samples.astype(np.float32) - 128) / 128
  if samples.dtype.kind == 'i':
    scale = np.float32(1 / (1 << (8 * samples.itemsize - 1)))
    return samples.astype(np.float32) * scale
  return samples.astype(np.float32)


def _silence(
  audio: AudioStream, count: int
) -> Iterator[Float32[np.ndarray, 'c n']]:
  """Stream `count` samples of silence in blocks of at most a second."""
  while count > 0:
    block = min(count, audio.rate)
    yield np.zeros((audio.channels, block), np.float32)
    count -= block


def _video_starts(container) -> list[Fraction]:
  """File times at which video streams begin, cover art excluded."""
  times = [
    to_seconds(stream.start_time, stream.time_base)
    for stream in container.streams.video
    if not stream.disposition.value & ATTACHED_PICTURE
  ]
  return [time for time in times if time is not None]
