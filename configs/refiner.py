"""The refiner: repaints the mouth that the mesh renderer warped.

Pairs are made from shards of a corpus once, then trained on:

  python -m lipsync_jax.refinement.prepare SHARDS --out PAIRS
  python -m lipsync_jax.main --config=configs/refiner.py --workdir=DIR \
    --config.data.path=PAIRS

The values are for a GPU. On one, add --config.data.device_resident=True and
--config.refiner.dtype=bfloat16; on a CPU, --config.batch_size=16 and
--config.refiner.width_multiplier=0.25. docs/refiner.md has what was measured.
"""

from configs import base


def get_config():
  config = base.get_config().unlock()
  config.stage = 'refiner'
  config.batch_size = 64  # pairs
  config.num_train_steps = 20_000
  config.ema_decay = 0.998
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 200
  config.optimizer.decay_steps = 20_000
  config.augment.saturation = 0.1
  config.augment.hue = 0.01
  config.data.num_workers = 2
  config.validation.every_steps = 1000
  config.run.save_every_steps = 1000
  config.run.log_every_steps = 50
  config.run.sample_video = False
  return config.lock()
