"""Weights for inference, from any supported file.

Our own files are safetensors (`safetensors_file`). Files of Wav2Lip, PaddleGAN
and SyncNet v2 are imported and exported bit-exactly (`tensor_mapping`); nothing
in them is executed (`readers`).
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
from fractions import Fraction

import numpy as np

from lipsync_jax.common import cache
from lipsync_jax.common.assets import asset_path
from lipsync_jax.weights import (
  readers,
  safetensors_file,
  tensor_mapping,
  writers,
)
from lipsync_jax.weights.pickle_types import UnsafeFile, printable_name
from lipsync_jax.weights.safetensors_file import (
  LEAD,
  LEAD_PUBLISHED,
  Weights,
  WeightsError,
  load,
  save,
  weights_error,
)

__all__ = ['LEAD', 'UnsafeFile', 'Weights', 'WeightsError', 'load', 'save']

# The bundled generator, the default of `sync`, with its model card.
DEFAULT_GENERATOR = asset_path('default.safetensors')
NETWORKS = ('generator', 'syncnet', 'discriminator', 'syncnet_v2')
KNOWN_FILES = {  # spec 6.5
  'b78b681b68ad9fe6c6fb1debc6ff43ad05834a8af8a62ffc4167b7b34ef63c37': (
    'wav2lip.pth'
  ),
  'ca9ab7b7b812c0e80a6e70a5977c545a1e8a365a6c49d5e533023c034d7ac3d8': (
    'wav2lip_gan.pth'
  ),
  '9b9936c721696446eeed353032cab242a8cf0eed8c46cde540366f6ae5493be5': (
    'lipsync_expert.pth'
  ),
  'b3f8f6f7e954af02f2ffe0f3ea11f3259af89bff6e70933001c7c6bc8c145d96': (
    'visual_quality_disc.pth'
  ),
}


def file_sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file, hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def is_own_format(path: str | os.PathLike) -> bool:
  """Whether an existing file is a safetensors file of ours."""
  if readers.file_format(path) != 'safetensors':
    return False
  return 'format' in safetensors_file.read_metadata(path)


def load_any(path: str | os.PathLike, network: str | None = None) -> Weights:
  """Load weights from any file, ours or published; imports are cached.

  Args:
    path: the file; its content determines the format.
    network: name in NETWORKS that the caller needs. None takes the generator of
      a file with several networks.

  Raises:
    WeightsError: the file has no such network; the message begins with the
      path.
    UnsafeFile: the file is damaged or is not a file of tensors.
  """
  path = pathlib.Path(path)
  if is_own_format(path):
    return _require_network(path, load(path), network)
  sha256 = file_sha256(path)
  cached = (
    cache.cache_dir('weights') / f'{sha256[:32]}-{network or "any"}.safetensors'
  )
  with contextlib.suppress(WeightsError):  # absent, damaged or outdated
    return _require_network(path, load(cached), network)
  weights = convert(path, network)
  with contextlib.suppress(
    OSError
  ):  # a full or read-only disk only costs the cache
    cached.parent.mkdir(parents=True, exist_ok=True)
    save(cached, weights)
  return weights


def _require_network(path, weights: Weights, network: str | None) -> Weights:
  if network in (None, weights.network):
    return weights
  raise weights_error(
    path, f'expected the weights of a {network}, found a {weights.network}'
  )


def convert(path: str | os.PathLike, network: str | None = None) -> Weights:
  """A published file as our weights; `network` as in `load_any`."""
  path = pathlib.Path(path)
  tree = readers.read_tree(path)
  found, tensors = select_network(path, tree, network)
  check_tensors(path, found, tensors)
  sha256 = file_sha256(path)
  title = KNOWN_FILES.get(sha256, printable_name(path.name))
  counters = {
    name: int(x.item())
    for name, x in tensors.items()
    if name.endswith('_tracked')
  }
  weights = Weights(
    found,
    size=96,
    width=1.0,
    variables=tensor_mapping.from_published(found, tensors),
    source=f'{title}, SHA-256 {sha256}',
    # Only the generator's window starts before its frame.
    mel_lead=LEAD_PUBLISHED if found == 'generator' else Fraction(0),
    meta={'counters': counters, 'published': sha256 in KNOWN_FILES},
  )
  flat = dict(safetensors_file.flatten(weights.variables))
  return dataclasses.replace(
    weights, sha256=safetensors_file.tensor_digest(flat)
  )


def select_network(path, tree: dict, network: str | None) -> tuple[str, dict]:
  """Name and tensors of a network, from all state dicts of a file."""
  ranked = []
  for tensors in tensor_mapping.state_dicts(tree):
    scores = {
      name: tensor_mapping.name_overlap(name, tensors) for name in NETWORKS
    }
    best = max(NETWORKS, key=scores.get)
    if scores[best] > 0.2:
      ranked.append((NETWORKS.index(best), -scores[best], best, tensors))
  if not ranked:
    names = [key for part in tensor_mapping.state_dicts(tree) for key in part]
    some = printable_name(', '.join(names[:3])[:80])
    raise weights_error(
      path,
      f'expected a network of {", ".join(NETWORKS)}; found '
      f'{len(names)} tensors of another kind ({some} …)',
    )
  ranked.sort(key=lambda row: row[:2])
  for _, _, name, tensors in ranked:
    if network in (None, name):
      return name, tensors
  found = ' and a '.join(row[2] for row in ranked)
  raise weights_error(
    path, f'expected the weights of a {network}, found a {found}'
  )


def check_tensors(path, network: str, tensors: dict) -> None:
  """Raise a WeightsError that lists all mismatches with the network."""
  faults = {
    k: v
    for k, v in tensor_mapping.find_mismatches(network, tensors).items()
    if v
  }
  if not faults:
    return
  parts = [
    f'{len(names)} {kind} ({", ".join(names[:5])}{" …" * (len(names) > 5)})'
    for kind, names in faults.items()
  ]
  raise weights_error(
    path,
    f'not the published {network} (96 pixels): tensors ' + '; '.join(parts),
    tuple(
      f'{kind}: {name}' for kind, names in faults.items() for name in names
    ),
  )


def import_file(
  src: str | os.PathLike, dst: str | os.PathLike, network: str | None = None
) -> Weights:
  """Convert a published file to ours; nothing is written on an error."""
  if pathlib.Path(dst).suffix != '.safetensors':
    raise weights_error(dst, 'expected a name ending in .safetensors')
  if is_own_format(src):
    raise weights_error(src, 'is ours already; copy it instead')
  weights = convert(src, network)
  with as_weights_error(dst):
    save(dst, weights)
  return weights


def halve_file(src: str | os.PathLike, dst: str | os.PathLike) -> None:
  """Store weights as float16; statistics stay float32.

  Running variances exceed the range of float16, and they are small.
  """
  weights = load(src) if is_own_format(src) else convert(src)
  flat = dict(safetensors_file.flatten(weights.variables))
  with np.errstate(over='ignore'):
    halved = {
      name: x.astype(np.float16) if name.startswith('params/') else x
      for name, x in flat.items()
    }
  if not all(np.isfinite(x).all() for x in halved.values()):
    raise weights_error(
      src, 'some weights are too large for float16; keep float32'
    )
  tree = safetensors_file.unflatten(halved)
  with as_weights_error(dst):
    save(dst, dataclasses.replace(weights, variables=tree))


def export_file(src: str | os.PathLike, dst: str | os.PathLike) -> None:
  """Write weights as PyTorch's .pth or Paddle's .pdparams.

  A PyTorch file has the published form ({'state_dict': …}; SyncNet v2 is a bare
  state dict). Unknown step counters are 0.
  """
  suffix = pathlib.Path(dst).suffix
  if suffix not in ('.pth', '.pdparams'):
    raise weights_error(dst, 'expected a name ending in .pth or .pdparams')
  weights = load(src) if is_own_format(src) else convert(src)
  facts = weights.network, weights.size, weights.width
  tensors = tensor_mapping.to_published(*facts, weights.variables)
  if suffix == '.pdparams' and weights.network == 'syncnet_v2':
    raise weights_error(dst, 'SyncNet v2 has no Paddle form; use .pth')
  with as_weights_error(dst):
    if suffix == '.pdparams':
      writers.write_pdparams(
        dst, *tensor_mapping.to_paddle_names(*facts, tensors)
      )
      return
    counters = weights.meta.get('counters', {})
    tree = tensor_mapping.with_counters(*facts, tensors, counters)
    if weights.network != 'syncnet_v2':
      tree = {'state_dict': tree, 'optimizer': None}
      tree |= {'global_step': 0, 'global_epoch': 0}
    writers.write_pth(dst, tree)


@contextlib.contextmanager
def as_weights_error(path):
  """Raise an OSError of the block as a WeightsError."""
  try:
    yield
  except OSError as error:
    raise weights_error(path, f'cannot write: {error.strerror}') from None


def describe_file(path: str | os.PathLike) -> str:
  """The content of a file, in lines of `name value`."""
  weights = load(path) if is_own_format(path) else convert(path)
  flat = dict(safetensors_file.flatten(weights.variables['params']))
  count = sum(x.size for x in flat.values())
  lines = {
    'network': f'{weights.network}, {weights.size} pixels, '
    f'width {weights.width:g}, {count:,} parameters',
    'file': 'ours' if is_own_format(path) else 'published, not imported yet',
    'source': weights.source,
    'sha256': f'{weights.sha256} (of the tensors)',
    'mel lead': f'{weights.mel_lead} s before the frame',
  }
  lines |= safetensors_file.preprocessing_constants(weights.network)
  if weights.meta.get('published'):
    lines['license'] = 'the authors allow research and personal use only'
  return '\n'.join(f'{name:9}{value}' for name, value in lines.items())
