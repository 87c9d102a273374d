"""Offset: how late is the sound, by the vectors of a SyncNet.

Pure: `search` takes vectors of faces and sound from anywhere. A window is
named by its first frame, and its sound starts with that frame (spec 1.7,
3.1). Source of the search: spec section 8.3, except that the sound beyond
the clip's ends is left out and not taken for zeros.

Alphabet: `v` windows of a clip, `d` length of a vector.
"""

import dataclasses
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from data_prep import extract
from lipsync_jax import audio
from lipsync_jax.data.clip import Clip
from lipsync_jax.faces import crop

FRAMES = audio.FRAMES_PER_WINDOW
REACH = 15  # frames, the farthest offset looked for
BATCH = 64  # windows embedded at once


@dataclasses.dataclass(frozen=True)
class Limits:
  """Which clips are kept once their offset is measured."""

  most: int = 6  # frames; further out it is another take, not a delay
  confidence: float = 0.0  # least; its scale is the expert's own


def search(
  face: Float[np.ndarray, 'v d'],
  heard: Float[np.ndarray, 'v d'],
  reach: int = REACH,
) -> tuple[int, float]:
  """(frames by which the sound is late, confidence).

  The mean distance of face v to sound v + s is taken for every shift s at
  which a third of the windows, and five at least, have a partner. The
  smallest wins; by how much it is below the median is the confidence.
  """
  count = len(face)
  reach = min(reach, count - max(5, -(-count // 3)))
  if reach < 1:
    return 0, 0.0
  shifts = np.arange(-reach, reach + 1)
  means = np.empty(len(shifts))
  for i, s in enumerate(shifts):
    a, b = face[max(0, -s) : count - max(0, s)], heard[max(0, s) :]
    b = b[: len(a)]
    means[i] = np.linalg.norm(a.astype(np.float64) - b, axis=1).mean()
  best = int(means.argmin())
  return int(shifts[best]), float(np.median(means) - means[best])


def verdict(
  frames: int, offset: float, confidence: float, limits: Limits, shortest: int
) -> tuple[str, str]:
  """(reason to drop a clip, detail), both empty if it is kept.

  What was not measured (NaN) is kept.
  """
  if np.isnan(offset):
    return '', ''
  found = f'offset {offset:+.0f} frames, confidence {confidence:.2f}'
  if not confidence >= limits.confidence:
    return extract.UNSURE, found
  if abs(offset) > limits.most:
    return extract.OFFSET, found
  if frames - abs(offset) < shortest:
    return extract.SHORT, f'{frames} frames, {found}'
  return '', ''


def corrected(clip: Clip, offset: int, confidence: float) -> Clip:
  """The clip with its sound in step; `offset` stays on record.

  The frames at one end lose their sound, so they go.
  """
  late, early = max(offset, 0), max(-offset, 0)
  count = len(clip.frames)
  frames = slice(early, count - late)
  wave = clip.wave[late * extract.SAMPLES :]
  wave = wave[: (count - late - early) * extract.SAMPLES]
  if not offset:
    return dataclasses.replace(clip, offset=0.0, confidence=confidence)
  return dataclasses.replace(
    clip,
    frames=clip.frames[frames],
    crops=clip.crops[frames],
    points=clip.points[frames],
    boxes=clip.boxes[frames],
    wave=wave,
    mel=audio.log_mel(audio.int16_to_float(wave)),
    offset=float(offset),
    confidence=confidence,
  )


class Expert:
  """A trained SyncNet, compiled once."""

  def __init__(self, path: str):
    import jax

    from lipsync_jax import models
    from lipsync_jax.weights import convert

    found = convert.load_any(path, 'syncnet')
    net = models.build_model('syncnet', found.size, found.width)
    self.size, self.sha256 = found.size, found.sha256
    run = jax.jit(lambda v, mel, x: net.apply(v, mel, x, train=False))
    self._variables = jax.device_put(found.variables)
    self._run = run

  def vectors(
    self, clip: Clip
  ) -> tuple[Float[np.ndarray, 'v d'], Float[np.ndarray, 'v d']]:
    """Unit vectors of the faces and of the sound of every window."""
    lower = [half(data, row, self.size) for data, row in zip(
      clip.frames, clip.crops, strict=True
    )]  # fmt: skip
    count = len(lower) - FRAMES + 1
    starts = audio.window_starts(
      [Fraction(f, extract.RATE) for f in range(count)], Fraction(0)
    )
    mels = audio.mel_windows(clip.mel, starts)[..., None]  # [v 80 16 1]
    heard, face = [], []
    for low in range(0, count, BATCH):
      rows = np.minimum(np.arange(low, low + BATCH), count - 1)
      images = np.stack(
        [np.concatenate(lower[r : r + FRAMES], -1) for r in rows]
      )
      out = self._run(
        self._variables, mels[rows], images.astype(np.float32) / 255
      )
      heard.append(np.asarray(out[0]))
      face.append(np.asarray(out[1]))
    return np.concatenate(face)[:count], np.concatenate(heard)[:count]

  def offset(self, clip: Clip) -> tuple[int, float]:
    """(frames by which the sound of a clip is late, confidence)."""
    late, sure = search(*self.vectors(clip))
    return late, round(sure, 4)  # the last digits depend on the machine


def half(data: bytes, row: Float[np.ndarray, '5'], size: int):
  """Lower half of a face as the networks see it.  uint8 [size/2 size 3]"""
  import cv2

  rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
  return crop.extract_crop(rgb, crop.crop_from_row(row), size)[size // 2 :]
