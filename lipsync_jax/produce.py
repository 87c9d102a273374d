"""Produce: everything between a request and the finished file, in order.

Weights first (they are the likeliest mistake), then sound, faces, speech.
Alphabet: f source frames; a show is one frame of the output (`timeline`).
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax import (
  audio,
  cache,
  encode,
  media,
  pipe,
  planes,
  render,
  search,
  sound,
  timeline,
  weights,
)
from lipsync_jax.models import engine
from lipsync_jax.request import Request

BATCH = {'cpu': 16, 'gpu': 128, 'tpu': 128}  # faces at a time


def produce(wanted: Request) -> dict:
  """Do what a `Request` asks for and return the report."""
  clock = pipe.Clock()
  bar = functools.partial(progress, wanted.quiet)
  with clock('load'):
    net = generator_of(wanted)
    video = video_of(wanted)
    driver = sound.probe_audio(wanted.audio)
    final = sound.probe_audio(wanted.final_audio or wanted.audio)
  # The output is claimed before the long work and dropped if that fails.
  with encode.Writer(
    wanted.outfile,
    video,
    audio=final,
    origin=zero(final, video),
    crf=wanted.crf,
  ) as out:
    with clock('listen'):
      mel, duration = listen(driver, zero(driver, video), wanted.preview)
    with clock('find faces'):
      times, path, cast = search.find(wanted, video, duration, bar)
    shows, starts = schedule(wanted, net, video, times, mel, duration)
    out.duration = ending(shows, duration, video.rate)
    with clock('compile'):
      scene, predict, name = stage(
        wanted, net, video, times, path, shows, mel, starts
      )
    with clock('speak'), bar('speaking', len(shows)) as tick:
      render.render(scene, predict, out.write, clock, tick)
  return {
    'outfile': os.path.abspath(wanted.outfile),
    'face': os.path.abspath(wanted.face),
    'audio': os.path.abspath(wanted.audio),
    'seconds_of_sound': round(float(duration), 4),
    'frames': len(shows),
    'rate': str(video.rate),
    'width': video.width,
    'height': video.height,
    **cast,
    **coverage(scene),
    'weights': {'source': net.source, 'sha256': net.sha256},
    'engine': name,
    'batch': scene.batch,
    'seconds': {k: round(v, 3) for k, v in clock.seconds.items()},
    'peak_memory_mb': peak_memory(),
  }


def generator_of(wanted: Request) -> weights.Weights:
  """The weights asked for, or else, said in one line, those of the package."""
  if wanted.checkpoint_path is not None:
    return weights.read(wanted.checkpoint_path, 'generator')
  if not weights.DEFAULT.is_file():
    raise weights.WeightsError(
      '--checkpoint_path is needed: no weights come with this copy; give '
      'wav2lip.pth, wav2lip_hq.pdparams or a .safetensors file of your own'
    )
  net = weights.read(weights.DEFAULT, 'generator')
  if not wanted.quiet:
    print(f'note: no --checkpoint_path, using {net.source}', file=sys.stderr)
  return net


def video_of(wanted: Request) -> planes.Video:
  """The face's video; a photo, or `static`, is one frame at `fps`."""
  view = planes.View(wanted.resize_factor, wanted.rotate, wanted.crop)
  video = media.probe_video(wanted.face, view)
  if video.still:
    rate = Fraction(wanted.fps).limit_denominator(1001)
    return dataclasses.replace(video, rate=rate)
  return dataclasses.replace(video, still=wanted.static)


def zero(driver: sound.Audio, video: planes.Video) -> Fraction | None:
  """File time of the sound at which the video begins; None: its own start.

  Only sound out of the face's own file shares the video's clock.
  """
  same = os.path.samefile(driver.path, video.path)
  return video.start if same else None


