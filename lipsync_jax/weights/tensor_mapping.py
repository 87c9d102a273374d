"""Published files and our variables: names, layouts, channel order.

A published file is a flat dictionary of PyTorch's tensors (Paddle's have the
same names and layouts but for two suffixes). Our variables are Linen's
{'params': …, 'batch_stats': …}. `tensor_specs` lists every tensor of a network
in both forms, from the layer tables. `from_published` and `to_published`
convert bit-exactly.

Shapes: i input channels, o output channels, h w kernel rows and columns.
Source: spec 6.4, 6.5, 8.1 and 12. Differs from Wav2Lip: published networks take
BGR, ours RGB, so that the channel triples of the first and last kernels are
reversed. SyncNet v2 is defined on BGR and unchanged.
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from lipsync_jax.weights import pickle_types

# Layers outside a conv_block: the convolution has the layer's name.
LAYERS_WITHOUT_NORM = ('output_block_1', 'binary_pred_0')
# (network, layer, leaf): axis with BGR triples in published files.
BGR_TENSORS = {
  ('generator', 'face_encoder_blocks_0_0', 'kernel'): 2,
  ('generator', 'output_block_1', 'kernel'): 3,
  ('generator', 'output_block_1', 'bias'): 0,
  ('syncnet', 'face_encoder_0', 'kernel'): 2,
  ('discriminator', 'face_encoder_blocks_0_0', 'kernel'): 2,
}
# Parts of a BatchNorm: our name, published name.
NORM_TENSORS = (
  ('params', 'scale', 'weight'),
  ('params', 'bias', 'bias'),
  ('batch_stats', 'mean', 'running_mean'),
  ('batch_stats', 'var', 'running_var'),
)
STEP_COUNTER = 'num_batches_tracked'  # absent in Paddle and old PyTorch files
PADDLE_SUFFIXES = {'running_mean': '_mean', 'running_var': '_variance'}
TRAINER_KEYS = ('netG', 'netDS', 'netDH', 'netD')  # PaddleGAN's names


@dataclasses.dataclass(frozen=True)
class TensorSpec:
  """One tensor: name and shape in a published file, path in our variables."""

  name: str
  shape: tuple[int, ...]
  path: tuple[str, ...]  # ('params', 'face_encoder_0', 'norm', 'scale')
  up: bool = False  # a transposed convolution

  @property
  def counter(self) -> str | None:
    """Name of the step counter beside a running variance."""
    stem, _, leaf = self.name.rpartition('.')
    return f'{stem}.{STEP_COUNTER}' if leaf == 'running_var' else None


def tensor_specs(
  network: str, size: int = 96, width: float = 1.0
) -> tuple[TensorSpec, ...]:
  """Every tensor of a network but the counters, in the tables' order."""
  from lipsync_jax import models

  return tuple(
    slot
    for layer in models.all_layers(network, size, width)
    for slot in layer_tensor_specs(network, layer)
  )


def layer_tensor_specs(network: str, layer) -> Iterator[TensorSpec]:
  """The two tensors of a convolution and the four of its norm."""
  conv = re.sub(r'_(\d+)', r'.\1', layer.name)
  stem, _, number = conv.rpartition('.')
  norm = f'{conv}.conv_block.1'
  if network == 'syncnet_v2':
    norm = f'{stem}.{int(number) + 1}'
  elif layer.name not in LAYERS_WITHOUT_NORM:
    conv = f'{conv}.conv_block.0'
  shape = kernel_shape(layer)
  yield TensorSpec(
    f'{conv}.weight', shape, ('params', layer.name, 'kernel'), layer.up
  )
  yield TensorSpec(
    f'{conv}.bias', (layer.cout,), ('params', layer.name, 'bias')
  )
  if layer.norm:
    for group, ours, theirs in NORM_TENSORS:
      path = (group, layer.name, 'norm', ours)
      yield TensorSpec(f'{norm}.{theirs}', (layer.cout,), path)


def kernel_shape(layer) -> tuple[int, ...]:
  """Shape of a convolution's weight in a published file."""
  if layer.up:
    return layer.cin, layer.cout, *layer.kernel
  if layer.name.startswith('netfc'):  # a fully connected layer
    return layer.cout, layer.cin
  if layer.name == 'netcnnlip_0':  # five frames deep
    return layer.cout, 3, 5, *layer.kernel
  if layer.name.startswith('netcnnlip'):
    return layer.cout, layer.cin, 1, *layer.kernel
  return layer.cout, layer.cin, *layer.kernel


def kernel_in(slot: TensorSpec, x: np.ndarray) -> np.ndarray:
  """A published weight as a kernel [h, w, i, o]."""
  if slot.up:  # [i, o, h, w], rotated by 180 degrees
    return x.transpose(2, 3, 0, 1)[::-1, ::-1]  # [h, w, i, o]
  if x.ndim == 2:
    x = x[:, :, None, None]  # [o, i, 1, 1]
  if x.ndim == 5:
    o, i, t, h, w = x.shape
    x = x.transpose(0, 2, 1, 3, 4).reshape(o, t * i, h, w)  # frame-major
  return x.transpose(2, 3, 1, 0)  # [h, w, i, o]


