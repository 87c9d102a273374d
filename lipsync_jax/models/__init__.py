"""Networks as tables of layers, and the runtimes that execute them.

Generator, SyncNet, quality discriminator and SyncNet v2. The layer tables
feed the Flax modules, the folded XLA and OpenVINO programs, the names in
published files and the operation counts.
"""

from lipsync_jax.models.registry import (
  NETWORKS,
  all_layers,
  build_model,
  dummy_inputs,
  init_variables,
)

__all__ = [
  'NETWORKS',
  'all_layers',
  'build_model',
  'dummy_inputs',
  'init_variables',
]
