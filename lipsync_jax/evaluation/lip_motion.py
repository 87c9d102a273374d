"""Amplitude of the lips in speech, rest in pauses, and closures.

Lip openings are in canonical units: 1 is the distance of the outer eye corners
(`faces.mesh.lip_opening`).

Where a speech closes the lips, the speaker's own lips tell best. In a sound
without a face PocketSphinx finds p, b and m. It is an optional package with an
English acoustic model. With a transcript its words are aligned; without one
phonemes are recognized, which finds fewer.

Shapes: n frames at 25 frames/s, s sound samples at 16 kHz.
"""

import contextlib
import importlib.util
import pathlib

import numpy as np
from jaxtyping import Bool, Float, Int16

from lipsync_jax import audio
from lipsync_jax.audio import log_mel, noise_gate
from lipsync_jax.evaluation import landmarks
from lipsync_jax.evaluation.cases import Subject
from lipsync_jax.evaluation.clip import FPS, EvalClip, with_audio
from lipsync_jax.evaluation.landmarks import LipReading
from lipsync_jax.faces import mesh
from lipsync_jax.faces.detector import FaceDetector

CLOSURE_REACH = 1  # frames by which two closures of a match may differ
PAUSE_MARGIN = 5  # frames: lips open before a word and close after it
MIN_FRAMES = 10  # of a standard deviation
LABIALS = ('P', 'B', 'M')
RATE = 100  # frames of PocketSphinx a second
MIN_SECONDS = 0.5  # of a sound

Opening = Float[np.ndarray, 'n']
Mask = Bool[np.ndarray, 'n']


def speech_frames(wave: Int16[np.ndarray, 's'], count: int) -> Mask:
  """Whether the sound speaks at each of `count` frames.

  Gaps shorter than 0.25 s, such as those of p and b, are speech
  (`noise_gate.speech_mask`).
  """
  if not count or not wave.any():
    return np.zeros(count, bool)
  on = noise_gate.speech_mask(log_mel(audio.int16_to_float(wave)))
  first = np.floor(np.arange(count) * audio.COLUMNS_PER_SECOND / FPS)
  around = first.astype(np.int64)[:, None] + np.arange(-1, 3)
  return on[np.clip(around, 0, len(on) - 1)].any(1)


def pause_frames(speech: Mask) -> Mask:
  """Frames without speech that are PAUSE_MARGIN away from any."""
  return ~widen(speech, PAUSE_MARGIN)


def widen(mask: Mask, reach: int) -> Mask:
  """The mask, also true within `reach` frames of its true ones."""
  if not mask.size:
    return mask
  padded = np.pad(mask, reach)
  return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).any(1)


def opening_deviation(opening: Opening, frames: Mask) -> float:
  """Standard deviation of the lip opening over some frames; NaN for a few."""
  known = opening[frames & np.isfinite(opening)]
  return float(known.std()) if known.size >= MIN_FRAMES else float('nan')


def amplitude_ratio(generated: float, source: float) -> float:
  """Lip motion relative to the source's; NaN for a source without motion.

  Args:
    generated, source: `opening_deviation` in speech.
  """
  return generated / source if source > 0 else float('nan')


def silence_ratio(opening: Opening, speech: Mask) -> float:
  """Lip motion in pauses relative to that in speech; NaN without a pause."""
  pause = opening_deviation(opening, pause_frames(speech))
  return amplitude_ratio(pause, opening_deviation(opening, speech))


def closure_frames(opening: Opening, speech: Mask) -> Mask:
  """Frames of speech with closed lips."""
  return speech & (opening < mesh.CLOSED_OPENING)  # NaN is never smaller


def closure_scores(found: Mask, expected: Mask) -> tuple[float, float]:
  """Recall and precision of closures, frame by frame.

  A closure counts if there is one of the other kind within CLOSURE_REACH
  frames. NaN where nothing is expected, or nothing found.
  """
  recall = widen(found, CLOSURE_REACH)[expected]
  precision = widen(expected, CLOSURE_REACH)[found]
  return tuple(
    float(share.mean()) if share.size else float('nan')
    for share in (recall, precision)
  )


