"""Cancellation of long work: a scope with an event, and checks within it.

The checks stand where a job reads media or counts a frame, so that no function
between them takes an argument for it. `threads.prefetch` passes the scope on
to its threads.
"""

import contextlib
import contextvars
import threading
from collections.abc import Iterator

from lipsync_jax.common.errors import Cancelled

POLL_SECONDS = 0.1  # between two checks while waiting for a lock

_EVENT: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar(
  'cancelled', default=None
)


@contextlib.contextmanager
def cancel_scope(event: threading.Event | None) -> Iterator[None]:
  """Let `event` end the work of the block; None changes nothing."""
  if event is None:
    yield
    return
  token = _EVENT.set(event)
  try:
    yield
  finally:
    _EVENT.reset(token)


def check() -> None:
  """Do nothing, unless the work was cancelled.

  Raises:
    Cancelled: the event of the scope is set.
  """
  event = _EVENT.get()
  if event is not None and event.is_set():
    raise Cancelled('the job was cancelled; nothing was written')


@contextlib.contextmanager
def locked(lock) -> Iterator[None]:
  """Hold a `threading.Lock`; the wait for it can be cancelled."""
  while not lock.acquire(timeout=POLL_SECONDS):
    check()
  try:
    yield
  finally:
    lock.release()
