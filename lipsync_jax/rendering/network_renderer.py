"""Mouths painted by a generator network, composited into the frame.

Shapes: b batch, s side of the network's square crop in pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from lipsync_jax import audio
from lipsync_jax.common import disk_array
from lipsync_jax.faces import light
from lipsync_jax.faces.crop import crop_bounds, crop_from_row, extract_crop
from lipsync_jax.media import yuv
from lipsync_jax.media.types import Frame
from lipsync_jax.rendering import compositing, frontal
from lipsync_jax.rendering.renderer import FrameJob, RenderPlan, SpeakerTrack

FRAME_COLUMNS = slice(6, 10)  # of a mel window, around the middle of the frame
LOUD = 4.0  # units of the log-mel, from silence to a loud vowel


@dataclasses.dataclass(frozen=True)
class NetworkRenderer:
  """The generator as a `MouthRenderer`.

  Attributes:
    predict: (mel windows [b, 80, 16], faces [b, s, s, 3]) -> faces, compiled
      for `batch` faces (`models.runtime.build_predictor`).
    size: side of the network's crop in pixels.
    batch: faces at a time.
    whole_box: composite the whole rectangle as Wav2Lip does.
    detail: add the source's detail (`detail_transfer.py`).
  """

  predict: Callable[[np.ndarray, np.ndarray], np.ndarray]
  size: int
  batch: int
  whole_box: bool = False
  detail: bool = True

  def part(self, first: int) -> 'NetworkRenderer':
    """The renderer itself: it depends on the plan only."""
    return self

  def extract(
    self, plan: RenderPlan, job: FrameJob, number: int
  ) -> UInt8[np.ndarray, 's s 3']:
    """The speaker's face crop."""
    row = plan.speakers[number].crops[plan.frames[job.position].index]
    crop, shape = crop_from_row(row), (plan.video.height, plan.video.width)
    box = tuple(int(v) for v in crop_bounds(crop, shape))
    rgb = yuv.to_rgb(plan.video, job.frame, box)
    return extract_crop(rgb, crop, self.size, box[:2])

  def render(
    self, plan: RenderPlan, mouths: Sequence[tuple[FrameJob, int]]
  ) -> list[UInt8[np.ndarray, 's s 3']]:
    """Generated faces. A short batch is filled up with its first face."""
    rows = np.zeros(self.batch, np.int64)
    rows[: len(mouths)] = np.arange(len(mouths))
    windows = [
      mel_window(plan.speakers[number], job.position) for job, number in mouths
    ]
    shifts = [self._crop_shift(plan, job, number) for job, number in mouths]
    faces = np.stack(
      [
        self._usual(job.inputs[number], shift)
        for (job, number), shift in zip(mouths, shifts, strict=True)
      ]
    )
    generated = self.predict(np.concatenate(windows)[rows], faces[rows])
    return [
      shift.from_front(face) if shift else face
      for face, shift in zip(
        np.asarray(generated)[: len(mouths)], shifts, strict=True
      )
    ]

  def _crop_shift(
    self, plan: RenderPlan, job: FrameJob, number: int
  ) -> frontal.CropShift | None:
    """How the crop of a lifted or turned head is moved, see `frontal`."""
    if self.whole_box:
      return None
    speaker, index = plan.speakers[number], plan.frames[job.position].index
    (points,) = speaker.points.read(index, index + 1)
    return frontal.crop_shift(points, crop_from_row(speaker.crops[index]))

  def _usual(
    self, face: UInt8[np.ndarray, 's s 3'], shift: frontal.CropShift | None
  ) -> UInt8[np.ndarray, 's s 3']:
    """The face in the usual light and pose of the training data.

    Differs from Wav2Lip, which paints mouths of daylight on dim faces, a
    second nose on lifted heads, and frontal mouths on turned ones.
    """
    if self.whole_box:
      return face
    return light.even_light(shift.to_front(face) if shift else face)

  def composite(
    self, plan: RenderPlan, job: FrameJob, number: int, frame: Frame
  ) -> Frame:
    """The frame with the generated mouth."""
    if job.uncovered.get(number, 1.0) < 0.5:
      return frame  # two mouths at half opacity would be seen
    video, speaker = plan.video, plan.speakers[number]
    shape, generated = (video.height, video.width), job.outputs[number]
    index = plan.frames[job.position].index
    crop = crop_from_row(speaker.crops[index])
    if self.whole_box:
      patch, alpha, corner = compositing.whole_box_patch(generated, crop, shape)
    else:
      (points,) = speaker.points.read(index, index + 1)
      box = tuple(int(v) for v in crop_bounds(crop, shape))
      source = yuv.to_rgb(video, job.frame, box) if self.detail else None
      patch, alpha, corner = compositing.paste_patch(
        generated,
        job.inputs[number],
        crop,
        points,
        shape,
        source,
        box[:2],
        light.light_gains(job.inputs[number]),
      )
    opacity = np.float32(speaker.opacity[job.position])
    return yuv.blend_patch(video, frame, patch, alpha * opacity, corner)


def mel_window(
  speaker: SpeakerTrack, position: int
) -> Float[np.ndarray, '1 80 16']:
  """The mel window of an output frame; silence outside the sound."""
  return _read_window(speaker.mel, int(speaker.starts[position]))


def _read_window(
  mel: disk_array.RowFile, start: int
) -> Float[np.ndarray, '1 80 16']:
  count = len(mel)
  # At least one column is read.
  first = min(max(start, 0), count - 1)
  end = min(max(start + audio.WINDOW_COLUMNS, first + 1), count)
  return audio.mel_windows(mel.read(first, end).T, np.array([start - first]))


def loudness(
  mel: disk_array.RowFile,
  starts: Int[np.ndarray, 'p'],
  frames: Int[np.ndarray, 'k'],
) -> Float[np.ndarray, 'k']:
  """Loudness of the voice in output frames, 0 in silence to 1.

  Args:
    mel: log-mel columns, [t 80].
    starts: first column of each output frame.
    frames: numbers of output frames.
  """
  out = np.zeros(len(frames))
  for k, start in enumerate(starts[frames].tolist()):
    out[k] = _read_window(mel, start)[..., FRAME_COLUMNS].mean()
  return np.clip((out - audio.SILENCE) / LOUD, 0, 1)
