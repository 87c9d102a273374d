"""All three stages on synthetic data, on two CPU cores.

Draws a few faces whose mouths open with the sound, writes shards of them, and
trains SyncNet, generator and HQ generator, each in a folder of the workdir. For
a look at the machinery and for end-to-end tests; the numbers have no meaning.
Takes three minutes, two of which compile.

  python -m lipsync_jax.main --config=configs/debug.py --workdir=/tmp/debug
"""

from configs import base


def get_config():
  config = base.get_config().unlock()
  config.stage = 'all'
  config.data.path = 'synthetic'  # drawn into the workdir
  config.data.num_workers = 2
  config.data.windows_per_clip = 4
  config.batch_size = 2
  config.num_train_steps = 24
  config.model.width_multiplier = 0.1
  config.model.dtype = 'float32'
  config.ema_decay = 0.9
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 5
  config.sync.ramp_steps = 10
  config.run.fast_compile = True
  config.run.log_every_steps = 4
  config.validation.every_steps = 24
  config.run.save_every_steps = 24
  return config.lock()
