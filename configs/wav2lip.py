"""The generator without a discriminator (Wav2Lip, section 3.4).

Reproduces the loss and optimizer of the original's first script, with the
paper's batch of 80 windows and sync weight of 0.03. Differs from Wav2Lip:
bfloat16, warm-up, gradient clipping, an averaged generator, reference windows
that share no frame with the target, and a sync weight that follows the
validation loss instead of switching on at 0.75.

Cost: 124 GFLOP a window for training; 18 steps or 7,270 faces a second on one
H200 (`python -m lipsync_jax.benchmark train`), about four hours in all. The
authors report less than a day on one GPU. Results on LRS2: none yet.

  python -m lipsync_jax.main --config=configs/wav2lip.py --workdir=DIR \
    --config.data.path=SHARDS --config.syncnet_weights=SYNCNET.safetensors
"""

from configs import base


def get_config():
  return base.get_config()
