"""Sample videos: a clip as the generator speaks it, with its sound.

The columns of `videos/<step>.mp4` are reference | masked | generated | ground
truth. Frames are generated in windows of five as in training.
"""

import pathlib
import tempfile
import wave
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from lipsync_jax import audio
from lipsync_jax.data import batches
from lipsync_jax.data.clip import Clip, ClipDataset
from lipsync_jax.data.windows import NUM_UNIFORMS, WINDOW_SPECS
from lipsync_jax.media import audio_reader, video_writer, yuv
from lipsync_jax.media.types import Color, Frame, Video
from lipsync_jax.training import metric_writer

SECONDS = 3  # of a clip, at most
MAX_VIDEOS = 5  # newest videos that stay
RATE = Fraction(audio.FPS)
# BT.709 in limited range.
COLOR = Color(matrix=1, range=1, primaries=1, transfer=1)


def choose_clip(source: ClipDataset) -> int:
  """The first clip that is long enough, else the longest."""
  return int(np.argmax(np.minimum(source.frames, SECONDS * audio.FPS)))


def clip_batches(
  source: ClipDataset, clip: int, size: int, batch: int
) -> Iterator[batches.Batch]:
  """Batches as those of validation, of a clip's first complete windows.

  References come from the farther end of the clip. `mask` is 0 for rows that
  fill up the last batch.
  """
  frames = int(source.frames[clip])
  count = min(SECONDS * audio.FPS, frames) // audio.FRAMES_PER_WINDOW
  for first in range(0, count, batch):
    rows = []
    for i in range(first, first + batch):
      start, last = (
        min(i, count - 1) * audio.FRAMES_PER_WINDOW,
        frames - audio.FRAMES_PER_WINDOW,
      )
      pick = {
        'clip': clip,
        'frame': start,
        'other_clip': clip,
        'other_frame': last if 2 * start <= last else 0,
        'uniforms': np.zeros(NUM_UNIFORMS, np.float32),
        'seed': 0,
      }
      pick = {
        k: np.asarray(v, getattr(v, 'dtype', np.int32)) for k, v in pick.items()
      }
      row = batches.read_example(pick, source, WINDOW_SPECS['generator'], size)
      rows.append(row | {'mask': np.float32(i < count)})
    yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def video_frames(
  batches: Iterable[batches.Batch], show: Callable[[batches.Batch], dict]
) -> Iterator[UInt8[np.ndarray, 'h w 3']]:
  """The frames of a video, in order.

  Args:
    show: maps a batch to the arguments of `metric_writer.sample_grid`.
  """
  for batch in batches:
    shown = batch['mask'] > 0
    parts = {name: x[shown] for name, x in show(batch).items()}
    rows = metric_writer.sample_grid(**parts)  # [b*t*h, 4*w, 3]
    yield from rows.reshape(-1, rows.shape[1] // 4, *rows.shape[1:])


def write_video(path, pictures: Iterable, sound_of: Clip) -> None:
  """Write pictures and the beginning of a clip's sound to a file.

  Raises:
    MediaError: it cannot be written.
  """
  pictures = list(pictures)
  height, width, _ = pictures[0].shape
  video = Video(
    path='',
    width=width,
    height=height,
    rate=RATE,
    duration=len(pictures) / RATE,
    start=Fraction(0),
    pix_fmt='yuv420p',
    color=COLOR,
  )
  with tempfile.TemporaryDirectory() as folder:
    spoken = pathlib.Path(folder) / 'spoken.wav'
    with wave.open(str(spoken), 'wb') as file:
      file.setparams((1, 2, audio.SAMPLE_RATE, 0, 'NONE', ''))
      heard = sound_of.wave[: len(pictures) * audio.SAMPLES_PER_FRAME]
      file.writeframes(heard.astype('<i2').tobytes())
    track = audio_reader.probe_audio(spoken)
    with video_writer.VideoWriter(path, video, audio=track) as writer:
      for i, rgb in enumerate(pictures):
        y, u, v = yuv.to_yuv(video, rgb.astype(np.float32))
        u, v = (  # [h/2, w/2]
          p.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for p in (u, v)
        )
        frame = tuple(np.rint(p).astype(np.uint8) for p in (y, u, v))
        writer.write(Frame(i, i / RATE, frame))


def remove_old_videos(folder: pathlib.Path) -> None:
  """Delete all videos but the newest."""
  for path in sorted(folder.glob('*.mp4'))[:-MAX_VIDEOS]:
    path.unlink()
