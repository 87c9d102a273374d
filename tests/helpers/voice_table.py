"""The table of docs/evaluation.md: speech kept by the gate, by level and noise.

Run from the root of the repository, with the folder of speech files:

  python -m tests.helpers.voice_table FOLDER

Cells are the share of columns with speech that the gate keeps, and the least
share of a piece. Pieces and labels are those of `gate_table`.
"""

import pathlib
import sys

import numpy as np

from lipsync_jax import audio
from lipsync_jax.audio import noise_gate
from lipsync_jax.models import voice_detector
from tests.helpers import gate_table, sounds

LEVELS = (0, -20, -40)  # dB
TELEPHONE = 300, 3400  # Hz


def kept(voice: np.ndarray, sound: np.ndarray) -> float:
  """Share of the voice's columns that the gate keeps."""
  on, _ = gate_table.labels(voice)
  mel = audio.log_mel(sound)
  chance = voice_detector.voice_probability(sound.astype(np.float32))
  mask = noise_gate.voice_mask(chance, mel.shape[1], voice_detector.WINDOW)
  return float(gate_table.opened(mel, True, mask)[on].mean())


def show(name: str, cases: list[tuple[np.ndarray, np.ndarray]]) -> None:
  """A row of the table: one cell for each level."""
  cells = []
  for level in LEVELS:
    gain = 10 ** (level / 20)
    found = [kept(voice, gain * sound) for voice, sound in cases]
    cells.append(f'{np.mean(found):.3f}, {min(found):.3f}')
  print(f'| {name} | {len(cases)} |', ' | '.join(cells), '|', flush=True)


def main(folder: str) -> None:
  files = sorted(pathlib.Path(folder).iterdir())
  voices = {'speech': [], 'singing': []}
  for path in files:
    kind = 'singing' if 'sung' in path.stem else 'speech'
    voices[kind] += gate_table.pieces(path)
  print('| sound | pieces | 0 dB | -20 dB | -40 dB |\n|---|---|---|---|---|')
  for kind, pieces in voices.items():
    show(kind, [(v, v) for v in pieces])
    narrow = [sounds.filtered(v, *TELEPHONE) for v in pieces]
    show(f'{kind}, telephone', list(zip(pieces, narrow, strict=True)))
    whispers = [sounds.whispered(v) for v in pieces]
    show(f'{kind}, whispered', list(zip(pieces, whispers, strict=True)))
    for name, ratios in (('noise', (20, 10, 5, 0)), ('music', (10, 5, 0))):
      for ratio in ratios:
        gain = 10 ** (-ratio / 20)
        other = [gain * gate_table.background(name, i % 4) for i in range(20)]
        mixed = [(v, v + b) for v, b in zip(pieces, other, strict=False)]
        show(f'{kind} {ratio} dB over {name}', mixed)


if __name__ == '__main__':
  main(sys.argv[1])
