"""Objects before the mouths of the speakers, in every frame of the output.

What is found in a frame also counts, less and less, in its neighbors, so that
nothing flickers at the object's edge and a hidden mouth fades in and out. No
value changes faster than from 0 to 1 within the window. Neighbors are source
frames of the same unbroken motion (`FaceTrajectory.spans`): cuts, other
segments and the direction of playback change nothing.

Shapes: f source frames, p output frames, g cells of the network's answer.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int

from lipsync_jax.faces import crop as crops
from lipsync_jax.media.types import Frame
from lipsync_jax.models import occlusion
from lipsync_jax.objects.object_mask import (
  Face,
  Grid,
  UsualFace,
  covered_lips,
  face_crop,
  photo_mask,
)
from lipsync_jax.rendering.chosen_frames import read_chosen_frames
from lipsync_jax.rendering.renderer import (
  FrameJob,
  RenderPlan,
  fitting_batch,
)
from lipsync_jax.rendering.visibility import (
  SkipReason,
  skipped_ranges,
  smooth_step,
)

SAMPLES = 16  # frames that show a speaker's usual face
CELL_SECONDS = 0.12  # in which a cell goes from the source to the new mouth
MOUTH_SECONDS = 0.2  # in which a hidden mouth fades
MAX_REACH = 12  # frames of the window on either side
HIDDEN_LIPS = (0.35, 0.65)  # covered share of the lips: the mouth fades, is off
SUPPORT = 2  # frames on either side, of which one shows the object too
SEEN_LIPS = 0.05  # covered share of the lips of a seen mouth, at most
KEPT = 256  # frames whose objects are remembered


@dataclasses.dataclass(frozen=True)
class Found:
  """An object in one frame.

  Attributes:
    mask: cells of the crop to keep from the source, 0 to 1.
    lips: share of the lips that the mask covers, 0 to 1.
  """

  mask: Grid
  lips: float


@dataclasses.dataclass(frozen=True)
class Coverage:
  """What covered a speaker's mouth in the output, filled while rendering.

  Attributes:
    lips: share of the lips behind an object, 0 to 1.
    hidden: share of the source in the whole mouth, 0 to 1.
  """

  lips: Float32[np.ndarray, 'p']
  hidden: Float32[np.ndarray, 'p']

  @classmethod
  def of_frames(cls, count: int) -> 'Coverage':
    """Nothing covered in `count` output frames."""
    return cls(np.zeros(count, np.float32), np.zeros(count, np.float32))


class ObjectFinder:
  """Finds what covers the mouth of each speaker; one thread at a time.

  Attributes:
    plan: of the whole output.
    coverage: of each speaker.
  """

  def __init__(self, plan: RenderPlan, covered: Callable[[Face], Grid]):
    """Prepare; `learn` is needed before anything is found.

    Args:
      plan: of the whole output.
      covered: of `occlusion.build_occlusion`.
    """
    self.plan, self._covered = plan, covered
    count = len(plan.frames)
    self.coverage = tuple(Coverage.of_frames(count) for _ in plan.speakers)
    self._shown = [_shown_frames(plan, n) for n in range(len(plan.speakers))]
    self._spans = [
      _span_numbers(speaker.spans, len(speaker.crops))
      for speaker in plan.speakers
    ]
    self._samples: list[dict[int, Face]] = [{} for _ in plan.speakers]
    self._usual: list[UsualFace] = []
    self._found: list[collections.OrderedDict[int, Found | None]] = [
      collections.OrderedDict() for _ in plan.speakers
    ]
    self.reach = fitting_batch(plan.video, MAX_REACH)

  def sample_frames(self, number: int) -> Int[np.ndarray, 'k']:
    """Source frames that show the usual face of a speaker, ascending."""
    shown = np.flatnonzero(self._shown[number])
    chosen = np.linspace(0, max(len(shown) - 1, 0), SAMPLES).astype(int)
    return np.unique(shown[chosen]) if len(shown) else shown

  def visits(
    self, others: Sequence[Int[np.ndarray, '_']]
  ) -> list[tuple[Int[np.ndarray, '_'], Callable[[Frame], None]]]:
    """Frames to read before `learn`, for `chosen_frames.visit_frames`.

    Args:
      others: frames of each speaker for `hides_lips`; () for none.
    """
    found = []
    for number in range(len(self.plan.speakers)):
      frames = [self.sample_frames(number), *others[number : number + 1]]
      visit = functools.partial(self.keep_sample, number=number)
      found.append((np.unique(np.concatenate(frames)), visit))
    return found

  def keep_sample(self, frame: Frame, number: int) -> None:
    """Keep the face of a frame until `learn` and `hides_lips`."""
    face = self._face(frame, number)
    if face is not None:
      self._samples[number][frame.index] = face

  def learn(self) -> None:
    """Take the usual faces from the frames of `sample_frames`."""
    blank = np.zeros((occlusion.SIZE,) * 2 + (3,), np.uint8)
    for number, samples in enumerate(self._samples):
      frames = self.sample_frames(number).tolist()
      faces = [samples[k] for k in frames if k in samples]
      self._usual.append(UsualFace.of(faces or [blank], self._covered))

  def hides_lips(self, index: int, number: int) -> bool:
    """Whether an object covers some of the lips in a kept sample."""
    face = self._samples[number].get(index)
    found = None if face is None else self._judge(face, index, number)
    return found is not None and found.lips > SEEN_LIPS

  def coverage_arrays(self) -> list[Float32[np.ndarray, 'p']]:
    """The arrays of all speakers' coverage."""
    return [x for one in self.coverage for x in (one.lips, one.hidden)]

  def report(self, speakers: Sequence[dict]) -> None:
    """Add what was covered to the facts on the speakers, after rendering."""
    for facts, coverage, speaker in zip(
      speakers, self.coverage, self.plan.speakers, strict=True
    ):
      facts['frames_covered'] = int((coverage.lips > SEEN_LIPS).sum())
      facts['frames_spoken'] -= int((coverage.hidden == 1).sum())
      # The source is the larger part of the mouth, for no other reason.
      off = (coverage.hidden > 0.5) & (speaker.opacity == 1)
      reasons = np.where(off, SkipReason.MOUTH_COVERED, SkipReason.NONE)
      facts['skipped'] = sorted(
        [*facts['skipped'], *skipped_ranges(self.plan.frames, reasons)],
        key=lambda gap: gap['from'],
      )

  def follow(self, jobs: Iterator[FrameJob], first: int) -> Iterator[FrameJob]:
    """The jobs with `covers`, each after its window was read.

    Args:
      jobs: of the decoder, in order.
      first: number of the first output frame.
    """
    waiting: collections.deque[FrameJob] = collections.deque()
    with contextlib.closing(jobs):
      for job in jobs:
        for number in job.inputs:
          self._find(job.frame, number)
        waiting.append(job)
        if len(waiting) > self.reach + SUPPORT:
          yield self._with_covers(waiting.popleft(), first)
    while waiting:
      yield self._with_covers(waiting.popleft(), first)

  def _with_covers(self, job: FrameJob, first: int) -> FrameJob:
    """Fill `covers`, `uncovered` and the coverage of an output frame."""
    for number in job.inputs:
      index, position = job.frame.index, first + job.position
      mask, hidden = self._smooth(index, number)
      if mask is None:
        continue
      job.covers[number] = mask
      if hidden:
        job.uncovered[number] = 1 - hidden
      coverage = self.coverage[number]
      coverage.hidden[position] = hidden
      found = self._object(index, number)
      coverage.lips[position] = found.lips if found else 0
    return job

  def _smooth(self, index: int, number: int) -> tuple[Grid | None, float]:
    """Cells to keep, and the share of the source in the whole mouth."""
    times, mask, hidden = self.plan.times, None, 0.0
    for k in self._neighbors(index, number, self.reach):
      seconds = abs(float(times[k] - times[index]))
      if seconds >= MOUTH_SECONDS:
        continue
      found = self._object(k, number)
      if found is None:
        continue
      cells = found.mask * np.float32(max(1 - seconds / CELL_SECONDS, 0))
      mask = cells if mask is None else np.maximum(mask, cells)
      share = float(smooth_step(found.lips, HIDDEN_LIPS))
      hidden = max(hidden, share * (1 - seconds / MOUTH_SECONDS))
    return mask, hidden

  def _neighbors(self, index: int, number: int, reach: int) -> list[int]:
    """Frames around one that the output shows, in the same span; with it."""
    spans, shown = self._spans[number], self._shown[number]
    here = np.arange(max(index - reach, 0), min(index + reach + 1, len(spans)))
    return here[(spans[here] == spans[index]) & shown[here]].tolist()

  def _object(self, index: int, number: int) -> Found | None:
    """The object in a frame; none if no frame beside it has one."""
    (found,) = self._found_in([index], number)
    if found is None:
      return None
    around = self._neighbors(index, number, SUPPORT)
    others = [one for one in self._found_in(around, number) if one is not None]
    return found if len(others) > 1 or len(around) == 1 else None

  def _found_in(self, frames: Sequence[int], number: int) -> list[Found | None]:
    """The objects of some frames, of which unknown ones are read."""
    known = self._found[number]
    unknown = [k for k in frames if k not in known]
    video, times = self.plan.video, self.plan.times
    for frame in read_chosen_frames(video, np.array(unknown, int), times):
      self._find(frame, number)
    return [known.get(k) for k in frames]

  def _find(self, frame: Frame, number: int) -> None:
    """Search a frame, unless it is known."""
    known = self._found[number]
    if frame.index in known:
      known.move_to_end(frame.index)
      return
    face = self._face(frame, number)
    known[frame.index] = (
      None if face is None else self._judge(face, frame.index, number)
    )
    while len(known) > KEPT:
      known.popitem(last=False)

  def _face(self, frame: Frame, number: int) -> Face | None:
    row = self.plan.speakers[number].crops[frame.index]
    return face_crop(self.plan.video, frame, crops.crop_from_row(row))

  def _judge(self, face: Face, index: int, number: int) -> Found | None:
    """The object in a face crop of a source frame."""
    speaker, probability = self.plan.speakers[number], self._covered(face)
    crop = crops.crop_from_row(speaker.crops[index])
    (points,) = speaker.points.read(index, index + 1)
    known = np.isfinite(points).all()
    if self.plan.video.still:
      mask = photo_mask(probability, points, crop) if known else None
    else:
      mask = self._usual[number].object_mask(face, probability)
    if mask is None:
      return None
    return Found(mask, covered_lips(mask, points, crop) if known else 0.0)


def _shown_frames(plan: RenderPlan, number: int) -> Bool[np.ndarray, 'f']:
  """Source frames of which the output shows a new mouth."""
  speaker = plan.speakers[number]
  shown = np.zeros(len(speaker.crops), bool)
  for position in np.flatnonzero(speaker.opacity > 0).tolist():
    shown[plan.frames[position].index] = True
  return shown


def _span_numbers(
  spans: Int[np.ndarray, 's 2'], count: int
) -> Int[np.ndarray, 'f']:
  """The number of each frame's span; -1 outside."""
  numbers = np.full(count, -1, np.int32)
  for number, (start, end) in enumerate(spans.tolist()):
    numbers[start:end] = number
  return numbers
