"""The folded generator as an OpenVINO graph, the fastest form on a CPU.

It is built from the layer table and the function that connect the networks in
JAX. XLA on a CPU gains nothing from bfloat16; OpenVINO's kernels (oneDNN)
double their speed if the processor has it.

Shapes: b batch, h w height and width, c channels. Channels come first inside
the graph, [b, c, h, w], and last in its inputs and output.
"""

import functools
import sys

import numpy as np

from lipsync_jax.models import generator, layers, runtime_xla


def import_openvino():
  """The `openvino` module without its telemetry.

  Telemetry forks the process and connects to the network. OpenVINO uses a stub
  if its package is absent, which None in sys.modules achieves.
  """
  name = 'openvino_telemetry'
  hidden = name not in sys.modules
  if hidden:
    sys.modules[name] = None
  try:
    import openvino
  finally:
    if hidden:
      sys.modules.pop(name, None)
  return openvino


@functools.cache
def openvino_core():
  """The one `openvino.Core` of the process; it is never released.

  Its CPU plugin gives the thread that loads it a stack for signals and frees
  that stack when the last network goes, in any thread. If the two differ, the
  next signal (Ctrl-C) ends the process with a segmentation fault.
  """
  return import_openvino().Core()


def build_graph(variables: dict, size: int, width: float, batch: int):
  """The `openvino.Model` of the generator, uint8 in and out."""
  openvino = import_openvino()
  from openvino import opset13 as op

  weights = runtime_xla.fold_batch_norm(variables, size, width)
  mel = op.parameter([batch, 80, 16], np.float32, name='mel')
  face = op.parameter([batch, size, size, 3], np.uint8, name='face')

  def run(layer, x):
    kernel, bias = weights.pop(layer.name)
    y = apply_conv(op, layer, kernel, x)
    y = op.add(y, bias.reshape(1, -1, 1, 1))
    return activate(op, layer.act, y)

  pixels = op.convert(face, 'f32')
  pixels = op.transpose(pixels, [0, 3, 1, 2])
  pixels = op.multiply(pixels, np.float32(1 / 255))
  upper = np.zeros((1, 1, size, 1), np.float32)
  upper[:, :, : size // 2] = 1
  both = op.concat([op.multiply(pixels, upper), pixels], 1)  # [b, 6, h, w]
  out = generator.connect(
    generator.layer_specs(size, width),
    run,
    lambda parts: op.concat(parts, 1),
    op.unsqueeze(mel, 1),
    both,
  )
  out = op.round(op.multiply(out, np.float32(255)), 'half_to_even')
  out = op.transpose(op.convert(out, 'u8'), [0, 2, 3, 1])  # [b, h, w, 3]
  return openvino.Model([out], [mel, face], 'generator')


def apply_conv(op, layer: layers.ConvSpec, kernel: np.ndarray, x):
  """The convolution of `layer` without bias, [b, o, h', w']."""
  if not layer.up:
    kernel = kernel.transpose(3, 2, 0, 1)  # [o, i, kh, kw]
    pad, dilations = list(layer.pad), [1, 1]
    return op.convolution(
      x, np.ascontiguousarray(kernel), list(layer.stride), pad, pad, dilations
    )
  # Tables have the mirrored kernel of the equivalent plain convolution.
  kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)  # [i, o, kh, kw]
  return op.convolution_backprop_data(
    x,
    np.ascontiguousarray(kernel),
    list(layer.stride),
    pads_begin=list(layer.pad),
    pads_end=list(layer.pad),
    dilations=[1, 1],
    output_padding=[s - 1 for s in layer.stride],
  )


def activate(op, act: str, x):
  """The activation of `layer`."""
  if act == 'relu':
    return op.relu(x)
  assert act == 'sigmoid', act
  return op.sigmoid(x)


def build_predictor(
  variables: dict, size: int, width: float, dtype: str, batch: int
):
  """Compile `(mel [b 80 16], face uint8 [b h w 3]) -> uint8 [b h w 3]`.

  As `runtime_xla.build_predictor`, but only one thread may call it at a time.
  """
  model = build_graph(variables, size, width, batch)
  config = {
    'INFERENCE_PRECISION_HINT': {'float32': 'f32', 'bfloat16': 'bf16'}[dtype],
    # Two streams of half the batch are no faster and have a longer delay.
    'PERFORMANCE_HINT': 'LATENCY',
  }
  compiled = openvino_core().compile_model(model, 'CPU', config)
  request = compiled.create_infer_request()

  def predict(mel: np.ndarray, face: np.ndarray) -> np.ndarray:
    assert mel.shape == (batch, 80, 16), (mel.shape, batch)
    assert face.shape == (batch, size, size, 3), (face.shape, batch)
    return request.infer([mel.astype(np.float32), face])[0]

  return predict
