"""From the options of a job to the finished file.

Order: weights (the likeliest mistake), sound, faces, schedule, rendering.

Shapes: f source frames, p output frames, t mel columns.
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from lipsync_jax import audio
from lipsync_jax.common import cache, disk_array, memory, threads
from lipsync_jax.common.errors import printable
from lipsync_jax.faces import mesh_trajectory
from lipsync_jax.inference import (
  face_tracks,
  mesh_renderer,
  network_renderer,
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
from lipsync_jax.models import articulator, runtime
from lipsync_jax.weights import articulation, convert

DEFAULT_BATCH = {'cpu': 16, 'gpu': 128, 'tpu': 128}  # faces at a time


class NetworkCache:
  """Weights and compiled networks, reused by all jobs that share the cache."""

  def __init__(self):
    self._weights: dict[str, convert.Weights] = {}
    self._predictors: dict[tuple, tuple[Callable, str]] = {}
    self._articulation: articulation.Articulation | None = None

  def weights(self, path: str | os.PathLike) -> convert.Weights:
    """The generator in a file; read once, also if the file changes."""
    key = os.path.abspath(path)
    if key not in self._weights:
      self._weights[key] = convert.load_any(path, 'generator')
    return self._weights[key]

  def articulation(self) -> articulation.Articulation:
    """The bundled articulator."""
    if self._articulation is None:
      self._articulation = articulation.load_articulation()
    return self._articulation

  def predictor(
    self, weights: convert.Weights, dtype: str, batch: int
  ) -> tuple[Callable, str]:
    """`runtime.build_predictor` for weights of this cache."""
    key = (weights.sha256, weights.size, weights.width, dtype, batch)
    if key not in self._predictors:
      self._predictors[key] = runtime.build_predictor(
        weights.variables,
        weights.size,
        weights.width,
        dtype=dtype,
        batch=batch,
      )
    return self._predictors[key]


def run(options: SyncOptions, networks: NetworkCache | None = None) -> dict:
  """Do a job and return its report.

  Args:
    options: validated.
    networks: of a caller that runs several jobs.
  """
  networks = networks or NetworkCache()
  timer = threads.StageTimer()
  memory.map_large_blocks()
  decoder.DEFAULT_POOL.start_idle_worker()
  with contextlib.ExitStack() as stack:
    with timer('load'):
      if options.uses_mesh:
        weights = networks.articulation()
      else:
        weights = load_generator(options, networks)
      video = open_video(options)
      tracks = speech.probe_speech(options, video)
      sound = stack.enter_context(speech.output_audio(options, video, tracks))
    # The output is opened before the long work, and dropped if that fails.
    writer = None
    if options.resume:
      segments.prepare_folder(options.outfile)
    else:
      writer = stack.enter_context(
        video_writer.VideoWriter(
          options.outfile,
          video,
          audio=sound[0],
          origin=sound[1],
          crf=options.crf,
        )
      )
    job = SyncJob(options, weights, video, tuple(tracks), networks, timer)
    plan, facts, end, meshes = job.build_plan()
    if options.uses_mesh:
      mouths, engine = job.build_mesh_renderer(plan, meshes), 'mesh warp'
    else:
      mouths, engine = job.build_renderer(plan)
    job.write(plan, mouths, end, writer, sound)
  return {
    'outfile': os.path.abspath(options.outfile),
    'face': os.path.abspath(options.face),
    'width': video.width,
    'height': video.height,
    'rate': str(video.rate),
    **facts,
    'engine': engine,
    'batch': mouths.batch,
    'weights': {'source': weights.source, 'sha256': weights.sha256},
    'seconds': {k: round(v, 3) for k, v in timer.seconds.items()},
    'peak_memory_mb': memory.peak_rss() // 2**20,
    'decoder_memory_mb': decoder.DEFAULT_POOL.peak_bytes // 2**20,
  }


@dataclasses.dataclass(frozen=True)
class SyncJob:
  """A job whose inputs are open: what is fixed while it runs."""

  options: SyncOptions
  weights: convert.Weights | articulation.Articulation
  video: Video
  tracks: tuple[speech.SpeechTrack, ...]  # one for each speaker
  networks: NetworkCache
  timer: threads.StageTimer

  def progress(self, label: str, total: int | None):
    """A progress bar; see `progress_bar`."""
    return progress_bar(self.options.quiet, label, total)

  def build_plan(self) -> tuple[renderer.RenderPlan, dict, Fraction, list]:
    """Find the faces and schedule the output.

    Returns:
      The plan, the report's facts on it, the end of the output's sound, and
      the speakers' `MeshTrajectory`s or None.
    """
    options, video = self.options, self.video
    with self.timer('listen'):
      mels, duration = self.speech_mels()
    with self.timer('find faces'):
      times, trajectories, facts = face_tracks.locate_speakers(
        options,
        video,
        [track.who for track in self.tracks],
        duration,
        self.progress,
      )
      if facts.get('note') and not options.quiet:
        print(f'note: {facts["note"]}', file=sys.stderr)
      times = timeline.pack_times(times)
    frames, starts = self.schedule(times, mels, duration)
    opacities = [
      visibility.mouth_opacity(
        trajectory, times, frames, options.since, options.until
      )
      for trajectory in trajectories
    ]
    speakers = tuple(
      renderer.make_speaker(trajectory, mel, start, opacity)
      for trajectory, mel, start, (opacity, _) in zip(
        trajectories, mels, starts, opacities, strict=True
      )
    )
    meshes = [trajectory.mesh for trajectory in trajectories]
    del trajectories  # their landmarks are on disk now
    memory.release_free_memory()
    for speaker, track, (opacity, reasons) in zip(
      facts['speakers'], self.tracks, opacities, strict=True
    ):
      speaker['audio'] = os.path.abspath(track.sound.path)
      speaker['frames_spoken'] = int((opacity > 0).sum())
      speaker['skipped'] = visibility.skipped_ranges(frames, reasons)
    seconds = round(float(duration), 4)
    facts = {'seconds_of_sound': seconds, 'frames': len(frames)} | facts
    plan = renderer.RenderPlan(video, times, frames, speakers)
    return plan, facts, output_end(frames, duration, video.rate), meshes

  def speech_mels(self) -> tuple[list[disk_array.DiskArray], Fraction]:
    """The mel of each speech track, on disk, and the longest's seconds."""
    options = self.options
    gated = not (options.no_noise_gate or options.compat)
    mels, lengths = [], []
    for track in self.tracks:
      mel, length = speech.speech_mel(track, options.preview, gated)
      mels.append(disk_array.DiskArray(mel.T))
      lengths.append(length)
    return mels, max(lengths)

  def schedule(
    self,
    times: Sequence[Fraction],
    mels: list[disk_array.DiskArray],
    duration: Fraction,
  ) -> tuple[Sequence[timeline.OutputFrame], list[Int[np.ndarray, 'p']]]:
    """The output's frames, and each speaker's first mel columns."""
    options, video = self.options, self.video
    if options.compat:
      frames, starts = wav2lip_schedule(video, times, len(mels[0]))
      return frames, [starts]
    mode = options.when_audio_longer or 'bounce'
    if video.still and mode == 'cut':
      raise MediaError(
        f'{printable(video.path)}: a photo has no end at which to cut; leave '
        '--when-audio-longer out'
      )
    frames = timeline.pack_schedule(
      timeline.schedule_frames(
        times, video.rate, duration, mode, options.when_video_longer
      ),
      times,
      video.rate,
    )
    lead = audio.CENTERED_LEAD
    if not options.uses_mesh:
      lead = self.weights.mel_lead
    starts = audio.window_starts((frame.time for frame in frames), lead)
    return frames, [starts] * len(mels)

  def build_mesh_renderer(
    self,
    plan: renderer.RenderPlan,
    meshes: list[mesh_trajectory.MeshTrajectory],
  ) -> mesh_renderer.MeshRenderer:
    """The mesh renderer with the coefficients of all output frames."""
    use_compilation_cache()
    weights = self.weights
    with self.timer('articulate'):
      predict = articulator.build_articulator(weights.variables, weights.width)
      times = np.fromiter(
        (float(frame.time + frame.length / 2) for frame in plan.frames),
        np.float64,
      )
      times += mesh_renderer.LEAD_SECONDS
      speakers = tuple(
        mesh_renderer.build_speaker(
          self.video,
          face,
          mesh_renderer.predict_coefficients(speaker.mel, times, predict),
          weights.basis,
        )
        for speaker, face in zip(plan.speakers, meshes, strict=True)
      )
    return mesh_renderer.MeshRenderer(
      speakers, weights.basis, self.options.strength
    )

  def build_renderer(
    self, plan: renderer.RenderPlan
  ) -> tuple[renderer.MouthRenderer, str]:
    """The renderer, compiled, and the name of its engine."""
    import jax

    options = self.options
    with self.timer('compile'):
      use_compilation_cache()
      batch = options.batch or DEFAULT_BATCH.get(jax.default_backend(), 16)
      batch = renderer.fitting_batch(self.video, min(batch, len(plan.frames)))
      predict, engine = self.networks.predictor(
        self.weights, options.dtype, batch
      )
    mouths = network_renderer.NetworkRenderer(
      predict,
      self.weights.size,
      batch,
      whole_box=options.compat,
      detail=not options.no_detail_transfer,
    )
    return mouths, engine

  def write(
    self,
    plan: renderer.RenderPlan,
    mouths: renderer.MouthRenderer,
    end: Fraction,
    writer: video_writer.VideoWriter | None,
    sound,
  ) -> None:
    """Render into the writer, or into segments without one.

    Args:
      end: seconds at which the sound ends.
      sound: the output's sound and its origin.
    """
    with (
      self.timer('speak'),
      self.progress('rendering', len(plan.frames)) as tick,
    ):
      if writer:
        writer.duration = end
        renderer.render_frames(plan, mouths, writer.write, self.timer, tick)
        return
      parts = segments.render_segments(
        self.options, plan, mouths, self.weights.sha256, self.timer, tick
      )
    segments.concatenate(self.options, self.video, parts, *sound, end)


