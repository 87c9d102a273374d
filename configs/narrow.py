"""A generator that two CPU cores can teach in an evening.

A quarter as wide as the published one, and taught by two moments of a clip
whose mouths differ most (`data.frames=2`): more to learn for the same work.
Half of the pictures' loss counts the lips alone, and how they differ between
the two moments counts most (`motion_weight`). It hears with the audio tower of
an expert of its own width (`ears`), from which the opening of a known
speaker's lips can be read with a correlation of 0.93 (0.86 from the mel, 0.82
from a tower that a young generator had changed). Without these three a short
run learns to copy the reference and never listens: 16,000 faces moved the lips
by 0.0003 when the sound changed, with them 5,000 more moved them by 0.013, a
third of what real frames differ.

Cost: 0.6 GFLOP a frame forward. Numbers reached after 7300 steps of 16 faces:
by the judge a distance of 1.020 where real lips have 0.983 and somebody else's
words 1.130 (commit 2e7c34c, whose default weights these were).

  python -m lipsync_jax.main --config=configs/syncnet.py --workdir=EXPERT \
    --config.data.folder=SHARDS --config.net.width=0.25 --config.batch=16 \
    --config.net.dtype=float32 --config.opening_weight=0.5 --config.steps=3000
  python -m lipsync_jax.main --config=configs/narrow.py --workdir=DIR \
    --config.data.folder=SHARDS --config.ears=EXPERT/syncnet.safetensors
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.seed = 1
  config.net.width = 0.25
  config.net.dtype = 'float32'
  config.lips_weight = 0.5
  config.motion_weight = 100.0
  config.batch = 8  # pairs
  config.steps = 6000
  config.ema_decay = 0.998
  config.optimizer.rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.decay_steps = 6000
  config.data.frames = 2
  config.data.threads = 2
  config.data.edges = True  # padded silence, so that mouths learn to close
  config.validate_steps = 500
  config.save_steps = 500
  config.strips = 8
  return config.lock()
