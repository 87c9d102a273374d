"""Eval clips with a generator's mouths, without a video file in between.

Inputs and compositing are those of `sync`: each crop with its lower half
masked, and the same crop as reference.
"""

import dataclasses
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from lipsync_jax import audio
from lipsync_jax.audio import log_mel, noise_gate
from lipsync_jax.evaluation.clip import FPS, EvalClip, face_crops
from lipsync_jax.faces.crop import crop_from_row
from lipsync_jax.rendering import compositing
from lipsync_jax.weights import convert

BATCH = 16


@dataclasses.dataclass(frozen=True)
class Dubber:
  """A compiled generator."""

  predict: Callable
  size: int  # pixels of its square crop
  lead: Fraction  # seconds, see `audio.CENTERED_LEAD`
  path: str
  sha256: str  # of its tensors
  source: str  # for the report
  engine: str


def load_dubber(path: str | os.PathLike, dtype: str = 'auto') -> Dubber:
  """Read and compile a generator, ours or published."""
  from lipsync_jax.models import runtime

  net = convert.load_any(path, 'generator')
  predict, name = runtime.build_predictor(
    net.variables, net.size, net.width, dtype=dtype, batch=BATCH
  )
  return Dubber(
    predict=predict,
    size=net.size,
    lead=net.mel_lead,
    path=os.fspath(path),
    sha256=net.sha256,
    source=f'{net.source}, {net.size} pixels, width {net.width:g}',
    engine=name,
  )


def dub_clip(
  clip: EvalClip, dubber: Dubber, points: Float[np.ndarray, 'n 89 2']
) -> EvalClip:
  """The clip with mouths generated from its sound.

  Args:
    clip: pictures and the driving sound.
    dubber: the generator.
    points: landmarks of the pictures, for the mask; NaN: unknown.
  """
  count = len(clip)
  source = face_crops(clip, dubber.size)
  mel = noise_gate.apply_noise_gate(log_mel(audio.int16_to_float(clip.wave)))
  times = [Fraction(f, FPS) for f in range(count)]
  mels = audio.mel_windows(mel, audio.window_starts(times, dubber.lead))
  batches = []
  for low in range(0, count, BATCH):
    rows = np.minimum(np.arange(low, low + BATCH), count - 1)
    batches.append(np.asarray(dubber.predict(mels[rows], source[rows])))
  generated = np.concatenate(batches)[:count]
  pictures = []
  for i, picture in enumerate(clip.pictures):
    crop = crop_from_row(clip.crops[i])
    patch, alpha, (x, y) = compositing.paste_patch(
      generated[i], source[i], crop, points[i], picture.shape[:2], picture
    )
    out = picture.copy()
    h, w = alpha.shape
    part = out[y : y + h, x : x + w].astype(np.float32)
    blended = np.rint(part + alpha[..., None] * (patch - part))
    out[y : y + h, x : x + w] = blended.astype(np.uint8)
    pictures.append(out)
  return dataclasses.replace(clip, pictures=tuple(pictures))
