"""Flops: operations of networks and steps, and what a chip can do.

Counted from the tables of layers, two for a multiply-add. Norms, losses,
R1, augmentation and Adam are not counted, so that a share of the peak is what
the convolutions make of it, whatever the compiler adds.
"""

import jax

from lipsync_jax import audio
from lipsync_jax.models import discriminator, generator, syncnet

# Of bfloat16 products, FLOP/s: as measured, elsewhere as the makers state.
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
  """FLOP/s of the accelerator at hand, None where it is not known."""
  kind = jax.devices()[0].device_kind
  return next((v for name, v in PEAK_FLOPS.items() if name in kind), None)


def generator_flops(size: int, width: float) -> int:
  """Of the generator, one face forward."""
  total = 0

  def run(layer, shape):
    nonlocal total
    total += 2 * layer.macs(*shape)
    return layer.output(*shape)

  stages = generator.layer_specs(size, width)
  generator.connect(stages, run, lambda parts: parts[0], (80, 16), (size, size))
  return total


def layer_flops(stages, height: int, width: int) -> int:
  """Of layers in a row, one example forward."""
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
  """Of a training step, for one window.

  Three times the forward pass where weights learn, twice where only the
  gradient passes through.

  Args:
    stage: of `stages.STAGES`.
    frames: that the generator makes for the window.
    expert: width of the SyncNet that listens, None where none does.
  """
  if stage == 'syncnet':
    return 3 * sum(syncnet_flops(size, width))
  total = 3 * frames * generator_flops(size, width)
  if expert is not None:
    audio, picture = syncnet_flops(size, expert)
    total += audio + 2 * picture  # nothing asks for a gradient of the sound
  if stage == 'hq':
    rows = discriminator.layer_specs(size, width)
    once = layer_flops(rows['encoder'] + rows['output'], size // 2, size)
    total += (2 + 3 + 3) * frames * once  # for the generator, real, made
  return total


def syncnet_flops(size: int, width: float) -> tuple[int, int]:
  """Of SyncNet's towers, one window forward: sound, picture."""
  rows = syncnet.layer_specs(size, width)
  return layer_flops(rows['audio'], 80, 16), layer_flops(
    rows['face'], size // 2, size
  )
