"""Video files: encode frames and mux them with sound, in one pass.

Frames are encoded once, from planes. Sound is copied packet by packet where
the container supports its codec, and encoded otherwise. The output gets its
name when the whole file is on disk.
"""

import os
import pathlib
from fractions import Fraction

import numpy as np

from lipsync_jax.common import atomic_file
from lipsync_jax.common.errors import printable
from lipsync_jax.media import (
  audio_muxer,
  audio_reader,
  decoder,
  extras,
  extras_muxer,
  output_format,
)
from lipsync_jax.media.container import MediaError, as_media_error, log
from lipsync_jax.media.output_format import format_of, keeps_alpha
from lipsync_jax.media.types import Frame, Video

__all__ = ['VideoWriter', 'format_of', 'keeps_alpha']

WRITING_STOPPED = 'writing stopped'
# s; time stamps as coarse as this are rounded to multiples of the frame length
COARSE_TICK = Fraction(1, 2000)


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
    deep = video.color.depth > 8 and not video.alpha
    if deep and not output_format.takes_10_bits(self.kind):
      raise MediaError(
        f'{printable(outfile)}: {self.outfile.suffix} holds 8 bits here, '
        'this video has 10; use .mkv or .mp4'
      )
    self.codec, self.pix_fmt = self.kind.video, video.pix_fmt
    if video.alpha:
      if not self.kind.alpha:
        raise MediaError(
          f'{printable(outfile)}: {self.outfile.suffix} holds no alpha; use '
          '.webm or .mov, or lay the picture over a color'
        )
      self.codec, self.pix_fmt = self.kind.alpha
    self.video, self.rate = (
      video,
      output_format.exact_rate(rate or video.rate, self.kind),
    )
    self.unit = output_format.time_base(video, self.rate, self.kind)
    self.duration = duration
    self.pending, self.last, self.end = None, -1, None
    self.file = None
    self.tracks: list[Track] = []  # the sound comes first
    self.seal = None  # called with the finished file, before it gets its name
    self.claim = _create_part(self.outfile)
    try:
      with as_media_error(outfile, WRITING_STOPPED):
        self._open(like, crf, preset)
        self._open_sound(audio, origin)
    except BaseException:
      self._discard()
      raise

  @property
  def keeps_hdr(self) -> bool:
    """Whether the encoder writes HDR mastering metadata."""
    return self.codec == 'libx264' and self.video.color.depth > 8

  def carry(
    self, source: extras.Extras, video: Video, end: Fraction
  ) -> list[str]:
    """Add the extras of a source, before the first frame is written.

    Args:
      source: of `decoder.probe_extras`.
      video: the picture of the same file.
      end: seconds of the output; nothing is added from there on.

    Returns:
      What is left behind, each in a few words.
    """
    # FFmpeg crashes if a stream is added after the header.
    assert self.pending is None and self.end is None, self.outfile
    with as_media_error(self.outfile, WRITING_STOPPED):
      muxer = extras_muxer.ExtrasMuxer(
        self.file, self.kind, source, video, end, self.pool
      )
      self.tracks += [Track(packets) for packets in muxer.tracks]
    return muxer.left

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
      for track in self.tracks:
        track.close()
      self.file.close()
      if self.seal is not None:
        self.seal(self.claim.part)
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
      container_options=output_format.muxer_options(self.kind),
    )
    # WebM says in the header that there is alpha; FFmpeg writes that by the
    # encoder's format, which a template has not.
    marked = self.video.alpha and self.kind.muxer == 'webm'
    if like is not None and not marked:
      with av.open(os.fspath(like)) as file:
        form = file.streams.video[0]
        self.stream = self.file.add_stream_from_template(form)
      if self.kind.edits:
        self.stream.codec_context.framerate = self.rate  # for a timecode
      return
    self.stream = self.file.add_stream(
      self.codec,
      rate=self.rate,
      options=output_format.encoder_options(
        self.codec, crf, preset, self.video
      ),
    )
    context, color = self.stream.codec_context, self.video.color
    context.width, context.height = self.video.width, self.video.height
    context.pix_fmt = self.pix_fmt
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
        sound = audio_muxer.copy_packets(
          self.file, audio, form, zero, self.kind.edits, self.pool
        )
      else:
        sound = audio_muxer.encode_packets(
          self.file, audio, zero, self.kind.audio, self.pool
        )
      self.tracks.append(Track(sound, needed=True))

  def _encode(self, frame: Frame, time: Fraction, end: Fraction) -> None:
    """Encode a frame shown from `time` to `end`, and the sound until then."""
    stamp = self._stamp(time)
    if stamp <= self.last:  # AVI holds one picture for each 1 / rate
      return
    self.last = stamp
    with as_media_error(self.outfile, WRITING_STOPPED):
      picture = _to_av_frame(self.video, frame, self.pix_fmt)
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
    """Mux the packets of all tracks that begin before `until` seconds."""
    for track in self.tracks:
      while track.waiting is not None and track.waiting[0] < until:
        track.mux(self.file)
        track.advance()

  def _mux(self, packets) -> None:
    for packet in packets:
      self.file.mux(packet)

  def _discard(self) -> None:
    """Drop the unfinished file; harmless after `close`."""
    try:
      for track in self.tracks:
        track.close()
      if self.file is not None:
        self.file.close()
    except Exception:  # noqa: S110  (errors of a discarded file do not matter)
      pass
    finally:
      self.claim.drop()


