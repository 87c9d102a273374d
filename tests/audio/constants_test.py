"""One definition of every audio constant and of the sign of an offset."""

from fractions import Fraction

import numpy as np
import pytest

from data_prep import av_offset, extract, pack
from lipsync_jax import audio
from lipsync_jax.audio import mel, noise_gate
from lipsync_jax.data import clip, windows
from lipsync_jax.evaluation import clip as eval_clip
from lipsync_jax.evaluation import sync_metrics
from lipsync_jax.weights import safetensors_file


def test_a_window_is_five_frames_in_samples_and_in_columns():
  assert audio.FPS * audio.SAMPLES_PER_FRAME == audio.SAMPLE_RATE
  window = Fraction(audio.FRAMES_PER_WINDOW, audio.FPS)
  assert window == Fraction(audio.WINDOW_COLUMNS, audio.COLUMNS_PER_SECOND)
  assert noise_gate.DB_PER_UNIT == 12.5


def test_other_packages_use_the_same_numbers():
  assert (clip.MELS, clip.HOP) == (audio.MELS, audio.HOP) == (80, 200)
  assert windows.FPS == eval_clip.FPS == extract.RATE == audio.FPS == 25
  per_frame = {
    extract.SAMPLES,
    eval_clip.SAMPLES_PER_FRAME,
    sync_metrics.SAMPLES_PER_FRAME,
    audio.SAMPLES_PER_FRAME,
  }
  assert per_frame == {640}
  assert sync_metrics.FRAMES == av_offset.FRAMES == audio.FRAMES_PER_WINDOW
  assert pack.RATE == audio.SAMPLE_RATE == 16000


def test_weight_files_state_the_constants_of_the_log_mel():
  """`weights` may not import `audio`, so its text is compared here."""
  assert (
    f'{audio.SAMPLE_RATE} Hz, hop {audio.HOP}, window {audio.FFT_SIZE}, '
    f'{audio.MELS} mels {mel.F_MIN:g}-{mel.F_MAX:g} Hz, '
    f'pre-emphasis {mel.PREEMPHASIS:g}, {audio.WINDOW_COLUMNS} columns, '
    f'range {audio.SILENCE:g} to {-audio.SILENCE:g}'
  ) == safetensors_file.MEL_TEXT
  assert safetensors_file.LEAD == audio.CENTERED_LEAD
  assert safetensors_file.LEAD_PUBLISHED == audio.WAV2LIP_TRAINING_LEAD


@pytest.mark.parametrize('late', [-4, 0, 3])
def test_both_offset_searches_agree_but_for_the_published_sign(late):
  """`Clip.offset` is positive, a published score negative, for late sound."""
  vectors = np.random.default_rng(0).normal(size=(90, 16))
  face, sound = vectors[20:70], vectors[20 - late : 70 - late]
  assert av_offset.find_offset(face, sound)[0] == late
  scores = sync_metrics.sync_scores(sync_metrics.distance_table(face, sound))
  assert scores.offset == audio.published_offset(late) == -late
  assert scores.fine == pytest.approx(-late, abs=0.5)
  assert str(audio.published_offset(0.0)) == '0.0'
