"""Lip-sync a video or a photo to speech: `sync()` and its command line.

python -m lipsync_jax.sync --face me.mp4 --audio speech.wav
"""

import os
import sys
from collections.abc import Sequence

from lipsync_jax.common.cli import run_command
from lipsync_jax.inference import cli
from lipsync_jax.inference.options import SyncOptions, make_options

PathLike = str | os.PathLike
_DEFAULTS = SyncOptions('')


def sync(
  face: PathLike,
  audio: PathLike = '',
  outfile: PathLike = _DEFAULTS.outfile,
  *,
  checkpoint_path: PathLike | None = None,
  renderer: str = _DEFAULTS.renderer,
  profile: PathLike | None = None,
  strength: float = _DEFAULTS.strength,
  person: str = _DEFAULTS.person,
  audio_for: Sequence[tuple[str, PathLike]] = (),
  subtitles: PathLike | None = None,
  cast: Sequence[tuple[str, str]] = (),
  keep_background: float | None = None,
  since: float = _DEFAULTS.since,
  until: float | None = None,
  no_noise_gate: bool = False,
  voice_only: bool = False,
  no_detail_transfer: bool = False,
  static: bool = False,
  fps: float = _DEFAULTS.fps,
  pads: Sequence[float] | None = None,
  resize_factor: int = _DEFAULTS.resize_factor,
  crop: Sequence[int] = _DEFAULTS.crop,
  box: Sequence[int] | None = None,
  rotate: bool = False,
  nosmooth: bool = False,
  when_audio_longer: str | None = None,
  when_video_longer: str = _DEFAULTS.when_video_longer,
  final_audio: PathLike | None = None,
  preview: float | None = None,
  face_enhancement: PathLike | None = None,
  enhancement_strength: float = _DEFAULTS.enhancement_strength,
  crf: int = _DEFAULTS.crf,
  background: str | None = None,
  strip: bool = False,
  sign: Sequence[PathLike] | None = None,
  dtype: str = _DEFAULTS.dtype,
  batch: int | None = None,
  compat: bool = False,
  resume: bool = False,
  report: PathLike | None = None,
  quiet: bool = False,
  **renamed,
) -> dict:
  """Write `outfile`: `face` with lips that speak the words of `audio`.

  `inference.options.SyncOptions` explains every argument.

  Returns:
    The report: frames, rate, person, skipped ranges (seconds), seconds spent
    in each stage, peak memory. Written to `report` as JSON if that is given.

  Raises:
    LipSyncError: one line on what was expected, what was found, what to do.
    OSError: a file cannot be read or written.
  """
  given = locals() | renamed
  del given['renamed']
  from lipsync_jax.inference.session import Session

  with Session() as session:
    return session.run(make_options(**given)).to_dict()


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  return run_command(lambda: sync(**cli.parse_options(words))['outfile'])


if __name__ == '__main__':
  sys.exit(main())
