"""Sound: log-mel and MFCC features, resampling, and alignment with frames.

Waveforms are mono at 16 kHz. `alignment` owns the frame rate of training
clips and the lead of a mel window over its frame; `mel` owns the constants
of the log-mel; `pcm` owns the scales of 16-bit samples. The submodule
`noise_gate` replaces pauses with digital silence.
"""

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
  published_offset,
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
from lipsync_jax.audio.pcm import float_to_int16, int16_to_float
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
  'float_to_int16',
  'frame_columns',
  'int16_to_float',
  'log_mel',
  'mel_windows',
  'mfcc',
  'published_offset',
  'resample_blocks',
  'stream_log_mel',
  'to_mono',
  'wav2lip_starts',
  'window_starts',
]
