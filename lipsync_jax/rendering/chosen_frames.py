"""Single source frames, in one pass over the video.

Shapes: k chosen frames.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from lipsync_jax.media import decoder
from lipsync_jax.media.types import Frame, Video

MAX_SKIP = 64  # frames that are decoded, not sought, between two chosen ones


def read_chosen_frames(
  video: Video, indices: Int[np.ndarray, 'k']
) -> Iterator[Frame]:
  """Source frames of ascending numbers; fewer if the file is shorter."""
  if not len(indices):
    return
  breaks = np.flatnonzero(np.diff(indices) > MAX_SKIP) + 1
  for run in np.split(indices, breaks):
    wanted = set(run.tolist())
    with contextlib.closing(decoder.read_frames(video, int(run[0]))) as source:
      for index, frame in enumerate(source, int(run[0])):
        if index in wanted:
          yield frame
        if index >= run[-1]:
          break


def visit_frames(
  video: Video,
  visits: Sequence[tuple[Int[np.ndarray, '_'], Callable[[Frame], object]]],
) -> None:
  """Decode once for several readers.

  Args:
    video: opened.
    visits: ascending source frames, and a function that takes each of them.
  """
  wanted = [set(frames.tolist()) for frames, _ in visits]
  numbers = np.array(sorted(set().union(*wanted)), np.int64)
  for frame in read_chosen_frames(video, numbers):
    for frames, (_, visit) in zip(wanted, visits, strict=True):
      if frame.index in frames:
        visit(frame)
