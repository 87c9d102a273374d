"""The generator that two CPU cores can teach in an evening.

Its weights come with lipsync_jax (`assets/default.safetensors`). Narrow, and
taught by two moments of a clip whose mouths differ most (`data.frames=2`):
more to learn for the same work. Half of the pictures' loss counts the lips
alone, and how they differ between the two moments counts most
(`motion_weight`). It hears with the audio tower of the expert (`ears`), from
which the opening of a known speaker's lips can be read with a correlation of
0.93 (0.86 from the mel, 0.82 from a tower that a young generator had
changed). Without these three a short run learns to copy the reference and
never listens: 16,000 faces moved the lips by 0.0003 when the sound changed,
with them 5,000 more moved them by 0.013, a third of what real frames differ.

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
  config.motion_weight = 100.0
  config.batch = 8  # pairs
  config.steps = 6000
  config.ema_decay = 0.998
  config.optimiser.rate = 1e-3
  config.optimiser.warmup_steps = 100
  config.optimiser.decay_steps = 6000
  config.data.frames = 2
  config.data.threads = 2
  config.data.edges = True  # padded silence, so that mouths learn to close
  config.validate_steps = 500
  config.save_steps = 500
  config.strips = 8
  return config.lock()
