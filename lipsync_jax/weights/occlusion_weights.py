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
  flat = traverse_util.flatten_dict(variables, sep='/')
  tensors = {name: np.asarray(x, np.float16) for name, x in flat.items()}
  facts = {
    'format': FORMAT,
    'source': source,
    'meta': json.dumps(meta, sort_keys=True),
  }
  safetensors_file.write_sealed(path, tensors, facts)


def load_occlusion(path: str | os.PathLike = DEFAULT_OCCLUSION) -> dict:
  """Read the variables as float32.

  Raises:
    WeightsError: another file, or damaged tensors.
  """
  tensors, _ = safetensors_file.read_sealed(
    path, FORMAT, f'an occlusion network ({FORMAT})'
  )
  flat = {name: x.astype(np.float32) for name, x in tensors.items()}
  return traverse_util.unflatten_dict(flat, sep='/')
