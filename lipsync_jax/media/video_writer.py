"""Video files: encode frames and mux them with sound, in one pass.

Frames are encoded once, from planes. Sound is copied packet by packet where
the container supports its codec, and encoded otherwise. The output gets its
name when the whole file is on disk.
"""

import dataclasses
import math
import os
import pathlib
from fractions import Fraction

import numpy as np

from lipsync_jax.common import atomic_file
from lipsync_jax.common.errors import printable
from lipsync_jax.media import audio_muxer, audio_reader, decoder
from lipsync_jax.media.container import MediaError, as_media_error
from lipsync_jax.media.types import Frame, Video

WRITING_STOPPED = 'writing stopped'
MAX_TIME_BASE = 1_000_000  # ticks/s; above it a time base of 1/90000 s is used
HUGE_PIXELS = 2**24  # x264 buffers few frames from here on, of 24 MB or more
# s; time stamps as coarse as this are rounded to multiples of the frame length
COARSE_TICK = Fraction(1, 2000)


@dataclasses.dataclass(frozen=True)
class Format:
  """Container and codecs of the files of one suffix.

  Attributes:
    muxer: FFmpeg's name of the format.
    video: encoder of the frames.
    copied: audio codecs whose packets are copied.
    audio: encoder of all other sound.
    edits: the first time stamp may be below 0; players skip that part.
  """

  muxer: str
  video: str
  copied: frozenset[str]
  audio: str
  edits: bool = False


# Codecs that common players and editors open; muxers accept more.
MP4 = frozenset({'aac', 'mp3', 'ac3', 'eac3', 'alac', 'opus'})
MOV = frozenset({'aac', 'mp3', 'ac3', 'alac', 'pcm_s16le', 'pcm_s24le'})
MKV = MP4 | MOV | {'vorbis', 'flac', 'dts', 'mp2', 'pcm_f32le'}
AVI = frozenset({'mp3', 'ac3', 'mp2', 'pcm_s16le'})
FORMATS = {
  '.mp4': Format('mp4', 'libx264', MP4, 'aac', edits=True),
  '.m4v': Format('mp4', 'libx264', MP4, 'aac', edits=True),
  '.mov': Format('mov', 'libx264', MOV, 'aac', edits=True),
  '.mkv': Format('matroska', 'libx264', MKV, 'aac'),
  '.avi': Format('avi', 'mpeg4', AVI, 'pcm_s16le'),
  '.webm': Format(
    'webm', 'libvpx-vp9', frozenset({'opus', 'vorbis'}), 'libopus'
  ),
}


