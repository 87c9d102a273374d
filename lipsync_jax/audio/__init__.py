"""Sound: log-mel, MFCC, resampling, and the alignment of sound and frames."""

from lipsync_jax.audio.alignment import (
  CENTERED_LEAD,
  FPS,
  FRAMES_PER_WINDOW,
  SAMPLES_PER_FRAME,
  WAV2LIP_INFERENCE_LEAD,
  WAV2LIP_TRAINING_LEAD,
  WINDOW_COLUMNS,
  frame_columns,
  mel_windows,
  wav2lip_starts,
  window_starts,
)
from lipsync_jax.audio.mel import (
  COLUMNS_PER_SECOND,
  FFT_SIZE,
  HOP,
  MELS,
  SAMPLE_RATE,
  SILENCE,
  AudioError,
  log_mel,
  stream_log_mel,
)
from lipsync_jax.audio.mfcc import mfcc
from lipsync_jax.audio.resampling import resample_blocks, to_mono

__all__ = [
  'CENTERED_LEAD',
  'COLUMNS_PER_SECOND',
  'FFT_SIZE',
  'FPS',
  'FRAMES_PER_WINDOW',
  'HOP',
  'MELS',
  'SAMPLES_PER_FRAME',
  'SAMPLE_RATE',
  'SILENCE',
  'WAV2LIP_INFERENCE_LEAD',
  'WAV2LIP_TRAINING_LEAD',
  'WINDOW_COLUMNS',
  'AudioError',
  'frame_columns',
  'log_mel',
  'mel_windows',
  'mfcc',
  'resample_blocks',
  'stream_log_mel',
  'to_mono',
  'wav2lip_starts',
  'window_starts',
]
