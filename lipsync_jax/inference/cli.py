"""Command line of `python -m lipsync_jax.sync`.

Flags have the names of `SyncOptions`, with hyphens or underscores. Every flag
of Wav2Lip is understood (spec 7.1).
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

from lipsync_jax.common.cli import with_new_names
from lipsync_jax.inference.options import RENAMED, RENDERERS, SyncError

FACE_ENHANCEMENT = (
  '--face_enhancement: expected a model, such as GFPGAN, GPEN or CodeFormer '
  'exported to ONNX at 512 pixels: --face_enhancement MODEL.onnx'
)


def parse_boolean(text: str) -> bool:
  """Parse true or false.

  Differs from Wav2Lip, where `--static False` is true.
  """
  words = {'true': True, 'yes': True, '1': True}
  words |= {'false': False, 'no': False, '0': False}
  if text.lower() not in words:
    raise argparse.ArgumentTypeError(f'expected true or false, found {text!r}')
  return words[text.lower()]


def parse_speaker(text: str) -> tuple[str, str]:
  """Person and file of `WHO=FILE`."""
  who, equals, path = text.partition('=')
  if not (who and equals and path):
    raise argparse.ArgumentTypeError(f'expected WHO=FILE, found {text!r}')
  return who, path


class OneLineParser(argparse.ArgumentParser):
  """An argument parser whose errors are one line without the usage."""

  def error(self, message):
    self.exit(2, f'error: {message} (see --help)\n')


def build_parser(
  kind: type[argparse.ArgumentParser] = OneLineParser,
) -> argparse.ArgumentParser:
  """The parser; destinations are fields of `SyncOptions`.

  An option that is not given is None, so that `SyncOptions` holds the only
  defaults.
  """
  parser = kind(
    'lipsync',
    description='Lip-sync a video or a photo to speech.',
    epilog='Other commands: lipsync batch, app, serve, worker, finetune, '
    'verify or doctor, each with --help',
  )
  add = parser.add_argument
  add('--face', required=True, help='video or photo of the person')
  add('--audio', help='speech: any file with sound')
  add('--outfile', help='default results/result_voice.mp4')
  add(
    '--checkpoint-path',
    help='generator: .safetensors, or a .pth or .pdparams of Wav2Lip; '
    'selects the network renderer',
  )
  add(
    '--renderer',
    choices=RENDERERS,
    help="mesh: move the source's own pixels; network: paint with a "
    'generator; default: mesh without --checkpoint_path',
  )
  add(
    '--profile',
    metavar='FILE',
    help="of lipsync finetune: the person's own way of speaking (mesh)",
  )
  add(
    '--strength',
    type=float,
    help='of the lip motion (mesh): 0 to 2, default 1',
  )
  _add_speakers(parser.add_argument_group('speakers and regions').add_argument)
  _add_time(parser.add_argument_group('time').add_argument)
  _add_picture(parser.add_argument_group('picture').add_argument)
  _add_execution(parser.add_argument_group('execution').add_argument)
  return parser


_HIDDEN = argparse.SUPPRESS
RENAMED_FLAGS = {
  f'--{old.replace("_", "-")}': f'--{new.replace("_", "-")}'
  for old, new in RENAMED.items()
}


def _add_speakers(add) -> None:
  add(
    '--person',
    help='largest, left, right, N (0 is the largest) or x,y; default: the one '
    "whose lips go with the video's own sound if that is clear, else largest",
  )
  add(
    '--audio-for',
    action='append',
    type=parse_speaker,
    metavar='WHO=FILE',
    help='speech of one more person, named as for --person; repeatable',
  )
  add(
    '--subtitles',
    metavar='FILE',
    help='.srt or .vtt whose cues name the speaker, or .json of who, from, to, '
    'audio: people take turns',
  )
  add(
    '--cast',
    action='append',
    type=parse_speaker,
    metavar='NAME=WHO',
    help='person (or none) of a name in --subtitles; repeatable',
  )
  add('--pads', nargs=4, type=float, metavar=tuple('TBLR'))
  add('--box', nargs=4, type=int, metavar=tuple('TBLR'), help='fixed face box')
  add('--nosmooth', action='store_true', help='do not smooth the face box')
  add(
    '--static',
    nargs='?',
    const=True,
    type=parse_boolean,
    help='use the first frame only',
  )


def _add_time(add) -> None:
  add('--fps', type=float, help='frame rate of a photo (default 25)')
  add(
    '--when-audio-longer',
    choices=('bounce', 'loop', 'hold', 'cut', 'remap'),
    help='play the video to and fro (default), loop it, hold its last frame, '
    'cut the sound, or play the video slower',
  )
  add(
    '--when-video-longer',
    choices=('cut', 'keep', 'remap'),
    help='end with the sound (default), keep the remaining frames, or play '
    'the video faster',
  )
  seconds = {'type': float, 'metavar': 'SECONDS'}
  add('--from', dest='since', help='first second with new lips', **seconds)
  add('--to', dest='until', help='end of the new lips', **seconds)
  add(
    '--no-noise-gate',
    action='store_true',
    help='do not replace pauses, music and noise by silence',
  )
  add(
    '--voice-only',
    action='store_true',
    help='separate the voice from music and noise before the lips follow it; '
    "the output's sound stays whole; needs lipsync-jax[separate]",
  )
  add('--preview', help='render only the first seconds', **seconds)
  add('--final-audio', metavar='FILE', help='sound of the output')
  add(
    '--keep-background',
    nargs='?',
    const=-6.0,
    type=float,
    metavar='DB',
    help="the video's own sound where the new voices rest, at DB (default -6)",
  )


def _add_picture(add) -> None:
  add('--resize-factor', type=int, help='divide width and height')
  add('--rotate', action='store_true', help='rotate 90 degrees clockwise')
  add(
    '--crop', nargs=4, type=int, metavar=tuple('TBLR'), help='-1: to the edge'
  )
  add(
    '--no-detail-transfer',
    action='store_true',
    help="do not add the source's fine detail to the generated mouth",
  )
  add(
    '--background',
    metavar='COLOR',
    help='#RRGGBB under a transparent picture (default: .webm and .mov stay '
    'transparent, others get black)',
  )
  add(
    '--strip',
    action='store_true',
    help='carry over no tags, chapters, subtitles or further audio tracks; '
    'the record that the file is generated stays',
  )
  add(
    '--sign',
    nargs=2,
    metavar=('CERT', 'KEY'),
    help='PEM files: sign Content Credentials (C2PA, ES256) into .mp4 or .mov',
  )
  add(
    '--face-enhancement',
    nargs='?',
    const='',
    metavar='MODEL.onnx',
    help='restore the lower face by GFPGAN, GPEN, CodeFormer or the like',
  )
  add(
    '--enhancement-strength',
    type=float,
    help='opacity of the restored face: 0 to 1, default 1',
  )
  add('--crf', type=int, help='0 lossless … 51; default 16, visually lossless')


def _add_execution(add) -> None:
  add('--batch', '--wav2lip-batch-size', type=int, help='faces at a time')
  add('--dtype', choices=('auto', 'float32', 'bfloat16'))
  add('--cpu', action='store_true', help='do not use a GPU')
  add(
    '--compat',
    action='store_true',
    help='boxes, timing and compositing of Wav2Lip',
  )
  add(
    '--resume',
    action='store_true',
    help='render in segments and reuse those of an interrupted run',
  )
  add('--report', metavar='FILE', help='write a JSON report')
  add('--quiet', action='store_true', help='no progress bars')
  add('--face-det-batch-size', type=int, help=_HIDDEN)
  add('--face-detector', help=_HIDDEN)


def with_hyphens(argv: Sequence[str]) -> Iterator[str]:
  """The words of a command line with hyphens in the names of flags."""
  for word in argv:
    name, equals, value = word.partition('=')
    if name.startswith('--'):
      name = name.replace('_', '-')
    yield name + equals + value


def parse_options(
  argv: Sequence[str], kind: type[argparse.ArgumentParser] = OneLineParser
) -> dict:
  """Fields of `SyncOptions` from a command line.

  Prints one line for a flag without effect and for a renamed flag. `--cpu`
  sets JAX_PLATFORMS.

  Raises:
    SyncError: a flag of Wav2Lip that is not supported.
  """
  parser = build_parser(kind)
  defaults = vars(parser.parse_args(['--face=']))
  words = with_new_names(list(with_hyphens(argv)), RENAMED_FLAGS)
  args = vars(parser.parse_args(words))
  args = {k: v for k, v in args.items() if k == 'face' or v != defaults[k]}
  if args.get('face_enhancement') == '':
    raise SyncError(FACE_ENHANCEMENT)
  if args.pop('face_detector', None):
    print('note: faces are found by YuNet and MediaPipe here', file=sys.stderr)
  args.pop('face_det_batch_size', None)  # frames are searched one by one
  if args.pop('cpu', False):
    os.environ['JAX_PLATFORMS'] = 'cpu'
  if args.get('box', [0])[0] == -1:
    del args['box']  # Wav2Lip's value for no box
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in args.items()
  }
