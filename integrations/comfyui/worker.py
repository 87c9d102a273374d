"""Runs lipsync_jax in a process of its own environment.

XLA takes memory of the card and has its own version of numpy, so ComfyUI's
process loads neither. LIPSYNC_JAX_PYTHON names the Python of an environment
with lipsync_jax; without it the program `lipsync` on the PATH is run.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

POLL_SECONDS = 0.2


def find_command() -> list[str]:
  """The words that start `lipsync`.

  Raises:
    RuntimeError: it is not installed.
  """
  python = os.environ.get('LIPSYNC_JAX_PYTHON')
  if python:
    if not os.path.isfile(python):
      raise RuntimeError(
        f'LIPSYNC_JAX_PYTHON: expected a Python program, found none at '
        f'{python!r}'
      )
    return [python, '-m', 'lipsync_jax']
  program = shutil.which('lipsync')
  if program is None:
    raise RuntimeError(
      'expected LIPSYNC_JAX_PYTHON (the Python of an environment with '
      'lipsync_jax) or `lipsync` on the PATH, found neither'
    )
  return [program]


def lip_sync(
  face: str,
  audio: str,
  outfile: str,
  options: Sequence[str] = (),
  check: Callable[[], object] = lambda: None,
) -> None:
  """Write `outfile`: `face` with lips that speak the words of `audio`.

  Args:
    face: video.
    audio: sound.
    outfile: its suffix is the container.
    options: further flags of `lipsync`.
    check: called often; an exception in it ends the worker.

  Raises:
    RuntimeError: the worker's line on what it refused.
  """
  words = [*find_command(), '--face', face, '--audio', audio]
  words += ['--outfile', outfile, *options]
  # ComfyUI's own settings of Python would load its packages in the worker.
  hidden = ('PYTHONPATH', 'PYTHONHOME')
  given = {k: v for k, v in os.environ.items() if k not in hidden}
  given.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  log = outfile + '.log'
  with open(log, 'w+', encoding='utf-8', errors='replace') as errors:
    process = subprocess.Popen(  # noqa: S603  (a list of words, no shell)
      words,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=errors,
      env=given,
      cwd=os.path.dirname(os.path.abspath(outfile)),
    )
    try:
      while process.poll() is None:
        check()
        try:
          process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
          continue
    finally:
      if process.poll() is None:
        process.kill()
        process.wait()
    errors.seek(0)
    lines = [line.strip() for line in errors if line.strip()]
  os.remove(log)
  if process.returncode:
    reason = lines[-1] if lines else f'exit code {process.returncode}'
    raise RuntimeError(f'lipsync: {reason.removeprefix("error: ")}')
