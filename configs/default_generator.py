"""The generator whose weights are bundled with lipsync_jax.

For a small corpus on one device: device-resident data, half the published
width, and the three measures of `configs/small.py` (pairs of frames, temporal
loss, the expert's audio encoder). Voices are perturbed (augment.vtlp), so that
few speakers cover more voices.

The HQ stage is this config again with --config.stage=hq,
--config.data.frames_per_window=5, --config.batch_size=64 and
--config.init_weights=FILE. There the expert's sync loss joins; it stops at the
value of real lips (sync.stop_below_ground_truth). The bundled weights were
trained beyond it, which produced stripes; interpolation with the weights before
HQ removed them (`python -m lipsync_jax.weights interpolate`).

Cost: 2 GFLOP a frame forward at width 0.5; pairs at 9000 faces a second on an
H200. Results: `lipsync_jax/assets/MODEL_CARD.md`. Commands:
`docs/default_weights.md`.
"""

from configs import base


def get_config():
  config = base.get_config().unlock()
  config.seed = 1
  config.model.width_multiplier = 0.5
  config.loss.mouth_l1 = 0.5
  config.loss.temporal = 100.0
  config.batch_size = 160  # pairs; windows in the HQ stage, 64 of them
  config.num_train_steps = 3000
  config.optimizer.learning_rate = 5e-4
  config.optimizer.warmup_steps = 200
  config.optimizer.decay_steps = 3000
  config.loss.r1_gamma = 0.01
  config.loss.sync = 0.1
  config.sync.high = config.sync.low = 10.0  # from the first validation on
  config.sync.ramp_steps = 100
  config.sync.stop_below_ground_truth = True
  config.data.frames_per_window = 2
  config.data.device_resident = True
  config.data.pad_audio = True  # silence, so that mouths learn to close
  config.augment.gain = 6.0
  config.augment.vtlp = 0.08
  config.validation.every_steps = 250
  config.run.save_every_steps = 1000
  config.run.num_sample_rows = 4
  return config.lock()
