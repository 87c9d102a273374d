"""Operation counts of networks and training steps, and peaks of chips.

Counts come from the layer tables; a multiply-add is two operations. Norms,
losses, R1, augmentation and Adam do not count, so that the share of the peak
measures the convolutions.
"""

import jax

from lipsync_jax import audio
from lipsync_jax.models import (
  discriminator,
  generator,
  mouth_discriminator,
  refiner,
  syncnet,
)

# FLOP/s of bfloat16 products: measured, or the maker's figure.
PEAK_FLOPS = {
  'H200': 790e12,  # measured
  'H100 80GB HBM3': 798e12,  # measured
  'A100': 312e12,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
}


def peak_flops() -> float | None:
  """FLOP/s of the present accelerator; None if unknown."""
  kind = jax.devices()[0].device_kind
  return next((v for name, v in PEAK_FLOPS.items() if name in kind), None)


def generator_flops(size: int, width: float) -> int:
  """Operations of the generator for one face, forward."""
  return _connected_flops(generator, size, width)


def refiner_flops(size: int, width: float) -> int:
  """Operations of the refiner for one mouth, forward."""
  return _connected_flops(refiner, size, width)


def refiner_step_flops(size: int, width: float, judged: bool) -> int:
  """Operations of a training step of the refiner for one mouth.

  Args:
    size: pixels of the crop.
    width: multiplier of the channels.
    judged: with a discriminator, which here sees the whole crop.
  """
  total = 3 * refiner_flops(size, width)
  if judged:
    once = layer_flops([mouth_discriminator.layer_specs(width)], size, size)
    # Refined and real mouths for the refiner, both for the discriminator.
    total += (2 + 1 + 3 + 3) * once
  return total


def _connected_flops(network, size: int, width: float) -> int:
  """Operations of a network of a sound and a picture, forward."""
  total = 0

  def run(layer, shape):
    nonlocal total
    total += 2 * layer.macs(*shape)
    return layer.output(*shape)

  stages = network.layer_specs(size, width)
  network.connect(stages, run, lambda parts: parts[0], (80, 16), (size, size))
  return total


def layer_flops(stages, height: int, width: int) -> int:
  """Operations of consecutive layers for one example, forward."""
  total, shape = 0, (height, width)
  for layer in (layer for stage in stages for layer in stage):
    total += 2 * layer.macs(*shape)
    shape = layer.output(*shape)
  return total


def train_window_flops(
  stage: str,
  size: int,
  width: float,
  frames: int = audio.FRAMES_PER_WINDOW,
  expert: float | None = None,
) -> int:
  """Operations of a training step for one window.

  Three times the forward pass for trained networks, twice for networks that
  only pass gradients.

  Args:
    stage: of `stages.STAGES`.
    size: pixels of the crop.
    width: multiplier of the channels.
    frames: generated frames of the window.
    expert: width of the expert SyncNet; None without one.
  """
  if stage == 'syncnet':
    return 3 * sum(syncnet_flops(size, width))
  total = 3 * frames * generator_flops(size, width)
  if expert is not None:
    audio, picture = syncnet_flops(size, expert)
    total += audio + 2 * picture  # the sound needs no gradient
  if stage == 'hq':
    rows = discriminator.layer_specs(size, width)
    once = layer_flops(rows['encoder'] + rows['output'], size // 2, size)
    # For the generator, real faces, generated faces.
    total += (2 + 3 + 3) * frames * once
  return total


def syncnet_flops(size: int, width: float) -> tuple[int, int]:
  """Operations of SyncNet's encoders for one window, forward: audio, face."""
  rows = syncnet.layer_specs(size, width)
  return layer_flops(rows['audio'], 80, 16), layer_flops(
    rows['face'], size // 2, size
  )
