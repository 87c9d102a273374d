"""Several processes that train as one, over JAX's distributed runtime.

With one process nothing here has a cost. All processes must call every
function, in the same order, from the thread that runs the steps.
"""

import json
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lipsync_jax.common.errors import LipSyncError

MAX_MESSAGE = 2**14  # bytes of a message from process 0


class ProcessError(LipSyncError):
  """An error of process 0, raised in all other processes."""


def is_process_zero() -> bool:
  """Whether this process writes the files of the run."""
  return jax.process_index() == 0


def run_on_process_zero(action: Callable[[], Any]) -> Any:
  """The result of `action` in process 0, for all processes.

  All processes continue alike, and none waits for a failed one.

  Args:
    action: returns a JSON value.

  Raises:
    ValueError: as the action does, with the same message in every process.
  """
  if jax.process_count() == 1:
    return action()
  from jax.experimental import multihost_utils

  answer, raised = [None, None], None
  if is_process_zero():
    try:
      answer = [action(), None]
    except (ValueError, OSError) as error:
      answer, raised = [None, str(error)], error
  text = json.dumps(answer).encode()
  assert len(text) <= MAX_MESSAGE, len(text)
  line = np.zeros(MAX_MESSAGE, np.uint8)
  line[: len(text)] = np.frombuffer(text, np.uint8)
  with jax.transfer_guard('allow'):
    line = np.asarray(multihost_utils.broadcast_one_to_all(line))
  if raised:
    raise raised
  value, wrong = json.loads(line.tobytes().rstrip(b'\0'))
  if wrong:
    raise ProcessError(f'process 0: {wrong}')
  return value


def fully_replicate(tree):
  """The arrays with all parts on every process."""
  leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
  if all(x.is_fully_addressable or x.is_fully_replicated for x in leaves):
    return tree
  everywhere = NamedSharding(leaves[0].sharding.mesh, PartitionSpec())
  return jax.jit(lambda x: x, out_shardings=everywhere)(tree)


class PreemptionGuard:
  """Detects SIGTERM or SIGINT in any of the processes.

  A second signal ends a single process at once.
  """

  def __enter__(self):
    self._asked, self._before = False, {}
    numbers = (signal.SIGTERM, signal.SIGINT)
    if jax.process_count() > 1:
      # JAX handles SIGTERM then, and informs the other processes.
      numbers = (signal.SIGINT,)
    if threading.current_thread() is threading.main_thread():
      for number in numbers:
        self._before[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def asked(self, step: int) -> bool:
    """Whether to end before step `step + 1`; call it once a step."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      self._asked |= multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def _ask(self, number, _):
    if jax.process_count() > 1:
      signal.raise_signal(signal.SIGTERM)
      return
    if self._asked:
      signal.signal(number, signal.SIG_DFL)
      signal.raise_signal(number)
    self._asked = True
