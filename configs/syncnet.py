"""The expert SyncNet (Wav2Lip, section 3.1).

Default: six windows of one clip compete for each other's sound, with a
learned temperature. On a small corpus this loss left chance after 400 steps.
The published pairs (data.kind=syncnet: cosine BCE, batch 64, rate 1e-4) stay at
ln 2 for up to 150,000 steps. Curves of both on LRS2 do not exist yet.

Cost: 2.4 GFLOP a window forward; the authors took 2-3 days on one GPU.
Results on LRS2: none yet. At width 0.25 on half of 93 minutes: 47 % of six
windows right after 1500 steps, on unseen speakers
(`lipsync_jax/assets/MODEL_CARD.md`).

  python -m lipsync_jax.main --config=configs/syncnet.py --workdir=DIR \
    --config.data.path=SHARDS
"""

from configs import base


def get_config():
  config = base.get_config().unlock()
  config.stage = 'syncnet'
  config.batch_size = 32  # clips of six windows
  config.num_train_steps = 100_000
  config.optimizer.learning_rate = 3e-4
  config.augment.time_mask = 2
  config.augment.frequency_mask = 6
  return config.lock()
