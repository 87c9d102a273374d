"""The articulator: the network of the default renderer.

It maps speech to the motion of a face mesh. Shards of a corpus are read into
memory once; two CPU cores train it in a few minutes.

  python -m lipsync_jax.main --config=configs/articulator.py --workdir=DIR \
    --config.data.path=SHARDS

Held-out speakers measure it: correlation, amplitude, closures and lag of the
lip opening. More steps overfit on half an hour of speech; with more speakers,
raise num_train_steps and optimizer.decay_steps together.
"""

from configs import base


def get_config():
  config = base.get_config().unlock()
  config.stage = 'articulator'
  config.batch_size = 48  # windows of 32 frames
  config.num_train_steps = 1500
  config.ema_decay = 0.995
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 300
  config.optimizer.decay_steps = 1500
  config.data.num_workers = 2
  config.validation.every_steps = 250
  config.run.save_every_steps = 500
  config.run.log_every_steps = 50
  return config.lock()
