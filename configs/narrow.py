"""The generator that two CPU cores can teach in an evening.

Its weights come with lipsync_jax (`assets/default.safetensors`). Narrow, and
taught by the two ends of a window (`data.frames=2`) without an expert: more
moments for the same work. Half of the pictures' loss counts the lips alone,
and how they move between the two counts most (`motion_weight`): without that
a short run learns to copy the reference and never listens. It begins with
the ears of the expert (`ears`), who knows which sounds look alike.

Cost: 0.6 GFLOP a frame forward. Numbers reached: see
`lipsync_jax/assets/MODEL_CARD.md`, which names commit and command.

  python -m lipsync_jax.main --config=configs/narrow.py --workdir=DIR \
    --config.data.folder=SHARDS
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.seed = 1
  config.ears = 'lipsync_jax/assets/expert.safetensors'
  config.net.width = 0.25
  config.net.dtype = 'float32'
  config.lips_weight = 0.5
  config.motion_weight = 20.0
  config.batch = 8  # pairs
  config.steps = 6000
  config.ema_decay = 0.998
  config.optimiser.rate = 1e-3
  config.optimiser.warmup_steps = 100
  config.optimiser.decay_steps = 6000
  config.data.frames = 2
  config.data.order = 'window'
  config.data.threads = 2
  config.data.edges = True  # padded silence, so that mouths learn to close
  config.validate_steps = 500
  config.save_steps = 500
  config.strips = 8
  return config.lock()
