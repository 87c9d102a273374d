"""Alignment of sound and frames: which mel columns drive which frame.

This module alone defines the frame rate of training clips, the samples that
a frame spans, the lead of a mel window over its frame (spec 1.6, 1.7), and
the sign of an audio-video offset (`published_offset`).

Shapes: t mel columns, f frames, s columns of a window.
"""

from collections.abc import Iterable
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import Int

from lipsync_jax.audio.mel import (
  COLUMNS_PER_SECOND,
  SAMPLE_RATE,
  SILENCE,
  AudioError,
)

FPS = 25  # frames/s of every training clip
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
FRAMES_PER_WINDOW = 5  # the 200 ms that WINDOW_COLUMNS span at FPS
WINDOW_COLUMNS = 16  # mel columns that drive one frame: 200 ms

# Seconds by which a window starts before its frame is shown. With
# CENTERED_LEAD the frame is the third of the five that a window spans at 25
# frames/s. Wav2Lip's public training code is one frame off that; its inference
# starts the window with the frame, so its lips lead the sound (spec 1.7).
CENTERED_LEAD = Fraction(2, 25)
WAV2LIP_TRAINING_LEAD = Fraction(1, 25)
WAV2LIP_INFERENCE_LEAD = Fraction(0)


def frame_columns(frames, lead: Fraction = CENTERED_LEAD):
  """First mel column of the window of each frame: floor(80 (f / 25 - lead)).

  Integer arithmetic, for numpy and jax alike; `window_starts` is the same for
  any time stamps. With `lead` 0 the window starts with the frame, at column
  floor(3.2 f), and belongs to the five frames from f on.

  Args:
    frames: frame numbers at `FPS`, an integer or an array.
    lead: seconds by which the window starts before the frame.
  """
  p, q = lead.numerator, lead.denominator
  return (16 * (frames * q - FPS * p)) // (5 * q)


def window_starts(
  times: Iterable[Fraction], lead: Fraction = CENTERED_LEAD
) -> Int[np.ndarray, 'f']:
  """First mel column of the window of a frame shown at each time.

  Exact: floor(80 (time - lead)). May be negative or past the end, where
  `mel_windows` fills in silence, so that every frame has a window.

  Args:
    times: seconds.
    lead: seconds by which the window starts before the frame.
  """
  starts = ((COLUMNS_PER_SECOND * (t - lead)) // 1 for t in times)
  return np.fromiter((int(s) for s in starts), np.int64)


def wav2lip_starts(total: int, fps: float | int) -> Int[np.ndarray, 'f']:
  """Window starts of the original inference (spec 1.6), for `--compat`.

  Frames end about 0.13 s before the sound: the last window is the last 16
  columns of `total`.

  Args:
    total: mel columns.
    fps: frames/s of the output.

  Raises:
    AudioError: `total` is less than one window.
  """
  if total < WINDOW_COLUMNS:
    raise AudioError(
      f'expected at least {WINDOW_COLUMNS} mel columns (0.19 s) in the '
      f'original convention, found {total}: use longer audio or leave '
      '--compat off'
    )
  step, starts = float(COLUMNS_PER_SECOND) / fps, []
  while int(len(starts) * step) + WINDOW_COLUMNS <= total:
    starts.append(int(len(starts) * step))
  return np.array([*starts, total - WINDOW_COLUMNS], np.int64)


def mel_windows(mel, starts, xnp: ModuleType = np):
  """Gather windows, with silence outside.  [80, t], [f] -> [f, 80, 16]

  Args:
    mel: log-mel.
    starts: first column of each window; may lie outside.
    xnp: numpy or jax.numpy.
  """
  at = xnp.asarray(starts)[:, None] + np.arange(WINDOW_COLUMNS)[None]  # [f, s]
  inside = (at >= 0) & (at < mel.shape[1])
  windows = mel[:, xnp.clip(at, 0, mel.shape[1] - 1)]  # [80, f, s]
  silence = xnp.asarray(SILENCE, mel.dtype)
  windows = xnp.where(inside[None], windows, silence)
  return windows.transpose(1, 0, 2)


def published_offset(late: int | float) -> int | float:
  """The offset as published SyncNet scores state it, from our convention.

  In this package an offset is the number of frames by which the sound is
  late (`data.clip.Clip.offset`, `data_prep.av_offset`). Published scores, and
  so the reports of `evaluation`, are positive where the sound is early.
  """
  return 0 - late  # a subtraction, which gives 0.0 and not -0.0
