"""What is asked of `sync`, and what can be refused without opening a file."""

import dataclasses
import os

from lipsync_jax.common.errors import LipSyncError


class SyncError(LipSyncError):
  """The request cannot be met; one line says why and what to do."""


@dataclasses.dataclass(frozen=True)
class SyncOptions:
  """Everything `sync` can be told; the flags have the same names.

  Attributes:
    face: video or photo.
    audio: any file with sound, which drives the lips; '' with `audio_for`.
    outfile: .mp4, .mov, .mkv, .avi or .webm.
    checkpoint_path: weights, ours or published; None: those that come along.
    person: largest, left, right, N or x,y; who speaks `audio`.
    audio_for: (person, file) of everybody else who speaks.
    since, until: seconds between which lips move; None is the end.
    no_gate: let faint noise in pauses move the lips too.
    no_detail: leave the generated mouth as soft as the network draws it.
    static: use the first frame only.
    fps: frames/s of a photo, 1 to 240.
    pads: pixels added to the crop: top, bottom, left, right.
    resize_factor: divides width and height.
    crop: top, bottom, left, right of the frame in pixels; -1 is its edge.
    box: top, bottom, left, right of a face box given by hand.
    rotate: 90 degrees clockwise.
    nosmooth: leave the face's path as measured.
    when_audio_longer: of timeline.AUDIO_LONGER; None is bounce.
    when_video_longer: of timeline.VIDEO_LONGER.
    final_audio: muxed instead of `audio`.
    preview: seconds to render at most.
    crf: 0 (lossless) to 51.
    dtype: auto, float32 or bfloat16.
    batch: faces at a time; None chooses by the machine.
    compat: boxes, timing and paste of Wav2Lip.
    resume: encode in pieces that the same request finds again.
    report: JSON file to write.
    quiet: no progress bars.
  """

  face: str
  audio: str = ''
  outfile: str = 'results/result_voice.mp4'
  checkpoint_path: str | None = None
  person: str = 'largest'
  audio_for: tuple[tuple[str, str], ...] = ()
  since: float = 0.0
  until: float | None = None
  no_gate: bool = False
  no_detail: bool = False
  static: bool = False
  fps: float = 25.0
  pads: tuple[float, float, float, float] | None = None
  resize_factor: int = 1
  crop: tuple[int, int, int, int] = (0, -1, 0, -1)
  box: tuple[int, int, int, int] | None = None
  rotate: bool = False
  nosmooth: bool = False
  when_audio_longer: str | None = None
  when_video_longer: str = 'cut'
  final_audio: str | None = None
  preview: float | None = None
  crf: int = 16
  dtype: str = 'auto'
  batch: int | None = None
  compat: bool = False
  resume: bool = False
  report: str | None = None
  quiet: bool = False


def validate(wanted: SyncOptions) -> None:
  """Refuse what no file can put right, before anything is loaded."""
  if not wanted.audio and not wanted.audio_for:
    raise SyncError('expected --audio FILE or --audio-for N=FILE, found none')
  files = [('face', wanted.face)]
  files += [('audio', wanted.audio)] if wanted.audio else []
  files += [('audio-for', path) for _, path in wanted.audio_for]
  for name, path in files:
    if not os.path.isfile(path):
      raise SyncError(f'--{name}: expected a file, found none at {path!r}')
  if wanted.audio_for and (wanted.box or wanted.compat):
    raise SyncError(
      '--audio-for needs people that are found: no --box, --compat'
    )
  same = os.path.abspath(wanted.outfile)
  sources = [path for _, path in files] + [wanted.final_audio]
  if any(path and os.path.abspath(path) == same for path in sources):
    raise SyncError('--outfile would overwrite an input: name another file')
  bounds = [
    ('fps', 1 <= wanted.fps <= 240, 'a rate from 1 to 240 frames/s'),
    ('crf', 0 <= wanted.crf <= 51, '0 (lossless) to 51 (worst)'),
    ('resize_factor', wanted.resize_factor >= 1, 'a whole number from 1'),
    ('batch', wanted.batch is None or wanted.batch >= 1, 'at least 1'),
    ('since', wanted.since >= 0, 'seconds from 0'),
    (
      'until',
      wanted.until is None or wanted.until > wanted.since,
      'more than --from',
    ),
    ('preview', wanted.preview is None or wanted.preview > 0, 'seconds > 0'),
  ]
  for name, fine, expected in bounds:
    if not fine:
      found = getattr(wanted, name)
      flag = {'since': 'from', 'until': 'to'}.get(name, name)
      raise SyncError(f'--{flag}: expected {expected}, found {found}')
