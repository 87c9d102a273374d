"""What a source has besides its picture: alpha, and the extras of its file.

Alpha is kept where the output's container can hold it. Elsewhere the picture
is laid over one color. One note lists everything that is left behind.
"""

import dataclasses
import sys
from fractions import Fraction

from lipsync_jax.common.errors import printable
from lipsync_jax.inference import provenance, signing
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import decoder, extras, extras_muxer, video_writer
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Video, View

MOST = 12  # things that the note names; the report has all of them
BACKGROUND = '#000000'  # under transparent pictures, where none is given


def lay_over_color(options: SyncOptions, video: Video) -> Video:
  """The video without alpha, if the output holds none or a color is given."""
  if not video.alpha:
    return video
  if options.background is None and video_writer.keeps_alpha(options.outfile):
    return video
  text = (options.background or BACKGROUND).lstrip('#')
  rgb = tuple(bytes.fromhex(text))
  view = dataclasses.replace(video.view, background=rgb)
  return dataclasses.replace(video, view=view, alpha=False)


def open_video(options: SyncOptions) -> Video:
  """The face's video; a photo, or `static`, is one frame at `fps`."""
  view = View(options.resize_factor, options.rotate, options.crop)
  video = decoder.probe_video(options.face, view)
  video = lay_over_color(options, video)
  if video.still:
    rate = Fraction(options.fps).limit_denominator(1001)
    return dataclasses.replace(video, rate=rate)
  return dataclasses.replace(video, still=options.static)


def probe_extras(options: SyncOptions, video: Video) -> extras.Extras | None:
  """The extras to carry over; None with `strip`, or if there are none.

  A video in memory has none.
  """
  if options.strip or not video.path:
    return None
  try:
    return decoder.probe_extras(video.path, video.stream)
  except MediaError:  # the picture could be read, and only that is needed
    return None


def _without_times(source: extras.Extras) -> tuple[extras.Extras, list[str]]:
  """The extras that fit a video of another speed, and what is left out."""
  timed = ('audio', 'subtitle', 'data')
  lost = [s.name for s in source.streams if s.kind in timed]
  lost += ['chapters'] if source.chapters else []
  streams = tuple(s for s in source.streams if s.kind not in timed)
  kept = dataclasses.replace(source, chapters=(), streams=streams)
  return kept, [f'{name}, because the speed changes' for name in lost]


def carry(
  options: SyncOptions,
  video: Video,
  source: extras.Extras | None,
  writer: video_writer.VideoWriter,
  end: Fraction,
  record: dict,
) -> list[str]:
  """Add the extras and the record; note what is left behind.

  Args:
    options: of the job.
    video: the source.
    source: of `probe_extras`.
    writer: has written no frame.
    end: seconds of the output.
    record: of `provenance.build_record`.

  Returns:
    What is left behind, each in a few words.

  Raises:
    SigningError: the output cannot be signed, or is not generated.
  """
  left = []
  if source is not None and options.remaps and video.duration != end:
    source, left = _without_times(source)
  if video.view.background is not None and options.background is None:
    left.append(f'alpha (laid over {BACKGROUND}; .webm and .mov keep it)')
  elif video.unread_alpha:
    left.append('alpha of an animated AVIF')
  if (video.mastering or video.light) and not writer.keeps_hdr:
    left.append('HDR metadata (10-bit .mp4, .mov and .mkv keep it)')
  if source is not None:
    lost = writer.carry(source, video, end)
    if video.unread_alpha:  # that is the only other picture of an AVIF
      lost = [item for item in lost if not item.startswith('video stream')]
    left += lost
    timed = [s for s in source.streams if s.kind in ('audio', 'subtitle')]
    if timed[1:] and not video.still and 0 < video.duration < end - 1:
      left.append(
        f'further tracks after {float(video.duration):.1f} s, where the video '
        'repeats'
      )
  held = extras_muxer.ROOMS[writer.kind.muxer].tags
  provenance.add_record(writer.file.metadata, record, held)
  if options.sign:
    if not provenance.is_generated(record):
      raise signing.SigningError(
        '--sign: expected a frame with new lips, found none; the signed '
        'statement would be that the file is generated'
      )
    writer.seal = signing.Signer(*options.sign, options.outfile)
  if left and not options.quiet:
    shown = [*left[:MOST], *(['…'] if len(left) > MOST else [])]
    items = printable('; '.join(shown))
    print(f'note: left behind: {items}', file=sys.stderr)
  return left
