"""Containers and encoders of outputs, chosen by the suffix of their name."""

import dataclasses
import math
import os
import pathlib
from fractions import Fraction

from lipsync_jax.common.errors import printable
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Video

MAX_TIME_BASE = 1_000_000  # ticks/s; above it a time base of 1/90000 s is used
HUGE_PIXELS = 2**24  # x264 buffers few frames from here on, of 24 MB or more


@dataclasses.dataclass(frozen=True)
class Format:
  """Container and codecs of the files of one suffix.

  Attributes:
    muxer: FFmpeg's name of the format.
    video: encoder of the frames.
    copied: audio codecs whose packets are copied.
    audio: encoder of all other sound.
    edits: the first time stamp may be below 0; players skip that part.
    alpha: encoder and format of transparent pictures, if there are any.
  """

  muxer: str
  video: str
  copied: frozenset[str]
  audio: str
  edits: bool = False
  alpha: tuple[str, str] | None = None


# Codecs that common players and editors open; muxers accept more.
MP4 = frozenset({'aac', 'mp3', 'ac3', 'eac3', 'alac', 'opus'})
MOV = frozenset({'aac', 'mp3', 'ac3', 'alac', 'pcm_s16le', 'pcm_s24le'})
MKV = MP4 | MOV | {'vorbis', 'flac', 'dts', 'mp2', 'pcm_f32le'}
AVI = frozenset({'mp3', 'ac3', 'mp2', 'pcm_s16le'})
FORMATS = {
  '.mp4': Format('mp4', 'libx264', MP4, 'aac', edits=True),
  '.m4v': Format('mp4', 'libx264', MP4, 'aac', edits=True),
  '.mov': Format(
    'mov', 'libx264', MOV, 'aac', True, ('prores_ks', 'yuva444p10le')
  ),
  '.mkv': Format('matroska', 'libx264', MKV, 'aac'),
  '.avi': Format('avi', 'mpeg4', AVI, 'pcm_s16le'),
  '.webm': Format(
    'webm',
    'libvpx-vp9',
    frozenset({'opus', 'vorbis'}),
    'libopus',
    alpha=('libvpx-vp9', 'yuva420p'),
  ),
}


def format_of(outfile: pathlib.Path) -> Format:
  """Choose the container by suffix."""
  import av

  kind = FORMATS.get(outfile.suffix.lower())
  if kind is None or kind.video not in av.codecs_available:
    usable = [s for s, k in FORMATS.items() if k.video in av.codecs_available]
    raise MediaError(
      f'{printable(outfile)}: the output needs one of the suffixes '
      f'{" ".join(usable)}, got {outfile.suffix or "none"!r}'
    )
  return kind


def keeps_alpha(outfile: str | os.PathLike) -> bool:
  """Whether an output of this name can be transparent."""
  return format_of(pathlib.Path(outfile)).alpha is not None


def takes_10_bits(kind: Format) -> bool:
  """Whether the encoder takes 10 bits; not every libvpx does."""
  import av

  formats = av.codec.Codec(kind.video, 'w').video_formats or ()
  return any(form.name == 'yuv420p10le' for form in formats)


def time_base(video: Video, rate: Fraction, kind: Format) -> Fraction:
  """Choose ticks that hit both the frame rate and the source's own stamps."""
  if kind.muxer == 'avi':
    return 1 / rate
  ticks = math.lcm(rate.numerator, video.tick.denominator)
  return Fraction(1, ticks if ticks <= MAX_TIME_BASE else 90_000)


def exact_rate(rate: Fraction, kind: Format) -> Fraction:
  """Bring a frame rate into what the encoder can state."""
  most = 65_535 if kind.video == 'mpeg4' else MAX_TIME_BASE
  if rate.numerator <= most:
    return rate
  return rate.limit_denominator(most // math.ceil(rate))


def muxer_options(kind: Format) -> dict[str, str]:
  """Options of a muxer: no random names inside, the index in front."""
  index = {'movflags': '+faststart'} if kind.edits else {}
  return {'fflags': '+bitexact', **index}


def encoder_options(
  encoder: str, crf: int, preset: str, video: Video
) -> dict[str, str]:
  """Options of an encoder for the quality that x264 calls `crf`."""
  if encoder == 'libx264':
    # At 10 bits crf 0 is not yet lossless, quantizer 0 is.
    options = {'crf' if crf else 'qp': str(crf), 'preset': preset}
    if video.width * video.height > HUGE_PIXELS:
      # A third of the time: 0.4 s instead of 1.3 for 7680x7680 on two cores.
      options |= {'preset': 'ultrafast', 'rc-lookahead': '1', 'bframes': '0'}
    hdr = {'mastering-display': video.mastering, 'cll': video.light}
    parts = [f'{name}={value}' for name, value in hdr.items() if value]
    if parts and video.color.depth > 8:
      options['x264-params'] = ':'.join(parts)
    return options
  if encoder == 'mpeg4':
    # H.264 in AVI has no time stamps of pictures: readers are a frame late.
    step = max(1, round(crf / 8))
    return {'flags': '+qscale', 'global_quality': str(118 * step)}
  if encoder == 'prores_ks':
    return {'profile': '4444', 'alpha_bits': '16'}
  speed = {'deadline': 'realtime', 'cpu-used': '6', 'row-mt': '1'}
  return {'crf': str(crf), 'b': '0', **speed}
