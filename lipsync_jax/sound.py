"""Sound: probe and stream the samples of a file, copy or encode them.

Alphabet: c channels, n samples.
"""

import dataclasses
import fractions
import os
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

from lipsync_jax.source import (
  ATTACHED_PICTURE,
  LEAP,
  STOPPED,
  MediaError,
  decoded,
  duration_of,
  one_line,
  open_media,
  seconds,
  shown,
)

Fraction = fractions.Fraction

NEEDED = 'a file with sound is needed'
GAP = Fraction(1, 10)  # s; a smaller gap between time stamps is rounding
SHIFT = Fraction(1, 50)  # s; copied sound may begin late by no more
PRIMING = Fraction(1, 10)  # s; what a codec may need ahead of the first sample
AAC_RATES = (
  *(7350, 8000, 11025, 12000, 16000, 22050, 24000),
  *(32000, 44100, 48000, 64000, 88200, 96000),
)


@dataclasses.dataclass(frozen=True)
class Audio:
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


def probe_audio(path: str | os.PathLike) -> Audio:
  """Look at the sound of a file: its default stream, or the first that plays.

  Raises:
    MediaError: not media, or no sound in it.
  """
  with one_line(path, NEEDED), open_media(path) as container:
    streams = [s for s in container.streams.audio if s.codec_context]
    if not streams:
      raise MediaError(f'{shown(path)}: {NEEDED}: it has no audio stream')
    order = sorted(streams, key=lambda s: not s.disposition.value & 1)
    indices = [stream.index for stream in order]
  for index in indices:
    with one_line(path, NEEDED), open_media(path) as container:
      stream = container.streams[index]
      frames = decoded(path, container, stream)
      first = next((f for f in frames if f.samples and f.sample_rate), None)
      if first is None:
        continue
      start = seconds(first.pts, first.time_base) or Fraction(0)
      return Audio(
        path=os.fspath(path),
        rate=first.sample_rate,
        channels=first.layout.nb_channels,
        codec=stream.codec_context.codec.canonical_name,
        duration=duration_of(container, stream),
        start=start,
        origin=min([start, *_picture_starts(container)]),
        stream=index,
      )
  raise MediaError(f'{shown(path)}: {NEEDED}: its audio is empty or damaged')


def read_audio(
  audio: Audio, origin: Fraction | None = None
) -> Iterator[Float32[np.ndarray, 'c n']]:
  """Stream blocks of samples at `audio.rate`; full scale is -1..1.

  The first sample is that of file time `origin` (default: the beginning of
  the file, `audio.origin`). Silence fills what is missing there and in gaps
  between time stamps; what lies before is cut. NaN and infinity become 0.

  Raises:
    MediaError: the file cannot be read any more.
  """
  zero = audio.origin if origin is None else origin
  place, done = None, 0  # where the next sample belongs; how many are out
  longest = (audio.duration + LEAP) * audio.rate  # a longer gap is damage
  with one_line(audio.path, STOPPED), open_media(audio.path) as file:
    frames = decoded(audio.path, file, file.streams[audio.stream])
    for time, samples in _samples(audio, frames):
      stamped = place if time is None else round((time - zero) * audio.rate)
      if place is None:
        place = stamped if stamped and stamped <= longest else 0
      elif GAP * audio.rate < stamped - place <= longest:
        place = stamped
      if place < 0:
        samples, place = samples[:, -place:], min(place + samples.shape[1], 0)
      if samples.shape[1]:
        yield from _silence(audio, place - done)
        yield samples
        place += samples.shape[1]
        done = place


def can_copy(audio: Audio, origin: Fraction) -> bool:
  """Whether packets can be muxed as they are, to be heard from `origin` on."""
  if audio.start - origin > SHIFT:
    return False
  with one_line(audio.path, STOPPED), open_media(audio.path) as file:
    stream = file.streams[audio.stream]
    # Raw AAC has its header in every packet and none for the container.
    if audio.codec == 'aac' and not stream.codec_context.extradata:
      return False
    packet = next(file.demux(stream), None)
    if packet is None:
      return False
    return None not in (packet.pts, packet.dts, packet.duration)