class Track:
  """Packets of a stream of the output, and the next one of them.

  Attributes:
    waiting: (seconds, packet), or None at the end.
  """

  def __init__(self, packets: extras_muxer.Packets, needed: bool = False):
    """Fetch the first packet, which adds the stream to the output.

    Args:
      packets: of `audio_muxer` or `extras_muxer`.
      needed: damage ends the job; it ends only this track otherwise.
    """
    self.packets, self.needed, self.waiting = packets, needed, None
    self.advance()

  def advance(self) -> None:
    """Fetch the next packet."""
    try:
      self.waiting = next(self.packets, None)
    except MediaError as error:
      if self.needed:
        raise
      log.warning('%s', error)
      self.waiting = None

  def mux(self, file) -> None:
    """Write the waiting packet."""
    import av

    try:
      file.mux(self.waiting[1])
    except (av.error.ArgumentError, av.error.InvalidDataError) as error:
      if self.needed:
        raise
      log.warning('a packet of a further track is left out: %s', error)

  def close(self) -> None:
    """Stop reading the source."""
    if hasattr(self.packets, 'close'):
      self.packets.close()


def _create_part(outfile: pathlib.Path) -> atomic_file.AtomicFile:
  """Create the file that is written, beside the output."""
  if outfile.is_dir():
    raise MediaError(
      f'{printable(outfile)}: the output is a folder, name a file'
    )
  with as_media_error(outfile, 'the output cannot be written'):
    outfile.parent.mkdir(parents=True, exist_ok=True)
    return atomic_file.AtomicFile(outfile)


def _to_av_frame(video: Video, frame: Frame, pix_fmt: str):
  """Copy planes into a picture for the encoder, of format `pix_fmt`."""
  import av

  height, width = frame.planes[0].shape
  form, planes = video.pix_fmt, frame.planes
  if video.alpha:
    form, planes = form.replace('yuv', 'yuva'), (*planes, frame.alpha)
  picture = av.VideoFrame(width, height, form)
  for target, plane in zip(picture.planes, planes, strict=True):
    rows = np.frombuffer(target, plane.dtype)
    rows = rows.reshape(target.height, -1)
    rows[:, : plane.shape[1]] = plane
  if form != pix_fmt:
    # Only chroma and depth change: matrix and range stay the same.
    span = 2 if video.color.full else 1
    picture = picture.reformat(
      format=pix_fmt,
      src_colorspace=1,
      dst_colorspace=1,
      src_color_range=span,
      dst_color_range=span,
      interpolation=2 | 0x40000,  # bilinear, accurate rounding
    )
    if video.alpha and video.color.depth == 8 and '10' in pix_fmt:
      # FFmpeg shifts bits: 255 would become 1020 of 1023.
      rows = np.frombuffer(picture.planes[3], np.uint16).reshape(height, -1)
      rows[:, :width] = np.rint(frame.alpha * np.float32(1023 / 255))
  picture.colorspace = video.color.matrix
  picture.color_range = video.color.range
  return picture
