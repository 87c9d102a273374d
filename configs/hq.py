"""The generator with a quality discriminator (Wav2Lip, section 3.4).

Reproduces the originals' second script (spec 4.2-4.4): weights 0.03 sync,
0.07 adversarial, the rest L1; Adam with b1 0.5 for both networks.

Cost: about 1.5 times that of `wav2lip.py` a window; the authors report
two days on one GPU. Numbers reached: none yet on LRS2.

  python -m lipsync_jax.main --config=configs/hq.py --workdir=DIR \
    --config.data.folder=SHARDS --config.expert=EXPERT/syncnet.safetensors
"""

from configs import wav2lip


def get_config():
  config = wav2lip.get_config().unlock()
  config.stage = 'hq'
  config.optimiser.b1 = 0.5
  return config.lock()
