"""The second pass: read frames, speak them, paste, write.

Three stages run side by side, decode and cut | generate | paste and
encode, joined by short queues, so that memory does not grow with length.

Alphabet: b batch, s side of the network's square crop in pixels.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int, UInt8

from lipsync_jax import audio
from lipsync_jax.common import disk_array
from lipsync_jax.common.errors import printable
from lipsync_jax.common.threads import StageTimer, prefetch
from lipsync_jax.faces.crop import crop_bounds, crop_from_row, extract_crop
from lipsync_jax.faces.trajectory import FaceTrajectory
from lipsync_jax.inference import compositing, timeline
from lipsync_jax.media import decoder, yuv
from lipsync_jax.media.container import MediaError
from lipsync_jax.media.types import Frame, Video

IN_FLIGHT_BYTES = (
  384 * 2**20
)  # bytes of frames that may wait between the stages


@dataclasses.dataclass(frozen=True)
class SpeakerTrack:
  """One person who speaks; what is large lies on shelves (`make_speaker`)."""

  crops: Float[np.ndarray, 'f 5']  # of the source frames, as `crop.face_crops`
  points: disk_array.DiskArray  # their landmarks [f n 2]
  mel: disk_array.DiskArray  # columns [t 80]
  starts: Int[np.ndarray, 'p']  # first mel column of each show
  share: Float[np.ndarray, 'p']  # of the generated mouth in each, 0 to 1


def make_speaker(
  path: FaceTrajectory,
  mel: disk_array.DiskArray,
  starts: Int[np.ndarray, 'p'],
  share: Float[np.ndarray, 'p'],
) -> SpeakerTrack:
  """A speaker with the path's landmarks laid aside."""
  return SpeakerTrack(
    path.crops, disk_array.DiskArray(path.points), mel, starts, share
  )


@dataclasses.dataclass(frozen=True)
class RenderPlan:
  """What is fixed while one output is rendered."""

  video: Video
  times: Sequence[Fraction]  # of the source frames, seconds
  shows: Sequence[timeline.OutputFrame]
  speakers: tuple[SpeakerTrack, ...]
  size: int  # of the network's crop
  batch: int
  whole_box: bool = False  # paste as Wav2Lip does, the whole rectangle
  detail: bool = True  # carry it over from the source (`detail_transfer.py`)


@dataclasses.dataclass
class FrameJob:
  """One output frame on its way through the stages.

  Faces are [s, s, 3] uint8, by the number of their speaker; a frame without
  any passes untouched.
  """

  position: int
  frame: Frame
  faces: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  spoken: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


def render_frames(
  scene: RenderPlan,
  predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
  write: Callable[[Frame, Fraction], None],
  clock: StageTimer,
  tick: Callable[[], object],
) -> None:
  """Run all stages; `tick` is called for every frame written."""
  depth = queue_depth(scene)
  items = prefetch(extract_jobs(scene, clock), depth)
  spoken = prefetch(generate_jobs(scene, items, predict, clock), depth)
  with contextlib.closing(spoken):
    for item in spoken:
      with clock('paste'):
        frame = composite_job(scene, item)
      with clock('encode'):
        write(frame, scene.shows[item.position].time)
      tick()


def queue_depth(scene: RenderPlan) -> int:
  """How many frames may wait in a queue, at least 2."""
  return max(2, fitting_batch(scene.video, 2 * scene.batch))


def fitting_batch(video: Video, wanted: int) -> int:
  """`wanted` frames, or as many as there is room for."""
  frame = video.width * video.height * (3 if video.color.depth > 8 else 1.5)
  return max(1, min(wanted, int(IN_FLIGHT_BYTES / 3 / frame)))


def read_scheduled_frames(scene: RenderPlan) -> Iterator[Frame]:
  """Source frames in the order the time line shows them."""
  indices = np.fromiter((show.index for show in scene.shows), np.int64)
  for start, count, step in timeline.playback_runs(indices):
    first = int(indices[start])
    if step == -1:
      source = decoder.read_backwards(scene.video, first, scene.times)
    else:
      source = decoder.read_frames(scene.video, first)
    with contextlib.closing(source):
      frame = None
      for _ in range(count):
        if frame is None or step:
          frame = next(source, None)
        if frame is None:
          raise MediaError(
            f'{printable(scene.video.path)}: it has fewer frames than '
            'before; do not change the file while it is used'
          )
        yield frame


