"""The second pass: read frames, render mouths, composite, write.

Three stages run in parallel, decode | render | composite and encode, joined
by short queues, so that memory does not grow with the video's length. A
`MouthRenderer` does the work that is particular to one method.

Shapes: f source frames, p output frames, s spans of source frames.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from lipsync_jax.common import disk_array
from lipsync_jax.common.errors import printable
from lipsync_jax.common.threads import StageTimer, prefetch
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.media import decoder
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Frame, Video
from lipsync_jax.rendering import timeline
from lipsync_jax.rendering.chosen_frames import read_chosen_frames

IN_FLIGHT_BYTES = 384 * 2**20  # of frames that wait between the stages


@dataclasses.dataclass(frozen=True)
class SpeakerTrack:
  """One speaker's face and speech; large arrays are on disk."""

  crops: Float[np.ndarray, 'f 5']  # of the source frames, as `crop.face_crops`
  points: disk_array.RowFile  # landmarks of the source frames, [f n 2]
  mel: disk_array.RowFile  # log-mel columns, [t 80]
  starts: Int[np.ndarray, 'p']  # first mel column of each output frame
  opacity: Float[np.ndarray, 'p']  # of the new mouth, 0 to 1
  spans: Int[np.ndarray, 's 2']  # source frames of unbroken motion


def make_speaker(
  trajectory: FaceTrajectory,
  mel: disk_array.RowFile,
  starts: Int[np.ndarray, 'p'],
  opacity: Float[np.ndarray, 'p'],
) -> SpeakerTrack:
  """A speaker whose landmarks are moved to disk."""
  points = disk_array.to_disk(trajectory.points)
  return SpeakerTrack(
    trajectory.crops, points, mel, starts, opacity, trajectory.spans
  )


@dataclasses.dataclass(frozen=True)
class RenderPlan:
  """What is fixed while one output is rendered."""

  video: Video
  times: Sequence[Fraction]  # of the source frames, seconds
  frames: Sequence[timeline.OutputFrame]
  speakers: tuple[SpeakerTrack, ...]


@dataclasses.dataclass
class FrameJob:
  """One output frame on its way through the stages.

  Attributes:
    position: number of the output frame.
    frame: the source frame.
    inputs, outputs: of the renderer, by the number of the speaker. A frame
      without inputs is written as it is.
    covers: cells of `object_finder` that stay as they are, by the speaker.
    uncovered: share of the new mouth before which no object lies, by the number
      of the speaker; 1 where it is missing.
  """

  position: int
  frame: Frame
  inputs: dict[int, Any] = dataclasses.field(default_factory=dict)
  outputs: dict[int, Any] = dataclasses.field(default_factory=dict)
  covers: dict[int, Any] = dataclasses.field(default_factory=dict)
  uncovered: dict[int, float] = dataclasses.field(default_factory=dict)


@runtime_checkable
class MouthRenderer(Protocol):
  """A method of drawing mouths. Each function runs in a thread of its own.

  Attributes:
    batch: mouths that `render` takes at most.
  """

  batch: int

  def part(self, first: int) -> 'MouthRenderer':
    """The renderer of the output from frame `first` on, for segments."""

  def extract(self, plan: RenderPlan, job: FrameJob, number: int) -> Any:
    """What `render` needs of the source frame, for speaker `number`.

    It depends on the source frame and the speaker only.
    """

  def render(
    self, plan: RenderPlan, mouths: Sequence[tuple[FrameJob, int]]
  ) -> Sequence[Any]:
    """New mouths, for pairs of a job and a speaker's number."""

  def composite(
    self, plan: RenderPlan, job: FrameJob, number: int, frame: Frame
  ) -> Frame:
    """`frame` with the mouth in `job.outputs[number]`."""


@dataclasses.dataclass(frozen=True)
class RendererWrapper:
  """A `MouthRenderer` that changes the frames of another, base class.

  Attributes:
    inner: draws the mouths.
  """

  inner: MouthRenderer

  @property
  def batch(self) -> int:
    """Mouths that `render` takes at most."""
    return self.inner.batch

  def part(self, first: int) -> 'RendererWrapper':
    """The renderer of the output from frame `first` on."""
    return dataclasses.replace(self, inner=self.inner.part(first))

  def follow(self, jobs: Iterator[FrameJob]) -> Iterator[FrameJob]:
    """The jobs of the decoder; a subclass may look at several at a time."""
    return jobs

  def extract(self, plan: RenderPlan, job: FrameJob, number: int) -> Any:
    """What the inner renderer needs."""
    return self.inner.extract(plan, job, number)

  def render(
    self, plan: RenderPlan, mouths: Sequence[tuple[FrameJob, int]]
  ) -> Sequence[Any]:
    """Mouths of the inner renderer."""
    return self.inner.render(plan, mouths)

  def composite(
    self, plan: RenderPlan, job: FrameJob, number: int, frame: Frame
  ) -> Frame:
    """The frame of the inner renderer."""
    return self.inner.composite(plan, job, number, frame)


