"""Cartoon faces that speak: all three stages on two CPU cores, no data.

Draws a few talking heads whose mouths open with the sound, writes shards
of them, trains expert, generator and HQ on these, each in its own folder
of the workdir. For looking at the machinery and for the end-to-end tests;
the numbers mean nothing. Three minutes, of which two compile.

  python -m lipsync_jax.main --config=configs/debug.py --workdir=/tmp/debug
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.stage = 'all'
  config.data.folder = 'cartoons'  # drawn into the workdir
  config.data.threads = 2
  config.data.group = 4
  config.batch = 2
  config.steps = 24
  config.net.width = 0.1
  config.net.dtype = 'float32'
  config.ema_decay = 0.9
  config.optimizer.rate = 2e-3
  config.optimizer.warmup_steps = 5
  config.sync.ramp_steps = 10
  config.quick_compile = True
  config.log_steps = 4
  config.validate_steps = 24
  config.save_steps = 24
  return config.lock()
