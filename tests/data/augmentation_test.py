"""augment.py: identity at zero, what changes and what must not."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_jax import audio
from lipsync_jax.data import augmentation
from lipsync_jax.faces.crop import (
  Crop,
  crop_corners,
  crop_matrix,
  transform_points,
)
from tests.helpers import synthetic_speech

NOTHING = augmentation.Augmentation(**dict.fromkeys(
  [f for f in augmentation.Augmentation.__dataclass_fields__], 0
))  # fmt: skip
DEFAULT = augmentation.Augmentation()
dice = st.integers(0, 2**32).map(
  lambda seed: np.random.default_rng(seed).random(14, np.float32)
)


@settings(max_examples=30, deadline=None)
@given(dice)
def test_zero_is_identity(dice):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 5, 8, 8, 3)).astype(np.uint8)
  matrix, offset = augmentation.color_transform(NOTHING, dice)
  same = augmentation.apply_color(images, matrix[None], offset[None])
  np.testing.assert_array_equal(same, images)
  crop = Crop(30, 40, 20, 25, 0.2)
  assert (
    augmentation.jitter_crop(crop, *augmentation.crop_jitter(NOTHING, dice))
    == crop
  )
  mels = rng.normal(size=(3, 80, 16)).astype(np.float32)
  starts = np.array([0, 3, 6])
  np.testing.assert_array_equal(
    augmentation.mask_mel(mels, starts, starts, NOTHING, dice), mels
  )
  np.testing.assert_array_equal(
    augmentation.perturb_voice(mels, NOTHING, dice), mels
  )
  assert not augmentation.flip_mask(NOTHING, dice)
  assert not NOTHING.colors and not NOTHING.moves
  assert augmentation.noise_snr_db(NOTHING, 5) is None
  assert NOTHING.margin(96) == 0


def test_hue_turns_hue():
  """Oracle: the standard library's YIQ."""
  change = augmentation.Augmentation(0, 0, 0, 0, hue=0.5)
  dice = np.full(14, 0.75, np.float32)  # a quarter turn
  matrix, offset = augmentation.color_transform(change, dice)
  rgb = np.array([0.6, 0.45, 0.4])
  y, i, q = colorsys.rgb_to_yiq(*rgb)
  y2, i2, q2 = colorsys.rgb_to_yiq(*(matrix @ rgb + offset))
  # colorsys's matrix is rounded otherwise than ours, to 1 %.
  np.testing.assert_allclose([y2, i2, q2], [y, -q, i], atol=0.01)


@settings(max_examples=30, deadline=None)
@given(dice)
def test_colors_stay_close_and_gray_stays_gray(dice):
  gray = np.full((1, 4, 4, 3), 128, np.uint8)
  matrix, offset = augmentation.color_transform(DEFAULT, dice)
  out = augmentation.apply_color(gray, matrix[None], offset[None])
  # The usual YIQ matrices are rounded to three places: one level of tint.
  assert np.ptp(out.astype(int), axis=-1).max() <= 1
  assert abs(int(out[0, 0, 0, 0]) - 128) <= 0.09 * 255


@settings(max_examples=30, deadline=None)
@given(dice)
def test_movement_stays_within_its_margin(dice):
  change = augmentation.Augmentation(shift=0.05, scale=0.1, roll=6)
  crop = Crop(50, 50, 40, 48, 0.3)
  after = augmentation.jitter_crop(
    crop, *augmentation.crop_jitter(change, dice)
  )
  inside = transform_points(crop_matrix(crop, 96), crop_corners(after))
  margin = change.margin(96)
  assert inside.min() >= -margin and inside.max() <= 96 + margin


@settings(max_examples=60, deadline=None)
@given(dice)
def test_masks_hide_the_same_moments(dice):
  change = augmentation.Augmentation(time_mask=5, frequency_mask=10)
  clock = np.arange(100.0, 160.0)  # a column's value is its time
  starts = np.array([3, 6, 9, 12, 16, 9])
  mels = np.stack([np.tile(clock[s : s + 16], (80, 1)) for s in starts])
  origins = np.full(6, 9)
  out = augmentation.mask_mel(mels, starts, origins, change, dice)
  gone = out == audio.SILENCE
  columns = gone.all(1)  # [6, 16]
  bins = gone.all(2)
  assert (bins == bins[0]).all() and bins[0].sum() <= 10
  hidden = [{*mels[k, 0, columns[k]]} for k in range(6)]
  whole = set().union(*hidden)
  assert len(whole) == int(dice[9] * 6)
  assert whole <= {*range(109, 125)}  # of the window at the origin
  for k in range(6):
    assert hidden[k] == whole & {*mels[k, 0]}
  np.testing.assert_array_equal(out[~gone], mels[~gone])
  # and the same in jax, for a batch
  twice = augmentation.mask_mel(
    jnp.asarray(mels)[None], starts[None], origins[None], change,
    jnp.asarray(dice)[None], jnp,
  )  # fmt: skip
  np.testing.assert_array_equal(twice[0], out.astype(np.float32))


