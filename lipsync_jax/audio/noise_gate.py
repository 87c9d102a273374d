"""Noise gate: replaces pauses in the log-mel with digital silence.

Hum and hiss between words, music and applause move lips that should rest. The
gate finds the pauses by their level, and by the probability of a voice where
that is known, and fades them to silence with a soft ramp. All functions are
pure; `RunningGate` finds the pauses of sound that is still being recorded.

Shapes: t mel columns, 80 a second; w windows of a voice detector.
"""

import collections

import numpy as np
from jaxtyping import Bool, Float, Float32

from lipsync_jax.audio.mel import HOP, SILENCE, SPAN_DB

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
VOICE_BEGINS, VOICE_ENDS = 0.3, 0.1  # probabilities; between them it goes on
MIN_VOICE_WINDOWS = 2  # above VOICE_BEGINS; music has single ones
# Columns kept before and after a voice. They hold the soft edges of words, and
# the consonants at both ends that the detector gives little probability.
VOICE_LEAD, VOICE_TAIL = 12, 16
BLOCK = 4096  # columns processed at once, which bounds the memory
FLOOR_COLUMNS = 800  # 10 s, of which `RunningGate` takes the noise floor
FIRST_SPEECH_DB = -5.0  # level of speech before any: that of a soft speaker
LOUDEST_DB = 2.0  # by which the loudest columns exceed the level of speech
SPEECH_FALL_DB = 0.5 / 80  # a column of speech: 0.5 dB a second


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


def gate_level_db(speech: float, floor: float) -> float:
  """The level above which a column is speech, dB.

  Args:
    speech: level of loud speech.
    floor: level of the noise.
  """
  gate = speech - SILENCE_BELOW_PEAK_DB
  if floor > gate - ABOVE_NOISE_DB:
    # A noisy recording: the gate lies above the noise if speech is distinct.
    gate = (
      floor + ABOVE_NOISE_DB
      if speech - floor > MIN_CONTRAST_DB + ABOVE_NOISE_DB
      else -np.inf
    )
  # Digital silence is a pause whatever the level of the rest.
  return max(gate, SILENCE * DB_PER_UNIT + 1)


def speech_mask(mel: Float[np.ndarray, '80 t']) -> Bool[np.ndarray, 't']:
  """False in pauses of at least 0.25 s, True elsewhere."""
  level = column_level_db(mel)
  speech, floor = np.percentile(level, 95), np.percentile(level, 5)
  on = level > gate_level_db(speech, floor)
  edges = np.flatnonzero(np.diff(np.pad(on, 1, constant_values=True)))
  for first, end in edges.reshape(-1, 2):
    if end - first < MIN_PAUSE_COLUMNS:
      on[first:end] = True
  return on


def voice_mask(
  probability: Float32[np.ndarray, 'w'], count: int, window: int
) -> Bool[np.ndarray, 't']:
  """True in mel columns with a voice.

  Args:
    probability: of a voice in each window.
    count: mel columns.
    window: samples of a window.
  """
  # A voice is a stretch above VOICE_ENDS that reaches VOICE_BEGINS.
  on = probability > VOICE_ENDS
  edges = np.flatnonzero(np.diff(np.pad(on, 1).astype(np.int8)))
  for first, end in edges.reshape(-1, 2):
    loud = np.count_nonzero(probability[first:end] > VOICE_BEGINS)
    if loud < MIN_VOICE_WINDOWS:
      on[first:end] = False
  at = np.minimum(HOP * np.arange(count) // window, max(on.size - 1, 0))
  return on[at] if on.size else np.zeros(count, bool)


def extend_mask(
  mask: Bool[np.ndarray, 't'], lead: int, tail: int
) -> Bool[np.ndarray, 't']:
  """True from `lead` columns before a True column to `tail` after it."""
  wide = np.pad(mask, (tail, lead))
  reach = lead + tail + 1
  return np.lib.stride_tricks.sliding_window_view(wide, reach).any(-1)


def voiced_speech_mask(
  mel: Float[np.ndarray, '80 t'], voice: Bool[np.ndarray, 't']
) -> Bool[np.ndarray, 't']:
  """Columns that are loud enough for speech, and near a voice.

  Args:
    mel: log-mel.
    voice: columns with a voice.
  """
  return speech_mask(mel) & extend_mask(voice, VOICE_LEAD, VOICE_TAIL)


def open_share(on: Bool[np.ndarray, 't'], tail: int) -> Float[np.ndarray, 't']:
  """Share of each column that the gate passes, with a soft ramp.

  Args:
    on: columns of speech, which pass whole.
    tail: columns kept after speech.
  """
  is_open = extend_mask(on, LEAD_COLUMNS, tail)
  soft = np.hanning(RAMP_COLUMNS + 2)[1:-1]
  share = np.convolve(
    np.pad(is_open, RAMP_COLUMNS // 2, 'edge'), soft / soft.sum()
  )
  share = share[RAMP_COLUMNS - 1 :][: len(on)]
  share[on] = 1  # speech is never attenuated
  return share


def apply_noise_gate(
  mel: Float[np.ndarray, '80 t'],
  out: Float[np.ndarray, '80 t'] | None = None,
  voice: Bool[np.ndarray, 't'] | None = None,
) -> Float[np.ndarray, '80 t']:
  """The mel with its pauses faded to silence.

  Args:
    mel: log-mel.
    out: array for the result, which may be `mel`; default a new one.
    voice: columns with a voice; all others are pauses as well. By default the
      level alone decides.
  """
  out = mel.copy() if out is None else out
  if not mel.shape[1]:
    return out
  on = speech_mask(mel) if voice is None else voiced_speech_mask(mel, voice)
  share = open_share(on, TAIL_COLUMNS).astype(mel.dtype)
  for at in np.flatnonzero(share < 1):
    out[:, at] = SILENCE + share[at] * (mel[:, at] - SILENCE)
  return out


class RunningGate:
  """Finds speech in columns as they arrive, from those before them.

  The noise floor is a low percentile of the last seconds. The level of speech
  is the highest so far; it falls slowly while there is speech, so that a long
  pause does not turn noise into speech.
  """

  def __init__(self):
    self._levels: collections.deque[float] = collections.deque(
      maxlen=FLOOR_COLUMNS
    )
    self._speech = FIRST_SPEECH_DB

  def push(self, column: Float[np.ndarray, '80']) -> bool:
    """Whether the next column is speech."""
    level = float(column_level_db(column[:, None])[0])
    self._levels.append(level)
    self._speech = max(self._speech, level - LOUDEST_DB)
    floor = float(np.percentile(self._levels, 5))
    is_speech = level > gate_level_db(self._speech, floor)
    if is_speech:
      self._speech -= SPEECH_FALL_DB
    return is_speech
