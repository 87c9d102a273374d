"""The file of an articulator: network, basis of displacements, constants.

It is a safetensors file whose metadata hold the architecture, the mel constants
and a SHA-256 of the tensors.
"""

import dataclasses
import json
import os

import numpy as np
from flax import traverse_util
from jaxtyping import Float

from lipsync_jax.common.assets import asset_path
from lipsync_jax.weights import safetensors_file

FORMAT = 'lipsync_jax.articulator/2'
DEFAULT_ARTICULATOR = asset_path('articulator.safetensors')


@dataclasses.dataclass(frozen=True)
class Articulation:
  """A trained articulator.

  Attributes:
    variables: of `models.articulator.Articulator`.
    basis: displacements of the mesh at coefficient 1, canonical units.
    width: channels of the network.
    source: data of the training, for the report.
    sha256: of the tensors.
    meta: any JSON value.
  """

  variables: dict
  basis: Float[np.ndarray, '16 478 3']
  width: int
  source: str
  sha256: str = ''
  meta: dict = dataclasses.field(default_factory=dict)


def save_articulation(path: str | os.PathLike, value: Articulation) -> None:
  """Write an articulator atomically, as float16."""
  from safetensors.numpy import save

  from lipsync_jax.common import atomic_file

  flat = traverse_util.flatten_dict(value.variables, sep='/')
  tensors = {name: np.asarray(x, np.float16) for name, x in flat.items()}
  tensors['basis'] = np.asarray(value.basis, np.float16)
  metadata = {
    'format': FORMAT,
    'width': str(value.width),
    'source': value.source,
    'meta': json.dumps(value.meta, sort_keys=True),
    'mel': safetensors_file.MEL_TEXT,
    'sha256': safetensors_file.tensor_digest(tensors),
  }
  metadata['seal'] = safetensors_file.metadata_digest(metadata)
  with atomic_file.atomic_write(path) as part:
    part.write_bytes(save(tensors, metadata))


def load_articulation(
  path: str | os.PathLike = DEFAULT_ARTICULATOR,
) -> Articulation:
  """Read an articulator as float32.

  Raises:
    WeightsError: another file, other mel constants, or damaged tensors.
  """
  tensors, metadata = safetensors_file.open_safetensors(path)
  if metadata.get('format') != FORMAT:
    raise safetensors_file.weights_error(
      path,
      f'expected an articulator ({FORMAT}), found '
      f'{metadata.get("format", "none of ours")!r}',
    )
  digests = (
    safetensors_file.tensor_digest(tensors),
    safetensors_file.metadata_digest(metadata),
  )
  if digests != (metadata.get('sha256'), metadata.get('seal')):
    raise safetensors_file.weights_error(
      path, 'damaged (its SHA-256 differs); copy it again'
    )
  if metadata['mel'] != safetensors_file.MEL_TEXT:
    raise safetensors_file.weights_error(
      path, f'trained on {metadata["mel"]!r}, expected another mel'
    )
  tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
  basis = tensors.pop('basis')
  return Articulation(
    variables=traverse_util.unflatten_dict(tensors, sep='/'),
    basis=basis,
    width=int(metadata['width']),
    source=metadata['source'],
    sha256=metadata['sha256'],
    meta=json.loads(metadata['meta']),
  )
