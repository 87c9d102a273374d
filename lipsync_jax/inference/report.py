"""What a job tells its caller: progress while it runs, a report at its end."""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

from lipsync_jax.common import cancellation

REPORT_SECONDS = 0.1  # between two calls of a progress callback


@dataclasses.dataclass(frozen=True)
class Progress:
  """State of a running job.

  Attributes:
    stage: 'finding faces' or 'reading', then 'rendering'.
    done: frames of this stage.
    total: frames of this stage; None if the file does not say.
    seconds: since the stage began.
  """

  stage: str
  done: int
  total: int | None
  seconds: float

  @property
  def share(self) -> float | None:
    """The finished share of the stage, 0 to 1; None if unknown."""
    return min(self.done / self.total, 1.0) if self.total else None

  @property
  def remaining(self) -> float | None:
    """Estimated seconds until the stage ends; None if unknown."""
    if not self.done or not self.share:
      return None
    return self.seconds * (1 - self.share) / self.share


ProgressCallback = Callable[[Progress], object]


def show_progress(
  callback: ProgressCallback | None,
  quiet: bool,
  label: str,
  total: int | None,
):
  """Calls of the callback if there is one, else a progress bar."""
  if callback is not None:
    return progress_calls(callback, label, total)
  return progress_bar(quiet, label, total)


@contextlib.contextmanager
def progress_bar(
  quiet: bool, label: str, total: int | None
) -> Iterator[Callable[..., object]]:
  """A progress bar with an estimate, on standard error."""
  import tqdm

  with tqdm.tqdm(
    total=total, desc=label, unit=' frames', disable=quiet, file=sys.stderr
  ) as bar:

    def tick(count: int = 1) -> None:
      cancellation.check()
      bar.update(count)

    yield tick


@contextlib.contextmanager
def progress_calls(
  callback: ProgressCallback, label: str, total: int | None
) -> Iterator[Callable[..., object]]:
  """Call `callback` at the start, the end, and ten times a second between."""
  began = called = time.monotonic()
  done, lock = 0, threading.Lock()

  def tell() -> None:
    callback(Progress(label, done, total, time.monotonic() - began))

  def tick(count: int = 1) -> None:
    nonlocal done, called
    cancellation.check()
    with lock:
      done += count
      if time.monotonic() - called >= REPORT_SECONDS:
        called = time.monotonic()
        tell()

  tell()
  yield tick
  tell()


@dataclasses.dataclass(frozen=True)
class SkippedRange:
  """Output seconds in which a speaker's lips are those of the source."""

  since: float
  until: float
  reason: str


@dataclasses.dataclass(frozen=True)
class SpeakerReport:
  """What was done for one speaker.

  Attributes:
    person: number of the person; 0 is the largest.
    audio: the speech; '' in memory; all files of a dialogue.
    frames_spoken: output frames with new lips.
    tracks: first and last source second of each stretch with the face.
    skipped: ranges with the source's lips.
    turns: first and last second of each turn of a dialogue.
    voiced: share of the sound with a voice; None without the noise gate.
    frames_covered: output frames with an object before the lips; None where
      none are searched.
  """

  person: int
  audio: str | tuple[str, ...]
  frames_spoken: int
  tracks: tuple[tuple[float, float], ...]
  skipped: tuple[SkippedRange, ...]
  turns: tuple[tuple[float | None, float | None], ...] = ()
  voiced: float | None = None
  frames_covered: int | None = None


