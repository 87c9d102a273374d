"""Reels: a long job in finished pieces, so that a killed one can go on.

With `--resume` the output is encoded in reels of some twenty seconds, each
a whole file in a folder beside the output. The same command again keeps
the reels that are there; the last step copies their pictures into the
output, without a second encode, and removes the folder.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction

from lipsync_jax.common.threads import StageTimer
from lipsync_jax.inference import renderer
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import video_writer
from lipsync_jax.media.container import as_media_error
from lipsync_jax.media.types import Video

VERSION = 2  # raise it when the same request gives other pictures
SEGMENT_FRAMES = 500  # frames of a reel
# What a request may change without changing a single picture.
IGNORED_OPTIONS = ('outfile', 'report', 'quiet', 'resume', 'final_audio')


def segments_dir(outfile: str | os.PathLike) -> pathlib.Path:
  """Where the reels of an output lie: beside it."""
  path = pathlib.Path(outfile)
  return path.with_name(f'{path.name}.reels')


def prepare_folder(outfile: str | os.PathLike) -> None:
  """Make the folder, so that what cannot be written fails before the work."""
  video_writer.format_of(pathlib.Path(outfile))
  with as_media_error(outfile, 'the output cannot be written'):
    segments_dir(outfile).mkdir(parents=True, exist_ok=True)


def fingerprint(wanted: SyncOptions, weights: str) -> str:
  """SHA-256 of all that decides what the reels show.

  Args:
    weights: SHA-256 of the network's tensors.
  """
  values = dataclasses.asdict(wanted)
  for name in IGNORED_OPTIONS:
    values.pop(name)
  paths = [wanted.face, wanted.audio, *(path for _, path in wanted.audio_for)]
  digests = []
  for path in filter(None, paths):
    with open(path, 'rb') as file:
      digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
  suffix = pathlib.Path(wanted.outfile).suffix.lower()
  facts = [VERSION, values, digests, suffix, weights]
  return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def segment_bounds(count: int) -> list[tuple[int, int]]:
  """(first, end) of every reel of `count` frames."""
  return [
    (i, min(i + SEGMENT_FRAMES, count)) for i in range(0, count, SEGMENT_FRAMES)
  ]


def render_segments(
  wanted: SyncOptions,
  scene: renderer.RenderPlan,
  predict: Callable,
  weights: str,
  clock: StageTimer,
  tick: Callable[[int], object],
) -> list[tuple[pathlib.Path, Fraction]]:
  """Render the reels that are not there yet.

  Returns:
    Every reel's file, and the time of its first frame.
  """
  folder, mark = segments_dir(wanted.outfile), fingerprint(wanted, weights)
  suffix = pathlib.Path(wanted.outfile).suffix.lower()
  # Matroska rounds to milliseconds; MP4 keeps the time stamps.
  suffix = '.mp4' if suffix == '.mkv' else suffix
  found = []
  for first, end in segment_bounds(len(scene.shows)):
    # The name says what it shows: reels of another request are not taken.
    path = folder / f'{mark[:16]}-{first:08d}{suffix}'
    start = scene.shows[first].time
    found.append((path, start))
    if path.exists():
      tick(end - first)
      continue
    with video_writer.VideoWriter(path, scene.video, crf=wanted.crf) as out:
      part = subplan(scene, first, end)
      renderer.render_frames(part, predict, out.write, clock, lambda: tick(1))
      out.duration = end_time(scene, end) - start
  return found


def subplan(
  scene: renderer.RenderPlan, first: int, end: int
) -> renderer.RenderPlan:
  """The scene of some shows, which begins at time 0."""
  zero = scene.shows[first].time
  shows = [
    dataclasses.replace(show, time=show.time - zero)
    for show in scene.shows[first:end]
  ]
  speakers = tuple(
    dataclasses.replace(
      speaker,
      starts=speaker.starts[first:end],
      share=speaker.share[first:end],
    )
    for speaker in scene.speakers
  )
  return dataclasses.replace(scene, shows=shows, speakers=speakers)


def end_time(scene: renderer.RenderPlan, end: int) -> Fraction:
  """When the frames before show `end` are over."""
  last = scene.shows[end - 1]
  return last.time + last.length


def concatenate(
  wanted: SyncOptions,
  video: Video,
  reels: Sequence[tuple[pathlib.Path, Fraction]],
  sound,
  origin: Fraction | None,
  duration: Fraction,
) -> None:
  """Write the output from its reels, and remove them."""
  with video_writer.VideoWriter(
    wanted.outfile,
    video,
    audio=sound,
    origin=origin,
    crf=wanted.crf,
    duration=duration,
    like=reels[0][0],
  ) as out:
    for path, start in reels:
      out.append(path, start)
  shutil.rmtree(segments_dir(wanted.outfile), ignore_errors=True)
