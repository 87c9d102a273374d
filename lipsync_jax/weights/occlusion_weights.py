"""The file of the occlusion network (`models.occlusion`)."""

import json
import os

import numpy as np
from flax import traverse_util

from lipsync_jax.common.assets import asset_path
from lipsync_jax.weights import safetensors_file

FORMAT = 'lipsync_jax.occlusion/1'
DEFAULT_OCCLUSION = asset_path('occlusion.safetensors')


def save_occlusion(
  path: str | os.PathLike, variables: dict, source: str, meta: dict
) -> None:
  """Write the variables atomically, as float16.

  Args:
    path: of the file.
    variables: of `models.occlusion.OcclusionNetwork`.
    source: data of the training.
    meta: any JSON value, such as scores.
  """
  from safetensors.numpy import save

  from lipsync_jax.common import atomic_file

  flat = traverse_util.flatten_dict(variables, sep='/')
  tensors = {name: np.asarray(x, np.float16) for name, x in flat.items()}
  metadata = {
    'format': FORMAT,
    'source': source,
    'meta': json.dumps(meta, sort_keys=True),
    'sha256': safetensors_file.tensor_digest(tensors),
  }
  with atomic_file.atomic_write(path) as part:
    part.write_bytes(save(tensors, metadata))


def load_occlusion(path: str | os.PathLike = DEFAULT_OCCLUSION) -> dict:
  """Read the variables as float32.

  Raises:
    WeightsError: another file, or damaged tensors.
  """
  tensors, metadata = safetensors_file.open_safetensors(path)
  if metadata.get('format') != FORMAT:
    raise safetensors_file.weights_error(
      path,
      f'expected an occlusion network ({FORMAT}), found '
      f'{metadata.get("format", "none of ours")!r}',
    )
  if safetensors_file.tensor_digest(tensors) != metadata.get('sha256'):
    raise safetensors_file.weights_error(
      path, 'damaged (its SHA-256 differs); copy it again'
    )
  flat = {name: x.astype(np.float32) for name, x in tensors.items()}
  return traverse_util.unflatten_dict(flat, sep='/')
