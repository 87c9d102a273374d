"""Our weight file: safetensors with architecture and constants.

The metadata hold the architecture, the mel and crop constants of training, the
source, and a SHA-256 of the tensors that is verified on loading (safetensors
has no checksum).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from lipsync_jax.common import atomic_file
from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.weights import tensor_mapping
from lipsync_jax.weights.pickle_types import printable_name

FORMAT = 'lipsync_jax weights 1'
# Constants of the training data; other values need another network.
MEL_TEXT = (
  '16000 Hz, hop 200, window 800, 80 mels 55-7600 Hz, pre-emphasis 0.97, '
  '16 columns, range -4 to 4'
)
MFCC_TEXT = '16000 Hz, 13 coefficients, 100 a second, 20 columns'
CROP_TEXT = 'RGB in [0, 1], lower half masked, reference second'
PIXELS_TEXT = 'BGR in 0-255, five frames'
# Seconds by which the mel window starts before the frame (spec 1.7): the
# published training code says one frame of 25 a second, ours centers it.
LEAD_PUBLISHED = Fraction(1, 25)
LEAD = Fraction(2, 25)


class WeightsError(LipSyncError):
  """Weights that cannot be used; `problems` lists all faulty tensors."""

  def __init__(self, message: str, problems: tuple[str, ...] = ()):
    super().__init__(message)
    self.problems = problems


def weights_error(
  path, what: str, problems: tuple[str, ...] = ()
) -> WeightsError:
  """A WeightsError about a file."""
  return WeightsError(f'{printable_name(path)}: {what}', problems)


@dataclasses.dataclass(frozen=True)
class Weights:
  """A trained network.

  `variables` are Linen's {'params', 'batch_stats'} of float32 (or float16)
  NumPy arrays. `sha256` is that of the stored tensors, empty before they are
  stored. `meta` is any JSON value.
  """

  network: str
  size: int
  width: float
  variables: dict
  source: str
  mel_lead: Fraction = LEAD  # seconds; 0 where a window starts at its frame
  sha256: str = ''
  meta: dict = dataclasses.field(default_factory=dict)


def flatten(tree: dict, prefix: str = '') -> Iterator[tuple[str, np.ndarray]]:
  """Arrays by their joined names, such as 'params/output_block_1/kernel'."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from flatten(value, f'{prefix}{key}/')
    else:
      yield f'{prefix}{key}', np.ascontiguousarray(value)


def unflatten(flat: dict[str, np.ndarray]) -> dict:
  """The inverse of `flatten`."""
  tree: dict = {}
  for name, value in flat.items():
    *parents, leaf = name.split('/')
    place = tree
    for key in parents:
      place = place.setdefault(key, {})
    place[leaf] = value
  return tree


def tensor_digest(flat: dict[str, np.ndarray]) -> str:
  """SHA-256 over names, types, shapes and bytes, in order of name."""
  total = hashlib.sha256()
  for name in sorted(flat):
    x = flat[name]
    total.update(f'{name} {x.dtype.str} {x.shape}\n'.encode())
    total.update(x.reshape(-1).view(np.uint8))
  return total.hexdigest()


def metadata_digest(facts: dict[str, str]) -> str:
  """SHA-256 of the metadata, which detects damage there."""
  facts = {k: v for k, v in facts.items() if k != 'seal'}
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def preprocessing_constants(network: str) -> dict[str, str]:
  """The mel and crop constants as text."""
  if network == 'syncnet_v2':
    return {'mel': MFCC_TEXT, 'crop': PIXELS_TEXT}
  return {'mel': MEL_TEXT, 'crop': CROP_TEXT}


def expected_tensors(network: str, size: int, width: float) -> set[str]:
  """Names and shapes of a network's tensors."""
  slots = tensor_mapping.tensor_specs(network, size, width)
  return {'/'.join(slot.path) for slot in slots}


def save(path: str | os.PathLike, weights: Weights) -> None:
  """Write a safetensors file atomically."""
  flat = dict(flatten(weights.variables))
  names = expected_tensors(weights.network, weights.size, weights.width)
  assert flat.keys() == names, flat.keys() ^ names
  facts = preprocessing_constants(weights.network) | {
    'format': FORMAT,
    'network': weights.network,
    'size': str(weights.size),
    'width': str(weights.width),
    'mel_lead': str(weights.mel_lead),
    'source': weights.source,
    'meta': json.dumps(weights.meta, sort_keys=True),
  }
  write_sealed(path, flat, facts)


def load(path: str | os.PathLike) -> Weights:
  """Read one of our files as float32, and verify its checksums."""
  flat, facts = read_sealed(
    path, FORMAT, f'a file of {FORMAT!r}', '; import it first'
  )
  try:
    return weights_from(path, flat, facts)
  except (KeyError, ValueError) as error:
    raise weights_error(path, f'not a file of ours: {error}') from None


def weights_from(path, flat: dict, facts: dict[str, str]) -> Weights:
  """Weights from verified tensors and metadata."""
  network, size = facts['network'], int(facts['size'])
  width = float(facts['width'])
  for key, value in preprocessing_constants(network).items():
    if facts[key] != value:
      raise ValueError(f'trained on {facts[key]!r}, expected {value!r}')
  if flat.keys() != expected_tensors(network, size, width):
    raise ValueError(f'not the tensors of a {network} of {size} pixels')
  flat = {name: x.astype(np.float32, copy=False) for name, x in flat.items()}
  return Weights(
    network,
    size,
    width,
    unflatten(flat),
    facts['source'],
    Fraction(facts['mel_lead']),
    facts['sha256'],
    json.loads(facts['meta']),
  )


def write_sealed(
  path: str | os.PathLike, flat: dict[str, np.ndarray], facts: dict[str, str]
) -> None:
  """Write tensors and metadata atomically, with the checksums of both.

  Args:
    path: of the file.
    flat: tensors by name.
    facts: metadata with a 'format'.
  """
  from safetensors import numpy as safetensors

  facts = facts | {'sha256': tensor_digest(flat)}
  facts['seal'] = metadata_digest(facts)
  with atomic_file.atomic_write(path) as part:
    part.write_bytes(safetensors.save(flat, facts))


def read_sealed(
  path: str | os.PathLike, form: str, what: str, remedy: str = ''
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Tensors and metadata of a file of `write_sealed`, verified.

  Args:
    path: of the file.
    form: expected 'format'.
    what: the kind of file, for the error.
    remedy: of another file, for the error.

  Raises:
    WeightsError: another file, or damage.
  """
  flat, facts = open_safetensors(path)
  found = facts.get('format', 'none of ours')
  if found != form:
    raise weights_error(path, f'expected {what}, found {found!r}{remedy}')
  digests = tensor_digest(flat), metadata_digest(facts)
  if digests != (facts.get('sha256'), facts.get('seal')):
    raise weights_error(path, 'damaged (its SHA-256 differs); copy it again')
  return flat, facts


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
  """Metadata of any safetensors file; only ours have the key 'format'."""
  return open_safetensors(path, names=())[1]


def open_safetensors(
  path: str | os.PathLike, names: tuple[str, ...] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Tensors (all, or the named ones) and metadata of a safetensors file."""
  from safetensors import safe_open

  if not pathlib.Path(path).is_file():
    raise weights_error(path, 'no file of that name')
  try:
    with safe_open(path, framework='numpy') as file:
      names = file.keys() if names is None else names
      return {k: file.get_tensor(k) for k in names}, file.metadata() or {}
  except Exception as error:
    raise weights_error(
      path, f'not a whole safetensors file; copy it again ({error})'
    ) from None
