"""The second pass: read frames, speak them, paste, write.

Three stages run side by side, decode and cut | generate | paste and
encode, joined by short queues, so that memory does not grow with length.

Alphabet: b batch, s side of the network's square crop in pixels.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float, UInt8

from lipsync_jax import audio, compose, faces, media, planes, timeline
from lipsync_jax.paths import Path
from lipsync_jax.pipe import Clock, ahead

IN_FLIGHT = 384 * 2**20  # bytes of frames that may wait between the stages


@dataclasses.dataclass(frozen=True)
class Scene:
  """What is fixed while one output is rendered."""

  video: planes.Video
  times: list  # of the source frames, Fraction seconds
  path: Path  # the person's crops and landmarks, per source frame
  shows: list[timeline.Show]
  mel: Float[np.ndarray, '80 t']
  starts: np.ndarray  # first mel column of each show
  size: int  # of the network's crop
  batch: int
  whole_box: bool = False  # paste as Wav2Lip does, the whole rectangle


@dataclasses.dataclass
class Item:
  """One output frame on its way through the stages."""

  position: int
  frame: planes.Frame
  face: UInt8[np.ndarray, 's s 3'] | None = None  # None: passes untouched
  spoken: UInt8[np.ndarray, 's s 3'] | None = None


def render(
  scene: Scene,
  predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
  write: Callable[[planes.Frame, Fraction], None],
  clock: Clock,
  tick: Callable[[], object],
) -> None:
  """Run all stages; `tick` is called for every frame written."""
  depth = ahead_by(scene)
  items = ahead(cut(scene, clock), depth)
  spoken = ahead(generate(scene, items, predict, clock), depth)
  with contextlib.closing(spoken):
    for item in spoken:
      with clock('paste'):
        frame = finish(scene, item)
      with clock('encode'):
        write(frame, scene.shows[item.position].time)
      tick()


def ahead_by(scene: Scene) -> int:
  """How many frames may wait in a queue, at least 2."""
  return max(2, fitting_batch(scene.video, 2 * scene.batch))


def fitting_batch(video: planes.Video, wanted: int) -> int:
  """`wanted` frames, or as many as there is room for."""
  frame = video.width * video.height * (3 if video.colour.depth > 8 else 1.5)
  return max(1, min(wanted, int(IN_FLIGHT / 3 / frame)))


def played(scene: Scene) -> Iterator[planes.Frame]:
  """Source frames in the order the time line shows them."""
  indices = [show.index for show in scene.shows]
  for start, count, step in timeline.runs(indices):
    first = indices[start]
    if step == -1:
      source = media.read_backwards(scene.video, first, scene.times)
    else:
      source = media.read_frames(scene.video, first)
    with contextlib.closing(source):
      frame = None
      for _ in range(count):
        if frame is None or step:
          frame = next(source, None)
        if frame is None:
          raise media.MediaError(
            f'{media.shown(scene.video.path)}: it has fewer frames than '
            'before; do not change the file while it is used'
          )
        yield frame


def cut(scene: Scene, clock: Clock) -> Iterator[Item]:
  """Decode, and cut the face where there is one to speak."""
  shape, before = (scene.video.height, scene.video.width), None
  frames = played(scene)
  for position, show in enumerate(scene.shows):
    with clock('decode'):
      frame = next(frames)
      item = Item(position, frame)
      if show.spoken and scene.path.present[show.index]:
        if before is not None and before.frame is frame:
          item.face = before.face  # a held frame is cut once
        else:
          crop = faces.crop_of(scene.path.crops[show.index])
          box = tuple(int(v) for v in faces.roi(crop, shape))
          rgb = planes.rgb(scene.video, frame, box)
          item.face = faces.take(rgb, crop, scene.size, box[:2])
      before = item
    yield item


def generate(
  scene: Scene,
  items: Iterable[Item],
  predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
  clock: Clock,
) -> Iterator[Item]:
  """Let faces speak, `scene.batch` at a time, keeping the order."""
  held: list[Item] = []
  waiting = 0
  for item in items:
    held.append(item)
    waiting += item.face is not None
    if waiting == scene.batch or not waiting or len(held) > 2 * scene.batch:
      yield from speak(scene, held, predict, clock)
      held, waiting = [], 0
  yield from speak(scene, held, predict, clock)


def speak(scene: Scene, items: list[Item], predict, clock: Clock) -> list[Item]:
  """One batch of fixed shape: what is missing repeats the first face."""
  facing = [item for item in items if item.face is not None]
  if facing:
    rows = np.zeros(scene.batch, np.int64)
    rows[: len(facing)] = np.arange(len(facing))
    starts = scene.starts[[item.position for item in facing]][rows]
    mel = audio.windows(scene.mel, starts)  # [b, 80, 16]
    face = np.stack([item.face for item in facing])[rows]  # [b, s, s, 3]
    with clock('generate'):
      spoken = np.asarray(predict(mel, face))
    for item, picture in zip(facing, spoken, strict=False):
      item.spoken = picture
  return items


def finish(scene: Scene, item: Item) -> planes.Frame:
  """Paste what was spoken into the frame."""
  if item.spoken is None:
    return item.frame
  index = scene.shows[item.position].index
  crop = faces.crop_of(scene.path.crops[index])
  shape = (scene.video.height, scene.video.width)
  if scene.whole_box:
    patch = compose.whole_box_patch(item.spoken, crop, shape)
  else:
    patch = compose.paste_patch(
      item.spoken, item.face, crop, scene.path.points[index], shape
    )
  return planes.paste(scene.video, item.frame, *patch)
