"""Produce: everything between a request and the finished file, in order.

Weights first (they are the likeliest mistake), then sound, faces, speech.
Alphabet: f source frames; a show is one frame of the output (`timeline`).
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from lipsync_jax import audio, coverage, reels, render, search, timeline, voices
from lipsync_jax.common import cache, memory, threads
from lipsync_jax.media import decoder, video_writer
from lipsync_jax.media.container import MediaError, printable
from lipsync_jax.media.types import Video, View
from lipsync_jax.models import runtime
from lipsync_jax.request import Request
from lipsync_jax.weights import convert

BATCH = {'cpu': 16, 'gpu': 128, 'tpu': 128}  # faces at a time


def produce(wanted: Request) -> dict:
  """Do what a `Request` asks for and return the report."""
  clock = threads.StageTimer()
  bar = functools.partial(progress, wanted.quiet)
  memory.map_large_blocks()
  decoder.start_idle_worker()
  with contextlib.ExitStack() as stack:
    with clock('load'):
      net = generator_of(wanted)
      video = video_of(wanted)
      cast = voices.probe(wanted, video)
      final, origin = stack.enter_context(voices.heard(wanted, video, cast))
    # The output is claimed before the long work, dropped if that fails.
    out = None
    if wanted.resume:
      reels.claim(wanted.outfile)
    else:
      out = video_writer.VideoWriter(
        wanted.outfile, video, audio=final, origin=origin, crf=wanted.crf
      )
      stack.enter_context(out)
    report, finish = prepare(wanted, net, video, cast, clock, bar)
    finish(out, final, origin)
  return {
    'outfile': os.path.abspath(wanted.outfile),
    'face': os.path.abspath(wanted.face),
    'width': video.width,
    'height': video.height,
    'rate': str(video.rate),
    **report,
    'weights': {'source': net.source, 'sha256': net.sha256},
    'seconds': {k: round(v, 3) for k, v in clock.seconds.items()},
    'peak_memory_mb': memory.peak_rss_mb(),
    'decoder_memory_mb': sum(decoder.peaks.values()) // 2**20,
  }


def prepare(wanted, net, video, cast, clock, bar) -> tuple[dict, Callable]:
  """All but the output's frames: the report, and what writes them."""
  with clock('listen'):
    mels, duration = listen(wanted, cast)
  with clock('find faces'):
    who = [voice.who for voice in cast]
    times, paths, found = search.find(wanted, video, who, duration, bar)
    times = timeline.stamps(times)
  shows, starts = schedule(wanted, net, video, times, mels, duration)
  covers = [
    coverage.cover(path, times, shows, wanted.since, wanted.until)
    for path in paths
  ]
  rows = zip(paths, mels, starts, (share for share, _ in covers), strict=True)
  speakers = tuple(render.speaker(*row) for row in rows)
  del paths, rows  # their landmarks are on disk by now
  memory.release_free_memory()
  with clock('compile'):
    scene, predict, name = stage(wanted, net, video, times, shows, speakers)
  end = ending(shows, duration, video.rate)

  def finish(out: video_writer.VideoWriter | None, final, origin) -> None:
    with clock('speak'), bar('speaking', len(shows)) as tick:
      if out:
        out.duration = end
        render.render(scene, predict, out.write, clock, tick)
        return
      found = reels.shoot(wanted, scene, predict, net.sha256, clock, tick)
    reels.join(wanted, video, found, final, origin, end)

  for speaker, voice, cover in zip(
    found['speakers'], cast, covers, strict=True
  ):
    share, why = cover
    speaker['audio'] = os.path.abspath(voice.sound.path)
    speaker['frames_spoken'] = int((share > 0).sum())
    speaker['skipped'] = coverage.ranges(shows, why)
  facts = {'seconds_of_sound': round(float(duration), 4), 'frames': len(shows)}
  return facts | found | {'engine': name, 'batch': scene.batch}, finish


def listen(
  wanted: Request, cast: list[voices.Voice]
) -> tuple[list[render.Shelf], Fraction]:
  """The mels of all voices, laid aside, and the longest's seconds."""
  gated = not (wanted.no_gate or wanted.compat)
  mels, lengths = [], []
  for voice in cast:
    mel, length = voices.listen(voice, wanted.preview, gated)
    mels.append(render.Shelf(mel.T))
    lengths.append(length)
  return mels, max(lengths)


