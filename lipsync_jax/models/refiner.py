"""The refiner: repaints the mouth of a frame that the mesh renderer warped.

An encoder-decoder with skip connections over a square crop of the mouth. It
reads the warped crop, the hole between its lips, NUM_REFERENCES mouths of the
same person and the mel window of the frame. Its output is a picture and a
mask: the refined crop is warped + mask * (picture - warped). The mask is near 0
in an untrained network, and always 0 at the edge of the crop.

Shapes: b batch, h w height and width of the crop, k references.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from lipsync_jax.models import layers
from lipsync_jax.models.layers import ConvSpec, residual_specs, scale_channels

SIZES = (64, 128, 192, 256)  # pixels of the square mouth crop
NUM_REFERENCES = 3  # the most open mouth, a middle one, the most closed one
CHANNELS = 3 + 1 + 3 * NUM_REFERENCES  # warped, hole, references
AUDIO_CHANNELS = (32, 64, 128, 256)
MASK_LOGIT = -4.0  # added, so that the first mask is about 0.02
EDGE = 0.12  # of the crop's side, over which the mask falls to 0

LayerSpecs = dict[str, tuple[tuple[ConvSpec, ...], ...]]


@functools.cache
def layer_specs(size: int = 128, width: float = 1.0) -> LayerSpecs:
  """Stages of layers by part: 'audio', 'encoder', 'decoder', 'output'.

  Args:
    size: pixels of the crop.
    width: multiplier of the channels.

  Raises:
    ModelError: `size` is not in SIZES.
  """
  if size not in SIZES:
    raise layers.ModelError(f'expected a size in {SIZES}, found {size}')
  plan = [32, 64, 128, 192] + [192] * (size > 128)
  side = size >> len(plan)
  channels = [scale_channels(c, width) for c in (16, *plan)]
  audio = audio_stage(width)
  spread = ConvSpec(
    'audio_spread',
    audio[-1].cout,
    channels[-1],
    (side, side),
    pad=(0, 0),
    up=True,
  )
  encoder = [(ConvSpec('encoder_0_0', CHANNELS, channels[0]),)]
  for i, (cin, c) in enumerate(itertools.pairwise(channels), 1):
    name = f'encoder_{i}'
    down = ConvSpec(f'{name}_0', cin, c, stride=(2, 2))
    encoder.append((down, *residual_specs(name, 1, c, 1)))
  decoder = []
  for i, c in enumerate(channels[-2::-1]):
    name = f'decoder_{i}'
    up = ConvSpec(f'{name}_0', 2 * channels[-1 - i], c, stride=(2, 2), up=True)
    decoder.append((up, *residual_specs(name, 1, c, 1)))
  thin = channels[0]
  output = (
    ConvSpec('output_0', 2 * thin, thin),
    ConvSpec('output_1', thin, 4, (1, 1), pad=(0, 0), norm=False, act='none'),
  )
  return {
    'audio': ((*audio, spread),),
    'encoder': tuple(encoder),
    'decoder': tuple(decoder),
    'output': (output,),
  }


def audio_stage(width: float) -> tuple[ConvSpec, ...]:
  """Layers from a mel window [b, 80, 16, 1] to a vector [b, 1, 1, c].

  A few layers suffice: the mesh has already said where the lips are.

  Args:
    width: multiplier of the channels.
  """
  rows, cin = [], 1
  for i, c in enumerate(scale_channels(c, width) for c in AUDIO_CHANNELS):
    last = i == len(AUDIO_CHANNELS) - 1
    shape = {'kernel': (10, 2), 'pad': (0, 0)} if last else {'stride': (2, 2)}
    rows.append(ConvSpec(f'audio_{i}', cin, c, **shape))
    cin = c
  return tuple(rows)


def connect(stages: LayerSpecs, run, concat, mel, picture):
  """Apply the stages to a mel window and the input of a crop.

  Args:
    stages: of `layer_specs`.
    run: `run(layer, x)` applies a layer.
    concat: `concat([x, y])` joins two maps over their channels.
    mel: as `run` takes it, [b, 80, 16, 1] in Linen.
    picture: the same, [b, h, w, CHANNELS] in Linen.

  Returns:
    What `run` returns for the last layer, [b, h, w, 4] in Linen.
  """
  x = mel
  for layer in stages['audio'][0]:
    x = run(layer, x)
  skips, y = [], picture
  for stage in stages['encoder']:
    for layer in stage:
      y = run(layer, y)
    skips.append(y)
  for stage in stages['decoder']:
    x = concat([x, skips.pop()])
    for layer in stage:
      x = run(layer, x)
  x = concat([x, skips.pop()])
  for layer in stages['output'][0]:
    x = run(layer, x)
  return x


def stack_inputs(
  warped: Float[Array, 'b h w 3'],
  hole: Float[Array, 'b h w 1'],
  references: Float[Array, 'b k h w 3'],
) -> Float[Array, 'b h w c']:
  """The input of the network, [b, h, w, CHANNELS].

  Args:
    warped: crop in [0, 1].
    hole: opacity of the interior between the lips, [0, 1].
    references: mouths of the same person, the most open one first.
  """
  split = [references[:, i] for i in range(NUM_REFERENCES)]
  return jnp.concatenate([warped, hole, *split], -1)  # [b, h, w, 13]


@functools.cache
def edge_window(size: int) -> Float32[np.ndarray, 'h w 1']:
  """Largest mask of each pixel: 0 at the edge of the crop, 1 inside."""
  at = np.arange(size)
  inside = np.minimum(at, size - 1 - at) / (EDGE * size)
  x = np.clip(inside, 0, 1)
  x = x * x * (3 - 2 * x)
  return np.minimum.outer(x, x)[..., None].astype(np.float32)


def blend(
  warped: Float[Array, 'b h w 3'],
  rgb: Float[Array, 'b h w 3'],
  mask: Float[Array, 'b h w 1'],
) -> Float[Array, 'b h w 3']:
  """The refined crop."""
  return warped + mask * (rgb - warped)


class Refiner(nn.Module):
  """The network; 1.2 GFLOP a frame at 128 pixels and width 1."""

  size: int = 128  # pixels of the crop
  width: float = 1.0  # multiplier of the channels
  dtype: jnp.dtype = jnp.dtype('float32')  # of activations
  cpu_gradients: bool = True  # see `convolution.conv`

  @nn.compact
  def __call__(
    self,
    mel: Float[Array, 'b 80 16 1'],
    picture: Float[Array, 'b h w 13'],
    *,
    train: bool,
  ) -> tuple[Float[Array, 'b h w 3'], Float[Array, 'b h w 1']]:
    """The painted crop in [0, 1] and the mask in [0, 1], float32."""

    def run(layer, x):
      block = layers.ConvBlock(
        layer, self.dtype, self.cpu_gradients, name=layer.name
      )
      return block(x, train=train)

    concat = functools.partial(jnp.concatenate, axis=-1)
    specs = layer_specs(self.size, self.width)
    out = connect(specs, run, concat, mel, picture).astype(jnp.float32)
    # The picture starts from the warp: most of its pixels are right.
    rgb = picture[..., :3] + jnp.tanh(out[..., :3])
    mask = nn.sigmoid(out[..., 3:] + MASK_LOGIT)
    return jnp.clip(rgb, 0, 1), mask * edge_window(self.size)[None]


def build_refiner(variables: dict, size: int, width: float):
  """Compile the network for inference.

  Returns:
    `refine(mel [b 80 16], warped uint8 [b h w 3], hole uint8 [b h w],
    references uint8 [b k h w 3])`, which gives the painted crop in 0..255 and
    the mask in [0, 1], float32.
  """
  net, held = Refiner(size, width), jax.device_put(variables)

  @jax.jit
  def run(held, mel, warped, hole, references):
    warped, hole, references = (
      x.astype(jnp.float32) / 255 for x in (warped, hole, references)
    )
    picture = stack_inputs(warped, hole[..., None], references)
    rgb, mask = net.apply(held, mel[..., None], picture, train=False)
    return 255 * rgb, mask[..., 0]

  def refine(mel, warped, hole, references):
    out = run(held, mel.astype(np.float32), warped, hole, references)
    return tuple(np.asarray(x) for x in out)

  return refine
