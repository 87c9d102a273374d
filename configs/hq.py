"""The generator with a quality discriminator (Wav2Lip, section 3.4).

Reproduces the original's second script (spec 4.2-4.4): weights 0.03 sync,
0.07 adversarial, the rest L1; Adam with b1 0.5 for both networks.

Cost: 1.8 times the operations of `wav2lip.py`, 1.3 times its time: 13.6 steps
or 5,430 faces a second on one H200, about five hours. The authors report two
days on one GPU. Results on LRS2: none yet.

  python -m lipsync_jax.main --config=configs/hq.py --workdir=DIR \
    --config.data.path=SHARDS --config.syncnet_weights=SYNCNET.safetensors
"""

from configs import base


def get_config():
  config = base.get_config().unlock()
  config.stage = 'hq'
  config.optimizer.b1 = 0.5
  return config.lock()
