"""Voices: who speaks what, from the request to log-mels, and their mix.

`--audio` is the voice of `--person`; every `--audio-for WHO=FILE` is one
more. Alphabet: `t` mel columns, `c` channels, `n` samples.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax import audio
from lipsync_jax.audio import SAMPLE_RATE, noise_gate, stream_log_mel
from lipsync_jax.common import atomic_file
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.media import audio_reader, decoder
from lipsync_jax.media.types import Video

MIX_RATE = 48_000  # samples/s of a mix
BLOCK = 48_000  # samples mixed at once


@dataclasses.dataclass(frozen=True)
class SpeechTrack:
  """What one person says.

  `origin` is the file time of the sound at which the video begins; None is
  the sound's own start.
  """

  who: str  # as for --person
  sound: audio_reader.AudioStream
  origin: Fraction | None


def probe_speech(wanted: SyncOptions, video: Video) -> list[SpeechTrack]:
  """The voices of a request, their files looked at."""
  pairs = [(wanted.person, wanted.audio)] if wanted.audio else []
  found = []
  for who, path in (*pairs, *wanted.audio_for):
    driver = decoder.probe_audio(path)
    found.append(SpeechTrack(who, driver, clock_origin(driver, video)))
  return found


def clock_origin(
  driver: audio_reader.AudioStream, video: Video
) -> Fraction | None:
  """File time of the sound at which the video begins; None: its own start.

  Only sound out of the face's own file shares the video's clock.
  """
  same = os.path.samefile(driver.path, video.path)
  return video.start if same else None


def speech_mel(
  voice: SpeechTrack, preview: float | None, gated: bool = True
) -> tuple[Float[np.ndarray, '80 t'], Fraction]:
  """The mel of a voice and its length in seconds.

  Args:
    preview: seconds after which to stop.
    gated: take pauses down to silence (`noise_gate.apply_noise_gate`).
  """
  most = None if preview is None else round(preview * SAMPLE_RATE)
  count = 0

  def wave():
    nonlocal count
    blocks = decoder.read_audio(voice.sound, voice.origin)
    for block in audio.resample_blocks(voice.sound.rate, blocks):
      block = block if most is None else block[: most - count]
      count += block.size
      yield block
      if most is not None and count >= most:
        return

  mel = stream_log_mel(wave())
  if gated:
    noise_gate.apply_noise_gate(mel, out=mel)
  return mel, Fraction(count, SAMPLE_RATE)


@contextlib.contextmanager
def output_audio(
  wanted: SyncOptions, video: Video, voices: list[SpeechTrack]
) -> Iterator[tuple[audio_reader.AudioStream, Fraction | None]]:
  """The output's sound and its origin; a mix lasts as long as the block."""
  if wanted.final_audio or len(voices) == 1:
    final = voices[0].sound
    if wanted.final_audio:
      final = decoder.probe_audio(wanted.final_audio)
    yield final, clock_origin(final, video)
    return
  claim = atomic_file.AtomicFile(
    os.path.join(tempfile.gettempdir(), 'mix.flac')
  )
  try:
    os.chmod(claim.part, 0o600)  # others may look into that folder
    write_mix(str(claim.part), voices)
    yield decoder.probe_audio(claim.part), None
  finally:
    claim.drop()


def write_mix(path: str, voices: list[SpeechTrack]) -> None:
  """Write the sum of all voices, 48 kHz stereo, cut at full scale."""
  import av

  with av.open(path, 'w', format='flac') as file:
    stream = file.add_stream('flac', rate=MIX_RATE, layout='stereo')
    count = 0
    for block in mix_blocks(voices):
      samples = audio.float_to_int16(np.clip(block, -1, 1))
      packed = np.ascontiguousarray(samples.T).reshape(1, -1)
      frame = av.AudioFrame.from_ndarray(packed, 's16', 'stereo')
      frame.sample_rate, frame.pts = MIX_RATE, count
      count += samples.shape[1]
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def mix_blocks(
  voices: list[SpeechTrack],
) -> Iterator[Float32[np.ndarray, '2 n']]:
  """Blocks of the sum of all voices, as long as the longest."""
  open_ = [rechunk(stereo_blocks(voice)) for voice in voices]
  while open_:
    blocks, going = [], []
    for source in open_:
      block = next(source, None)
      if block is not None:
        blocks.append(block)
        going.append(source)
    if blocks:
      total = np.zeros((2, max(b.shape[1] for b in blocks)), np.float32)
      for block in blocks:
        total[:, : block.shape[1]] += block
      yield total
    open_ = going


def stereo_blocks(voice: SpeechTrack) -> Iterator[Float32[np.ndarray, '2 n']]:
  """A voice's samples at 48 kHz, two channels."""
  import soxr

  change = soxr.ResampleStream(voice.sound.rate, MIX_RATE, 2, dtype='float32')
  for block in decoder.read_audio(voice.sound, voice.origin):
    # More than two channels have no order that every codec shares.
    pair = block if len(block) == 2 else block.mean(0, keepdims=True)
    pair = np.broadcast_to(pair, (2, pair.shape[1]))
    yield change.resample_chunk(np.ascontiguousarray(pair.T)).T
  yield change.resample_chunk(np.zeros((0, 2), np.float32), last=True).T


def rechunk(
  source: Iterator[Float32[np.ndarray, '2 n']],
) -> Iterator[Float32[np.ndarray, '2 n']]:
  """The same samples in blocks of BLOCK; the last may be shorter."""
  held = np.zeros((2, 0), np.float32)
  for block in source:
    held = np.concatenate([held, block], 1)
    while held.shape[1] >= BLOCK:
      yield held[:, :BLOCK]
      held = held[:, BLOCK:]
  if held.shape[1]:
    yield held
