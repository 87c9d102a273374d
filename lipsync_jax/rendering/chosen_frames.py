"""Single source frames, in one pass over the video.

Shapes: k chosen frames.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from lipsync_jax.media import decoder
from lipsync_jax.media.types import Frame, Video

MAX_SKIP = 64  # frames that are decoded, not sought, between two chosen ones


def read_chosen_frames(
  video: Video, indices: Int[np.ndarray, 'k'], times: Sequence[Fraction]
) -> Iterator[Frame]:
  """Source frames of ascending numbers; fewer if the file is shorter.

  Args:
    video: opened.
    indices: of the frames.
    times: of all source frames.
  """
  chosen = indices.tolist()
  return decoder.read_chosen(
    video, chosen, [times[index] for index in chosen], MAX_SKIP
  )


def visit_frames(
  video: Video,
  times: Sequence[Fraction],
  visits: Sequence[tuple[Int[np.ndarray, '_'], Callable[[Frame], object]]],
) -> None:
  """Decode once for several readers.

  Args:
    video: opened.
    times: of all source frames.
    visits: ascending source frames, and a function that takes each of them.
  """
  wanted = [set(frames.tolist()) for frames, _ in visits]
  numbers = np.array(sorted(set().union(*wanted)), np.int64)
  with contextlib.closing(read_chosen_frames(video, numbers, times)) as source:
    for frame in source:
      for frames, (_, visit) in zip(wanted, visits, strict=True):
        if frame.index in frames:
          visit(frame)
