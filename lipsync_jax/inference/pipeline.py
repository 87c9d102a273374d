"""From the options of a job to the finished file.

Order: weights (the likeliest mistake), sound, faces, schedule, rendering.

Shapes: f source frames, p output frames, t mel columns.
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lipsync_jax import audio
from lipsync_jax.common import disk_array, memory, threads
from lipsync_jax.common.errors import printable
from lipsync_jax.faces import mesh_trajectory
from lipsync_jax.inference import (
  carryover,
  enhancement,
  face_tracks,
  provenance,
  segments,
  signing,
  speech,
)
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.inference.report import ProgressCallback, show_progress
from lipsync_jax.media import decoder, video_writer
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Frame, Video, View
from lipsync_jax.rendering import (
  covered_mouth,
  mesh_renderer,
  network_renderer,
  renderer,
  timeline,
  visibility,
)
from lipsync_jax.weights import articulation, convert

DEFAULT_BATCH = {'cpu': 16, 'gpu': 128, 'tpu': 128}  # faces at a time


@runtime_checkable
class FrameWriter(Protocol):
  """Takes the frames of an output: a file, or memory.

  Attributes:
    duration: seconds of the output's sound, set before the first frame.
  """

  duration: Fraction | None

  def write(self, frame: Frame, time: Fraction) -> None:
    """Append a frame at `time` seconds."""


def run(
  options: SyncOptions,
  networks: NetworkCache | None = None,
  callback: ProgressCallback | None = None,
) -> dict:
  """Do a job and return its report.

  Args:
    options: validated.
    networks: of a caller that runs several jobs.
    callback: gets the progress, instead of a progress bar.
  """
  if networks is None:
    with contextlib.closing(NetworkCache()) as networks:
      return run(options, networks, callback)
  timer = threads.StageTimer()
  memory.map_large_blocks()
  decoder.DEFAULT_POOL.start_idle_worker()
  with contextlib.ExitStack() as stack:
    with timer('load'):
      weights = load_weights(options, networks)
      restorer = enhancement.load_restorer(options)
      if options.sign:  # an unusable key is found before the work
        signing.Signer(*options.sign, options.outfile)
      video = open_video(options)
      tracks = stack.enter_context(speech.open_speech(options, video))
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
    job = SyncJob(
      options,
      weights,
      video,
      tuple(tracks),
      networks,
      timer,
      callback,
      restorer,
    )
    return job.run(writer, sound)


@dataclasses.dataclass(frozen=True)
class SyncJob:
  """A job whose inputs are open: what is fixed while it runs."""

  options: SyncOptions
  weights: convert.Weights | articulation.Articulation
  video: Video
  tracks: tuple[speech.SpeechTrack, ...]  # one for each speaker
  networks: NetworkCache
  timer: threads.StageTimer
  callback: ProgressCallback | None = None
  restorer: tuple | None = None  # of `enhancement.load_restorer`

  def progress(self, label: str, total: int | None):
    """`show_progress` of the job."""
    return show_progress(self.callback, self.options.quiet, label, total)

  def run(self, writer: FrameWriter | None, sound) -> dict:
    """All work after the inputs are open; returns the report.

    Args:
      writer: of the output, as `write` takes it.
      sound: the output's sound and its origin.
    """
    plan, facts, end, meshes = self.build_plan()
    objects = None
    if not (self.options.compat or self.video.still):
      # Nothing passes before the mouth of a photo.
      with self.timer('find objects'):
        covered = self.networks.occlusion()
        objects = covered_mouth.find_objects(plan, covered)
    if self.options.uses_mesh:
      mouths = self.build_mesh_renderer(plan, meshes, objects)
      engine = 'mesh warp'
    else:
      mouths, engine = self.build_renderer(plan)
    options, video, weights = self.options, self.video, self.weights
    mouths = enhancement.enhance(options, mouths, self.restorer)
    if objects:
      mouths = covered_mouth.CoveredMouthRenderer(mouths, objects)
    extras = carryover.probe_extras(options, video)
    record = {}
    if video.path:
      record = provenance.build_record(options, weights.sha256, facts)
    left = self.write(plan, mouths, end, writer, sound, extras, record)
    return {
      'outfile': options.outfile and os.path.abspath(options.outfile),
      'face': options.face and os.path.abspath(options.face),
      'width': video.width,
      'height': video.height,
      'rate': str(video.rate),
      **facts,
      'left_behind': left,
      'engine': engine,
      'batch': mouths.batch,
      'weights': {'source': weights.source, 'sha256': weights.sha256},
      'provenance': record,
      'seconds': {k: round(v, 3) for k, v in self.timer.seconds.items()},
      'peak_memory_mb': memory.peak_rss() // 2**20,
      'decoder_memory_mb': decoder.DEFAULT_POOL.peak_bytes // 2**20,
    }

  def build_plan(self) -> tuple[renderer.RenderPlan, dict, Fraction, list]:
    """Find the faces and schedule the output.

    Returns:
      The plan, the report's facts on it, the end of the output's sound, and
      the speakers' `MeshTrajectory`s or None.
    """
    options, video = self.options, self.video
    with self.timer('listen'):
      mels, duration, shares = speech.track_mels(options, self.tracks)
    with self.timer('find faces'):
      times, trajectories, facts = face_tracks.locate_speakers(
        options,
        video,
        [track.who for track in self.tracks],
        duration,
        self.progress,
        self.networks,
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
    for speaker, track, share, (opacity, reasons) in zip(
      facts['speakers'], self.tracks, shares, opacities, strict=True
    ):
      speaker |= track.facts(options)
      if share is not None:
        speaker['voiced'] = round(share, 3)
      speaker['frames_spoken'] = int((opacity > 0).sum())
      speaker['skipped'] = visibility.skipped_ranges(frames, reasons)
    seconds = round(float(duration), 4)
    facts = {'seconds_of_sound': seconds, 'frames': len(frames)} | facts
    plan = renderer.RenderPlan(video, times, frames, speakers)
    return (
      plan,
      facts,
      timeline.output_end(frames, duration, video.rate),
      meshes,
    )

  def schedule(
    self,
    times: Sequence[Fraction],
    mels: list[disk_array.RowFile],
    duration: Fraction,
  ) -> tuple[Sequence[timeline.OutputFrame], list[Int[np.ndarray, 'p']]]:
    """The output's frames, and each speaker's first mel columns."""
    options, video = self.options, self.video
    if options.compat:
      frames, starts = timeline.wav2lip_schedule(video, times, len(mels[0]))
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
    objects: covered_mouth.ObjectFinder | None,
  ) -> mesh_renderer.MeshRenderer:
    """The mesh renderer with the coefficients of all output frames."""
    weights = self.weights
    with self.timer('articulate'):
      predict = self.networks.articulator()
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
          objects and functools.partial(objects.hides_lips, number=number),
        )
        for number, (speaker, face) in enumerate(
          zip(plan.speakers, meshes, strict=True)
        )
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
    writer: FrameWriter | None,
    sound,
    extras,
    record: dict,
  ) -> list[str]:
    """Render into the writer, or into segments without one.

    Args:
      end: seconds at which the sound ends.
      sound: the output's sound and its origin.
      extras: of `carryover.probe_extras`.
      record: of `provenance.build_record`; {} in memory.

    Returns:
      What of the source is left behind.
    """
    options, video = self.options, self.video
    with (
      self.timer('speak'),
      self.progress('rendering', len(plan.frames)) as tick,
    ):
      if writer:
        writer.duration = end
        left = []  # a video in memory has no file
        if video.path:
          left = carryover.carry(options, video, extras, writer, end, record)
        renderer.render_frames(plan, mouths, writer.write, self.timer, tick)
        return left
      parts = segments.render_segments(
        options, plan, mouths, self.weights.sha256, self.timer, tick
      )
    return segments.concatenate(
      options, video, parts, *sound, end, extras, record
    )


def load_weights(
  options: SyncOptions, networks: NetworkCache
) -> convert.Weights | articulation.Articulation:
  """The weights of the renderer that the options choose."""
  if options.uses_mesh:
    return networks.articulation()
  return load_generator(options, networks)


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
  video = carryover.lay_over_color(options, video)
  if video.still:
    rate = Fraction(options.fps).limit_denominator(1001)
    return dataclasses.replace(video, rate=rate)
  return dataclasses.replace(video, still=options.static)
