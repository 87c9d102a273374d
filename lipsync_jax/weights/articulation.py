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
  flat = traverse_util.flatten_dict(value.variables, sep='/')
  tensors = {name: np.asarray(x, np.float16) for name, x in flat.items()}
  tensors['basis'] = np.asarray(value.basis, np.float16)
  metadata = {
    'format': FORMAT,
    'width': str(value.width),
    'source': value.source,
    'meta': json.dumps(value.meta, sort_keys=True),
    'mel': safetensors_file.MEL_TEXT,
  }
  safetensors_file.write_sealed(path, tensors, metadata)


def load_articulation(
  path: str | os.PathLike = DEFAULT_ARTICULATOR,
) -> Articulation:
  """Read an articulator as float32.

  Raises:
    WeightsError: another file, other mel constants, or damaged tensors.
  """
  tensors, metadata = safetensors_file.read_sealed(
    path, FORMAT, f'an articulator ({FORMAT})'
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
