"""The articulator: maps a log-mel to coefficients of mouth motion.

A convolutional network over time. Its coefficients weight a basis of mesh
displacements (`faces.mesh`), 40 times a second; a video's frames interpolate
between them. A second output is the probability of closed lips: it scales
coefficients towards 0, the neutral face. Regression alone leaves a mean opening
where lips close.

Shapes: b batch, t mel columns at 80 Hz, s = t / 2 steps at 40 Hz, n
coefficients.
"""

import dataclasses
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lipsync_jax import audio

NUM_COEFFICIENTS = 16
WIDTH = 192  # channels
CLOSURE_WIDTH = 64  # channels of the closure output
STEP_COLUMNS = 2  # mel columns of a step
MEL_SCALE = 4.0  # of the mel's range
DILATIONS = (1, 2, 4, 8, 1, 2, 4)
CONTEXT = 64  # columns on either side that a step depends on


@dataclasses.dataclass(frozen=True)
class TimeConvSpec:
  """One convolution over time."""

  name: str
  cin: int
  cout: int
  kernel: int
  stride: int = 1
  dilation: int = 1
  pad: tuple[int, int] = (0, 0)
  activation: bool = True  # GELU
  residual: bool = False  # LayerNorm before, addition after


def layer_specs(width: int = WIDTH) -> tuple[TimeConvSpec, ...]:
  """The layers in the order they are applied."""
  return (
    TimeConvSpec('input', audio.MELS, width, 5, pad=(2, 2)),
    TimeConvSpec('down', width, width, 4, stride=STEP_COLUMNS, pad=(1, 1)),
    *(
      TimeConvSpec(
        f'residual_{i}', width, width, 3, 1, d, (d, d), residual=True
      )
      for i, d in enumerate(DILATIONS)
    ),
    TimeConvSpec('output', width, NUM_COEFFICIENTS, 1, activation=False),
    TimeConvSpec('closure_hidden', width, CLOSURE_WIDTH, 1),
    TimeConvSpec('closure', CLOSURE_WIDTH, 1, 1, activation=False),
  )


class TimeConv(nn.Module):
  """A layer of the table, with dropout of its output in training."""

  spec: TimeConvSpec
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b t i'], train: bool
  ) -> Float[Array, '...']:
    spec, out = self.spec, x
    if spec.residual:
      out = nn.LayerNorm(epsilon=1e-5, name='norm')(out)
    out = nn.Conv(
      spec.cout,
      (spec.kernel,),
      spec.stride,
      padding=(spec.pad,),
      kernel_dilation=spec.dilation,
      name='conv',
    )(out)
    if spec.activation:
      out = nn.gelu(out)
    if not spec.residual:
      return out
    # One mask for all steps: a channel is absent in the whole window.
    drop = nn.Dropout(self.dropout, broadcast_dims=(1,))
    return x + drop(out, deterministic=not train)


class Articulator(nn.Module):
  """The network; about a million parameters at the default width."""

  width: int = WIDTH
  dropout: float = 0.15

  @nn.compact
  def __call__(
    self, mel: Float[Array, 'b t 80'], *, train: bool = False
  ) -> tuple[Float[Array, 'b s 16'], Float[Array, 'b s']]:
    """Coefficients, and the logit of closed lips, of every step."""
    *trunk, output, hidden, closure = (
      TimeConv(spec, self.dropout, name=spec.name)
      for spec in layer_specs(self.width)
    )
    x = mel / MEL_SCALE
    for layer in trunk:
      x = layer(x, train)
    coefficients = output(x, train)
    logit = closure(hidden(x, train), train)
    # How much of each coefficient a closure removes, learned.
    share = self.param('closure_share', nn.initializers.ones, NUM_COEFFICIENTS)
    removed = nn.sigmoid(logit) * nn.sigmoid(share)[None, None]
    return coefficients * (1 - removed), logit[..., 0]


def step_positions(seconds):
  """Positions among the network's steps of times from the first mel column.

  Any array; seconds.

  Step j is centered between columns 2 j and 2 j + 1.
  """
  return (seconds * audio.COLUMNS_PER_SECOND - 0.5) / STEP_COLUMNS


def interpolate(steps, positions, xnp: ModuleType = np):
  """Linear interpolation between steps.  [..., s, n], [..., f] -> [..., f, n]

  Positions outside take the first or the last step.
  """
  last = steps.shape[-2] - 1
  low = xnp.clip(xnp.floor(positions).astype(np.int32), 0, max(last - 1, 0))
  share = xnp.clip(positions - low, 0, 1)[..., None].astype(np.float32)
  high = xnp.minimum(low + 1, last)
  below, above = (
    xnp.take_along_axis(steps, at[..., None], axis=-2) for at in (low, high)
  )
  return below * (1 - share) + above * share


def build_articulator(variables: dict, width: int = WIDTH):
  """Compile `mel [b, t, 80] -> coefficients [b, t / 2, 16]`."""
  net = Articulator(width)
  held = jax.device_put(variables)
  run = jax.jit(lambda v, mel: net.apply(v, mel, train=False)[0])
  return lambda mel: np.asarray(run(held, jnp.asarray(mel)))


def train_window_flops(columns: int, width: int = WIDTH) -> int:
  """Operations of a training step for one window of mel columns."""
  total, length = 0, columns
  for spec in layer_specs(width):  # those after `down` are of its length
    length //= spec.stride
    total += 2 * length * spec.cin * spec.cout * spec.kernel
  return 3 * total