def kernel_out(slot: TensorSpec, x: np.ndarray) -> np.ndarray:
  """The inverse of `kernel_in`."""
  if slot.up:
    return x[::-1, ::-1].transpose(2, 3, 0, 1)  # [i, o, h, w]
  x = x.transpose(3, 2, 0, 1)  # [o, i, h, w]
  if len(slot.shape) == 5:
    o, i, t, h, w = slot.shape
    x = x.reshape(o, t, i, h, w).transpose(0, 2, 1, 3, 4)  # [o, i, t, h, w]
  return x.reshape(slot.shape)


def swap_bgr(network: str, slot: TensorSpec, x: np.ndarray) -> np.ndarray:
  """Reverse the channel triples of a tensor between pixels and channels."""
  axis = BGR_TENSORS.get((network, slot.path[1], slot.path[-1]))
  if axis is None:
    return x
  order = np.arange(x.shape[axis]).reshape(-1, 3)[:, ::-1].ravel()
  return np.take(x, order, axis)


def from_published(
  network: str,
  tensors: dict[str, np.ndarray],
  size: int = 96,
  width: float = 1.0,
) -> dict:
  """A published file's tensors as our variables, float32."""
  variables: dict = {}
  for slot in tensor_specs(network, size, width):
    x = tensors[slot.name]
    if slot.path[-1] == 'kernel':
      x = kernel_in(slot, x)
    x = swap_bgr(network, slot, x)
    *parents, leaf = slot.path
    place = variables
    for name in parents:
      place = place.setdefault(name, {})
    place[leaf] = np.ascontiguousarray(x, np.float32)
  return variables


def to_published(
  network: str, size: int, width: float, variables: dict
) -> dict[str, np.ndarray]:
  """Our variables as a published file's tensors, without counters."""
  tensors = {}
  for slot in tensor_specs(network, size, width):
    x = variables
    for name in slot.path:
      x = x[name]
    x = swap_bgr(network, slot, np.asarray(x))
    if slot.path[-1] == 'kernel':
      x = kernel_out(slot, x)
    tensors[slot.name] = np.ascontiguousarray(x)
  return tensors


def with_counters(
  network: str, size: int, width: float, tensors: dict, counters: dict
) -> dict[str, np.ndarray]:
  """Add BatchNorm's step counters after each running variance."""
  full = {}
  for slot in tensor_specs(network, size, width):
    full[slot.name] = tensors[slot.name]
    if slot.counter:
      count = counters.get(slot.counter, 0)
      full[slot.counter] = np.array(count, np.int64)
  return full


def to_paddle_names(
  network: str, size: int, width: float, tensors: dict
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Tensors under Paddle's names, and Paddle's internal names."""
  renamed, internal = {}, {}
  for i, slot in enumerate(tensor_specs(network, size, width)):
    stem, _, leaf = slot.name.rpartition('.')
    name = f'{stem}.{PADDLE_SUFFIXES.get(leaf, leaf)}'
    renamed[name] = tensors[slot.name]
    internal[name] = f'parameter_{i}'
  return renamed, internal


def clean_name(name: str) -> str:
  """A key without wrappers' prefixes, with PyTorch's suffixes."""
  name = name.replace('module.', '').replace('_layers.', '')
  stem, _, leaf = name.rpartition('.')
  for ours, theirs in PADDLE_SUFFIXES.items():
    if leaf == theirs:
      return f'{stem}.{ours}'
  return name


def state_dicts(tree: dict, depth: int = 3) -> Iterator[dict[str, np.ndarray]]:
  """Every flat dictionary of tensors in a file, PaddleGAN's netG first."""
  flat: dict[str, np.ndarray] = {}
  for key, value in tree.items():
    if isinstance(value, np.ndarray):
      name = clean_name(str(key))
      flat[str(key) if name in flat else name] = value
  if flat:
    yield flat
  inner = {k: v for k, v in tree.items() if isinstance(v, dict)}
  rank = {name: i for i, name in enumerate(TRAINER_KEYS)}
  for key in sorted(inner, key=lambda k: rank.get(k, len(rank))):
    if depth:
      yield from state_dicts(inner[key], depth - 1)


def name_overlap(network: str, tensors: dict[str, np.ndarray]) -> float:
  """Share of a network's names that occur in a dictionary, 0 to 1."""
  names = {slot.name for slot in tensor_specs(network)}
  found = {name for name in tensors if not name.endswith(STEP_COUNTER)}
  return len(names & found) / len(names | found)


def find_mismatches(
  network: str, tensors: dict[str, np.ndarray]
) -> dict[str, list]:
  """All differences from the published network, by kind."""
  wanted = {slot.name: slot.shape for slot in tensor_specs(network)}
  counters = {s.counter for s in tensor_specs(network) if s.counter}
  legal = wanted.keys() | counters
  both = [name for name in wanted if name in tensors]
  counted = [name for name in tensors if name in counters]
  return {
    'missing': [name for name in wanted if name not in tensors],
    'unexpected': [
      pickle_types.printable_name(name)[:80]
      for name in tensors
      if name not in legal
    ],
    'mis-shaped': [
      f'{name} {tensors[name].shape} for {wanted[name]}'
      for name in both
      if tensors[name].shape != wanted[name]
    ],
    'of odd type': [
      f'{name} {tensors[name].dtype}'
      for name in both
      if tensors[name].dtype.kind != 'f'
    ]
    + [
      f'{name} {tensors[name].dtype} {tensors[name].shape}'
      for name in counted
      if tensors[name].dtype.kind not in 'iu' or tensors[name].size != 1
    ],
    'not finite': [
      name
      for name in both
      if tensors[name].dtype.kind == 'f'
      and not np.isfinite(tensors[name]).all()
    ],
  }
