"""Speech tracks: who speaks which file, their log-mels, and their mix.

`--audio` is the speech of `--person`; every `--audio-for WHO=FILE` adds a
speaker. With `--subtitles` the turns of a dialogue make the tracks.

Shapes: t mel columns, c channels, n samples.
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Float32

from lipsync_jax import audio
from lipsync_jax.audio import SAMPLE_RATE, noise_gate, stream_log_mel
from lipsync_jax.common import disk_array
from lipsync_jax.common.errors import printable
from lipsync_jax.inference import dialogue
from lipsync_jax.inference.options import SyncError, SyncOptions
from lipsync_jax.inference.turns import Turn, read_turns, turns_of
from lipsync_jax.media import audio_reader, decoder
from lipsync_jax.media.types import Video
from lipsync_jax.models import voice_detector, voice_separator


@dataclasses.dataclass(frozen=True)
class SpeechTrack:
  """The speech of one person."""

  who: str  # as for --person
  sound: audio_reader.AudioStream
  origin: Fraction | None  # file time at which the video begins; None: start
  turns: tuple[Turn, ...] = ()  # of a dialogue

  def facts(self, options: SyncOptions) -> dict:
    """The report's facts: the user's files, and the turns in seconds."""
    if not self.turns:
      path = self.sound.path  # '' in memory
      return {'audio': path and os.path.abspath(path)}
    spans = [(turn.start, turn.end) for turn in self.turns]
    return {
      'audio': sorted(
        {os.path.abspath(turn.audio or options.audio) for turn in self.turns}
      ),
      'turns': [[None if t is None else float(t) for t in s] for s in spans],
    }


@contextlib.contextmanager
def open_speech(
  options: SyncOptions, video: Video
) -> Iterator[list[SpeechTrack]]:
  """The speech tracks of a job; temporary files are deleted after the block."""
  if options.voice_only:  # an absent separator is found before the work
    voice_separator.load_library()
  if options.subtitles is None:
    yield probe_speech(options, video)
    return
  with contextlib.ExitStack() as stack:
    yield dialogue_tracks(options, video, stack)


def dialogue_tracks(
  options: SyncOptions, video: Video, stack: contextlib.ExitStack
) -> list[SpeechTrack]:
  """A track for each speaker of `options.subtitles`; `stack` owns the files."""
  found = read_turns(options.subtitles, dict(options.cast))
  shared = None
  if options.audio:
    sound = decoder.probe_audio(options.audio)
    shared = (sound, clock_origin(sound, video))
  elif any(turn.audio is None for turn in found):
    raise SyncError(
      '--subtitles: expected --audio with the sound of all turns, or JSON '
      'with an audio file for each turn'
    )
  tracks = []
  for who, own in turns_of(found).items():
    path = stack.enter_context(dialogue.temporary_flac())
    dialogue.write_flac(
      path, dialogue.rechunk(dialogue.turn_blocks(own, shared))
    )
    track = decoder.probe_audio(path)
    tracks.append(SpeechTrack(who, track, None, tuple(own)))
  return tracks


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
  track: SpeechTrack,
  preview: float | None,
  gated: bool = True,
  alone: bool = False,
) -> tuple[Float[np.ndarray, '80 t'], Fraction]:
  """The log-mel of a track and its length in seconds.

  Args:
    track: opened speech.
    preview: seconds after which to stop; None reads everything.
    gated: replace pauses by silence (`noise_gate.apply_noise_gate`).
    alone: separate the voice first (`voice_separator`).
  """
  mel, seconds = _read_mel(track, preview, alone)
  if gated:
    noise_gate.apply_noise_gate(mel, out=mel)
  return mel, seconds


def voiced_mel(
  track: SpeechTrack, preview: float | None, alone: bool = False
) -> tuple[Float[np.ndarray, '80 t'], Fraction, float]:
  """`speech_mel` that is silent also where music or noise is without a voice.

  Returns:
    The log-mel, its length in seconds, and the share of time with a voice.
  """
  mel, seconds, voice = _find_voice(track, preview, alone)
  noise_gate.apply_noise_gate(mel, mel, voice)
  return mel, seconds, float(voice.mean())


def voice_columns(
  track: SpeechTrack, options: SyncOptions
) -> Bool[np.ndarray, 't']:
  """Mel columns in which a track speaks; by its level without the gate."""
  if options.no_noise_gate:
    mel, _ = speech_mel(track, options.preview, False, options.voice_only)
    return noise_gate.speech_mask(mel)
  mel, _, voice = _find_voice(track, options.preview, options.voice_only)
  return noise_gate.voiced_speech_mask(mel, voice)


def _find_voice(
  track: SpeechTrack, preview: float | None, alone: bool
) -> tuple[Float[np.ndarray, '80 t'], Fraction, Bool[np.ndarray, 't']]:
  """The log-mel of a track, its seconds, and the columns with a voice."""
  found: list[np.ndarray] = []
  mel, seconds = _read_mel(
    track,
    preview,
    alone,
    lambda blocks: voice_detector.watch_voice(blocks, found),
  )
  voice = noise_gate.voice_mask(
    np.concatenate(found), mel.shape[1], voice_detector.WINDOW
  )
  return mel, seconds, voice


def track_mels(
  options: SyncOptions, tracks: Sequence[SpeechTrack]
) -> tuple[list[disk_array.RowFile], Fraction, list[float | None]]:
  """The mel of each speech track, on disk, and the longest's seconds.

  The last value is each track's share of time with a voice, None without the
  noise gate. A track without a voice is named on standard error.
  """
  gated = not (options.no_noise_gate or options.compat)
  mels, lengths, shares = [], [], []
  for track in tracks:
    share = None
    given = track, options.preview
    if gated:
      mel, length, share = voiced_mel(*given, options.voice_only)
    else:
      mel, length = speech_mel(*given, False, options.voice_only)
    if share == 0 and not options.quiet:
      name = printable(track.sound.path)
      print(
        f'note: {name}: no voice was found, so the lips rest; --no-noise-gate '
        'lets any sound move them',
        file=sys.stderr,
      )
    mels.append(disk_array.to_disk(mel.T))
    lengths.append(length)
    shares.append(share)
  return mels, max(lengths), shares


def _read_mel(
  track: SpeechTrack,
  preview: float | None,
  alone: bool,
  watch: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]] = iter,
) -> tuple[Float[np.ndarray, '80 t'], Fraction]:
  """The log-mel and length of a track, whose blocks pass through `watch`."""
  limit = None if preview is None else round(preview * SAMPLE_RATE)
  count = 0

  def wave():
    nonlocal count
    blocks = decoder.read_audio(track.sound, track.origin)
    for block in _mono_blocks(track.sound.rate, blocks, alone):
      block = block if limit is None else block[: limit - count]
      count += block.size
      yield block
      if limit is not None and count >= limit:
        return

  mel = stream_log_mel(watch(wave()))
  return mel, Fraction(count, SAMPLE_RATE)


def _mono_blocks(
  rate: int, blocks: Iterator[np.ndarray], alone: bool
) -> Iterator[np.ndarray]:
  """Mono blocks at SAMPLE_RATE, of the voice alone if `alone`."""
  if not alone:
    return audio.resample_blocks(rate, blocks)
  middle = voice_separator.RATE
  mono = audio.resample_blocks(rate, blocks, middle)
  voice = (x[None] for x in voice_separator.separate_voice(mono))
  return audio.resample_blocks(middle, voice)


@contextlib.contextmanager
def output_audio(
  options: SyncOptions, video: Video, tracks: list[SpeechTrack]
) -> Iterator[tuple[audio_reader.AudioStream, Fraction | None]]:
  """The output's sound and its origin; a mix is deleted after the block."""
  final = None
  if options.final_audio or options.audio_is_dialogue:
    sound = decoder.probe_audio(options.final_audio or options.audio)
    final = (sound, clock_origin(sound, video))
  elif len(tracks) == 1:
    sound = tracks[0].sound
    final = (sound, clock_origin(sound, video))
  if final and options.keep_background is None:
    yield final
    return
  voices = [final] if final else [(t.sound, t.origin) for t in tracks]
  sources = [dialogue.stereo_blocks(*voice) for voice in voices]
  if options.keep_background is not None:
    sources.append(background(options, video, tracks))
  with dialogue.temporary_flac() as path:
    dialogue.write_flac(path, dialogue.mix_sources(sources))
    yield decoder.probe_audio(path), None


def background(
  options: SyncOptions, video: Video, tracks: list[SpeechTrack]
) -> Iterator[Float32[np.ndarray, '2 n']]:
  """The video's own sound, where no new voice speaks."""
  sound = decoder.probe_audio(video.path)
  masks = [voice_columns(track, options) for track in tracks]
  share = dialogue.background_share(masks)
  return dialogue.background_blocks(
    sound, video.start, share, options.keep_background
  )
