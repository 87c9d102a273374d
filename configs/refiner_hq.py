"""The refiner with a discriminator, from the weights of configs/refiner.py.

  python -m lipsync_jax.main --config=configs/refiner_hq.py --workdir=DIR \
    --config.data.path=PAIRS \
    --config.init_weights=runs/refiner/refiner.safetensors
"""

from configs import refiner


def get_config():
  config = refiner.get_config().unlock()
  config.stage = 'refiner_hq'
  config.optimizer.learning_rate = 2e-4
  config.optimizer.b1 = 0.0  # usual in adversarial training
  config.optimizer.b2 = 0.99
  return config.lock()
