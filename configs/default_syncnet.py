"""The expert SyncNet that trained the bundled generator.

`configs/syncnet.py` for a small corpus: half the width, device-resident data,
and half of the speakers. The other half trains the held-out SyncNet
(`configs/syncnet_heldout.py`), so that the scorer shares no speaker with the
expert. On 13 speakers the validation loss was least after 500 of 2000 steps,
which took 17 seconds of an H200.

Cost: 0.6 GFLOP a window forward. Result: 64 % of six windows right on unseen
speakers. Commands: `docs/default_weights.md`.
"""

from configs import syncnet


def get_config():
  config = syncnet.get_config().unlock()
  config.seed = 0
  config.model.width_multiplier = 0.5
  config.loss.lip_opening = 0.5
  config.batch_size = 128  # clips of six windows
  config.num_train_steps = 1000
  config.ema_decay = 0.99
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.decay_steps = 1000
  config.data.device_resident = True
  config.data.speaker_fold, config.data.num_speaker_folds = 0, 2
  config.augment.gain = 6.0
  config.augment.vtlp = 0.08
  config.validation.passes = 3
  config.validation.every_steps = 100
  config.run.save_every_steps = 500
  config.run.chance_report_step = 2000
  return config.lock()
