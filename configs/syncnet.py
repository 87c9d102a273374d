"""The expert: do these lips speak this sound? (Wav2Lip, section 3.1)

Default: six windows of one clip compete for each other's sound, with a
learned temperature. On a small corpus it left chance after 400 steps and
never stood still at log n, while the published pairs (data.kind=syncnet:
cosine BCE, batch 64, rate 1e-4) stay at ln 2 for up to 150k steps. Curves
of both on LRS2 are not at hand yet.

Cost: 2.4 GFLOP a window forward; the authors took 2-3 days on one GPU.
Numbers reached: none yet on LRS2; at width 0.25 on
half of 93 minutes, 47 % of six after 1500 steps, on speakers never seen
(`lipsync_jax/assets/MODEL_CARD.md`).

  python -m lipsync_jax.main --config=configs/syncnet.py --workdir=DIR \
    --config.data.folder=SHARDS
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.stage = 'syncnet'
  config.batch = 32  # clips of six windows
  config.steps = 100_000
  config.optimizer.rate = 3e-4
  config.augment.mask_columns = 2
  config.augment.mask_bins = 6
  return config.lock()