class VideoWriter:
  """An output file being written; use it in a `with` statement.

  At the end of the block the file is completed and gets its name. After an
  exception, Ctrl-C included, it is removed and an older file of that name
  stays unchanged.
  """

  def __init__(
    self,
    outfile: str | os.PathLike,
    video: Video,
    rate: Fraction | None = None,
    audio: audio_reader.AudioStream | None = None,
    *,
    origin: Fraction | None = None,
    crf: int = 16,
    preset: str = 'veryfast',
    duration: Fraction | None = None,
    like: str | os.PathLike | None = None,
    pool: decoder.DecoderPool = decoder.DEFAULT_POOL,
  ):
    """Open the output.

    Args:
      outfile: its suffix chooses the container; missing folders are created.
      video: size, color and time base of the frames.
      rate: nominal frames per second; default `video.rate`.
      audio: sound to mux.
      origin: file time of the sound that becomes time 0; default its
        beginning.
      crf: quality of H.264, 0 (lossless) to 51.
      preset: speed of x264.
      duration: seconds after which the sound is cut; default the end of the
        last frame.
      like: a file of an earlier `VideoWriter`. Frames are then copied with
        `append` from it and others like it, and none are encoded.
      pool: decoder processes that read the sound.

    Raises:
      MediaError: unknown suffix, wrong crf, or the folder is not writable.
    """
    self.outfile, self.pool = pathlib.Path(outfile), pool
    self.kind = format_of(self.outfile)
    if not 0 <= crf <= 51:
      raise MediaError(f'crf is a quality from 0 to 51, got {crf}; try 16')
    if video.color.depth > 8 and self.kind.video == 'mpeg4':
      raise MediaError(
        f'{printable(outfile)}: .avi holds 8 bits, this video has 10; use .mkv'
      )
    self.video, self.rate = video, _exact_rate(rate or video.rate, self.kind)
    self.unit = _time_base(video, self.rate, self.kind)
    self.duration = duration
    self.pending, self.last, self.end = None, -1, None
    self.file = self.sound = None
    self.claim = _create_part(self.outfile)
    try:
      with as_media_error(outfile, WRITING_STOPPED):
        self._open(like, crf, preset)
        self._open_sound(audio, origin)
    except BaseException:
      self._discard()
      raise

  def write(self, frame: Frame, time: Fraction | None = None) -> None:
    """Append a frame at `time` seconds (default: its own), increasing."""
    time = frame.time if time is None else time
    if self.pending is not None:
      if time <= self.pending[1]:
        raise MediaError(
          f'{printable(self.outfile)}: frames must follow each other in time, '
          f'got {float(time):.6f} s after {float(self.pending[1]):.6f} s'
        )
      self._encode(*self.pending, end=time)
    self.pending = (frame, time)

  def append(self, path: str | os.PathLike, start: Fraction) -> None:
    """Copy the pictures of a file of a Writer, to be shown from `start`."""
    import av

    with (
      as_media_error(path, WRITING_STOPPED),
      av.open(os.fspath(path)) as file,
    ):
      stream = file.streams.video[0]
      for packet in file.demux(stream):
        if packet.dts is None:
          continue
        unit = packet.time_base
        shift = round(start / unit)
        # Where frames of unequal length meet, x264's own guess may go back.
        packet.dts = max(packet.dts + shift, self.last + 1)
        packet.pts, self.last = packet.pts + shift, packet.dts
        self.end = packet.pts * unit + 1 / self.rate
        packet.stream = self.stream
        self.file.mux(packet)
        until = packet.dts * unit
        self._pump(
          until if self.duration is None else min(until, self.duration)
        )

  def close(self) -> None:
    """Complete the file and give it its name."""
    if self.pending is None and self.end is None:
      raise MediaError(f'{printable(self.outfile)}: no frame was written')
    end = self._finish() if self.end is None else self.end
    with as_media_error(self.outfile, WRITING_STOPPED):
      self._pump(end if self.duration is None else self.duration)
      if self.sound is not None:
        self.sound.close()
      self.file.close()
      self.claim.keep()

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, kind, error, trace) -> None:
    try:
      if kind is None:
        self.close()
    finally:
      self._discard()

  def _finish(self) -> Fraction:
    """Encode the last frame; returns when it ends."""
    time = self.pending[1]
    end = time + 1 / self.rate
    if self.duration is not None and 0 < self.duration - time < 2 / self.rate:
      end = self.duration
    self._encode(*self.pending, end=end)
    with as_media_error(self.outfile, WRITING_STOPPED):
      self._mux(self.stream.encode(None))
    return end

  def _open(self, like, crf, preset) -> None:
    """Open the container and its pictures."""
    import av

    self.file = av.open(
      f'file:{self.claim.part.absolute()}',
      'w',
      format=self.kind.muxer,
      container_options=_muxer_options(self.kind),
    )
    if like is not None:
      with av.open(os.fspath(like)) as file:
        form = file.streams.video[0]
        self.stream = self.file.add_stream_from_template(form)
      return
    self.stream = self.file.add_stream(
      self.kind.video,
      rate=self.rate,
      options=_encoder_options(self.kind.video, crf, preset, self.video),
    )
    context, color = self.stream.codec_context, self.video.color
    context.width, context.height = self.video.width, self.video.height
    context.pix_fmt = self.video.pix_fmt
    context.time_base = self.unit
    context.sample_aspect_ratio = self.video.sar
    context.colorspace, context.color_range = color.matrix, color.range
    context.color_primaries, context.color_trc = (
      color.primaries,
      color.transfer,
    )
    context.flags |= av.codec.context.Flags.frame_duration

  def _open_sound(self, audio, origin) -> None:
    """Add the sound, copied or encoded."""
    if audio is not None:
      zero = audio.origin if origin is None else origin
      form = None
      if audio.codec in self.kind.copied:
        form = self.pool.stream_template(audio, zero)
      if form is not None:
        self.sound = audio_muxer.copy_packets(
          self.file, audio, form, zero, self.kind.edits, self.pool
        )
      else:
        self.sound = audio_muxer.encode_packets(
          self.file, audio, zero, self.kind.audio, self.pool
        )
      self.waiting = next(self.sound, None)

  def _encode(self, frame: Frame, time: Fraction, end: Fraction) -> None:
    """Encode a frame shown from `time` to `end`, and the sound until then."""
    stamp = self._stamp(time)
    if stamp <= self.last:  # AVI holds one picture for each 1 / rate
      return
    self.last = stamp
    with as_media_error(self.outfile, WRITING_STOPPED):
      picture = _to_av_frame(self.video, frame)
      picture.pts, picture.time_base = stamp, self.unit
      picture.duration = max(1, self._stamp(end) - stamp)
      self._mux(self.stream.encode(picture))
      self._pump(time if self.duration is None else min(time, self.duration))

  def _stamp(self, time: Fraction) -> int:
    """Turn seconds into ticks of the encoder."""
    if self.video.tick >= COARSE_TICK:
      # Matroska counts in milliseconds: undo its rounding at constant rate.
      grid = round(time * self.rate) / self.rate
      time = grid if abs(grid - time) <= self.video.tick else time
    return round(time / self.unit)

  def _pump(self, until: Fraction) -> None:
    """Mux the sound that begins before `until` seconds."""
    while self.sound is not None and self.waiting is not None:
      time, packet = self.waiting
      if time >= until:
        return
      self.file.mux(packet)
      self.waiting = next(self.sound, None)

  def _mux(self, packets) -> None:
    for packet in packets:
      self.file.mux(packet)

  def _discard(self) -> None:
    """Drop the unfinished file; harmless after `close`."""
    try:
      if self.sound is not None:
        self.sound.close()
      if self.file is not None:
        self.file.close()
    except Exception:  # noqa: S110  (errors of a discarded file do not matter)
      pass
    finally:
      self.claim.drop()


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