def listen(
  driver: sound.Audio, origin: Fraction | None, preview: float | None
) -> tuple[Float[np.ndarray, '80 t'], Fraction]:
  """The mel of the sound and its length in seconds."""
  most = None if preview is None else round(preview * audio.SAMPLE_RATE)
  count = 0

  def wave():
    nonlocal count
    for block in audio.resampled(driver.rate, sound.read_audio(driver, origin)):
      block = block if most is None else block[: most - count]
      count += block.size
      yield block
      if most is not None and count >= most:
        return

  mel = audio.mel_stream(wave())
  return mel, Fraction(count, audio.SAMPLE_RATE)


def schedule(
  wanted: Request,
  net: weights.Weights,
  video: planes.Video,
  times: list[Fraction],
  mel: Float[np.ndarray, '80 t'],
  duration: Fraction,
) -> tuple[list[timeline.Show], Int[np.ndarray, 'f']]:
  """What is shown when, and the first mel column of every show."""
  if wanted.compat:
    return original_schedule(video, times, mel)
  mode = wanted.when_audio_longer or 'bounce'
  if video.still and mode == 'cut':
    raise media.MediaError(
      f'{media.shown(video.path)}: a photo has no end at which to cut; leave '
      '--when-audio-longer out'
    )
  shows = list(
    timeline.shows(times, video.rate, duration, mode, wanted.when_video_longer)
  )
  return shows, audio.window_starts((s.time for s in shows), net.mel_lead)


def original_schedule(
  video: planes.Video, times: list[Fraction], mel: Float[np.ndarray, '80 t']
) -> tuple[list[timeline.Show], Int[np.ndarray, 'f']]:
  """Wav2Lip's time line: constant rate, hard loop, no lead (spec 1.6, 7.2)."""
  starts = audio.wav2lip_starts(mel.shape[1], float(video.rate))
  shows = [
    timeline.Show(i / video.rate, 1 / video.rate, i % len(times))
    for i in range(len(starts))
  ]
  return shows, starts


def ending(
  shows: list[timeline.Show], duration: Fraction, rate: Fraction
) -> Fraction:
  """When the output's sound stops: with the sound, or with the last frame."""
  end = shows[-1].time + shows[-1].length
  return duration if abs(end - duration) <= 1 / rate else end


def stage(
  wanted: Request, net: weights.Weights, video, times, path, shows, mel, starts
):
  """The scene, the network compiled for it, and the engine's name."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    # From the second run on, nothing is compiled again.
    compiled = str(cache.folder('compiled'))
    jax.config.update('jax_compilation_cache_dir', compiled)
  platform = jax.default_backend()
  wish = wanted.batch or BATCH.get(platform, 16)
  batch = render.fitting_batch(video, min(wish, len(shows)))
  scene = render.Scene(
    video=video,
    times=times,
    path=path,
    shows=shows,
    mel=mel,
    starts=starts,
    size=net.size,
    batch=batch,
    whole_box=wanted.compat,
  )
  predict, name = engine.predictor(
    net.variables, net.size, net.width, dtype=wanted.dtype, batch=batch
  )
  return scene, predict, name


def coverage(scene: render.Scene) -> dict:
  """How many frames speak, and the ranges (seconds) that pass untouched."""
  spoken, skipped = 0, []
  for show in scene.shows:
    if show.spoken and scene.path.present[show.index]:
      spoken += 1
      continue
    reason = 'no face' if show.spoken else 'no sound'
    end = show.time + show.length
    if skipped and skipped[-1][1:] == [show.time, reason]:
      skipped[-1][1] = end
    else:
      skipped.append([show.time, end, reason])
  return {
    'frames_spoken': spoken,
    'skipped': [
      {'from': float(a), 'to': float(b), 'why': why} for a, b, why in skipped
    ],
  }


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


def peak_memory() -> int | None:
  """The most memory this process has held, in MB; None on Windows."""
  try:
    import resource
  except ImportError:
    return None
  unit = 2**20 if sys.platform == 'darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
