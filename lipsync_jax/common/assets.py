"""Model files that ship inside the package, in `lipsync_jax/assets`."""

import hashlib
import pathlib

from lipsync_jax.common.errors import LipSyncError

FOLDER = pathlib.Path(__file__).resolve().parents[1] / 'assets'


def asset_path(name: str) -> pathlib.Path:
  """Path of an asset; an incomplete installation may lack the file."""
  return FOLDER / name


def read_asset(
  name: str, sha256: str, error_class: type[LipSyncError] = LipSyncError
) -> bytes:
  """The bytes of an asset, after a check of their digest.

  Args:
    name: file name.
    sha256: expected digest, hexadecimal.
    error_class: raised if the file is absent or differs.
  """
  path = asset_path(name)
  try:
    content = path.read_bytes()
  except OSError as error:
    raise error_class(
      f'the model file {path} cannot be read ({error.strerror}); '
      'reinstall lipsync_jax'
    ) from error
  digest = hashlib.sha256(content).hexdigest()
  if digest != sha256:
    raise error_class(
      f'the model file {path} has sha256 {digest[:12]}…, expected '
      f'{sha256[:12]}…; reinstall lipsync_jax'
    )
  return content