def _create_part(outfile: pathlib.Path) -> atomic_file.AtomicFile:
  """Create the file that is written, beside the output."""
  if outfile.is_dir():
    raise MediaError(
      f'{printable(outfile)}: the output is a folder, name a file'
    )
  with as_media_error(outfile, 'the output cannot be written'):
    outfile.parent.mkdir(parents=True, exist_ok=True)
    return atomic_file.AtomicFile(outfile)


def _time_base(video: Video, rate: Fraction, kind: Format) -> Fraction:
  """Choose ticks that hit both the frame rate and the source's own stamps."""
  if kind.muxer == 'avi':
    return 1 / rate
  ticks = math.lcm(rate.numerator, video.tick.denominator)
  return Fraction(1, ticks if ticks <= MAX_TIME_BASE else 90_000)


def _exact_rate(rate: Fraction, kind: Format) -> Fraction:
  """Bring a frame rate into what the encoder can state."""
  most = 65_535 if kind.video == 'mpeg4' else MAX_TIME_BASE
  if rate.numerator <= most:
    return rate
  return rate.limit_denominator(most // math.ceil(rate))


def _muxer_options(kind: Format) -> dict[str, str]:
  """Options of a muxer: no random names inside, the index in front."""
  index = {'movflags': '+faststart'} if kind.edits else {}
  return {'fflags': '+bitexact', **index}


def _encoder_options(
  encoder: str, crf: int, preset: str, video: Video
) -> dict[str, str]:
  """Options of an encoder for the quality that x264 calls `crf`."""
  if encoder == 'libx264':
    # At 10 bits crf 0 is not yet lossless, quantizer 0 is.
    options = {'crf' if crf else 'qp': str(crf), 'preset': preset}
    if video.width * video.height > HUGE_PIXELS:
      # A third of the time: 0.4 s instead of 1.3 for 7680x7680 on two cores.
      options |= {'preset': 'ultrafast', 'rc-lookahead': '1', 'bframes': '0'}
    return options
  if encoder == 'mpeg4':
    # H.264 in AVI has no time stamps of pictures: readers are a frame late.
    step = max(1, round(crf / 8))
    return {'flags': '+qscale', 'global_quality': str(118 * step)}
  speed = {'deadline': 'realtime', 'cpu-used': '6', 'row-mt': '1'}
  return {'crf': str(crf), 'b': '0', **speed}


def _to_av_frame(video: Video, frame: Frame):
  """Copy planes into a picture for the encoder."""
  import av

  height, width = frame.planes[0].shape
  picture = av.VideoFrame(width, height, video.pix_fmt)
  for target, plane in zip(picture.planes, frame.planes, strict=True):
    rows = np.frombuffer(target, plane.dtype)
    rows = rows.reshape(target.height, -1)
    rows[:, : plane.shape[1]] = plane
  picture.colorspace = video.color.matrix
  picture.color_range = video.color.range
  return picture
