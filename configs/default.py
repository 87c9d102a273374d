"""The generator whose weights come with lipsync_jax.

`configs/wav2lip.py` for a small corpus on one device: narrower, resident,
and with a sync weight that suits an expert taught by contrast, whose
cosines lie closer together than those of the published pairs. The HQ stage
is this config again with --config.stage=hq and --config.init=FILE.

Cost: 4.5 GFLOP a window forward at width 0.5. Numbers reached: see
`lipsync_jax/assets/MODEL_CARD.md`, which names commit and command.

  scripts/default_weights.sh SHARDS DIR
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.seed = 1
  config.net.width = 0.5
  config.batch = 64
  config.steps = 40_000
  config.optimiser.rate = 5e-4
  config.optimiser.warmup_steps = 200
  config.optimiser.decay_steps = 40_000
  config.sync.weight = 0.1
  config.sync.high = config.sync.low = 10.0  # from the first validation on
  config.data.resident = True
  config.data.edges = True  # padded silence, so that mouths learn to close
  config.validate_steps = 1000
  config.save_steps = 2000
  config.strips = 4
  return config.lock()
