"""The judge: an expert that scores generators and teaches none.

A network that helped to teach a generator flatters it. The judge shares
with the expert of `syncnet.py` neither the first weights (seed), nor the
layers (width), nor a single speaker: train the expert with
--config.data.part=0 --config.data.parts=2, the judge with part 1 of 2.

Neighboring windows compete too (apart=1), since `evaluate` asks the
judge for the offset to the frame; and sound and face are also asked how far
the lips are apart (opening_weight), without which 380 steps on 16 speakers
taught it nothing, and with which 120 did. On so few begin with
--config.data.apart=0, and go on from there with --config.init.

Cost: a seventh of `syncnet.py` a window. Numbers reached: see
`lipsync_jax/assets/MODEL_CARD.md`; none yet on LRS2.

  python -m lipsync_jax.main --config=configs/judge.py --workdir=DIR \
    --config.data.folder=SHARDS
"""

from configs import syncnet


def get_config():
  config = syncnet.get_config().unlock()
  config.seed = 1
  config.net.width = 0.375
  config.opening_weight = 0.5
  config.data.part = 1
  config.data.parts = 2
  config.data.apart = 1  # the nearest wrong window is the next frame
  return config.lock()
