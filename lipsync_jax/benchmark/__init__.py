"""Benchmarks of the generator, the command, training steps and data.

  python -m lipsync_jax.benchmark generator [--batch N] [--width 1.0]
  python -m lipsync_jax.benchmark sync --face FILE --audio FILE
  python -m lipsync_jax.benchmark train [--batch N] [--width 1.0]
  python -m lipsync_jax.benchmark data SHARDS

Figures are ratios within one run. Candidates alternate, round by round, so that
other load affects all of them. If PyTorch is installed, its reference is built
from the same layer tables.
"""
