"""Augment: changes of picture and sound that keep them in sync.

All are drawn from fourteen uniform numbers, the dice of a pick, and are the
same for every frame of a window and for its reference. What host and
device share is written once (`xnp` = numpy or jax.numpy).

Alphabet: `k` windows, `t h w` frames and pixels, `m s` mel bins and columns.
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
  """How much of what. Zero leaves a property exactly as it is."""

  flip: float = 0.5  # probability of a mirrored picture
  brightness: float = 0.08  # added, at most, on the scale [0, 1]
  contrast: float = 0.15  # relative change, at most
  saturation: float = 0.2  # relative change, at most
  hue: float = 0.02  # turns, at most
  shift: float = 0.02  # of the crop's sides, at most, each way
  scale: float = 0.04  # relative change of the crop's sides, at most
  roll: float = 3.0  # degrees, at most, each way
  mask_columns: int = 2  # mel columns put to silence, at most
  mask_bins: int = 6  # neighboring mel bins put to silence, at most
  gain: float = 0.0  # dB louder or softer, at most
  warp: float = 0.0  # relative change of the mel bins' numbers, at most
  noise: float = 0.0  # probability of white noise; streaming only
  quiet: float = 40.0  # dB of sound over noise, at most
  loud: float = 15.0  # dB of sound over noise, at least

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


def flip_mask(augment: Augmentation, dice):
  """Whether to mirror.  [..., 14] -> bool [...]"""
  return dice[..., 0] < augment.flip


def _symmetric(dice, i: int, most: float):
  return (2 * dice[..., i] - 1) * most


# The rows of YIQ: brightness, and a plane in which hue is an angle.
_YIQ = np.array(
  [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
_RGB = np.linalg.inv(_YIQ)


def color_transform(augment: Augmentation, dice, xnp: ModuleType = np):
  """The change of color as matrix [..., 3, 3] and offset [..., 1].

  New colors are `matrix @ rgb + offset` on the scale [0, 1].
  """
  contrast = 1 + _symmetric(dice, 2, augment.contrast)
  saturation = 1 + _symmetric(dice, 3, augment.saturation)
  angle = 2 * math.pi * _symmetric(dice, 4, augment.hue)
  c, s = saturation * xnp.cos(angle), saturation * xnp.sin(angle)
  one, zero = xnp.ones_like(c), xnp.zeros_like(c)
  rows = [[one, zero, zero], [zero, c, -s], [zero, s, c]]
  turn = xnp.stack([xnp.stack(row, -1) for row in rows], -2)  # [..., 3, 3]
  rgb, yiq = xnp.asarray(_RGB, dice.dtype), xnp.asarray(_YIQ, dice.dtype)
  matrix = contrast[..., None, None] * xnp.matmul(xnp.matmul(rgb, turn), yiq)
  offset = (1 - contrast) / 2 + _symmetric(dice, 1, augment.brightness)
  return matrix, offset[..., None]


def apply_color(images, matrix, offset, xnp: ModuleType = np):
  """Change the colors of frames.  uint8 [b, ..., 3] -> uint8 [b, ..., 3]"""
  flat = images.reshape(images.shape[0], -1, 3).astype(matrix.dtype)
  changed = xnp.matmul(flat, xnp.swapaxes(matrix, -1, -2))  # [b, pixels, 3]
  changed = changed + 255 * offset[:, None]
  changed = xnp.clip(xnp.rint(changed), 0, 255).astype(np.uint8)
  return changed.reshape(images.shape)


def crop_jitter(augment: Augmentation, dice):
  """Shift right and down, scale of the sides, roll.  [..., 14] -> 4 x [...]

  Shifts are shares of the crop's sides along its own axes, roll is radians.
  """
  shifts = (
    _symmetric(dice, 5, augment.shift),
    _symmetric(dice, 6, augment.shift),
  )
  scale = 1 + _symmetric(dice, 7, augment.scale)
  return *shifts, scale, _symmetric(dice, 8, math.radians(augment.roll))


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


def mask_mel(mels, starts, origins, augment: Augmentation, dice, xnp=np):
  """Put some columns and some bins of mel windows to silence.

  Windows that share an origin lose the same moments of sound.

  Args:
    mels: [..., k, 80, 16].
    starts: int [..., k], first column of each in its clip.
    origins: int [..., k], column from which the masked ones are counted.
    dice: [..., 14].
  """
  width = xnp.floor(dice[..., 9] * (augment.mask_columns + 1))
  left = xnp.floor(dice[..., 10] * (audio.WINDOW_COLUMNS + 1 - width))
  steps = windows.arange_along_last(audio.WINDOW_COLUMNS, starts.ndim + 1)
  at = starts[..., None] - origins[..., None] + steps  # [..., k, 16]
  low, high = left[..., None, None], (left + width)[..., None, None]
  gone = ((at >= low) & (at < high))[..., None, :]  # [..., k, 1, 16]
  # One die gives width and place: its digits beyond the width are the place.
  place = dice[..., 11] * (augment.mask_bins + 1)
  height = xnp.floor(place)
  bottom = xnp.floor((place - height) * (audio.MELS + 1 - height))
  bins = windows.arange_along_last(audio.MELS, bottom.ndim + 1)
  band = (bins >= bottom[..., None]) & (bins < (bottom + height)[..., None])
  gone = gone | band[..., None, :, None]
  return xnp.where(gone, xnp.asarray(audio.SILENCE, mels.dtype), mels)


def perturb_voice(mels, augment: Augmentation, dice, xnp: ModuleType = np):
  """Mel windows as if another had spoken: louder, with a longer throat.

  A throat's length stretches the spectrum (vocal tract length
  perturbation, Jaitly and Hinton 2013), here along the mel bins. Teaches
  a network of few speakers to hear others. Silence stays silence.

  Args:
    mels: [..., k, 80, 16].
    dice: [..., 14].
  """
  if augment.warp:
    stretch = 1 + _symmetric(dice, 12, augment.warp)[..., None]  # [..., 1]
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
  if augment.gain:
    step = -2 * audio.SILENCE / mel.SPAN_DB  # of the scale, a decibel
    louder = step * _symmetric(dice, 13, augment.gain)[..., None, None, None]
    moved = xnp.clip(mels + louder, audio.SILENCE, -audio.SILENCE)
    mels = xnp.where(mels > audio.SILENCE, moved, mels)
  return mels


def noise_snr_db(augment: Augmentation, seed: int) -> float | None:
  """Decibels of sound over noise for a pick; None for no noise."""
  rng = np.random.default_rng([seed, 0])
  if rng.random() >= augment.noise:
    return None
  return float(rng.uniform(augment.loud, augment.quiet))


def noisy_log_mel(
  wave: Int16[np.ndarray, 'n'], low: int, high: int, level: float, seed: int
) -> Float[np.ndarray, '80 s']:
  """Columns `low` to `high` of the log-mel of `wave` with white noise added.

  Only the samples needed are touched. Columns outside the sound are
  silence, as `audio.mel_windows` has them. An infinite `level` gives what
  `audio.log_mel` gives.
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
  part = wave[base : int(at.max()) + 1] / 32768
  rng = np.random.default_rng([seed, 1])
  power = math.sqrt(float(np.square(part).mean())) * 10 ** (-level / 20)
  part = part + power * rng.standard_normal(part.size)
  before = np.where(at > 0, part[np.maximum(at - 1 - base, 0)], 0)
  emphasised = part[at - base] - mel.PREEMPHASIS * before
  out[:, start - low : end - low] = mel.mel_columns(emphasised)
  return out
