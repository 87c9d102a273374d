"""Webhooks: a job's JSON is posted to a URL when the job ends.

A client names the URL, so only addresses that the operator listed are called:
the server may reach machines that the client may not. Redirects are not
followed and proxies are not used. The work is done in threads of its own.
"""

import contextlib
import hashlib
import hmac
import http.client
import json
import queue
import socket
import threading
import urllib.parse
from collections.abc import Callable

from lipsync_jax.common.errors import LipSyncError, printable

SIGNATURE = 'X-Lipsync-Signature'
PORTS = {'http': 80, 'https': 443}
TIMEOUT = 10.0  # seconds of one attempt
WAITS = (1.0, 4.0, 16.0)  # seconds before each retry
RETRIED = (408, 425, 429)  # and all from 500
THREADS = 4  # slow receivers at once
MAX_URL = 2000  # characters
MAX_WAITING = 1000  # calls

Address = tuple[str, int | None]  # host, port; None: the scheme's own


def parse_hosts(text: str) -> frozenset[Address]:
  """The addresses of `HOST[:PORT][,HOST[:PORT]...]`; '' has none.

  Raises:
    LipSyncError: something else stands there.
  """
  found = set()
  for word in filter(None, text.split(',')):
    try:
      parts = urllib.parse.urlsplit(f'//{word.strip()}')
      host, port = parts.hostname, parts.port
    except ValueError:
      host = None
    if not host or parts.netloc != word.strip() or '@' in word:
      raise LipSyncError(
        '--allow-webhooks: expected HOST or HOST:PORT, separated by commas, '
        f'found {printable(word)!r}'
      )
    found.add((host, port))
  return frozenset(found)


def check_url(url: str, allowed: frozenset[Address]) -> None:
  """Refuse a URL that is not of an allowed address.

  Raises:
    LipSyncError: one line for the client.
  """
  shown = repr(printable(url)[:80])
  if not allowed:
    raise LipSyncError(
      'webhook: expected none; the operator allows them by lipsync serve '
      '--allow-webhooks HOST'
    )
  plain = len(url) <= MAX_URL and all('!' <= c <= '~' for c in url)
  try:
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname, parts.port
  except ValueError:
    plain = False
  if not plain or parts.scheme not in PORTS or not host or '@' in parts.netloc:
    raise LipSyncError(
      'webhook: expected http://HOST/PATH or https://HOST/PATH without a user '
      f'name, found {shown}'
    )
  # A listed host without a port has the two usual ports only.
  usual = (None, PORTS[parts.scheme])
  named = [(host, one) for one in (usual if port in usual else (port,))]
  if not allowed.intersection(named):
    raise LipSyncError(
      'webhook: expected a host (and port) of --allow-webhooks, found '
      f'{printable(parts.netloc)[:80]!r}'
    )


def sign(secret: str, body: bytes) -> str:
  """The signature of a body: 'sha256=' and its HMAC-SHA256 in hexadecimal."""
  return 'sha256=' + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post(url: str, body: bytes, headers: dict, seconds: float) -> int:
  """POST `body` once and return the status of the answer.

  Raises:
    OSError, HTTPException: no answer within `seconds`.
  """
  parts = urllib.parse.urlsplit(url)
  secure = parts.scheme == 'https'
  kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
  connection = kind(parts.hostname, parts.port, timeout=seconds)
  target = (parts.path or '/') + (f'?{parts.query}' if parts.query else '')
  with contextlib.closing(connection):
    connection.connect()
    # The timeout of a socket is of one read; an answer may have many.
    timer = threading.Timer(seconds, _shut, [connection.sock])
    timer.daemon = True
    timer.start()
    try:
      connection.request('POST', target, body, headers)
      return connection.getresponse().status
    finally:
      timer.cancel()


def _shut(connected: socket.socket) -> None:
  with contextlib.suppress(OSError):
    connected.shutdown(socket.SHUT_RDWR)


class WebhookSender:
  """Calls URLs in threads of its own.

  Attributes:
    allowed: addresses.
    secret: signs every body.
  """

  def __init__(
    self,
    allowed: frozenset[Address],
    secret: str,
    timeout: float = TIMEOUT,
    waits: tuple[float, ...] = WAITS,
  ):
    self.allowed, self.secret = allowed, secret
    self._timeout, self._waits = timeout, waits
    self._queue: queue.Queue = queue.Queue(MAX_WAITING)
    self._closing = threading.Event()
    for _ in range(THREADS if allowed else 0):
      threading.Thread(target=self._work, daemon=True).start()

  def check(self, url: str) -> None:
    """`check_url` for the allowed addresses."""
    check_url(url, self.allowed)

  def send(self, url: str, facts: dict, note: Callable[[bool], object]) -> None:
    """Call a checked URL; returns at once.

    Args:
      url: `check` has accepted it.
      facts: becomes the JSON of the body.
      note: is told whether the call succeeded.
    """
    try:
      self._queue.put_nowait((url, json.dumps(facts).encode(), note))
    except queue.Full:
      note(False)

  def close(self) -> None:
    """Give up calls that have not succeeded."""
    self._closing.set()

  def _work(self) -> None:
    while not self._closing.is_set():
      url, body, note = self._queue.get()
      note(self._deliver(url, body))

  def _deliver(self, url: str, body: bytes) -> bool:
    """Whether one of the attempts was answered by 2xx."""
    headers = {
      'Content-Type': 'application/json',
      'User-Agent': 'lipsync-jax',
      'Connection': 'close',
      SIGNATURE: sign(self.secret, body),
    }
    for wait in (0.0, *self._waits):
      if self._closing.wait(wait):
        return False
      try:
        status = post(url, body, headers, self._timeout)
      except (OSError, ValueError, http.client.HTTPException):
        continue
      if status // 100 == 2:
        return True
      if status < 500 and status not in RETRIED:
        return False  # another attempt would be refused too
    return False
