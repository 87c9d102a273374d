"""The generator with a quality discriminator (Wav2Lip, section 3.4).

Reproduces the originals' second script (spec 4.2-4.4): weights 0.03 sync,
0.07 adversarial, the rest L1; Adam with b1 0.5 for both networks.

Cost: 1.8 times the operations of `wav2lip.py`, 1.3 times its time: 13.6 steps
or 5,430 faces a second on one H200, so some five hours; the authors report two
days on one GPU. Numbers reached: none yet on LRS2.

  python -m lipsync_jax.main --config=configs/hq.py --workdir=DIR \
    --config.data.folder=SHARDS --config.expert=EXPERT/syncnet.safetensors
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.stage = 'hq'
  config.optimizer.b1 = 0.5
  return config.lock()
