"""Sound of a dialogue: a file for each speaker, and the background's level.

Each speaker's turns become a file of their own that is silent elsewhere. The
files are temporary and on disk, so that memory does not grow with the length.

Shapes: n samples at MIX_RATE, t mel columns.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Float32

from lipsync_jax.audio import COLUMNS_PER_SECOND, float_to_int16
from lipsync_jax.common import atomic_file
from lipsync_jax.inference.turns import Turn
from lipsync_jax.media import audio_reader, decoder

MIX_RATE = 48_000  # samples/s of a mix
BLOCK = 48_000  # samples at once
FADE = 480  # samples: 10 ms at both ends of a turn
LEAD, TAIL = 12, 24  # columns before and after speech without background
RAMP = 16  # columns of the background's fade: 0.2 s

Stereo = Float32[np.ndarray, '2 n']


def stereo_blocks(
  sound: audio_reader.AudioStream, origin: Fraction | None
) -> Iterator[Stereo]:
  """The samples of a file at MIX_RATE, two channels."""
  import soxr

  resampler = soxr.ResampleStream(sound.rate, MIX_RATE, 2, dtype='float32')
  with contextlib.closing(decoder.read_audio(sound, origin)) as blocks:
    for block in blocks:
      # Codecs order more than two channels differently: take their mean.
      pair = block if len(block) == 2 else block.mean(0, keepdims=True)
      pair = np.broadcast_to(pair, (2, pair.shape[1]))
      yield resampler.resample_chunk(np.ascontiguousarray(pair.T)).T
  yield resampler.resample_chunk(np.zeros((0, 2), np.float32), last=True).T


def write_flac(path: str | os.PathLike, blocks: Iterable[Stereo]) -> None:
  """Write blocks of stereo at MIX_RATE, clipped at full scale."""
  import av

  with av.open(os.fspath(path), 'w', format='flac') as file:
    stream = file.add_stream('flac', rate=MIX_RATE, layout='stereo')
    count = 0
    for block in blocks:
      samples = float_to_int16(np.clip(block, -1, 1))
      packed = np.ascontiguousarray(samples.T).reshape(1, -1)
      frame = av.AudioFrame.from_ndarray(packed, 's16', 'stereo')
      frame.sample_rate, frame.pts = MIX_RATE, count
      count += samples.shape[1]
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


@contextlib.contextmanager
def temporary_flac() -> Iterator[pathlib.Path]:
  """The name of a new file that only this user can read.

  It is deleted after the block, or by the next job after a kill.
  """
  file = atomic_file.AtomicFile(os.path.join(tempfile.gettempdir(), 'mix.flac'))
  try:
    os.chmod(file.part, 0o600)  # the folder is readable by everybody
    yield file.part
  finally:
    file.drop()


def turn_blocks(
  turns: Sequence[Turn],
  shared: tuple[audio_reader.AudioStream, Fraction | None] | None,
) -> Iterator[Stereo]:
  """One speaker's sound: turns, and silence between them.

  Args:
    turns: of one speaker, by start. A turn ends where the next one begins.
    shared: the job's own audio and its origin, for turns without a file.
  """
  owned = [turn for turn in turns if turn.audio]
  common = [turn for turn in turns if not turn.audio]
  place = 0
  if common:
    spans = [_span(turn, None) for turn in common]
    for block in stereo_blocks(*shared):
      yield block * turn_gain(spans, place, block.shape[1])
      place += block.shape[1]
  for number, turn in enumerate(owned):
    after = owned[number + 1].start if number + 1 < len(owned) else None
    start, end = _span(turn, after)
    yield from _silence(start - place)
    place = max(place, start)
    sound = decoder.probe_audio(turn.audio)
    blocks = stereo_blocks(sound, None)
    with contextlib.closing(blocks):
      for block in blocks:
        block = block if end is None else block[:, : max(0, end - place)]
        yield block
        place += block.shape[1]
        if end is not None and place >= end:
          break


def _span(turn: Turn, after: Fraction | None) -> tuple[int, int | None]:
  """First and end sample of a turn."""
  ends = [time for time in (turn.end, after) if time is not None]
  end = round(min(ends) * MIX_RATE) if ends else None
  return round(turn.start * MIX_RATE), end


def _silence(count: int) -> Iterator[Stereo]:
  while count > 0:
    part = min(count, BLOCK)
    yield np.zeros((2, part), np.float32)
    count -= part


def turn_gain(
  spans: Sequence[tuple[int, int]], first: int, count: int
) -> Float32[np.ndarray, 'n']:
  """Gain of the samples from `first` on: 1 in spans, with soft ends, else 0."""
  gain = np.zeros(count, np.float32)
  at = np.arange(first, first + count)
  for start, end in spans:
    if start < first + count and end > first:
      inside = np.minimum(at - start, end - 1 - at) / FADE
      np.maximum(gain, np.clip(inside, 0, 1), out=gain)
  return gain


def background_share(
  masks: Sequence[Bool[np.ndarray, '_']],
) -> Float[np.ndarray, 't']:
  """Share of the background in every column: 0 around speech, 1 elsewhere.

  Args:
    masks: columns in which each voice speaks.
  """
  speaks = np.zeros(max(mask.size for mask in masks), bool)
  for mask in masks:
    speaks[: mask.size] |= mask
  wide = np.pad(speaks, (TAIL, LEAD))
  reach = LEAD + TAIL + 1
  near = np.lib.stride_tricks.sliding_window_view(wide, reach).any(-1)
  # The fade lies outside of what is near speech.
  padded = np.pad(near.astype(float), RAMP, 'edge')
  wide = np.lib.stride_tricks.sliding_window_view(padded, RAMP + 1).max(-1)
  soft = np.hanning(RAMP + 3)[1:-1]
  return 1 - np.convolve(wide, soft / soft.sum(), 'valid')[: speaks.size]


def background_blocks(
  sound: audio_reader.AudioStream,
  origin: Fraction | None,
  share: Float[np.ndarray, 't'],
  level: float,
) -> Iterator[Stereo]:
  """The original sound at `level` dB where the new voices rest."""
  loud, first = 10 ** (level / 20), 0
  columns = np.arange(share.size)
  for block in stereo_blocks(sound, origin):
    samples = np.arange(first, first + block.shape[1])
    at = samples * (COLUMNS_PER_SECOND / MIX_RATE)
    gain = loud * np.interp(at, columns, share, right=1.0)
    yield block * gain.astype(np.float32)
    first += block.shape[1]


def mix_sources(
  sources: list[Iterator[Stereo]],
) -> Iterator[Stereo]:
  """Blocks of the sum of all sources, as long as the longest."""
  sources = [rechunk(source) for source in sources]
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


def rechunk(source: Iterator[Stereo]) -> Iterator[Stereo]:
  """The same samples in blocks of BLOCK; the last may be shorter."""
  held = np.zeros((2, 0), np.float32)
  for block in source:
    held = np.concatenate([held, block], 1)
    while held.shape[1] >= BLOCK:
      yield held[:, :BLOCK]
      held = held[:, BLOCK:]
  if held.shape[1]:
    yield held
