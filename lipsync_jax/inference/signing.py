"""Content Credentials (C2PA): a signed manifest in MP4 and MOV.

The manifest says that the file was created by a trained algorithm. It holds a
hash of the file, so that later changes are detected. With the extra `[sign]`.
"""

import importlib.util
import json
import os
import pathlib
import shutil

from lipsync_jax import __version__
from lipsync_jax.common import atomic_file
from lipsync_jax.common.errors import printable, reason_of
from lipsync_jax.media.container import MediaError

MIME = {
  '.mp4': 'video/mp4',
  '.m4v': 'video/mp4',
  '.mov': 'video/quicktime',
}
SOURCE_TYPE = (
  'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia'
)
NO_LIBRARY = 'expected c2pa-python, found none: pip install "lipsync-jax[sign]"'


class SigningError(MediaError):
  """A file that cannot be signed, or whose signature is wrong."""


def has_library() -> bool:
  """Whether c2pa-python is installed."""
  return importlib.util.find_spec('c2pa') is not None


class Signer:
  """Signs finished files with a certificate; call it with a path."""

  def __init__(self, certificate: str, key: str, outfile: str):
    """Read the certificate and its key.

    Args:
      certificate: PEM of the chain, the signer's first.
      key: PEM of the signer's private key, PKCS#8 on the curve P-256 (ES256).
      outfile: name of the output; its suffix tells the container.

    Raises:
      SigningError: no library, another container, or an unusable key.
      OSError: a file cannot be read.
    """
    self.mime = MIME.get(pathlib.Path(outfile).suffix.lower())
    if self.mime is None:
      raise SigningError(
        f'--sign: expected an output of the suffix {" ".join(MIME)}, found '
        f'{printable(outfile)}'
      )
    if not has_library():
      raise SigningError(f'--sign: {NO_LIBRARY}')
    import c2pa

    chain, secret = (pathlib.Path(p).read_bytes() for p in (certificate, key))
    try:
      info = c2pa.C2paSignerInfo(
        alg=b'es256', sign_cert=chain, private_key=secret, ta_url=None
      )
      self.signer = c2pa.Signer.from_info(info)
    except Exception as error:
      raise SigningError(
        '--sign: expected a certificate and its ES256 key as PEM, found: '
        f'{reason_of(error)}'
      ) from error
    self.title = pathlib.Path(outfile).name

  def __call__(self, path: pathlib.Path) -> None:
    """Put a signed manifest into a finished file.

    Raises:
      SigningError: the library refuses.
    """
    import c2pa

    manifest = {
      'title': self.title,
      'claim_generator_info': [{'name': 'lipsync_jax', 'version': __version__}],
      'assertions': [
        {
          'label': 'c2pa.actions.v2',
          'data': {
            'actions': [
              {'action': 'c2pa.created', 'digitalSourceType': SOURCE_TYPE}
            ]
          },
        }
      ],
    }
    signed = atomic_file.AtomicFile(path)  # never kept, only copied
    try:
      with open(path, 'rb') as source, open(signed.part, 'w+b') as target:
        c2pa.Builder(manifest).sign(self.signer, self.mime, source, target)
      # The file keeps its lock, which a renamed one would not have.
      with open(signed.part, 'rb') as source, open(path, 'wb') as target:
        shutil.copyfileobj(source, target)
    except c2pa.C2paError as error:
      raise SigningError(f'--sign: signing failed: {reason_of(error)}') from (
        error
      )
    finally:
      signed.drop()


def absence() -> str:
  """Why `read_signature` found nothing, in words."""
  return 'none' if has_library() else 'not read (no c2pa-python)'


def read_signature(path: str | os.PathLike) -> str | None:
  """What the manifest of a file says, in words; None if it has none.

  Without c2pa-python every file seems to have none.

  Raises:
    SigningError: the signature is wrong, or the file was changed afterwards.
  """
  mime = MIME.get(pathlib.Path(path).suffix.lower())
  if mime is None or not has_library():
    return None
  import c2pa

  try:
    with open(path, 'rb') as file, c2pa.Reader(mime, file) as reader:
      facts = json.loads(reader.json())
  except c2pa.C2paError as error:
    if 'ManifestNotFound' in type(error).__name__:
      return None
    raise SigningError(
      f'{printable(path)}: expected readable Content Credentials, found: '
      f'{reason_of(error)}'
    ) from error
  state = facts.get('validation_state')
  if state not in ('Valid', 'Trusted'):
    codes = [one.get('code', '') for one in facts.get('validation_status', ())]
    raise SigningError(
      f'{printable(path)}: expected a valid signature, found '
      f'{", ".join(codes) or state}; the file was changed after signing'
    )
  manifest = facts['manifests'][facts['active_manifest']]
  signer = manifest.get('signature_info', {})
  name = signer.get('common_name') or signer.get('issuer') or 'unknown'
  trust = 'trusted' if state == 'Trusted' else 'issuer not in a trust list'
  kinds = {
    action.get('digitalSourceType', '').rpartition('/')[2]
    for part in manifest.get('assertions', ())
    for action in part.get('data', {}).get('actions', ())
  }
  made = ', '.join(sorted(kinds - {''})) or 'no source type'
  return printable(f'{made}; signed by {name} ({trust}), unchanged since')
