"""Choice of the runtime and dtype that execute the generator.

A GPU or TPU uses XLA in bfloat16. A CPU uses OpenVINO if it is installed (`pip
install lipsync-jax[openvino]`), else XLA; bfloat16 if the processor has
bfloat16 products, else float32. A runtime is a module with `build_predictor`.
"""

import importlib.util
import pathlib

from lipsync_jax.models import runtime_openvino, runtime_xla
from lipsync_jax.models.layers import ModelError

DTYPES = ('auto', 'float32', 'bfloat16')
BACKENDS = ('auto', 'xla', 'openvino')
DTYPE_LABELS = {'float32': 'f32', 'bfloat16': 'bf16'}


def build_predictor(
  variables: dict,
  size: int,
  width: float,
  dtype: str = 'auto',
  batch: int = 16,
  backend: str = 'auto',
):
  """The fastest `predict` on this machine, and the name of its engine.

  Args:
    variables: `params` and `batch_stats` of the generator.
    size: pixels of the square crop.
    width: multiplier of its channels.
    dtype: of DTYPES. OpenVINO's float32 is within 1 of 255 levels of XLA's;
      bfloat16 of either is usually within 8, and 1 on average.
    batch: examples of every call; pad the last one.
    backend: of BACKENDS.

  Returns:
    `predict`, which maps (float32 mel [b, 80, 16], uint8 crop [b, h, w, 3]) to
    the uint8 face [b, h, w, 3], and a name such as 'OpenVINO bf16'.

  Raises:
    ModelError: the dtype or backend does not exist here.
  """
  dtype, backend = resolve_backend(dtype, backend)
  room = runtime_openvino if backend == 'openvino' else runtime_xla
  predict = room.build_predictor(variables, size, width, dtype, batch)
  title = {'openvino': 'OpenVINO', 'xla': 'XLA'}[backend]
  return predict, f'{title} {DTYPE_LABELS[dtype]}'


def resolve_backend(
  dtype: str = 'auto', backend: str = 'auto'
) -> tuple[str, str]:
  """Dtype and backend for 'auto' on this machine."""
  import jax

  for name, known in ((dtype, DTYPES), (backend, BACKENDS)):
    if name not in known:
      raise ModelError(f'expected one of {", ".join(known)}, found {name!r}')
  cpu = jax.default_backend() == 'cpu'
  if backend == 'openvino' and not has_openvino():
    raise ModelError(
      'OpenVINO is not installed: pip install "lipsync-jax[openvino]"'
    )
  if backend == 'auto':
    backend = 'openvino' if cpu and has_openvino() else 'xla'
  if dtype == 'auto':
    on_cpu = cpu or backend == 'openvino'
    dtype = 'float32' if on_cpu and not has_native_bfloat16() else 'bfloat16'
  return dtype, backend


def has_openvino() -> bool:
  """Whether OpenVINO is installed."""
  return importlib.util.find_spec('openvino') is not None


def has_native_bfloat16() -> bool:
  """Whether the processor has bfloat16 products.

  Only Linux reports it; elsewhere the answer is no.
  """
  try:
    flags = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').split()
  except OSError:
    return False
  return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(flags)
