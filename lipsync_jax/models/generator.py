"""The generator: maps a mel window and a face to the face with new lips.

A U-Net over the face with the audio vector as its bottleneck: the face
reaches the decoder through skip connections only. At 96 pixels and width 1
it is the published network (36.3 M parameters, 3.97 GMAC a frame). Larger
sizes add stages with few channels at both ends.

Differs from Wav2Lip: channels are RGB instead of BGR (the importer swaps the
kernels of the first and last layer once) and last instead of first.

Shapes: b batch, h w height and width of the face.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lipsync_jax.models import layers
from lipsync_jax.models.layers import ConvSpec, residual_specs, scale_channels

LayerSpecs = dict[str, tuple[tuple[ConvSpec, ...], ...]]


@functools.cache
def layer_specs(size: int = 96, width: float = 1.0) -> LayerSpecs:
  """Stages of layers by part: 'audio', 'encoder', 'decoder', 'output'.

  'audio' and 'output' have one stage. The order is that of application.

  Args:
    size: pixels of the square face crop.
    width: multiplier of the channels.
  """
  halvings, side = layers.downsampling(size)
  extra = halvings - 5
  audio = layers.audio_encoder_specs(width, last=1)
  encoder = encoder_stages(extra, side, width)
  skips = [stage[-1].cout for stage in encoder]
  decoder = decoder_stages(extra, side, width, skips)
  last = decoder[-1][-1].cout + skips[0]
  thick = scale_channels(32, width)
  output = (
    ConvSpec('output_block_0', last, thick),
    ConvSpec(
      'output_block_1', thick, 3, (1, 1), pad=(0, 0), norm=False, act='sigmoid'
    ),
  )
  return {
    'audio': (audio,),
    'encoder': encoder,
    'decoder': decoder,
    'output': (output,),
  }


def encoder_stages(extra: int, side: int, width: float):
  """Stages from the face [h, w, 6] to [1, 1, 512].

  The output of every stage is a skip connection.

  Args:
    extra: halvings beyond the published five.
    side: pixels of the last square map.
    width: multiplier of the channels.
  """
  first = ConvSpec(
    'face_encoder_blocks_0_0', 6, scale_channels(16, width), (7, 7), pad=(3, 3)
  )
  stages = [(first,)]
  plan = [(16, 1)] * extra
  plan += [(32, 2), (64, 3), (128, 2), (256, 2), (512, 1)]
  cin = first.cout
  for channels, count in plan:
    name = f'face_encoder_blocks_{len(stages)}'
    c = scale_channels(channels, width)
    down = ConvSpec(f'{name}_0', cin, c, stride=(2, 2))
    stages.append((down, *residual_specs(name, 1, c, count)))
    cin = c
  name = f'face_encoder_blocks_{len(stages)}'
  stages.append(
    (
      ConvSpec(f'{name}_0', cin, cin, (side, side), pad=(0, 0)),
      ConvSpec(f'{name}_1', cin, cin, (1, 1), pad=(0, 0)),
    )
  )
  return tuple(stages)


def decoder_stages(extra: int, side: int, width: float, skips: list[int]):
  """Stages from the audio vector [1, 1, 512] to [h, w, 64].

  The input of a stage is the output of the one before and a skip connection.

  Args:
    extra: doublings beyond the published five.
    side: pixels of the first square map.
    width: multiplier of the channels.
    skips: channels of the skip connections, in the order of the encoder.
  """
  c = scale_channels(512, width)
  stages = [(ConvSpec('face_decoder_blocks_0_0', c, c, (1, 1), pad=(0, 0)),)]
  plan = [(512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2)]
  plan += [(32, 2), (16, 2)][:extra]
  for j, (channels, count) in enumerate(plan, 1):
    name, c = f'face_decoder_blocks_{j}', scale_channels(channels, width)
    cin = stages[-1][-1].cout + skips[-j]
    if j == 1:
      up = ConvSpec(f'{name}_0', cin, c, (side, side), pad=(0, 0), up=True)
    else:
      up = ConvSpec(f'{name}_0', cin, c, stride=(2, 2), up=True)
    stages.append((up, *residual_specs(name, 1, c, count)))
  return tuple(stages)


def connect(stages: LayerSpecs, run, concat, mel, face):
  """Apply the stages to a mel window and a face, with the skip connections.

  Args:
    stages: of `layer_specs`.
    run: `run(layer, x)` applies a layer: in Linen, folded, or as a graph node.
    concat: `concat([x, y])` joins two maps over their channels.
    mel: as `run` takes it, [b, 80, 16, 1] in Linen.
    face: the same, [b, h, w, 6] in Linen.

  Returns:
    What `run` returns for the last layer, [b, h, w, 3] in Linen.
  """
  audio = mel
  for layer in stages['audio'][0]:
    audio = run(layer, audio)
  skips, x = [], face
  for stage in stages['encoder']:
    for layer in stage:
      x = run(layer, x)
    skips.append(x)
  x = audio
  for stage in stages['decoder']:
    for layer in stage:
      x = run(layer, x)
    x = concat([x, skips.pop()])  # decoder first, skip second
  for layer in stages['output'][0]:
    x = run(layer, x)
  return x


class Generator(nn.Module):
  """Wav2Lip's generator (Prajwal et al. 2020, section 3.2).

  Channels 0-2 of `face` are the target frame with rows h/2 … h set to zero,
  the part to generate. Channels 3-5 are a reference frame of the same person.

  If `freeze_audio_encoder`, the audio encoder gets no gradients and its
  BatchNorm statistics are fixed: early decoder gradients degrade pretrained
  features.
  """

  size: int = 96  # pixels of the square crop
  width: float = 1.0  # multiplier of the channels
  dtype: jnp.dtype = jnp.float32  # of activations
  cpu_gradients: bool = True  # see `convolution.conv`
  freeze_audio_encoder: bool = False

  @nn.compact
  def __call__(
    self,
    mel: Float[Array, 'b 80 16 1'],
    face: Float[Array, 'b h w 6'],
    *,
    train: bool,
  ) -> Float[Array, 'b h w 3']:
    """The generated face, in [0, 1]."""

    def run(layer, x):
      is_audio = layer.name.startswith('audio_encoder')
      frozen = self.freeze_audio_encoder and is_audio
      block = layers.ConvBlock(
        layer, self.dtype, self.cpu_gradients, name=layer.name
      )
      x = block(x, train=train and not frozen)
      return jax.lax.stop_gradient(x) if frozen else x

    concat = functools.partial(jnp.concatenate, axis=-1)
    return connect(layer_specs(self.size, self.width), run, concat, mel, face)