def extract_jobs(scene: RenderPlan, clock: StageTimer) -> Iterator[FrameJob]:
  """Decode, and cut the faces of those who speak."""
  before = None
  frames = read_scheduled_frames(scene)
  for position in range(len(scene.shows)):
    with clock('decode'):
      frame = next(frames)
      item = FrameJob(position, frame)
      for number, speaker in enumerate(scene.speakers):
        if speaker.share[position] == 0:
          continue
        if before and before.frame is frame and number in before.faces:
          item.faces[number] = before.faces[number]  # held: cut once
        else:
          item.faces[number] = extract_face(scene, speaker, item)
      before = item
    yield item


def extract_face(
  scene: RenderPlan, speaker: SpeakerTrack, item: FrameJob
) -> UInt8[np.ndarray, 's s 3']:
  """One speaker's face out of one frame."""
  row = speaker.crops[scene.shows[item.position].index]
  crop, shape = crop_from_row(row), (scene.video.height, scene.video.width)
  box = tuple(int(v) for v in crop_bounds(crop, shape))
  rgb = yuv.to_rgb(scene.video, item.frame, box)
  return extract_crop(rgb, crop, scene.size, box[:2])


def generate_jobs(
  scene: RenderPlan,
  items: Iterable[FrameJob],
  predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
  clock: StageTimer,
) -> Iterator[FrameJob]:
  """Let faces speak, `scene.batch` at a time, keeping the order."""
  held: list[FrameJob] = []
  waiting = 0
  for item in items:
    held.append(item)
    waiting += len(item.faces)
    if waiting >= scene.batch or not waiting or len(held) > 2 * scene.batch:
      yield from generate_batch(scene, held, predict, clock)
      held, waiting = [], 0
  yield from generate_batch(scene, held, predict, clock)


def generate_batch(
  scene: RenderPlan, items: list[FrameJob], predict, clock: StageTimer
) -> list[FrameJob]:
  """Batches of fixed shape: what is missing repeats the first face."""
  facing = [(item, number) for item in items for number in item.faces]
  for first in range(0, len(facing), scene.batch):
    part = facing[first : first + scene.batch]
    rows = np.zeros(scene.batch, np.int64)
    rows[: len(part)] = np.arange(len(part))
    mel = np.concatenate([job_mel_window(scene, *one) for one in part])[rows]
    face = np.stack([item.faces[number] for item, number in part])[rows]
    with clock('generate'):
      spoken = np.asarray(predict(mel, face))
    for (item, number), picture in zip(part, spoken, strict=False):
      item.spoken[number] = picture
  return items


def job_mel_window(
  scene: RenderPlan, item: FrameJob, number: int
) -> Float[np.ndarray, '1 80 16']:
  """What a speaker says in one frame."""
  speaker = scene.speakers[number]
  start, count = int(speaker.starts[item.position]), len(speaker.mel)
  # What lies outside is silence; at least one column is read.
  first = min(max(start, 0), count - 1)
  end = min(max(start + audio.WINDOW_COLUMNS, first + 1), count)
  mel = speaker.mel.read(first, end).T
  return audio.mel_windows(mel, np.array([start - first]))


def composite_job(scene: RenderPlan, item: FrameJob) -> Frame:
  """Paste what was spoken into the frame."""
  frame = item.frame
  shape = (scene.video.height, scene.video.width)
  index = scene.shows[item.position].index
  for number, picture in item.spoken.items():
    speaker = scene.speakers[number]
    crop = crop_from_row(speaker.crops[index])
    if scene.whole_box:
      patch, alpha, corner = compositing.whole_box_patch(picture, crop, shape)
    else:
      (points,) = speaker.points.read(index, index + 1)
      box = tuple(int(v) for v in crop_bounds(crop, shape))
      seen = yuv.to_rgb(scene.video, item.frame, box) if scene.detail else None
      patch, alpha, corner = compositing.paste_patch(
        picture, item.faces[number], crop, points, shape, seen, box[:2]
      )
    share = np.float32(speaker.share[item.position])
    frame = yuv.blend_patch(scene.video, frame, patch, alpha * share, corner)
  return frame
