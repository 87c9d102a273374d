"""Augmentation of pictures and sound that keeps them in sync.

Every change is a function of the fourteen uniform numbers of a window sample,
and the same for all frames of a window and for its reference. Host and device
share one implementation (`xnp` is numpy or jax.numpy).

Shapes: k windows, t frames, h w pixels, m mel bins, s mel columns.
"""

import dataclasses
import math
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int16

from lipsync_jax import audio
from lipsync_jax.audio import mel
from lipsync_jax.data import windows
from lipsync_jax.faces.crop import Crop


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Strength of each change. Zero leaves a property exactly as it is."""

  flip: float = 0.5  # probability of a mirrored picture
  brightness: float = 0.08  # added, at most, on the scale [0, 1]
  contrast: float = 0.15  # relative change, at most
  saturation: float = 0.2  # relative change, at most
  hue: float = 0.02  # turns, at most
  shift: float = 0.02  # of the crop's sides, at most, each way
  scale: float = 0.04  # relative change of the crop's sides, at most
  roll: float = 3.0  # degrees, at most, each way
  time_mask: int = 2  # mel columns set to silence, at most
  frequency_mask: int = 6  # neighboring mel bins set to silence, at most
  gain: float = 0.0  # dB louder or softer, at most
  vtlp: float = 0.0  # relative stretch of the mel axis, at most
  noise: float = 0.0  # probability of white noise; streaming only
  max_snr_db: float = 40.0  # sound over noise
  min_snr_db: float = 15.0  # sound over noise

  @property
  def colors(self) -> bool:
    """Whether pixel values change."""
    parts = self.brightness, self.contrast, self.saturation, self.hue
    return any(parts)

  @property
  def moves(self) -> bool:
    """Whether the crop moves."""
    return any((self.shift, self.scale, self.roll))

  def margin(self, size: int) -> int:
    """Pixels round a crop of side `size` that its movement can reach."""
    # 0.7: half the side, times up to 1.4 for a crop that is not square.
    turn = 0.7 * math.sin(math.radians(self.roll))
    reach = self.shift + self.scale / 2 + turn
    return math.ceil(size * reach) + 1 if self.moves else 0


def flip_mask(change: Augmentation, uniforms):
  """Whether to mirror.  [..., 14] -> bool [...]"""
  return uniforms[..., 0] < change.flip


def _symmetric(uniforms, i: int, bound: float):
  return (2 * uniforms[..., i] - 1) * bound


# The rows of YIQ: brightness, and a plane in which hue is an angle.
_YIQ = np.array(
  [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
_RGB = np.linalg.inv(_YIQ)


def color_transform(change: Augmentation, uniforms, xnp: ModuleType = np):
  """The change of color as matrix [..., 3, 3] and offset [..., 1].

  New colors are `matrix @ rgb + offset` on the scale [0, 1].
  """
  contrast = 1 + _symmetric(uniforms, 2, change.contrast)
  saturation = 1 + _symmetric(uniforms, 3, change.saturation)
  angle = 2 * math.pi * _symmetric(uniforms, 4, change.hue)
  c, s = saturation * xnp.cos(angle), saturation * xnp.sin(angle)
  one, zero = xnp.ones_like(c), xnp.zeros_like(c)
  rows = [[one, zero, zero], [zero, c, -s], [zero, s, c]]
  turn = xnp.stack([xnp.stack(row, -1) for row in rows], -2)  # [..., 3, 3]
  rgb, yiq = (
    xnp.asarray(_RGB, uniforms.dtype),
    xnp.asarray(_YIQ, uniforms.dtype),
  )
  matrix = contrast[..., None, None] * xnp.matmul(xnp.matmul(rgb, turn), yiq)
  offset = (1 - contrast) / 2 + _symmetric(uniforms, 1, change.brightness)
  return matrix, offset[..., None]


def apply_color(images, matrix, offset, xnp: ModuleType = np):
  """Change the colors of frames.  uint8 [b, ..., 3] -> uint8 [b, ..., 3]"""
  flat = images.reshape(images.shape[0], -1, 3).astype(matrix.dtype)
  changed = xnp.matmul(flat, xnp.swapaxes(matrix, -1, -2))  # [b, pixels, 3]
  changed = changed + 255 * offset[:, None]
  changed = xnp.clip(xnp.rint(changed), 0, 255).astype(np.uint8)
  return changed.reshape(images.shape)


def crop_jitter(change: Augmentation, uniforms):
  """Shift right and down, scale of the sides, roll.  [..., 14] -> 4 x [...]

  Shifts are shares of the crop's sides along its own axes, roll is radians.
  """
  shifts = (
    _symmetric(uniforms, 5, change.shift),
    _symmetric(uniforms, 6, change.shift),
  )
  scale = 1 + _symmetric(uniforms, 7, change.scale)
  return *shifts, scale, _symmetric(uniforms, 8, math.radians(change.roll))


def jitter_crop(crop: Crop, dx, dy, scale, roll) -> Crop:
  """The crop under a `crop_jitter`."""
  c, s = math.cos(crop.roll), math.sin(crop.roll)
  x, y = float(dx) * crop.w, float(dy) * crop.h
  return Crop(
    crop.cx + c * x - s * y,
    crop.cy + s * x + c * y,
    crop.w * float(scale),
    crop.h * float(scale),
    crop.roll + float(roll),
  )


def mask_mel(mels, starts, origins, change: Augmentation, uniforms, xnp=np):
  """Set some columns and some bins of mel windows to silence (SpecAugment).

  Windows that share an origin lose the same moments of sound.

  Args:
    mels: [..., k, 80, 16].
    starts: int [..., k], first column of each in its clip.
    origins: int [..., k], column from which the masked ones are counted.
    uniforms: [..., 14].
  """
  width = xnp.floor(uniforms[..., 9] * (change.time_mask + 1))
  left = xnp.floor(uniforms[..., 10] * (audio.WINDOW_COLUMNS + 1 - width))
  steps = windows.arange_along_last(audio.WINDOW_COLUMNS, starts.ndim + 1)
  at = starts[..., None] - origins[..., None] + steps  # [..., k, 16]
  low, high = left[..., None, None], (left + width)[..., None, None]
  gone = ((at >= low) & (at < high))[..., None, :]  # [..., k, 1, 16]
  # One number gives height and place: its fraction beyond the height.
  place = uniforms[..., 11] * (change.frequency_mask + 1)
  height = xnp.floor(place)
  bottom = xnp.floor((place - height) * (audio.MELS + 1 - height))
  bins = windows.arange_along_last(audio.MELS, bottom.ndim + 1)
  band = (bins >= bottom[..., None]) & (bins < (bottom + height)[..., None])
  gone = gone | band[..., None, :, None]
  return xnp.where(gone, xnp.asarray(audio.SILENCE, mels.dtype), mels)


def perturb_voice(mels, change: Augmentation, uniforms, xnp: ModuleType = np):
  """Change the loudness of mel windows and the length of the vocal tract.

  Vocal tract length perturbation (Jaitly and Hinton 2013) stretches the
  spectrum, here along the mel bins. Few training speakers then cover more
  voices. Silence stays silence.

  Args:
    mels: [..., k, 80, 16].
    uniforms: [..., 14].
  """
  if change.vtlp:
    stretch = 1 + _symmetric(uniforms, 12, change.vtlp)[..., None]  # [..., 1]
    bins = windows.arange_along_last(audio.MELS, stretch.ndim).astype(
      np.float32
    )
    at = xnp.clip(bins * stretch, 0, audio.MELS - 1)  # [..., 80]
    low = xnp.floor(at)
    part = (at - low)[..., None, :, None]
    low = low.astype(np.int32)[..., None, :, None]
    high = xnp.minimum(low + 1, audio.MELS - 1)
    below, above = (
      xnp.take_along_axis(mels, where, axis=-2) for where in (low, high)
    )
    mels = below + part * (above - below)
  if change.gain:
    step = -2 * audio.SILENCE / mel.SPAN_DB  # of the scale, a decibel
    louder = step * _symmetric(uniforms, 13, change.gain)[..., None, None, None]
    moved = xnp.clip(mels + louder, audio.SILENCE, -audio.SILENCE)
    mels = xnp.where(mels > audio.SILENCE, moved, mels)
  return mels


def noise_snr_db(change: Augmentation, seed: int) -> float | None:
  """Decibels of sound over noise for a sample; None for no noise."""
  rng = np.random.default_rng([seed, 0])
  if rng.random() >= change.noise:
    return None
  return float(rng.uniform(change.min_snr_db, change.max_snr_db))


def noisy_log_mel(
  wave: Int16[np.ndarray, 'n'], low: int, high: int, level: float, seed: int
) -> Float[np.ndarray, '80 s']:
  """Columns `low` to `high` of the log-mel of `wave` with white noise added.

  Reads only the samples that these columns need. Columns outside the sound
  are silence, as in `audio.mel_windows`. An infinite `level` gives the columns
  of `audio.log_mel`.

  Args:
    wave: 16 kHz.
    level: dB of sound over noise.
    seed: of the noise.
  """
  total = 1 + wave.size // audio.HOP
  out = np.full((audio.MELS, high - low), audio.SILENCE, np.float32)
  start, end = max(low, 0), min(high, total)
  if start >= end or wave.size <= audio.FFT_SIZE // 2:
    return out
  first = audio.HOP * start - audio.FFT_SIZE // 2
  at = np.arange(first, audio.HOP * (end - 1) + audio.FFT_SIZE // 2)
  at = np.abs(at)  # reflected at the start
  at = np.where(at >= wave.size, 2 * (wave.size - 1) - at, at)  # and end
  base = max(int(at.min()) - 1, 0)
  part = audio.int16_to_float(wave[base : int(at.max()) + 1], np.float64)
  rng = np.random.default_rng([seed, 1])
  power = math.sqrt(float(np.square(part).mean())) * 10 ** (-level / 20)
  part = part + power * rng.standard_normal(part.size)
  before = np.where(at > 0, part[np.maximum(at - 1 - base, 0)], 0)
  emphasized = part[at - base] - mel.PREEMPHASIS * before
  out[:, start - low : end - low] = mel.mel_columns(emphasized)
  return out
