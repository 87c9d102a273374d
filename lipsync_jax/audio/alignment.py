"""TODO."""

from collections.abc import Iterable
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import Int

from lipsync_jax.audio import mel
from lipsync_jax.audio.mel import SILENCE

WINDOW_COLUMNS = 16  # drive one frame: 200 ms, five frames at 25 frames/s

# How long before a frame is shown its window starts. With CENTERED_LEAD the
# frame is the third of the five that a window spans at 25 frames/s. The
# public training code of Wav2Lip is one frame off that, and its inference
# starts the window with the frame, so its lips lead the sound (spec 1.7).
CENTERED_LEAD = Fraction(2, 25)
WAV2LIP_TRAINING_LEAD = Fraction(1, 25)
WAV2LIP_INFERENCE_LEAD = Fraction(0)


def window_starts(
  times: Iterable[Fraction], lead: Fraction = CENTERED_LEAD
) -> Int[np.ndarray, 'f']:
  """First mel column of the window of a frame shown at each time (seconds).

  Exact: floor(80 (time - lead)). May be negative or past the end, where
  `mel_windows` finds silence, so that every frame of a video has a window.
  """
  starts = ((mel.COLUMNS_PER_SECOND * (t - lead)) // 1 for t in times)
  return np.fromiter((int(s) for s in starts), np.int64)


def wav2lip_starts(total: int, fps: float | int) -> Int[np.ndarray, 'f']:
  """Window starts of the original inference (spec 1.6), for `--compat`.

  Frames stop about 0.13 s before the sound does: the last window is the
  last 16 columns of `total`.
  """
  if total < WINDOW_COLUMNS:
    raise mel.AudioError(
      f'expected at least {WINDOW_COLUMNS} mel columns (0.19 s) in the original '
      f'convention, found {total}: use longer audio or leave --compat off'
    )
  step, starts = float(mel.COLUMNS_PER_SECOND) / fps, []
  while int(len(starts) * step) + WINDOW_COLUMNS <= total:
    starts.append(int(len(starts) * step))
  return np.array([*starts, total - WINDOW_COLUMNS], np.int64)


def mel_windows(mel, starts, xnp: ModuleType = np):
  """Gather windows, silence outside.  [80, t], [f] -> [f, 80, 16]"""
  at = xnp.asarray(starts)[:, None] + np.arange(WINDOW_COLUMNS)[None]  # [f, s]
  inside = (at >= 0) & (at < mel.shape[1])
  found = mel[:, xnp.clip(at, 0, mel.shape[1] - 1)]  # [80, f, s]
  found = xnp.where(inside[None], found, xnp.asarray(SILENCE, mel.dtype))
  return found.transpose(1, 0, 2)
