"""Training data: TFRecord clips, windows, batches, augmentation.

`clip.ClipDataset` reads a split; `windows` lists its training windows; batches
come from `batches` (streamed) or `device_dataset` (on the device).
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'augmentation': ['Augmentation'],
    'clip': ['Clip', 'ClipDataset', 'write_clips'],
    'device_dataset': ['DeviceDataset'],
    'windows': ['WINDOW_SPECS', 'WindowIndex', 'WindowSpec'],
  },
)
