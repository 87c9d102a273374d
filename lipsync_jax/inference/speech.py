"""Speech tracks: who speaks which file, their log-mels, and their mix.

`--audio` is the speech of `--person`; every `--audio-for WHO=FILE` adds a
speaker.

Shapes: t mel columns, c channels, n samples.
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
  """The speech of one person."""

  who: str  # as for --person
  sound: audio_reader.AudioStream
  origin: Fraction | None  # file time at which the video begins; None: start


def probe_speech(options: SyncOptions, video: Video) -> list[SpeechTrack]:
  """The speech tracks of a job; opens every file."""
  pairs = [(options.person, options.audio)] if options.audio else []
  tracks = []
  for who, path in (*pairs, *options.audio_for):
    sound = decoder.probe_audio(path)
    tracks.append(SpeechTrack(who, sound, clock_origin(sound, video)))
  return tracks


def clock_origin(
  sound: audio_reader.AudioStream, video: Video
) -> Fraction | None:
  """File time of the sound at which the video begins; None: its own start.

  Only a sound in the video's file shares the video's clock.
  """
  both = sound.path and video.path  # '' is in memory
  same = both and os.path.samefile(sound.path, video.path)
  return video.start if same else None


def speech_mel(
  track: SpeechTrack, preview: float | None, gated: bool = True
) -> tuple[Float[np.ndarray, '80 t'], Fraction]:
  """The log-mel of a track and its length in seconds.

  Args:
    track: opened speech.
    preview: seconds after which to stop; None reads everything.
    gated: replace pauses by silence (`noise_gate.apply_noise_gate`).
  """
  limit = None if preview is None else round(preview * SAMPLE_RATE)
  count = 0

  def wave():
    nonlocal count
    blocks = decoder.read_audio(track.sound, track.origin)
    for block in audio.resample_blocks(track.sound.rate, blocks):
      block = block if limit is None else block[: limit - count]
      count += block.size
      yield block
      if limit is not None and count >= limit:
        return

  mel = stream_log_mel(wave())
  if gated:
    noise_gate.apply_noise_gate(mel, out=mel)
  return mel, Fraction(count, SAMPLE_RATE)


@contextlib.contextmanager
def output_audio(
  options: SyncOptions, video: Video, tracks: list[SpeechTrack]
) -> Iterator[tuple[audio_reader.AudioStream, Fraction | None]]:
  """The output's sound and its origin; a mix is deleted after the block."""
  if options.final_audio or len(tracks) == 1:
    final = tracks[0].sound
    if options.final_audio:
      final = decoder.probe_audio(options.final_audio)
    yield final, clock_origin(final, video)
    return
  file = atomic_file.AtomicFile(os.path.join(tempfile.gettempdir(), 'mix.flac'))
  try:
    os.chmod(file.part, 0o600)  # the folder is readable by everybody
    write_mix(str(file.part), tracks)
    yield decoder.probe_audio(file.part), None
  finally:
    file.drop()


def write_mix(path: str, tracks: list[SpeechTrack]) -> None:
  """Write the sum of all tracks, 48 kHz stereo, clipped at full scale."""
  import av

  with av.open(path, 'w', format='flac') as file:
    stream = file.add_stream('flac', rate=MIX_RATE, layout='stereo')
    count = 0
    for block in mix_blocks(tracks):
      samples = audio.float_to_int16(np.clip(block, -1, 1))
      packed = np.ascontiguousarray(samples.T).reshape(1, -1)
      frame = av.AudioFrame.from_ndarray(packed, 's16', 'stereo')
      frame.sample_rate, frame.pts = MIX_RATE, count
      count += samples.shape[1]
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def mix_blocks(
  tracks: list[SpeechTrack],
) -> Iterator[Float32[np.ndarray, '2 n']]:
  """Blocks of the sum of all tracks, as long as the longest."""
  sources = [rechunk(stereo_blocks(track)) for track in tracks]
  while sources:
    blocks, unfinished = [], []
    for source in sources:
      block = next(source, None)
      if block is not None:
        blocks.append(block)
        unfinished.append(source)
    if blocks:
      total = np.zeros((2, max(b.shape[1] for b in blocks)), np.float32)
      for block in blocks:
        total[:, : block.shape[1]] += block
      yield total
    sources = unfinished


def stereo_blocks(track: SpeechTrack) -> Iterator[Float32[np.ndarray, '2 n']]:
  """A track's samples at 48 kHz, two channels."""
  import soxr

  resampler = soxr.ResampleStream(
    track.sound.rate, MIX_RATE, 2, dtype='float32'
  )
  for block in decoder.read_audio(track.sound, track.origin):
    # Codecs order more than two channels differently: take their mean.
    pair = block if len(block) == 2 else block.mean(0, keepdims=True)
    pair = np.broadcast_to(pair, (2, pair.shape[1]))
    yield resampler.resample_chunk(np.ascontiguousarray(pair.T)).T
  yield resampler.resample_chunk(np.zeros((0, 2), np.float32), last=True).T


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
