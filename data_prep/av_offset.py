"""Audio-visual offset of a clip by a SyncNet, and its correction.

A window starts with its first frame, and its sound with that frame (spec 1.7,
3.1).

Shapes: v windows of a clip, d length of a vector.
Source: spec section 8.3. Differs from it: sound beyond the clip's ends is left
out instead of being zero.
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
REACH = 15  # frames, the farthest offset of the search
BATCH = 64  # windows embedded at once


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits on the measured offset of accepted clips."""

  max_offset_frames: int = 6
  min_confidence: float = 0.0  # on the SyncNet's scale


def find_offset(
  face: Float[np.ndarray, 'v d'],
  audio_vectors: Float[np.ndarray, 'v d'],
  reach: int = REACH,
) -> tuple[int, float]:
  """Frames by which the sound is late, and the confidence.

  The offset has the smallest mean distance of face v to sound v + s, over all
  shifts s at which a third of the windows, and at least five, overlap. The
  confidence is the median minus the smallest distance.
  """
  count = len(face)
  reach = min(reach, count - max(5, -(-count // 3)))
  if reach < 1:
    return 0, 0.0
  shifts = np.arange(-reach, reach + 1)
  means = np.empty(len(shifts))
  for i, s in enumerate(shifts):
    a, b = face[max(0, -s) : count - max(0, s)], audio_vectors[max(0, s) :]
    b = b[: len(a)]
    means[i] = np.linalg.norm(a.astype(np.float64) - b, axis=1).mean()
  best = int(means.argmin())
  return int(shifts[best]), float(np.median(means) - means[best])


def rejection_reason(
  frames: int, offset: float, confidence: float, limits: Limits, min_frames: int
) -> tuple[str, str]:
  """Reason and detail of a rejection; both are empty for accepted clips.

  Clips without a measured offset (NaN) are accepted.
  """
  if np.isnan(offset):
    return '', ''
  detail = f'offset {offset:+.0f} frames, confidence {confidence:.2f}'
  if not confidence >= limits.min_confidence:
    return extract.UNSURE, detail
  if abs(offset) > limits.max_offset_frames:
    return extract.OFFSET, detail
  if frames - abs(offset) < min_frames:
    return extract.SHORT, f'{frames} frames, {detail}'
  return '', ''


def correct_offset(clip: Clip, offset: int, confidence: float) -> Clip:
  """The clip with its sound in sync; the field `offset` records the shift.

  Frames without sound at one end are removed.
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
    mesh=clip.mesh[frames],
    wave=wave,
    mel=audio.log_mel(audio.int16_to_float(wave)),
    offset=float(offset),
    confidence=confidence,
  )


class OffsetEstimator:
  """A compiled SyncNet."""

  def __init__(self, path: str):
    import jax

    from lipsync_jax import models
    from lipsync_jax.weights import convert

    weights = convert.load_any(path, 'syncnet')
    net = models.build_model('syncnet', weights.size, weights.width)
    self.size, self.sha256 = weights.size, weights.sha256
    run = jax.jit(lambda v, mel, x: net.apply(v, mel, x, train=False))
    self._variables = jax.device_put(weights.variables)
    self._run = run

  def vectors(
    self, clip: Clip
  ) -> tuple[Float[np.ndarray, 'v d'], Float[np.ndarray, 'v d']]:
    """Unit vectors of the face and of the sound of every window."""
    lower = [lower_half(data, row, self.size) for data, row in zip(
      clip.frames, clip.crops, strict=True
    )]  # fmt: skip
    count = len(lower) - FRAMES + 1
    starts = audio.window_starts(
      [Fraction(f, extract.RATE) for f in range(count)], Fraction(0)
    )
    mels = audio.mel_windows(clip.mel, starts)[..., None]  # [v 80 16 1]
    audio_vectors, face = [], []
    for low in range(0, count, BATCH):
      rows = np.minimum(np.arange(low, low + BATCH), count - 1)
      images = np.stack(
        [np.concatenate(lower[r : r + FRAMES], -1) for r in rows]
      )
      out = self._run(
        self._variables, mels[rows], images.astype(np.float32) / 255
      )
      audio_vectors.append(np.asarray(out[0]))
      face.append(np.asarray(out[1]))
    face, audio_vectors = np.concatenate(face), np.concatenate(audio_vectors)
    return face[:count], audio_vectors[:count]

  def offset(self, clip: Clip) -> tuple[int, float]:
    """`find_offset` of a clip."""
    late, confidence = find_offset(*self.vectors(clip))
    return late, round(confidence, 4)  # further digits depend on the machine


def lower_half(data: bytes, row: Float[np.ndarray, '5'], size: int):
  """Lower half of the face crop, uint8 [size/2, size, 3]."""
  import cv2

  rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
  return crop.extract_crop(rgb, crop.crop_from_row(row), size)[size // 2 :]
