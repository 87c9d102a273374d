"""The networks applied to a batch of windows. Pure functions.

Shapes: b batch, t five frames (or two, for pairs), k windows of a clip, d
dimension of an embedding, h w pixels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.training import losses

Batch = dict[str, Array]


def merge_time(x: Float[Array, 'b t *rest']) -> Float[Array, 'bt *rest']:
  """Frames as a batch.  [b, t, ...] -> [b*t, ...]

  Differs from Wav2Lip: it merges time first. No network depends on the order,
  and this way the rows of a device stay on that device.
  """
  return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def split_time(
  x: Float[Array, 'bt *rest'], b: int
) -> Float[Array, 'b t *rest']:
  """The inverse of `merge_time`.  [b*t, ...] -> [b, t, ...]"""
  return x.reshape(b, -1, *x.shape[1:])


def lower_half_stack(
  frames: Float[Array, 'b t h w 3'],
) -> Float[Array, 'b h2 w 15']:
  """SyncNet's input: lower halves, channels frame by frame."""
  half = jnp.moveaxis(frames[:, :, frames.shape[2] // 2 :], 1, 3)
  return half.reshape(*half.shape[:3], -1)  # [b, h/2, w, 3*t]


def apply_network(net, variables: dict, *x, train: bool):
  """A network's output, and its batch statistics after this batch."""
  if not train:
    out = net.apply(variables, *x, train=False)
    return out, variables.get('batch_stats', {})
  out, new = net.apply(variables, *x, train=True, mutable=['batch_stats'])
  return out, new.get('batch_stats', {})


def embed_windows(net, variables: dict, batch: Batch, train: bool):
  """SyncNet's unit vectors and statistics.

  Returns:
    ((audio, face), statistics); vectors are [b, d], or [b, k, d] where
    several windows of a clip compete.
  """
  mel, frames = batch['mel'], batch['frames']
  b, grouped = mel.shape[0], mel.ndim == 5
  if grouped:
    mel, frames = merge_time(mel), merge_time(frames)
  vectors, stats = apply_network(net, variables, mel, frames, train=train)
  if grouped:
    vectors = tuple(split_time(x, b) for x in vectors)
  return vectors, stats


def run_generator(net, variables: dict, batch: Batch, train: bool):
  """Generated faces [b, t, h, w, 3] and the generator's statistics."""
  generated, stats = apply_network(
    net,
    variables,
    merge_time(batch['mels']),
    merge_time(batch['face']),
    train=train,
  )
  return split_time(generated, batch['mels'].shape[0]), stats


def generated_sync_loss(
  expert, variables: dict, batch: Batch, generated, train: bool
):
  """Sync loss [b] of generated frames; `variables` do not change.

  Differs from Wav2Lip by default: stored batch statistics. There the frozen
  expert was left in training mode (spec 4.5); `train` repeats that.
  """
  inputs = batch | {'frames': lower_half_stack(generated)}
  (audio, face), _ = embed_windows(expert, variables, inputs, train)
  return losses.sync_loss(audio, face)
