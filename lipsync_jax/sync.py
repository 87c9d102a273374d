"""Lip-sync a video or a photo to speech: `sync()` and its command line.

    python -m lipsync_jax.sync --face me.mp4 --audio speech.wav

Two streamed passes: find the faces, then speak and paste. The command line
takes `sync`'s argument names, and every flag of Wav2Lip (spec 7.1), with
hyphens or underscores.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

from lipsync_jax.inference.options import SyncError, SyncOptions, validate

PathLike = str | os.PathLike


def sync(
  face: PathLike, audio: PathLike = '', outfile: PathLike = '', **options
) -> dict:
  """Write `outfile`: the face of `face` speaking the words of `audio`.

  Args:
    face: video or photo.
    audio: any file with sound; it drives the lips and is the output's sound.
      Not needed where `audio_for` says what everybody speaks.
    outfile: .mp4, .mov, .mkv, .avi or .webm; appears only when whole.
    **options: see `options.SyncOptions`; the command line's help explains each.

  Returns:
    The report: frames, rate, person, skipped ranges (seconds), seconds spent
    in each stage, peak memory. Written to `report` as JSON if that is given.

  Raises:
    ValueError: one line on what was expected, what was found, what to do.
  """
  from lipsync_jax.inference import pipeline

  if outfile:
    options['outfile'] = os.fspath(outfile)
  wanted = SyncOptions(os.fspath(face), os.fspath(audio), **options)
  validate(wanted)
  began = time.perf_counter()
  report = pipeline.run(wanted)
  report['seconds']['total'] = round(time.perf_counter() - began, 3)
  if wanted.report:
    with open(wanted.report, 'w', encoding='utf-8') as file:
      json.dump(report, file, indent=2, ensure_ascii=False)
      file.write('\n')
  return report


def truth(text: str) -> bool:
  """A real boolean. Differs from Wav2Lip, where `--static False` is true."""
  words = {'true': True, 'yes': True, '1': True}
  words |= {'false': False, 'no': False, '0': False}
  if text.lower() not in words:
    raise argparse.ArgumentTypeError(f'expected true or false, found {text!r}')
  return words[text.lower()]


def pair(text: str) -> tuple[str, str]:
  """Person and file of `WHO=FILE`."""
  who, equals, path = text.partition('=')
  if not (who and equals and path):
    raise argparse.ArgumentTypeError(f'expected WHO=FILE, found {text!r}')
  return who, path


class Parser(argparse.ArgumentParser):
  """Errors in one line, and no usage in front of it."""

  def error(self, message):
    self.exit(2, f'error: {message} (see --help)\n')


def parser() -> argparse.ArgumentParser:
  """The command line; names are those of `Request`."""
  p = Parser('lipsync', description=__doc__.partition('\n')[0])
  add = p.add_argument
  add('--face', required=True, help='video or photo of the person')
  add('--audio', help='speech: any file with sound')
  add('--outfile', help='default results/result_voice.mp4')
  add(
    '--checkpoint-path',
    help='weights: .safetensors, or a .pth or .pdparams of Wav2Lip; '
    'without it those that come with lipsync_jax',
  )
  _add_who(p.add_argument_group('who and where').add_argument)
  _add_time(p.add_argument_group('time').add_argument)
  _add_picture(p.add_argument_group('picture').add_argument)
  _add_running(p.add_argument_group('running').add_argument)
  return p


def _add_who(add) -> None:
  add(
    '--person',
    help='largest (default), left, right, N (0 is the largest) or x,y',
  )
  add(
    '--audio-for',
    action='append',
    type=pair,
    metavar='WHO=FILE',
    help='a voice for one more person, named as for --person; repeatable',
  )
  add('--pads', nargs=4, type=float, metavar=tuple('TBLR'))
  add('--box', nargs=4, type=int, metavar=tuple('TBLR'), help='fixed face box')
  add('--nosmooth', action='store_true', help='do not smooth the face box')
  add(
    '--static', nargs='?', const=True, type=truth, help='use first frame only'
  )


def _add_time(add) -> None:
  add('--fps', type=float, help='rate of a photo (default 25)')
  add(
    '--when-audio-longer',
    choices=('bounce', 'loop', 'hold', 'cut'),
    help='play the video to and fro (default), again, hold its end, or cut',
  )
  add(
    '--when-video-longer',
    choices=('cut', 'keep'),
    help='cut with the sound (default) or keep the rest as it is',
  )
  add(
    '--from',
    dest='since',
    type=float,
    metavar='SECONDS',
    help='leave the picture as it is before',
  )
  add(
    '--to',
    dest='until',
    type=float,
    metavar='SECONDS',
    help='leave the picture as it is from there on',
  )
  add(
    '--no-gate',
    action='store_true',
    help='let faint noise in pauses move the lips',
  )
  add('--preview', type=float, metavar='SECONDS', help='only the beginning')
  add('--final-audio', metavar='FILE', help='mux this instead of --audio')


def _add_picture(add) -> None:
  add('--resize-factor', type=int, help='divide width and height')
  add('--rotate', action='store_true', help='turn 90 degrees clockwise')
  add(
    '--crop', nargs=4, type=int, metavar=tuple('TBLR'), help='-1: to the edge'
  )
  add(
    '--no-detail',
    action='store_true',
    help='leave the mouth as soft as the network draws it',
  )
  add('--crf', type=int, help='0 lossless … 51; default 16, visually lossless')


def _add_running(add) -> None:
  add('--batch', '--wav2lip-batch-size', type=int, help='faces at a time')
  add('--dtype', choices=('auto', 'float32', 'bfloat16'))
  add('--cpu', action='store_true', help='do not use a GPU')
  add('--compat', action='store_true', help='boxes, timing, paste of Wav2Lip')
  add(
    '--resume',
    action='store_true',
    help='go on where a job of this command was killed; begins one otherwise',
  )
  add('--report', metavar='FILE', help='write what was done, as JSON')
  add('--quiet', action='store_true', help='no progress bars')
  add('--face-det-batch-size', type=int, help=argparse.SUPPRESS)
  add('--face-detector', help=argparse.SUPPRESS)
  add('--face-enhancement', action='store_true', help=argparse.SUPPRESS)


def hyphened(argv: Sequence[str]) -> Iterator[str]:
  """Flags with hyphens, whichever way they were typed."""
  for word in argv:
    name, equals, value = word.partition('=')
    if name.startswith('--'):
      name = name.replace('_', '-')
    yield name + equals + value


def options_of(argv: Sequence[str]) -> dict:
  """Arguments for `sync` from a command line, notices for what is past."""
  args = vars(parser().parse_args(list(hyphened(argv))))
  if args.pop('face_enhancement'):
    raise SyncError(
      '--face_enhancement does not exist yet: leave it out, or run a face '
      'restorer over the output'
    )
  if args.pop('face_detector'):
    print('note: faces are found by YuNet and MediaPipe here', file=sys.stderr)
  args.pop('face_det_batch_size')  # frames are searched one by one
  if args.pop('cpu'):
    os.environ['JAX_PLATFORMS'] = 'cpu'
  if args['box'] and args['box'][0] == -1:
    args['box'] = None  # Wav2Lip's way of saying none
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in args.items()
    if value is not None
  }


def main(argv: Sequence[str] | None = None) -> int:
  """The command: 0 done, 1 refused, 2 misused, 130 interrupted."""
  # TensorFlow Lite and glog write through C++: nothing of theirs is an error.
  for name, level in (('GLOG_minloglevel', '3'), ('TF_CPP_MIN_LOG_LEVEL', '3')):
    os.environ.setdefault(name, level)
  try:
    report = sync(**options_of(sys.argv[1:] if argv is None else argv))
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  except (ValueError, OSError) as error:
    if os.environ.get('LIPSYNC_JAX_DEBUG'):
      raise
    line = ' '.join(str(error).split())
    print(f'error: {line}', file=sys.stderr)
    return 1
  with contextlib.suppress(BrokenPipeError):
    print(report['outfile'])
  return 0


if __name__ == '__main__':
  sys.exit(main())
