"""lipsync_jax: lip-sync any face to any speech. Start at audio.py."""

__version__ = '0.1.0'
