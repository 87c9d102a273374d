"""Make a profile: the articulator of one person, for `--profile`."""

import contextlib
import functools
import os

from lipsync_jax.audio import FPS
from lipsync_jax.common.errors import printable
from lipsync_jax.finetuning import fit, own_speech
from lipsync_jax.finetuning.own_speech import FinetuningError
from lipsync_jax.inference.network_cache import NetworkCache
from lipsync_jax.inference.options import SyncOptions
from lipsync_jax.inference.report import ProgressCallback, show_progress
from lipsync_jax.weights import articulation

SECONDS = 180.0  # of the video that are used at most
SUFFIX = '.safetensors'


def finetune(
  face: str | os.PathLike,
  outfile: str | os.PathLike,
  *,
  person: str = 'auto',
  seconds: float = SECONDS,
  seed: int = 0,
  quiet: bool = True,
  progress: ProgressCallback | None = None,
) -> dict:
  """Fit the articulator to a person's own speech and write a profile.

  Args:
    face: video of the person, with the sound of that speech.
    outfile: .safetensors, some 2 MB.
    person: as in `SyncOptions`.
    seconds: of the video that are used at most, from its beginning.
    seed: of the fit.
    quiet: no progress bars.
    progress: gets the progress, instead of a progress bar.

  Returns:
    'seconds' of speech; 'before' and 'after': the correlation of the lip
    opening on a quarter of the speech, which a first fit did not see; 'shift':
    seconds by which the picture was late.

  Raises:
    FinetuningError: too little speech, or the fit does not improve.
    LipSyncError: the file cannot be read, or has no face or no sound.
  """
  _check_arguments(face, outfile, seconds)
  options = SyncOptions(os.fspath(face), person=person)
  show = functools.partial(show_progress, progress, quiet)
  with contextlib.closing(NetworkCache()) as networks:
    speech = own_speech.read_own_speech(options, seconds, networks, show)
    base = networks.articulation()
  with show('fitting', 2 * fit.STEPS) as tick:
    found = fit.fit_articulator(base, speech.motion, seed, tick)
  if found.after < found.before:
    raise FinetuningError(
      f'{printable(face)}: the fit does not improve speech that it did not '
      f'see (correlation {found.before:.2f} before, {found.after:.2f} after); '
      'the bundled articulator is better here, or give a longer video'
    )
  facts = {
    'seconds': round(speech.seconds, 1),
    'before': round(found.before, 3),
    'after': round(found.after, 3),
    'shift': speech.shift / FPS,
  }
  articulation.save_articulation(
    outfile,
    articulation.Articulation(
      variables=found.variables,
      basis=base.basis,
      width=base.width,
      source=f'fitted by lipsync_jax to {speech.seconds:.0f} s of one person',
      meta={'profile': facts, 'base': base.sha256},
    ),
  )
  return facts


def _check_arguments(
  face: str | os.PathLike, outfile: str | os.PathLike, seconds: float
) -> None:
  """Find an unusable argument before the work."""
  if not seconds > 0:
    raise FinetuningError(f'--seconds: expected more than 0, found {seconds:g}')
  path = os.path.abspath(outfile)
  if not path.endswith(SUFFIX):
    raise FinetuningError(
      f'--out: expected a name that ends with {SUFFIX}, found '
      f'{printable(outfile)}'
    )
  if not os.path.isdir(os.path.dirname(path)):
    raise FinetuningError(
      f'--out: expected an existing folder, found none at '
      f'{printable(os.path.dirname(path))}; create it'
    )
  if not os.path.isfile(face):
    raise FinetuningError(
      f'expected a video, found no file at {printable(face)}'
    )