def use_compilation_cache() -> None:
  """Keep compiled programs for later runs, unless a folder is set."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    compiled = str(cache.cache_dir('compiled'))
    jax.config.update('jax_compilation_cache_dir', compiled)


def load_generator(
  options: SyncOptions, networks: NetworkCache
) -> convert.Weights:
  """The weights of the options; the bundled ones, with a note, by default."""
  if options.checkpoint_path is not None:
    return networks.weights(options.checkpoint_path)
  if not convert.DEFAULT_GENERATOR.is_file():
    raise convert.WeightsError(
      '--checkpoint_path is needed: no weights come with this copy; give '
      'wav2lip.pth, wav2lip_hq.pdparams or a .safetensors file of your own'
    )
  weights = networks.weights(convert.DEFAULT_GENERATOR)
  if not options.quiet:
    print(
      f'note: no --checkpoint_path, using {weights.source}', file=sys.stderr
    )
  return weights


def open_video(options: SyncOptions) -> Video:
  """The face's video; a photo, or `static`, is one frame at `fps`."""
  view = View(options.resize_factor, options.rotate, options.crop)
  video = decoder.probe_video(options.face, view)
  if video.still:
    rate = Fraction(options.fps).limit_denominator(1001)
    return dataclasses.replace(video, rate=rate)
  return dataclasses.replace(video, still=options.static)


def wav2lip_schedule(
  video: Video, times: Sequence[Fraction], columns: int
) -> tuple[Sequence[timeline.OutputFrame], Int[np.ndarray, 'f']]:
  """Wav2Lip's time line: constant rate, hard loop, no lead (spec 1.6, 7.2)."""
  starts = audio.wav2lip_starts(columns, float(video.rate))
  frames = (
    timeline.OutputFrame(i / video.rate, 1 / video.rate, i % len(times))
    for i in range(len(starts))
  )
  return timeline.pack_schedule(frames, (), video.rate), starts


def output_end(
  frames: Sequence[timeline.OutputFrame], duration: Fraction, rate: Fraction
) -> Fraction:
  """When the output's sound ends: with the sound, or with the last frame."""
  end = frames[-1].time + frames[-1].length
  return duration if abs(end - duration) <= 1 / rate else end


@contextlib.contextmanager
def progress_bar(
  quiet: bool, label: str, total: int | None
) -> Iterator[Callable[[], object]]:
  """A progress bar with an estimate, on standard error."""
  import tqdm

  with tqdm.tqdm(
    total=total, desc=label, unit=' frames', disable=quiet, file=sys.stderr
  ) as bar:
    yield bar.update