def render_frames(
  plan: RenderPlan,
  renderer: MouthRenderer,
  write: Callable[[Frame, Fraction], None],
  timer: StageTimer,
  tick: Callable[[], object],
) -> None:
  """Run all stages; `tick` is called for every frame written."""
  depth = queue_depth(plan, renderer)
  jobs = extract_jobs(plan, renderer, timer)
  if isinstance(renderer, RendererWrapper):
    jobs = renderer.follow(jobs)
  extracted = prefetch(jobs, depth)
  rendered = prefetch(render_jobs(plan, renderer, extracted, timer), depth)
  with contextlib.closing(extracted), contextlib.closing(rendered):
    for job in rendered:
      frame = job.frame
      with timer('paste'):
        for number in job.outputs:
          frame = renderer.composite(plan, job, number, frame)
      with timer('encode'):
        write(frame, plan.frames[job.position].time)
      tick()


def queue_depth(plan: RenderPlan, renderer: MouthRenderer) -> int:
  """Frames that may wait in a queue, at least 2."""
  return max(2, fitting_batch(plan.video, 2 * renderer.batch))


def fitting_batch(video: Video, batch: int) -> int:
  """`batch` frames, or as many as fit in memory."""
  frame = video.width * video.height * (3 if video.color.depth > 8 else 1.5)
  return max(1, min(batch, int(IN_FLIGHT_BYTES / 3 / frame)))


def read_scheduled_frames(plan: RenderPlan) -> Iterator[Frame]:
  """Source frames in the order of the output."""
  indices = np.fromiter((frame.index for frame in plan.frames), np.int64)
  moves = np.diff(indices)
  if (moves >= 0).all() and np.count_nonzero(np.diff(moves)) > 1:
    yield from read_remapped_frames(plan, indices)
    return
  for start, count, step in timeline.playback_runs(indices):
    first = int(indices[start])
    if step == -1:
      source = decoder.read_backwards(plan.video, first, plan.times)
    else:
      source = decoder.read_frames(plan.video, first)
    with contextlib.closing(source):
      frame = None
      for _ in range(count):
        if frame is None or step:
          frame = next(source, None)
        if frame is None:
          raise _fewer_frames(plan.video)
        yield frame


def read_remapped_frames(
  plan: RenderPlan, indices: Int[np.ndarray, 'f']
) -> Iterator[Frame]:
  """Source frames of numbers that never fall, in one pass."""
  chosen, counts = np.unique(indices, return_counts=True)
  frames = read_chosen_frames(plan.video, chosen, plan.times)
  with contextlib.closing(frames) as source:
    for count in counts.tolist():
      frame = next(source, None)
      if frame is None:
        raise _fewer_frames(plan.video)
      yield from itertools.repeat(frame, count)


def _fewer_frames(video: Video) -> MediaError:
  return MediaError(
    f'{printable(video.path)}: expected as many frames as in the first pass, '
    'found fewer; do not change the file during a run'
  )


def extract_jobs(
  plan: RenderPlan, renderer: MouthRenderer, timer: StageTimer
) -> Iterator[FrameJob]:
  """Decode frames and extract the renderer's inputs of visible mouths."""
  previous = None
  with contextlib.closing(read_scheduled_frames(plan)) as frames:
    for position in range(len(plan.frames)):
      with timer('decode'):
        job = FrameJob(position, next(frames))
        _extract_inputs(plan, renderer, job, previous)
        previous = job
      yield job


def _extract_inputs(
  plan: RenderPlan,
  renderer: MouthRenderer,
  job: FrameJob,
  previous: FrameJob | None,
) -> None:
  """Fill `job.inputs`; a repeated frame has the inputs of `previous`."""
  repeated = {}
  if previous is not None and previous.frame is job.frame:
    repeated = previous.inputs
  for number, speaker in enumerate(plan.speakers):
    if speaker.opacity[job.position] == 0:
      continue
    if number in repeated:
      job.inputs[number] = repeated[number]
    else:
      job.inputs[number] = renderer.extract(plan, job, number)


def render_jobs(
  plan: RenderPlan,
  renderer: MouthRenderer,
  jobs: Iterable[FrameJob],
  timer: StageTimer,
) -> Iterator[FrameJob]:
  """Render mouths, `renderer.batch` at a time, in order."""
  waiting: list[FrameJob] = []
  mouths = 0
  for job in jobs:
    waiting.append(job)
    mouths += len(job.inputs)
    if (
      mouths >= renderer.batch
      or not mouths
      or len(waiting) > 2 * renderer.batch
    ):
      yield from _render_batches(plan, renderer, waiting, timer)
      waiting, mouths = [], 0
  yield from _render_batches(plan, renderer, waiting, timer)


def _render_batches(
  plan: RenderPlan,
  renderer: MouthRenderer,
  jobs: list[FrameJob],
  timer: StageTimer,
) -> list[FrameJob]:
  mouths = [(job, number) for job in jobs for number in job.inputs]
  for first in range(0, len(mouths), renderer.batch):
    batch = mouths[first : first + renderer.batch]
    with timer('generate'):
      outputs = renderer.render(plan, batch)
    for (job, number), output in zip(batch, outputs, strict=True):
      job.outputs[number] = output
  return jobs
