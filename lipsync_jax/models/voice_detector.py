"""Voice detector: probability of a human voice in every 32 ms of sound.

The 16 kHz branch of Silero VAD 6 with its published weights, in NumPy: a
short-time Fourier transform, convolutions, and an LSTM whose state is carried
from window to window. NumPy needs no compilation, and the network is small.

Shapes: w windows of 512 samples, t frames of a window, c channels, n samples.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Float32

from lipsync_jax.common.assets import read_asset

ASSET = 'silero_vad_16k.safetensors'
SHA256 = 'd7fb67a5b4de0414a0178270ee81439b9e3067c883c304aa758c247d50ffd79d'
WINDOW = 512  # samples of a window
CONTEXT = 64  # samples before a window that belong to its input
REFLECTED = 64  # samples after a window, a reflection of its end
FFT_SIZE, HOP = 256, 128  # samples
BINS = FFT_SIZE // 2 + 1
WIDTH = 128  # channels of the LSTM
BLOCK = 128  # windows at once; fixed, so that results are equal to the bit
# Root mean square of a block's loudest window, up to which quiet sound is
# amplified: the network misses a quarter of a voice that is 45 dB softer.
LOUD, MAX_GAIN = 0.1, 100.0


@dataclasses.dataclass(frozen=True)
class ConvSpec:
  """A convolution over the frames of a window, kernel 3, with ReLU."""

  name: str
  cin: int
  cout: int
  stride: int = 1


LAYERS = (
  ConvSpec('conv1', BINS, 128),
  ConvSpec('conv2', 128, 64, 2),
  ConvSpec('conv3', 64, 64, 2),
  ConvSpec('conv4', 64, WIDTH),
)


@dataclasses.dataclass(frozen=True)
class State:
  """What one window hands to the next; None of it is changed in place."""

  context: Float32[np.ndarray, '64']
  hidden: Float32[np.ndarray, '128']
  cell: Float32[np.ndarray, '128']


def initial_state() -> State:
  """The state before the first sample."""
  return State(
    *(np.zeros(size, np.float32) for size in (CONTEXT, WIDTH, WIDTH))
  )


@functools.cache
def bundled_variables() -> dict[str, np.ndarray]:
  """The bundled tensors in the layouts of NumPy's products, read once.

  Raises:
    LipSyncError: the file is absent or damaged.
  """
  from safetensors.numpy import load

  tensors = load(read_asset(ASSET, SHA256))
  held = {'stft': tensors['stft_conv.weight'][:, 0].T}  # [256, 2 bins]
  for spec in LAYERS:
    kernel = tensors[f'{spec.name}.weight'].transpose(2, 1, 0)  # [3, in, out]
    held[spec.name] = kernel.reshape(3 * spec.cin, spec.cout)
    held[f'{spec.name}_bias'] = tensors[f'{spec.name}.bias']
  held['input'] = tensors['lstm_cell.weight_ih'].T  # [128, 4 * 128]
  held['recurrent'] = tensors['lstm_cell.weight_hh'].T
  held['lstm_bias'] = (
    tensors['lstm_cell.bias_ih'] + tensors['lstm_cell.bias_hh']
  )
  held['output'] = tensors['final_conv.weight'].reshape(WIDTH)
  held['output_bias'] = tensors['final_conv.bias']
  return {name: np.ascontiguousarray(x) for name, x in held.items()}


def convolve(
  x: Float32[np.ndarray, 'w t i'], spec: ConvSpec, variables: dict
) -> Float32[np.ndarray, 'w _ o']:
  """A layer of the table."""
  padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
  count = (x.shape[1] - 1) // spec.stride + 1
  at = spec.stride * np.arange(count)[:, None] + np.arange(3)
  patches = padded[:, at].reshape(-1, 3 * spec.cin)  # [w * t, 3 * i]
  out = patches @ variables[spec.name] + variables[f'{spec.name}_bias']
  return np.maximum(out, 0).reshape(len(x), count, spec.cout)


def encode(
  windows: Float32[np.ndarray, 'w 576'], variables: dict
) -> Float32[np.ndarray, 'w 128']:
  """Features of windows with their context."""
  padded = np.pad(windows, ((0, 0), (0, REFLECTED)), mode='reflect')
  frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SIZE, 1)
  frames = frames[:, ::HOP].reshape(-1, FFT_SIZE)  # [w * t, 256]
  spectrum = frames @ variables['stft']  # [w * t, 2 bins]
  x = np.sqrt(spectrum[:, :BINS] ** 2 + spectrum[:, BINS:] ** 2)
  x = x.reshape(len(windows), -1, BINS)  # [w, t, bins]
  for spec in LAYERS:
    x = convolve(x, spec, variables)
  return x[:, 0]  # the strides leave one frame


def _sigmoid(x):
  return 0.5 + 0.5 * np.tanh(0.5 * x)  # overflows nowhere


def detect_voice(
  samples: Float32[np.ndarray, 'n'], state: State, variables: dict
) -> tuple[Float32[np.ndarray, 'w'], State]:
  """Probability of a voice in each window, and the state after the last.

  Args:
    samples: whole windows, 16 kHz mono in [-1, 1].
    state: of the windows before.
    variables: of `bundled_variables`.
  """
  windows = samples.reshape(-1, WINDOW)
  contexts = np.concatenate([state.context[None], windows[:-1, -CONTEXT:]])
  inputs = np.concatenate([contexts, windows], axis=1)  # [w, 576]
  gates = encode(inputs, variables) @ variables['input']
  gates += variables['lstm_bias']  # [w, 4 * 128]
  hidden, cell = state.hidden, state.cell
  outputs = np.empty((len(windows), WIDTH), np.float32)
  for number, gate in enumerate(gates):
    # A product of BLAS would wait for its threads at each of these steps.
    gate = gate + np.einsum('i,ij->j', hidden, variables['recurrent'])
    keep_in, forget, _, out = _sigmoid(gate).reshape(4, WIDTH)
    cell = forget * cell + keep_in * np.tanh(gate[2 * WIDTH : 3 * WIDTH])
    hidden = outputs[number] = out * np.tanh(cell)
  logit = np.maximum(outputs, 0) @ variables['output']
  probability = _sigmoid(logit + variables['output_bias'])
  return probability, State(windows[-1, -CONTEXT:].copy(), hidden.copy(), cell)


def amplify(samples: Float32[np.ndarray, 'n']) -> Float32[np.ndarray, 'n']:
  """The samples with their loudest window at LOUD or above."""
  powers = np.square(samples.reshape(-1, WINDOW)).mean(1)
  loudest = np.sqrt(powers.max())
  gain = np.clip(LOUD / max(loudest, LOUD / MAX_GAIN), 1, MAX_GAIN)
  return samples * np.float32(gain)


def watch_voice(
  blocks: Iterable[Float[np.ndarray, '_']],
  found: list[Float32[np.ndarray, '_']],
) -> Iterator[Float[np.ndarray, '_']]:
  """Yield blocks unchanged, and append their probabilities to `found`.

  The arrays of `found` joined are one value for every 512 samples; zeros fill
  the last window.

  Args:
    blocks: consecutive samples, 16 kHz mono.
    found: gets the probabilities while the blocks are read.
  """
  variables, state = bundled_variables(), initial_state()
  held, size = np.zeros(0, np.float32), BLOCK * WINDOW
  for block in blocks:
    yield block
    held = np.concatenate([held, block.astype(np.float32)])
    while held.size >= size:
      part, state = detect_voice(amplify(held[:size]), state, variables)
      found.append(part)
      held = held[size:]
  if held.size:
    held = np.pad(held, (0, -held.size % WINDOW))
    found.append(detect_voice(amplify(held), state, variables)[0])


def voice_probability(
  wave: Float[np.ndarray, 'n'],
) -> Float32[np.ndarray, 'w']:
  """`watch_voice` of a whole waveform."""
  found = [np.zeros(0, np.float32)]
  for _ in watch_voice([wave], found):
    pass
  return np.concatenate(found)