@dataclasses.dataclass(frozen=True)
class SyncReport:
  """The result of a job.

  Attributes:
    outfile, face: absolute paths; '' in memory.
    width, height: pixels.
    rate: nominal frames/s.
    seconds_of_sound: length of the speech.
    frames: of the output.
    people: the people found, in words.
    note: why the person was chosen, where several were found and none named.
    speakers: in the order of the speech tracks.
    cuts: source seconds at which a new shot begins.
    left_behind: what of the source's file the output lacks, in words.
    engine: what drew the mouths.
    batch: mouths at a time.
    weights: 'source' and 'sha256'.
    seconds: spent in each stage; stages overlap. 'total' is the job's.
    peak_memory_mb: of the process so far.
    decoder_memory_mb: of the decoder processes so far.
    provenance: the record in the output's tags; {} in memory.
  """

  outfile: str
  face: str
  width: int
  height: int
  rate: Fraction
  seconds_of_sound: float
  frames: int
  people: str
  speakers: tuple[SpeakerReport, ...]
  cuts: tuple[float, ...]
  left_behind: tuple[str, ...]
  engine: str
  batch: int
  weights: dict[str, str]
  seconds: dict[str, float]
  peak_memory_mb: int
  decoder_memory_mb: int
  note: str = ''
  provenance: dict = dataclasses.field(default_factory=dict)

  @property
  def warnings(self) -> tuple[str, ...]:
    """What a user should know about the output, in sentences."""
    lines = [self.note] if self.note else []
    for speaker in self.speakers:
      name = f'Person {speaker.person}'
      if speaker.voiced == 0:
        lines.append(
          f'{name}: no voice was found in the sound, so the lips rest; '
          '--no-noise-gate lets any sound move them.'
        )
      if speaker.frames_covered:
        lines.append(
          f'{name}: an object covers the lips in {speaker.frames_covered} of '
          f'{self.frames} frames and stays as it is.'
        )
      if not speaker.frames_spoken:
        lines.append(f'{name} has the lips of the source in every frame.')
        continue
      lines += [
        f'{name} has the lips of the source from {gap.since:g} to '
        f'{gap.until:g} s: {gap.reason}.'
        for gap in speaker.skipped
      ]
    length = float(self.frames / self.rate)
    if length < self.seconds_of_sound - 0.5:
      lines.append(
        f'The output ends after {length:.1f} s, the speech has '
        f'{self.seconds_of_sound:.1f} s.'
      )
    return tuple(lines)

  @classmethod
  def from_dict(cls, facts: dict) -> 'SyncReport':
    """The inverse of `to_dict`."""
    speakers = tuple(
      SpeakerReport(
        person=one['person'],
        audio=one['audio']
        if isinstance(one['audio'], str)
        else tuple(one['audio']),
        turns=tuple(tuple(turn) for turn in one.get('turns', ())),
        voiced=one.get('voiced'),
        frames_covered=one.get('frames_covered'),
        frames_spoken=one['frames_spoken'],
        tracks=tuple(tuple(times) for times in one.get('tracks', ())),
        skipped=tuple(
          SkippedRange(gap['from'], gap['to'], gap['why'])
          for gap in one['skipped']
        ),
      )
      for one in facts['speakers']
    )
    values = {'people': ''} | facts
    values |= {'rate': Fraction(facts['rate']), 'speakers': speakers}
    values |= {
      name: tuple(facts.get(name, ())) for name in ('cuts', 'left_behind')
    }
    return cls(**values)

  def to_dict(self) -> dict:
    """Values for JSON, as in the file of `--report`."""
    speakers = [
      {
        name: x
        for name, x in vars(speaker).items()
        if name != 'turns'
        and (name not in ('voiced', 'frames_covered') or x is not None)
      }
      | ({'turns': [list(t) for t in speaker.turns]} if speaker.turns else {})
      | {
        'tracks': [list(times) for times in speaker.tracks],
        'skipped': [
          {'from': gap.since, 'to': gap.until, 'why': gap.reason}
          for gap in speaker.skipped
        ],
      }
      for speaker in self.speakers
    ]
    changed = {'rate': str(self.rate), 'speakers': speakers}
    changed |= {'cuts': list(self.cuts), 'left_behind': list(self.left_behind)}
    absent = {name for name in ('note', 'provenance') if not vars(self)[name]}
    facts = vars(self) | changed
    return {name: x for name, x in facts.items() if name not in absent}
