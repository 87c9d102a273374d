"""Lip-sync a video: options, pipeline, renderers, compositing.

`pipeline.run` does a whole job; `renderer.MouthRenderer` is the interface of a
method that draws mouths.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'network_renderer': ['NetworkRenderer'],
    'options': ['SyncError', 'SyncOptions'],
    'network_cache': ['NetworkCache'],
    'pipeline': ['run'],
    'renderer': ['MouthRenderer', 'RenderPlan', 'render_frames'],
    'report': ['Progress', 'SyncReport'],
    'session': ['Session'],
  },
)
