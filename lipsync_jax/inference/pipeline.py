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

from lipsync_jax import audio
from lipsync_jax.common import cache, disk_array, memory, threads
from lipsync_jax.common.errors import printable
from lipsync_jax.inference import (
  face_tracks,
  renderer,
  segments,
  speech,
  timeline,
  visibility,
)
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import decoder, video_writer
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Video, View
from lipsync_jax.models import runtime
from lipsync_jax.weights import convert

DEFAULT_BATCH = {'cpu': 16, 'gpu': 128, 'tpu': 128}  # faces at a time


def run(wanted: SyncOptions) -> dict:
  """Do what a `Request` asks for and return the report."""
  clock = threads.StageTimer()
  bar = functools.partial(progress_bar, wanted.quiet)
  memory.map_large_blocks()
  decoder.DEFAULT_POOL.start_idle_worker()
  with contextlib.ExitStack() as stack:
    with clock('load'):
      net = load_generator(wanted)
      video = open_video(wanted)
      cast = speech.probe_speech(wanted, video)
      final, origin = stack.enter_context(
        speech.output_audio(wanted, video, cast)
      )
    # The output is claimed before the long work, dropped if that fails.
    out = None
    if wanted.resume:
      segments.prepare_folder(wanted.outfile)
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
    'peak_memory_mb': memory.peak_rss() // 2**20,
    'decoder_memory_mb': decoder.DEFAULT_POOL.peak_bytes // 2**20,
  }


def prepare(wanted, net, video, cast, clock, bar) -> tuple[dict, Callable]:
  """All but the output's frames: the report, and what writes them."""
  with clock('listen'):
    mels, duration = speech_mels(wanted, cast)
  with clock('find faces'):
    who = [voice.who for voice in cast]
    times, paths, found = face_tracks.locate_speakers(
      wanted, video, who, duration, bar
    )
    times = timeline.pack_times(times)
  shows, starts = schedule(wanted, net, video, times, mels, duration)
  covers = [
    visibility.mouth_opacity(path, times, shows, wanted.since, wanted.until)
    for path in paths
  ]
  rows = zip(paths, mels, starts, (share for share, _ in covers), strict=True)
  speakers = tuple(renderer.make_speaker(*row) for row in rows)
  del paths, rows  # their landmarks are on disk by now
  memory.release_free_memory()
  with clock('compile'):
    scene, predict, name = build_plan(
      wanted, net, video, times, shows, speakers
    )
  end = output_end(shows, duration, video.rate)

  def finish(out: video_writer.VideoWriter | None, final, origin) -> None:
    with clock('speak'), bar('speaking', len(shows)) as tick:
      if out:
        out.duration = end
        renderer.render_frames(scene, predict, out.write, clock, tick)
        return
      found = segments.render_segments(
        wanted, scene, predict, net.sha256, clock, tick
      )
    segments.concatenate(wanted, video, found, final, origin, end)

  for speaker, voice, cover in zip(
    found['speakers'], cast, covers, strict=True
  ):
    share, why = cover
    speaker['audio'] = os.path.abspath(voice.sound.path)
    speaker['frames_spoken'] = int((share > 0).sum())
    speaker['skipped'] = visibility.skipped_ranges(shows, why)
  facts = {'seconds_of_sound': round(float(duration), 4), 'frames': len(shows)}
  return facts | found | {'engine': name, 'batch': scene.batch}, finish


def speech_mels(
  wanted: SyncOptions, cast: list[speech.SpeechTrack]
) -> tuple[list[disk_array.DiskArray], Fraction]:
  """The mels of all voices, laid aside, and the longest's seconds."""
  gated = not (wanted.no_gate or wanted.compat)
  mels, lengths = [], []
  for voice in cast:
    mel, length = speech.speech_mel(voice, wanted.preview, gated)
    mels.append(disk_array.DiskArray(mel.T))
    lengths.append(length)
  return mels, max(lengths)


def load_generator(wanted: SyncOptions) -> convert.Weights:
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


def open_video(wanted: SyncOptions) -> Video:
  """The face's video; a photo, or `static`, is one frame at `fps`."""
  view = View(wanted.resize_factor, wanted.rotate, wanted.crop)
  video = decoder.probe_video(wanted.face, view)
  if video.still:
    rate = Fraction(wanted.fps).limit_denominator(1001)
    return dataclasses.replace(video, rate=rate)
  return dataclasses.replace(video, still=wanted.static)


def schedule(
  wanted: SyncOptions,
  net: convert.Weights,
  video: Video,
  times: Sequence[Fraction],
  mels: list[disk_array.DiskArray],
  duration: Fraction,
) -> tuple[Sequence[timeline.OutputFrame], list[Int[np.ndarray, 'p']]]:
  """What is shown when, and each voice's first mel column of every show."""
  if wanted.compat:
    shows, starts = wav2lip_schedule(video, times, len(mels[0]))
    return shows, [starts]
  mode = wanted.when_audio_longer or 'bounce'
  if video.still and mode == 'cut':
    raise MediaError(
      f'{printable(video.path)}: a photo has no end at which to cut; leave '
      '--when-audio-longer out'
    )
  found = timeline.schedule_frames(
    times, video.rate, duration, mode, wanted.when_video_longer
  )
  shows = timeline.pack_schedule(found, times, video.rate)
  starts = audio.window_starts((s.time for s in shows), net.mel_lead)
  return shows, [starts] * len(mels)


def wav2lip_schedule(
  video: Video, times: Sequence[Fraction], columns: int
) -> tuple[Sequence[timeline.OutputFrame], Int[np.ndarray, 'f']]:
  """Wav2Lip's time line: constant rate, hard loop, no lead (spec 1.6, 7.2)."""
  starts = audio.wav2lip_starts(columns, float(video.rate))
  shows = (
    timeline.OutputFrame(i / video.rate, 1 / video.rate, i % len(times))
    for i in range(len(starts))
  )
  return timeline.pack_schedule(shows, (), video.rate), starts


def output_end(
  shows: Sequence[timeline.OutputFrame], duration: Fraction, rate: Fraction
) -> Fraction:
  """When the output's sound stops: with the sound, or with the last frame."""
  end = shows[-1].time + shows[-1].length
  return duration if abs(end - duration) <= 1 / rate else end


def build_plan(
  wanted: SyncOptions, net: convert.Weights, video, times, shows, speakers
):
  """The scene, the network compiled for it, and the engine's name."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    # From the second run on, nothing is compiled again.
    compiled = str(cache.cache_dir('compiled'))
    jax.config.update('jax_compilation_cache_dir', compiled)
  platform = jax.default_backend()
  wish = wanted.batch or DEFAULT_BATCH.get(platform, 16)
  batch = renderer.fitting_batch(video, min(wish, len(shows)))
  scene = renderer.RenderPlan(
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
def progress_bar(
  quiet: bool, what: str, total: int | None
) -> Iterator[Callable[[], object]]:
  """A progress bar with an estimate, on standard error."""
  import tqdm

  with tqdm.tqdm(
    total=total, desc=what, unit=' frames', disable=quiet, file=sys.stderr
  ) as bar:
    yield bar.update
