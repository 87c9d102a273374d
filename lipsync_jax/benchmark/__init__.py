"""Benchmark: the speed tables of the README, measured on this machine.

  python -m lipsync_jax.benchmark generator [--batch N] [--width 1.0]
  python -m lipsync_jax.benchmark sync --face FILE --audio FILE
  python -m lipsync_jax.benchmark train [--batch N] [--width 1.0]
  python -m lipsync_jax.benchmark data SHARDS

Every figure is a ratio within one run: rivals take turns, round by round,
so that whatever else the machine does hits all of them. PyTorch, where it
is installed, runs a twin built from the same table of layers.
"""
