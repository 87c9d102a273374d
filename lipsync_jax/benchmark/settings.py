"""Settings that the JAX and PyTorch training benchmarks share."""

from lipsync_jax import audio

STAGES = ('syncnet', 'generator', 'hq')
WINDOWS_PER_CLIP = 6  # windows of a clip that compete, as in configs/syncnet.py
LEARNING_RATE, B1, GRAD_CLIP, EMA_DECAY = 1e-4, 0.5, 1.0, 0.999
SYNC_WEIGHT, ADVERSARIAL_WEIGHT = 0.03, 0.07  # weights of the losses
FRAMES = audio.FRAMES_PER_WINDOW


def trained_networks(stage: str) -> tuple[str, ...]:
  """Names of the networks that a stage trains."""
  if stage == 'syncnet':
    return ('syncnet',)
  return ('generator', 'discriminator')[: 1 + (stage == 'hq')]
