"""The sound of an output: its packets copied unchanged, or encoded again.

Both functions add a stream to an open output and yield (seconds, packet). All
input is read through `decoder`.

Shapes: c channels, n samples.
"""

import io
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from lipsync_jax.media import decoder
from lipsync_jax.media.audio_reader import AudioStream
from lipsync_jax.media.container import to_seconds

# s; the most that a codec may need before the first sample
MAX_PRIMING = Fraction(1, 10)
AAC_RATES = (
  *(7350, 8000, 11025, 12000, 16000, 22050, 24000),
  *(32000, 44100, 48000, 64000, 88200, 96000),
)


def copy_packets(
  target,
  audio: AudioStream,
  template: bytes,
  origin: Fraction,
  edits: bool,
  pool: decoder.DecoderPool = decoder.DEFAULT_POOL,
  tags: dict[str, str] | None = None,
) -> Iterator[tuple[Fraction, object]]:
  """Add a stream to an open output and yield its packets, unchanged.

  Args:
    target: PyAV's container.
    audio: the source.
    template: of `decoder.stream_template`.
    origin: file time of the sound that becomes time 0.
    edits: the output may begin below 0; players skip that part.
    pool: decoder processes that read the source.
    tags: of the stream.

  Yields:
    (seconds, packet), from `origin` on, after the codec's priming packets.
  """
  import av

  with av.open(io.BytesIO(template), format='nut') as form:
    copy = target.add_stream_from_template(form.streams.audio[0])
  copy.metadata.update(tags or {})
  shift = last = None
  for packet in pool.read_packets(audio):
    unit = packet.unit
    time = packet.pts * unit - origin
    if time < -(MAX_PRIMING if edits else packet.duration * unit / 2):
      continue
    if shift is None:
      # Without edit lists a first stamp below 0 would delay the frames.
      at_zero = time < 0 and not edits
      shift = packet.pts if at_zero else round(origin / unit)
    if last is not None and packet.dts - shift <= last:
      continue
    last = packet.dts - shift
    out = av.Packet(packet.data)
    out.pts, out.dts, out.time_base = packet.pts - shift, last, unit
    out.duration, out.is_keyframe, out.stream = packet.duration, True, copy
    yield out.pts * unit, out


def encode_packets(
  target,
  audio: AudioStream,
  origin: Fraction,
  encoder: str,
  pool: decoder.DecoderPool = decoder.DEFAULT_POOL,
  tags: dict[str, str] | None = None,
) -> Iterator[tuple[Fraction, object]]:
  """Add a stream to an open output and yield the packets of an encoder.

  Rate and channels stay the same where the encoder supports them.

  Args:
    target: PyAV's container.
    audio: the source.
    origin: file time of the sound that becomes time 0.
    encoder: PyAV's name of the encoder.
    pool: decoder processes that read the source.
    tags: of the stream.

  Yields:
    (seconds, packet), from `origin` on.
  """
  import av

  rate = audio.rate
  if encoder == 'aac':
    rate = min(AAC_RATES, key=lambda r: abs(r - rate))
  elif encoder == 'libopus':
    rate = 48_000
  # Other numbers of channels have no layout that every player supports.
  layout = {1: 'mono', 2: 'stereo', 6: '5.1'}.get(audio.channels)
  stream = target.add_stream(encoder, rate=rate, layout=layout or 'mono')
  stream.codec_context.bit_rate = max(128_000, 96_000 * audio.channels)
  stream.metadata.update(tags or {})
  count = 0
  for samples in pool.read_audio(audio, origin):
    if layout is None:
      samples = samples.mean(axis=0, keepdims=True)
    samples = np.ascontiguousarray(samples)
    frame = av.AudioFrame.from_ndarray(samples, 'fltp', layout or 'mono')
    frame.sample_rate, frame.pts = audio.rate, count
    frame.time_base = Fraction(1, audio.rate)
    count += samples.shape[1]
    for packet in stream.encode(frame):
      yield to_seconds(packet.pts, packet.time_base), packet
  for packet in stream.encode(None):
    yield to_seconds(packet.pts, packet.time_base), packet