def generator_of(wanted: Request) -> convert.Weights:
  """The weights asked for, or else, said in one line, those of the package."""
  if wanted.checkpoint_path is not None:
    return convert.load_any(wanted.checkpoint_path, 'generator')
  if not convert.DEFAULT_GENERATOR.is_file():
    raise convert.WeightsError(
      '--checkpoint_path is needed: no weights come with this copy; give '
      'wav2lip.pth, wav2lip_hq.pdparams or a .safetensors file of your own'
    )
  net = convert.load_any(convert.DEFAULT_GENERATOR, 'generator')
  if not wanted.quiet:
    print(f'note: no --checkpoint_path, using {net.source}', file=sys.stderr)
  return net


def video_of(wanted: Request) -> Video:
  """The face's video; a photo, or `static`, is one frame at `fps`."""
  view = View(wanted.resize_factor, wanted.rotate, wanted.crop)
  video = decoder.probe_video(wanted.face, view)
  if video.still:
    rate = Fraction(wanted.fps).limit_denominator(1001)
    return dataclasses.replace(video, rate=rate)
  return dataclasses.replace(video, still=wanted.static)


def schedule(
  wanted: Request,
  net: convert.Weights,
  video: Video,
  times: Sequence[Fraction],
  mels: list[render.Shelf],
  duration: Fraction,
) -> tuple[Sequence[timeline.Show], list[Int[np.ndarray, 'p']]]:
  """What is shown when, and each voice's first mel column of every show."""
  if wanted.compat:
    shows, starts = original_schedule(video, times, len(mels[0]))
    return shows, [starts]
  mode = wanted.when_audio_longer or 'bounce'
  if video.still and mode == 'cut':
    raise MediaError(
      f'{printable(video.path)}: a photo has no end at which to cut; leave '
      '--when-audio-longer out'
    )
  found = timeline.shows(
    times, video.rate, duration, mode, wanted.when_video_longer
  )
  shows = timeline.packed(found, times, video.rate)
  starts = audio.window_starts((s.time for s in shows), net.mel_lead)
  return shows, [starts] * len(mels)


def original_schedule(
  video: Video, times: Sequence[Fraction], columns: int
) -> tuple[Sequence[timeline.Show], Int[np.ndarray, 'f']]:
  """Wav2Lip's time line: constant rate, hard loop, no lead (spec 1.6, 7.2)."""
  starts = audio.wav2lip_starts(columns, float(video.rate))
  shows = (
    timeline.Show(i / video.rate, 1 / video.rate, i % len(times))
    for i in range(len(starts))
  )
  return timeline.packed(shows, (), video.rate), starts


def ending(
  shows: Sequence[timeline.Show], duration: Fraction, rate: Fraction
) -> Fraction:
  """When the output's sound stops: with the sound, or with the last frame."""
  end = shows[-1].time + shows[-1].length
  return duration if abs(end - duration) <= 1 / rate else end


def stage(wanted: Request, net: convert.Weights, video, times, shows, speakers):
  """The scene, the network compiled for it, and the engine's name."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    # From the second run on, nothing is compiled again.
    compiled = str(cache.cache_dir('compiled'))
    jax.config.update('jax_compilation_cache_dir', compiled)
  platform = jax.default_backend()
  wish = wanted.batch or BATCH.get(platform, 16)
  batch = render.fitting_batch(video, min(wish, len(shows)))
  scene = render.Scene(
    video=video,
    times=times,
    shows=shows,
    speakers=speakers,
    size=net.size,
    batch=batch,
    whole_box=wanted.compat,
    detail=not wanted.no_detail,
  )
  predict, name = runtime.build_predictor(
    net.variables, net.size, net.width, dtype=wanted.dtype, batch=batch
  )
  return scene, predict, name


@contextlib.contextmanager
def progress(
  quiet: bool, what: str, total: int | None
) -> Iterator[Callable[[], object]]:
  """A progress bar with an estimate, on standard error."""
  import tqdm

  with tqdm.tqdm(
    total=total, desc=what, unit=' frames', disable=quiet, file=sys.stderr
  ) as bar:
    yield bar.update
