"""Segments of a long job, so that an interrupted one can continue.

With `--resume` the output is encoded in segments of some twenty seconds, each
a whole file in a folder beside the output. The same command reuses finished
segments. The last step copies their encoded frames into the output and removes
the folder.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float32

from lipsync_jax.common import atomic_file
from lipsync_jax.common.threads import StageTimer
from lipsync_jax.inference import carryover, turns
from lipsync_jax.inference.options import SyncOptions, input_files
from lipsync_jax.media import extras, video_writer
from lipsync_jax.media.container import as_media_error
from lipsync_jax.media.types import Video
from lipsync_jax.rendering import renderer

VERSION = 8  # to be raised when the same options give other frames
SEGMENT_FRAMES = 500  # frames of a segment
# Options that do not change any frame.
IGNORED_OPTIONS = (
  'outfile',
  'report',
  'quiet',
  'resume',
  'final_audio',
  'strip',
  'sign',
  'keep_background',
)


def segments_dir(outfile: str | os.PathLike) -> pathlib.Path:
  """The folder of an output's segments."""
  path = pathlib.Path(outfile)
  return path.with_name(f'{path.name}.reels')


def prepare_folder(outfile: str | os.PathLike) -> None:
  """Create the folder; fails before the long work if it cannot be written."""
  video_writer.format_of(pathlib.Path(outfile))
  with as_media_error(outfile, 'the output cannot be written'):
    segments_dir(outfile).mkdir(parents=True, exist_ok=True)


def fingerprint(options: SyncOptions, weights: str) -> str:
  """SHA-256 of everything that determines the frames.

  Args:
    weights: SHA-256 of the network's tensors.
  """
  values = dataclasses.asdict(options)
  for name in IGNORED_OPTIONS:
    values.pop(name)
  paths = [path for _, path in input_files(options)]
  digests = []
  for path in (*paths, *turns.audio_files(options.subtitles)):
    with open(path, 'rb') as file:
      digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
  suffix = pathlib.Path(options.outfile).suffix.lower()
  facts = [VERSION, values, digests, suffix, weights]
  return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def segment_bounds(count: int) -> list[tuple[int, int]]:
  """(first, end) of every segment of `count` frames."""
  return [
    (i, min(i + SEGMENT_FRAMES, count)) for i in range(0, count, SEGMENT_FRAMES)
  ]


def render_segments(
  options: SyncOptions,
  plan: renderer.RenderPlan,
  mouths: renderer.MouthRenderer,
  weights: str,
  timer: StageTimer,
  tick: Callable[[int], object],
  notes: Sequence[Float32[np.ndarray, 'p']] = (),
) -> list[tuple[pathlib.Path, Fraction]]:
  """Render the segments that do not exist yet.

  Args:
    weights: SHA-256 of the network's tensors.
    notes: values of each output frame that rendering fills. Those of a
      segment are beside its file, for a later run.

  Returns:
    Every segment's file, and the time of its first frame.
  """
  folder, mark = segments_dir(options.outfile), fingerprint(options, weights)
  suffix = pathlib.Path(options.outfile).suffix.lower()
  # Matroska rounds to milliseconds; MP4 keeps the time stamps.
  suffix = '.mp4' if suffix == '.mkv' else suffix
  files = []
  for first, end in segment_bounds(len(plan.frames)):
    # The fingerprint in the name excludes segments of other options.
    path = folder / f'{mark[:16]}-{first:08d}{suffix}'
    start = plan.frames[first].time
    files.append((path, start))
    beside = path.with_suffix('.json')
    if path.exists() and (not notes or beside.exists()):
      if notes:
        values = json.loads(beside.read_text())
        for note, part in zip(notes, values, strict=True):
          note[first:end] = part
      tick(end - first)
      continue
    with video_writer.VideoWriter(path, plan.video, crf=options.crf) as out:
      part = subplan(plan, first, end)
      renderer.render_frames(
        part, mouths.part(first), out.write, timer, lambda: tick(1)
      )
      if notes:
        with atomic_file.atomic_write(beside) as file:
          file.write_text(json.dumps([n[first:end].tolist() for n in notes]))
      out.duration = end_time(plan, end) - start
  return files


def subplan(
  plan: renderer.RenderPlan, first: int, end: int
) -> renderer.RenderPlan:
  """The plan of some output frames, which begins at time 0."""
  zero = plan.frames[first].time
  frames = [
    dataclasses.replace(frame, time=frame.time - zero)
    for frame in plan.frames[first:end]
  ]
  speakers = tuple(
    dataclasses.replace(
      speaker,
      starts=speaker.starts[first:end],
      opacity=speaker.opacity[first:end],
    )
    for speaker in plan.speakers
  )
  return dataclasses.replace(plan, frames=frames, speakers=speakers)


def end_time(plan: renderer.RenderPlan, end: int) -> Fraction:
  """End of the output frame before `end`, in seconds."""
  last = plan.frames[end - 1]
  return last.time + last.length


def concatenate(
  options: SyncOptions,
  video: Video,
  files: Sequence[tuple[pathlib.Path, Fraction]],
  sound,
  origin: Fraction | None,
  duration: Fraction,
  source: extras.Extras | None,
  record: dict,
) -> list[str]:
  """Write the output from its segments, and remove them.

  Args:
    files: of `render_segments`.
    sound: the output's sound.
    origin: file time of the sound at which the video begins.
    duration: seconds of the output.
    source: extras of the video's file.
    record: of `provenance.build_record`.

  Returns:
    What of the extras is left behind.
  """
  with video_writer.VideoWriter(
    options.outfile,
    video,
    audio=sound,
    origin=origin,
    crf=options.crf,
    duration=duration,
    like=files[0][0],
  ) as out:
    left = carryover.carry(options, video, source, out, duration, record)
    for path, start in files:
      out.append(path, start)
  shutil.rmtree(segments_dir(options.outfile), ignore_errors=True)
  return left
