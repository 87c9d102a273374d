"""The file of a refiner (`models.refiner`).

It is a safetensors file whose metadata hold the architecture, the mel and crop
constants and a SHA-256 of the tensors.
"""

import dataclasses
import json
import os

import numpy as np
from flax import traverse_util

from lipsync_jax.models import refiner
from lipsync_jax.weights import safetensors_file

FORMAT = 'lipsync_jax.refiner/1'
# Constants of the training data; other values need another network.
CROP_TEXT = (
  'RGB in [0, 1], 1.6 mouth widths around the neutral mouth, '
  'references most open, middle, most closed'
)


@dataclasses.dataclass(frozen=True)
class RefinerWeights:
  """A trained refiner.

  Attributes:
    variables: of `models.refiner.Refiner`.
    size: pixels of the crop.
    width: multiplier of the channels.
    source: data of the training.
    sha256: of the tensors; empty before they are stored.
    meta: any JSON value.
  """

  variables: dict
  size: int
  width: float
  source: str
  sha256: str = ''
  meta: dict = dataclasses.field(default_factory=dict)


def save_refiner(path: str | os.PathLike, value: RefinerWeights) -> None:
  """Write a refiner atomically, as float16."""
  flat = traverse_util.flatten_dict(value.variables, sep='/')
  tensors = {name: np.asarray(x, np.float16) for name, x in flat.items()}
  facts = {
    'format': FORMAT,
    'size': str(value.size),
    'width': str(value.width),
    'source': value.source,
    'meta': json.dumps(value.meta, sort_keys=True),
    'mel': safetensors_file.MEL_TEXT,
    'crop': CROP_TEXT,
  }
  safetensors_file.write_sealed(path, tensors, facts)


def load_refiner(path: str | os.PathLike) -> RefinerWeights:
  """Read a refiner as float32.

  Raises:
    WeightsError: another file, other constants, or damaged tensors.
  """
  tensors, facts = safetensors_file.read_sealed(
    path, FORMAT, f'a refiner ({FORMAT})'
  )
  wanted = {'mel': safetensors_file.MEL_TEXT, 'crop': CROP_TEXT}
  for name, text in wanted.items():
    if facts[name] != text:
      raise safetensors_file.weights_error(
        path, f'trained on {facts[name]!r}, expected another {name}'
      )
  flat = {name: x.astype(np.float32) for name, x in tensors.items()}
  value = RefinerWeights(
    variables=traverse_util.unflatten_dict(flat, sep='/'),
    size=int(facts['size']),
    width=float(facts['width']),
    source=facts['source'],
    sha256=facts['sha256'],
    meta=json.loads(facts['meta']),
  )
  layers = refiner.layer_specs(value.size, value.width).values()
  names = {row.name for part in layers for stage in part for row in stage}
  if value.variables['params'].keys() != names:
    raise safetensors_file.weights_error(
      path, f'not the tensors of a refiner of {value.size} pixels'
    )
  return value