@pytest.mark.parametrize('low', [-7, 0, 5, 40, 48, 70])
def test_noise_free_noise_is_the_stored_mel(low):
  """Computed from the samples needed, it equals the whole clip's mel."""
  clip = synthetic_speech.clip('ann/1', 20)
  got = augmentation.noisy_log_mel(clip.wave, low, low + 29, np.inf, 1)
  want = audio.mel_windows(clip.mel, np.array([low, low + 13]))
  np.testing.assert_allclose(got[:, :16], want[0], atol=2e-6)
  np.testing.assert_allclose(got[:, 13:], want[1], atol=2e-6)


def test_noise_has_its_level():
  wave = (8000 * np.sin(np.arange(16000) / 5)).astype(np.int16)
  clean = audio.log_mel(wave / np.float32(32768))[:, 20:40]
  loud = augmentation.noisy_log_mel(wave, 20, 40, 0.0, 1)
  soft = augmentation.noisy_log_mel(wave, 20, 40, 40.0, 1)
  quiet = clean < -1  # bins without the tone
  gain = (loud[quiet] - soft[quiet]).mean() / 8 * 100  # decibels
  assert 30 < gain < 41
  again = augmentation.noisy_log_mel(wave, 20, 40, 0.0, 1)
  np.testing.assert_array_equal(loud, again)
  levels = {
    augmentation.noise_snr_db(augmentation.Augmentation(noise=1), s)
    for s in range(9)
  }
  assert len(levels) == 9 and all(15 <= v <= 40 for v in levels)


def test_gain_is_the_gain_of_the_sound():
  """A louder wave's mel is the mel made louder; silence stays silence."""
  rng = np.random.default_rng(0)
  wave = 0.05 * rng.standard_normal(8000).astype(np.float32)
  mels = audio.log_mel(wave)[None, :, 10:26]
  change = dataclasses.replace(NOTHING, gain=6.0)
  dice = np.full(14, 0.75, np.float32)  # 3 dB
  louder = audio.log_mel(wave * 10 ** (3 / 20))[None, :, 10:26]
  np.testing.assert_allclose(
    augmentation.perturb_voice(mels, change, dice), louder, atol=1e-3
  )
  silent = np.full((1, 80, 16), audio.SILENCE, np.float32)
  np.testing.assert_array_equal(
    augmentation.perturb_voice(silent, change, dice), silent
  )


@pytest.mark.parametrize('die, bin', [(0.0, 44), (0.5, 40), (0.75, 38)])
def test_warp_moves_a_tone(die, bin):
  """A throat of another length: bin 40 is heard at 40 / (1 ± 10 %)."""
  mels = np.full((1, 80, 16), -2, np.float32)
  mels[:, 40] = 2
  dice = np.full(14, die, np.float32)
  change = dataclasses.replace(NOTHING, vtlp=0.1)
  out = augmentation.perturb_voice(mels, change, dice)
  assert (out[0].argmax(0) == bin).all() and out.max() <= 2


def test_voices_are_the_same_on_host_and_device():
  rng = np.random.default_rng(0)
  mels = rng.uniform(-4, 4, (4, 3, 80, 16)).astype(np.float32)
  dice = rng.random((4, 14), np.float32)
  change = augmentation.Augmentation(gain=6, vtlp=0.1)
  host = np.stack(
    [
      augmentation.perturb_voice(m, change, d)
      for m, d in zip(mels, dice, strict=True)
    ]
  )
  run = jax.jit(lambda m, d: augmentation.perturb_voice(m, change, d, jnp))
  np.testing.assert_allclose(host, run(mels, dice), atol=1e-5)
  assert host.dtype == np.float32 and np.abs(host - mels).max() > 0.1


def test_host_and_device_agree():
  rng = np.random.default_rng(0)
  dice = rng.random((4, 14), np.float32)
  images = rng.integers(0, 256, (4, 2, 6, 6, 3)).astype(np.uint8)
  host = augmentation.apply_color(
    images, *augmentation.color_transform(DEFAULT, dice)
  )
  run = jax.jit(
    lambda i, d: augmentation.apply_color(
      i, *augmentation.color_transform(DEFAULT, d, jnp), jnp
    )
  )
  difference = np.abs(host.astype(int) - np.asarray(run(images, dice)))
  assert difference.max() <= 1  # rounding
