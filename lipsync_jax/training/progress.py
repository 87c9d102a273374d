"""Progress bar and logged numbers of the training loop."""

import contextlib
import math
import time
from collections.abc import Callable

import jax

from lipsync_jax.common.errors import LipSyncError
from lipsync_jax.models import flops
from lipsync_jax.training import metric_writer


class NonFiniteLossError(LipSyncError):
  """A loss or gradient that is not finite; the message names the batch."""


class TrainingLog:
  """Log of the steps; reads the numbers of a step during the next one.

  The device therefore never waits for the host. A step that is not finite
  changes nothing (`steps.apply_updates`), and ends the run here.
  """

  def __init__(
    self,
    writer: metric_writer.MetricWriter,
    *,
    every: int,
    start: int,
    steps: int,
    faces: int,
    cost: int,
    rate: Callable,
    shown: bool,
  ):
    """Args:
    writer: of the metrics.
    every: steps between two log lines.
    start: first step of this run.
    steps: total.
    faces: trained on in a step.
    cost: operations of a step, over all devices.
    rate: learning rate schedule.
    shown: whether to draw a progress bar.
    """
    import tqdm

    self._writer, self._every, self._rate = writer, every, rate
    self._faces, self._cost, self._peak = faces, cost, flops.peak_flops()
    self._previous = None
    self._sums, self._count, self._waited = {}, 0, 0.0
    self._began = None
    self._bar = tqdm.tqdm(
      total=steps, initial=start, disable=not shown, unit='step', mininterval=1
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()

  def wait(self, seconds: float) -> None:
    """Record the seconds that the loop waited for a batch.

    They count only while the device was idle, not while the previous step was
    still running.
    """
    busy = self._previous and not _is_ready(self._previous[1])
    self._waited += 0 if busy else seconds

  def add(self, step: int, values: dict, names) -> None:
    """Take the numbers of a step, and log those of the previous one.

    Args:
      step: number.
      values: metrics on the device.
      names: returns the names of the batch's clips.
    """
    self.flush()
    self._previous = step, values, names
    self._bar.update()

  def flush(self) -> None:
    """Log the numbers of the last step now.

    Raises:
      NonFiniteLossError: they are not finite.
    """
    if not self._previous:
      return
    (step, values, names), self._previous = self._previous, None
    found = {k: float(v) for k, v in jax.device_get(values).items()}
    if not found.pop('finite'):
      bad = [k for k, v in found.items() if not math.isfinite(v)]
      raise NonFiniteLossError(
        f'step {step}: not finite: {", ".join(bad)}; batch of {names()}; '
        'nothing was changed since: lower --config.optimizer.learning_rate or '
        'look '
        'at these clips, then run the same command'
      )
    for name, value in found.items():
      self._sums[name] = self._sums.get(name, 0.0) + value
    self._count += 1
    if self._began is None:  # the first step includes compilation
      self._began, self._waited = time.perf_counter(), 0.0
      self._timed = 0
    else:
      self._timed += 1
    if step % self._every == 0:
      self._write(step)

  def _write(self, step: int) -> None:
    means = {k: v / self._count for k, v in self._sums.items()}
    with jax.transfer_guard('allow'):  # a few numbers
      means['rate'] = float(self._rate(step))
    now = time.perf_counter()
    if self._timed:
      seconds = now - self._began
      speed = self._timed / seconds
      means |= {
        'steps_per_s': speed,
        'faces_per_s': speed * self._faces,
        'input_wait': min(1.0, self._waited / seconds),
      }
      if self._peak:
        each = self._cost * speed / jax.device_count()
        means['mfu'] = each / self._peak
    self._writer.write(step, 'train', means)
    self._bar.set_postfix(
      {k: f'{means[k]:.3f}' for k in ('sync', 'l1', 'accuracy') if k in means}
    )
    self._sums, self._count, self._waited = {}, 0, 0.0
    self._began, self._timed = now, 0

  @contextlib.contextmanager
  def pause(self):
    """Exclude the time of the block from the steps' time."""
    before = time.perf_counter()
    yield
    if self._began is not None:
      self._began += time.perf_counter() - before


def _is_ready(values: dict) -> bool:
  """Whether a step has ended."""
  return all(x.is_ready() for x in values.values() if isinstance(x, jax.Array))
