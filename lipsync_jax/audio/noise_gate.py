"""Silence: where nobody speaks, the network hears nothing at all.

Hum and hiss between the words move lips that should rest. The gate finds
pauses in the log-mel and takes them down to digital silence with a soft
ramp. Pure. Alphabet: `t` mel columns, 80 a second.
"""

import numpy as np
from jaxtyping import Bool, Float

from lipsync_jax.audio.mel import SILENCE

DB_PER_UNIT = 12.5  # of one unit of the log-mel (spec 1.5: 100 dB over 8 units)
SILENCE_BELOW_PEAK_DB = (
  35.0  # dB below the loud speech: nothing that is said is so soft …
)
MIN_PAUSE_COLUMNS = 20  # … for so many columns, 0.25 s
MIN_CONTRAST_DB = 15.0  # dB between noise and speech; with less nobody can tell
ABOVE_NOISE_DB = 6.0  # dB over the noise floor at which a voice begins
LEAD_COLUMNS, TAIL_COLUMNS = 6, 10  # columns kept before and after a voice
RAMP_COLUMNS = 8  # columns of the fade
BLOCK = 4096  # columns worked on at once, to keep memory flat


def column_level_db(mel: Float[np.ndarray, '80 t']) -> Float[np.ndarray, 't']:
  """Power of every column in dB, up to a constant."""
  out = np.empty(mel.shape[1])
  for at in range(0, len(out), BLOCK):
    here = slice(at, at + BLOCK)
    # The order in memory decides the last bit of the mean.
    part = mel[:, here].astype(np.float64, order='C')
    power = 10 ** (part * DB_PER_UNIT / 10)
    out[here] = 10 * np.log10(power.mean(0))
  return out


def speech_mask(mel: Float[np.ndarray, '80 t']) -> Bool[np.ndarray, 't']:
  """True where somebody may be speaking, pauses of 0.25 s and more False."""
  loud = column_level_db(mel)
  speech, floor = np.percentile(loud, 95), np.percentile(loud, 5)
  gate = speech - SILENCE_BELOW_PEAK_DB
  if floor > gate - ABOVE_NOISE_DB:
    # A noisy recording: above the noise, if noise and voice differ at all.
    gate = (
      floor + ABOVE_NOISE_DB
      if speech - floor > MIN_CONTRAST_DB + ABOVE_NOISE_DB
      else -np.inf
    )
  # Nothing at all is quiet whatever the rest is.
  least = column_level_db(np.full((len(mel), 1), SILENCE))[0] + 1
  on = loud > max(gate, least)
  edges = np.flatnonzero(np.diff(np.pad(on, 1, constant_values=True)))
  for first, end in edges.reshape(-1, 2):
    if end - first < MIN_PAUSE_COLUMNS:
      on[first:end] = True
  return on


def apply_noise_gate(
  mel: Float[np.ndarray, '80 t'], out: Float[np.ndarray, '80 t'] | None = None
) -> Float[np.ndarray, '80 t']:
  """The mel with its pauses taken down to silence, softly.

  `out` takes the result and may be the mel itself; else it is a new array.
  """
  out = mel.copy() if out is None else out
  if not mel.shape[1]:
    return out
  on = speech_mask(mel)
  wide = np.pad(on, (TAIL_COLUMNS, LEAD_COLUMNS))
  # Open from LEAD columns before a voice to TAIL after it.
  reach = LEAD_COLUMNS + TAIL_COLUMNS + 1
  kept = np.lib.stride_tricks.sliding_window_view(wide, reach).any(-1)
  soft = np.hanning(RAMP_COLUMNS + 2)[1:-1]
  share = np.convolve(
    np.pad(kept, RAMP_COLUMNS // 2, 'edge'), soft / soft.sum()
  )
  share = share[RAMP_COLUMNS - 1 :][: len(on)].astype(mel.dtype)
  share[on] = 1  # no word loses anything
  for at in np.flatnonzero(share < 1):
    out[:, at] = SILENCE + share[at] * (mel[:, at] - SILENCE)
  return out
