"""The table of docs/evaluation.md: three gates on labelled pieces of 10 s.

Run from the root of the repository, with the folder of speech files:

  python -m tests.helpers.gate_table FOLDER

Every piece holds up to 5 s of a file from 2.5 s on, and another sound in all
10 s. Voice are the columns of the file alone that lie at most 30 dB below its
loud ones; rest are those 0.3 s and more away from them.
"""

import functools
import pathlib
import sys

import numpy as np

from lipsync_jax import audio
from lipsync_jax.audio import noise_gate
from lipsync_jax.media import audio_reader
from lipsync_jax.models import voice_detector
from tests.helpers import sounds

RATE, SECONDS = audio.SAMPLE_RATE, 10
COLUMNS = 1 + SECONDS * audio.COLUMNS_PER_SECOND
PIECES = 4  # of a file at most
ALONE = (
  *('music', 'chords', 'organ', 'drums', 'applause', 'breath', 'noise', 'hum'),
)


@functools.cache
def background(name: str, number: int) -> np.ndarray:
  if name == 'room':
    rng = np.random.default_rng(number)
    return 10 ** (-55 / 20) * rng.standard_normal(SECONDS * RATE)
  if name == 'silence':
    return np.zeros(SECONDS * RATE)
  seeds = () if name in ('organ', 'hum') else (number,)
  return getattr(sounds, name)(SECONDS, *seeds)


def pieces(path: pathlib.Path) -> list[np.ndarray]:
  """Parts of 3 to 5 s of a file, at the level of the other sounds."""
  found = audio_reader.probe_audio(path)
  blocks = audio.resample_blocks(found.rate, audio_reader.read_audio(found))
  wave = sounds.scaled(np.concatenate(list(blocks)))
  parts = [wave[i : i + 5 * RATE] for i in range(0, wave.size, 5 * RATE)]
  parts = [part for part in parts[:PIECES] if part.size >= 3 * RATE]
  lead = round(2.5 * RATE)
  return [np.pad(x, (lead, SECONDS * RATE - lead - x.size)) for x in parts]


def labels(voice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Columns with a voice, and columns of rest."""
  if not voice.any():
    return np.zeros(COLUMNS, bool), np.ones(COLUMNS, bool)
  level = noise_gate.column_level_db(audio.log_mel(voice))
  on = level > np.percentile(level, 95) - 30
  return on, ~noise_gate.extend_mask(on, 24, 24)


def opened(mel: np.ndarray, by_level: bool, voice) -> np.ndarray:
  """Columns that keep more than half of their height over silence.

  Without the level, a mel of constant height stands for the sound.
  """
  if not by_level:
    mel = np.zeros_like(mel)
  raised = noise_gate.apply_noise_gate(mel, voice=voice) - audio.SILENCE
  before = (mel - audio.SILENCE).sum(0)
  return raised.sum(0) > 0.5 * before


def row(cases: list[tuple[np.ndarray, np.ndarray]]) -> list[str]:
  """Recall, rest and accuracy of level, voice, and both."""
  counts = np.zeros((3, 4))
  for voice, sound in cases:
    on, rest = labels(voice)
    mel = audio.log_mel(sound)
    chance = voice_detector.voice_probability(sound.astype(np.float32))
    mask = noise_gate.voice_mask(chance, COLUMNS, voice_detector.WINDOW)
    for gate, (by_level, given) in enumerate(
      ((True, None), (False, mask), (True, mask))
    ):
      is_open = opened(mel, by_level, given)
      counts[gate] += [
        *((is_open & on).sum(), on.sum()),
        *((~is_open & rest).sum(), rest.sum()),
      ]
  return [
    ' / '.join(
      f'{a / b:.3f}' if b else '-' for a, b in ((r, v), (s, q), (r + s, v + q))
    )
    for r, v, s, q in counts
  ]


def main(folder: str) -> None:
  files = sorted(pathlib.Path(folder).iterdir())
  sung = [x for path in files if 'sung' in path.stem for x in pieces(path)]
  said = [x for path in files if 'sung' not in path.stem for x in pieces(path)]
  print('| sound | pieces | level | voice | both |\n|---|---|---|---|---|')

  def show(name, cases):
    print(f'| {name} | {len(cases)} |', ' | '.join(row(cases)), '|', flush=True)

  def mixed(voices, name, decibel):
    gain = 10 ** (-decibel / 20)
    return [
      (v, v + gain * background(name, i % 4)) for i, v in enumerate(voices)
    ]

  for kind, voices in (('speech', said), ('singing', sung)):
    show(kind, mixed(voices, 'room', 0))
    if kind == 'speech':
      quiet = [(v, 10**-2.25 * x) for v, x in mixed(voices, 'room', 0)]
      show('speech, 45 dB softer', quiet)
    for name in ('music', 'organ', 'applause', 'noise', 'breath'):
      for decibel in (10, 0):
        show(f'{kind} {decibel} dB over {name}', mixed(voices, name, decibel))
  for name in (*ALONE, 'room', 'silence'):
    none = [np.zeros(SECONDS * RATE)] * (1 if name == 'silence' else 4)
    show(f'{name} alone', mixed(none, name, 0))


if __name__ == '__main__':
  main(sys.argv[1])