def closures_of(clip: EvalClip, lips: LipReading) -> Mask:
  """Frames in which a real speaker closes the lips."""
  speech = speech_frames(clip.wave, len(clip))
  return closure_frames(lips.opening, speech)


def subject_closures(
  subject: Subject, detector: FaceDetector, max_frames: int
) -> Mask | None:
  """`closures_of` a subject's own clip; None without its face."""
  try:
    clip = subject.load()
  except ValueError:
    return None
  clip = with_audio(clip, clip.wave[: max_frames * audio.SAMPLES_PER_FRAME])
  return closures_of(clip, landmarks.read_lips(clip, detector))


def labials(subject: Subject, count: int) -> Mask | None:
  """Frames of p, b and m in a subject's own sound; None if unknown.

  A transcript is that of the whole sound; without one only `count` frames are
  searched.
  """
  try:
    wave = subject.load_audio()
  except ValueError:
    return None
  words = read_transcript(subject.path)
  part = wave if words else wave[: count * audio.SAMPLES_PER_FRAME]
  return labial_frames(part, count, words)


def has_phonemes() -> bool:
  """Whether PocketSphinx is installed."""
  return importlib.util.find_spec('pocketsphinx') is not None


def read_transcript(path: str) -> str:
  """The words in the .txt file beside a sound or video; '' without one.

  In LRS2's files the first line is `Text: WORDS`.
  """
  file = pathlib.Path(path).with_suffix('.txt') if path else None
  if file is None or not file.is_file():
    return ''
  lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
  words = (lines or [''])[0].removeprefix('Text:').lower().split()
  plain = (''.join(c for c in w if c.isalpha() or c == "'") for w in words)
  return ' '.join(w for w in plain if w)


def labial_frames(
  wave: Int16[np.ndarray, 's'], count: int, transcript: str = ''
) -> Mask | None:
  """The middle frame of every p, b and m; None if none can be found.

  Args:
    wave: the sound.
    count: frames.
    transcript: of the whole sound, English; '' recognizes phonemes.
  """
  if (
    not has_phonemes()
    or len(wave) < MIN_SECONDS * audio.SAMPLE_RATE
    or not wave.any()
  ):
    return None
  phones = align_words(wave, transcript) if transcript else []
  phones = phones or recognize_phones(wave)
  out = np.zeros(count, bool)
  for name, start, end in phones:
    frame = round((start + end) / 2 * FPS)
    if name in LABIALS and frame < count:
      out[frame] = True
  return out if out.any() else None


def align_words(
  wave: Int16[np.ndarray, 's'], transcript: str
) -> list[tuple[str, float, float]]:
  """(phoneme, start, end) in seconds; [] if the words do not fit."""
  decoder = _decoder(lm=None)
  with contextlib.suppress(RuntimeError):  # unknown words, another text
    decoder.set_align_text(transcript)
    _decode(decoder, wave)
    decoder.set_alignment()
    _decode(decoder, wave)
    return [
      (phone.name, phone.start / RATE, (phone.start + phone.duration) / RATE)
      for word in decoder.get_alignment() or ()
      for phone in word
    ]
  return []


def recognize_phones(
  wave: Int16[np.ndarray, 's'],
) -> list[tuple[str, float, float]]:
  """(phoneme, start, end) in seconds."""
  import pocketsphinx

  model = pocketsphinx.get_model_path('en-us/en-us-phone.lm.bin')
  # Weights and beams of PocketSphinx's documentation for phonemes.
  decoder = _decoder(
    allphone=model, lm=None, dict=None, lw=2.0, beam=1e-20, pbeam=1e-20
  )
  with contextlib.suppress(RuntimeError):
    _decode(decoder, wave)
    return [
      (part.word, part.start_frame / RATE, (part.end_frame + 1) / RATE)
      for part in decoder.seg() or ()
    ]
  return []


def _decoder(**options):
  import pocketsphinx

  return pocketsphinx.Decoder(loglevel='FATAL', **options)


def _decode(decoder, wave: Int16[np.ndarray, 's']) -> None:
  decoder.start_utt()
  decoder.process_raw(wave.astype('<i2').tobytes(), full_utt=True)
  decoder.end_utt()
