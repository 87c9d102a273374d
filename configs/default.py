"""The generator whose weights come with lipsync_jax.

For a small corpus on one device: resident, half as wide as the published
network. Listening comes first, by the three means of `configs/narrow.py`:
pairs of moments, motion, and the expert's ears. Voices are bent (`warp`), so
that few speakers teach it to hear others. The HQ stage is this config
again with --config.stage=hq, --config.data.frames=5 and --config.init=FILE:
there the expert's sync joins, which teaches teeth and edges. It must end where
real lips are (`sync.until_real`): the weights that come along went on below,
grew stripes, and were mixed with those before HQ (`scripts/mix.py`).

Cost: 2 GFLOP a frame forward at width 0.5; pairs at 9000 faces a second on an
H200, at width 1 too. Numbers reached: see
`lipsync_jax/assets/MODEL_CARD.md`, which names commit and command.

  scripts/default_weights.sh SHARDS DIR
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.seed = 1
  config.net.width = 0.5
  config.lips_weight = 0.5
  config.motion_weight = 100.0
  config.batch = 160  # pairs; windows in the HQ stage, 64 of them
  config.steps = 3000
  config.optimizer.rate = 5e-4
  config.optimizer.warmup_steps = 200
  config.optimizer.decay_steps = 3000
  config.calm = 0.01
  config.sync.weight = 0.1
  config.sync.high = config.sync.low = 10.0  # from the first validation on
  config.sync.ramp_steps = 100
  config.sync.until_real = True
  config.data.frames = 2
  config.data.resident = True
  config.data.edges = True  # padded silence, so that mouths learn to close
  config.augment.gain = 6.0
  config.augment.warp = 0.08
  config.validate_steps = 250
  config.save_steps = 1000
  config.strips = 4
  return config.lock()