def copied(
  target, audio: Audio, origin: Fraction, edits: bool
) -> Iterator[tuple[Fraction, object]]:
  """Add a stream to an open output and yield its packets, unchanged.

  Args:
    target: the PyAV container.
    origin: file time of the sound that becomes time 0.
    edits: the output may begin below 0 and players skip what it covers.

  Yields:
    (seconds, packet), from `origin` on, with what the codec needs before.
  """
  with one_line(audio.path, STOPPED), open_media(audio.path) as file:
    stream = file.streams[audio.stream]
    copy = target.add_stream_from_template(stream)
    shift = last = None
    for packet in file.demux(stream):
      if packet.pts is None or packet.dts is None:
        continue
      time = seconds(packet.pts, packet.time_base) - origin
      length = (packet.duration or 0) * packet.time_base
      if time < -(PRIMING if edits else length / 2):
        continue
      if shift is None:
        # Without edit lists a first stamp below 0 would move the pictures.
        at_zero = time < 0 and not edits
        shift = packet.pts if at_zero else round(origin / packet.time_base)
      packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
      if last is not None and packet.dts <= last:
        continue
      last = packet.dts
      packet.stream = copy
      yield seconds(packet.pts, packet.time_base), packet


def encoded(
  target, audio: Audio, origin: Fraction, encoder: str
) -> Iterator[tuple[Fraction, object]]:
  """Add a stream to an open output and yield the packets of an encoder.

  Rate and channels stay what they are where the encoder knows them. Arguments
  and result are those of `copied`.
  """
  import av

  rate = audio.rate
  if encoder == 'aac':
    rate = min(AAC_RATES, key=lambda known: abs(known - rate))
  elif encoder == 'libopus':
    rate = 48_000
  # Other counts of channels have no layout that every player knows.
  layout = {1: 'mono', 2: 'stereo', 6: '5.1'}.get(audio.channels)
  stream = target.add_stream(encoder, rate=rate, layout=layout or 'mono')
  stream.codec_context.bit_rate = max(128_000, 96_000 * audio.channels)
  count = 0
  for samples in read_audio(audio, origin):
    if layout is None:
      samples = samples.mean(axis=0, keepdims=True)
    samples = np.ascontiguousarray(samples)
    frame = av.AudioFrame.from_ndarray(samples, 'fltp', layout or 'mono')
    frame.sample_rate, frame.pts = audio.rate, count
    frame.time_base = Fraction(1, audio.rate)
    count += samples.shape[1]
    for packet in stream.encode(frame):
      yield seconds(packet.pts, packet.time_base), packet
  for packet in stream.encode(None):
    yield seconds(packet.pts, packet.time_base), packet


def _samples(
  audio: Audio, frames: Iterable
) -> Iterator[tuple[Fraction | None, Float32[np.ndarray, 'c n']]]:
  """Bring decoded sound to float32 with its file time."""
  import av

  resampler = None
  for frame in frames:
    time = seconds(frame.pts, frame.time_base)
    parts = [frame]
    same = frame.layout.nb_channels == audio.channels
    if not same or frame.sample_rate != audio.rate:
      # The form changes within the stream, as broadcasts do.
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
  samples = samples.astype(np.float32)
  return np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)


def _silence(audio: Audio, count: int) -> Iterator[Float32[np.ndarray, 'c n']]:
  """Stream `count` samples of silence in blocks of at most a second."""
  while count > 0:
    block = min(count, audio.rate)
    yield np.zeros((audio.channels, block), np.float32)
    count -= block


def _picture_starts(container) -> list[Fraction]:
  """File times at which moving pictures begin; cover art has no time."""
  times = [
    seconds(stream.start_time, stream.time_base)
    for stream in container.streams.video
    if not stream.disposition.value & ATTACHED_PICTURE
  ]
  return [time for time in times if time is not None]
