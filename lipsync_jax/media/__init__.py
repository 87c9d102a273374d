"""Media files: read and write frames and sound by time stamps.

`decoder` reads files in processes with limits, and `VideoWriter` writes them
whole or not at all. Frames stay in the Y, U and V planes of their file; `yuv`
converts and blends them.
"""

from lipsync_jax.common.lazy import lazy_exports

__all__, __getattr__, __dir__ = lazy_exports(
  __name__,
  {
    'audio_reader': ['AudioStream'],
    'container': ['MediaError'],
    'decoder': [
      'DecoderPool',
      'probe_audio',
      'probe_video',
      'read_audio',
      'read_backwards',
      'read_frames',
    ],
    'memory': ['MemoryAudio', 'MemoryVideo', 'memory_audio', 'memory_video'],
    'types': ['Color', 'Frame', 'Video', 'View'],
    'video_writer': ['VideoWriter'],
  },
)
