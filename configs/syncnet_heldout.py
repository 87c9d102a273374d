"""The held-out SyncNet, which scores generators and trains none.

A SyncNet used during training overestimates the quality of that generator. The
held-out SyncNet shares with the expert neither the first weights (seed), nor
the layers (width), nor a speaker: train the expert with
--config.data.speaker_fold=0 --config.data.num_speaker_folds=2; this config uses
fold 1 of 2.

Neighboring windows compete too (min_offset=1), since `evaluate` needs offsets
exact to the frame. Lip-opening regression (loss.lip_opening) helps on few
speakers: on 16 speakers, 380 steps without it stayed at chance, and 120 steps
with it did not. On so few speakers begin with --config.data.min_offset=0 and
continue from there with --config.init_weights.

Cost: a seventh of `syncnet.py` a window. Results: see
`lipsync_jax/assets/MODEL_CARD.md`; on LRS2 none yet.

  python -m lipsync_jax.main --config=configs/syncnet_heldout.py \
    --workdir=DIR --config.data.path=SHARDS
"""

from configs import syncnet


def get_config():
  config = syncnet.get_config().unlock()
  config.seed = 1
  config.model.width_multiplier = 0.375
  config.loss.lip_opening = 0.5
  config.data.speaker_fold = 1
  config.data.num_speaker_folds = 2
  config.data.min_offset = 1  # the nearest negative is the next frame
  return config.lock()
