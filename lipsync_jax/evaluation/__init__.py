"""Evaluation: systems, protocols, metrics and the report.

`runner.run_evaluation` scores all systems on all cases. Every table has the
ground truth and wrong-sync controls beside the systems.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'clip': ['EvalClip'],
    'metrics': ['METRICS', 'Scorers', 'compute_metrics'],
    'runner': ['Evaluation', 'run_evaluation'],
    'systems': ['System'],
  },
)
