"""Noise gate: replaces pauses in the log-mel with digital silence.

Hum and hiss between words move lips that should rest. The gate finds the
pauses and fades them to silence with a soft ramp. All functions are pure.

Shapes: t mel columns, 80 a second.
"""

import numpy as np
from jaxtyping import Bool, Float

from lipsync_jax.audio.mel import SILENCE, SPAN_DB

DB_PER_UNIT = SPAN_DB / (-2 * SILENCE)  # of the log-mel (spec 1.5): 12.5
# Speech is never softer than this below its loud parts for MIN_PAUSE_COLUMNS.
SILENCE_BELOW_PEAK_DB = 35.0
MIN_PAUSE_COLUMNS = 20  # 0.25 s
MIN_CONTRAST_DB = (
  15.0  # between noise and speech; with less the gate stays open
)
ABOVE_NOISE_DB = 6.0  # above the noise floor, the least level of speech
LEAD_COLUMNS, TAIL_COLUMNS = 6, 10  # columns kept before and after speech
RAMP_COLUMNS = 8  # columns of the fade
BLOCK = 4096  # columns processed at once, which bounds the memory


def column_level_db(mel: Float[np.ndarray, '80 t']) -> Float[np.ndarray, 't']:
  """Power of every column in dB, up to a constant."""
  level = np.empty(mel.shape[1])
  for at in range(0, len(level), BLOCK):
    columns = slice(at, at + BLOCK)
    # The order in memory decides the last bit of the mean.
    part = mel[:, columns].astype(np.float64, order='C')
    power = 10 ** (part * DB_PER_UNIT / 10)
    level[columns] = 10 * np.log10(power.mean(0))
  return level


def speech_mask(mel: Float[np.ndarray, '80 t']) -> Bool[np.ndarray, 't']:
  """False in pauses of at least 0.25 s, True elsewhere."""
  level = column_level_db(mel)
  speech, floor = np.percentile(level, 95), np.percentile(level, 5)
  gate = speech - SILENCE_BELOW_PEAK_DB
  if floor > gate - ABOVE_NOISE_DB:
    # A noisy recording: the gate lies above the noise if speech is distinct.
    gate = (
      floor + ABOVE_NOISE_DB
      if speech - floor > MIN_CONTRAST_DB + ABOVE_NOISE_DB
      else -np.inf
    )
  # Digital silence is a pause whatever the level of the rest.
  least = column_level_db(np.full((len(mel), 1), SILENCE))[0] + 1
  on = level > max(gate, least)
  edges = np.flatnonzero(np.diff(np.pad(on, 1, constant_values=True)))
  for first, end in edges.reshape(-1, 2):
    if end - first < MIN_PAUSE_COLUMNS:
      on[first:end] = True
  return on


def apply_noise_gate(
  mel: Float[np.ndarray, '80 t'], out: Float[np.ndarray, '80 t'] | None = None
) -> Float[np.ndarray, '80 t']:
  """The mel with its pauses faded to silence.

  Args:
    mel: log-mel.
    out: array for the result, which may be `mel`; default a new one.
  """
  out = mel.copy() if out is None else out
  if not mel.shape[1]:
    return out
  on = speech_mask(mel)
  wide = np.pad(on, (TAIL_COLUMNS, LEAD_COLUMNS))
  # Open from LEAD_COLUMNS before speech to TAIL_COLUMNS after it.
  reach = LEAD_COLUMNS + TAIL_COLUMNS + 1
  is_open = np.lib.stride_tricks.sliding_window_view(wide, reach).any(-1)
  soft = np.hanning(RAMP_COLUMNS + 2)[1:-1]
  share = np.convolve(
    np.pad(is_open, RAMP_COLUMNS // 2, 'edge'), soft / soft.sum()
  )
  share = share[RAMP_COLUMNS - 1 :][: len(on)].astype(mel.dtype)
  share[on] = 1  # speech is never attenuated
  for at in np.flatnonzero(share < 1):
    out[:, at] = SILENCE + share[at] * (mel[:, at] - SILENCE)
  return out
