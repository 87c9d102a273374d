"""Training: stages, losses, steps, the loop, validation, checkpoints.

`train.train_and_evaluate(config, workdir)` runs what a config describes.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'checkpoint': ['CheckpointManager'],
    'objective': ['LossTerm', 'LossWeights'],
    'stages': ['NetworkFactory', 'Stage', 'build_stage'],
    'state': ['TrainState'],
    'train': ['Trainer', 'train_and_evaluate'],
  },
)
