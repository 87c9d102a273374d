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
from lipsync_jax.inference import (
  carryover,
  enhancement,
  face_tracks,
  provenance,
  segments,
  signing,
  speech,
)
from lipsync_jax.inference.network_cache import NetworkCache, load_weights
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.inference.report import ProgressCallback, show_progress
from lipsync_jax.media import decoder, video_writer
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.objects import covered_mouth, object_finder, samples
from lipsync_jax.rendering import (
  mesh_renderer,
  mouth_reader,
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
      video = carryover.open_video(options)
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
    objects, readers = self.read_samples(plan, meshes)
    if self.options.uses_mesh:
      mouths = self.build_mesh_renderer(plan, readers, objects)
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
    left = self.write(plan, mouths, objects, end, writer, sound, extras, record)
    if objects:
      objects.report(facts['speakers'])
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
    opacities = []
    for path, mel, start in zip(trajectories, mels, starts, strict=True):
      loud = None
      if not options.uses_mesh:  # it cannot draw what lies between two mouths
        loud = functools.partial(network_renderer.loudness, mel, start)
      span = options.since, options.until
      found = visibility.mouth_opacity(path, times, frames, *span, loud)
      opacities.append(found)
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
    if video.still:  # it lasts as long as the sound
      mode = 'bounce'
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

  def read_samples(
    self, plan: renderer.RenderPlan, meshes: list
  ) -> tuple[object_finder.ObjectFinder | None, list[mouth_reader.MouthReader]]:
    """`samples.read_samples` for the options of the job."""
    options = self.options
    # At strength 0 nothing is drawn.
    drawn = not options.compat and (options.strength or not options.uses_mesh)
    with self.timer('read samples'):
      return samples.read_samples(
        plan,
        meshes if options.uses_mesh else (),
        self.weights.basis if options.uses_mesh else None,
        self.networks.occlusion() if drawn else None,
      )

  def build_mesh_renderer(
    self,
    plan: renderer.RenderPlan,
    readers: list[mouth_reader.MouthReader],
    objects: object_finder.ObjectFinder | None,
  ) -> mesh_renderer.MeshRenderer:
    """The mesh renderer with the coefficients of all output frames."""
    weights = self.weights
    with self.timer('articulate'):
      predict = self.networks.articulator(self.options.profile)
      times = np.fromiter(
        (float(frame.time + frame.length / 2) for frame in plan.frames),
        np.float64,
      )
      times += mesh_renderer.LEAD_SECONDS
      speakers = tuple(
        mesh_renderer.build_speaker(
          reader,
          float(self.video.rate),
          mesh_renderer.predict_coefficients(speaker.mel, times, predict),
          weights.basis,
          objects and functools.partial(objects.hides_lips, number=number),
        )
        for number, (speaker, reader) in enumerate(
          zip(plan.speakers, readers, strict=True)
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
    objects: object_finder.ObjectFinder | None,
    end: Fraction,
    writer: FrameWriter | None,
    sound,
    extras,
    record: dict,
  ) -> list[str]:
    """Render into the writer, or into segments without one.

    Args:
      objects: before the mouths; their coverage is filled.
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
        options,
        plan,
        mouths,
        self.weights.sha256,
        self.timer,
        tick,
        objects.coverage_arrays() if objects else (),
      )
    return segments.concatenate(
      options, video, parts, *sound, end, extras, record
    )
