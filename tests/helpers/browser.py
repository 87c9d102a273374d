"""A headless Chromium, driven by the DevTools protocol over two pipes.

The protocol needs no further program and no port: each message is JSON that
ends with a zero byte.
"""

import base64
import itertools
import json
import os
import pathlib
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time

# Chromium reads commands from file 3 and writes answers to file 4.
LAUNCH = """
import fcntl, os, sys
commands, answers = (
  fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]
)
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_program() -> str | None:
  """Chromium, or None."""
  names = ('chromium', 'chromium-browser', 'google-chrome')
  return next(filter(None, map(shutil.which, names)), None)


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


class Browser:
  """One window with a profile of its own; use it in a `with` statement."""

  def __init__(self, folder, width: int = 1280, height: int = 1400):
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(exist_ok=True)
    self._start(folder, width, height)
    self._ids, self._buffer = itertools.count(1), b''
    self._session: str | None = None
    self._requested: set[str] = set()
    try:
      window = self.command('Target.createTarget', url='about:blank')
      attached = self.command(
        'Target.attachToTarget', targetId=window['targetId'], flatten=True
      )
      self._session = attached['sessionId']
      for domain in ('Page', 'Network', 'DOM'):
        self.command(f'{domain}.enable')
      # A window is at least 500 pixels wide, a telephone is not.
      size = {'width': width, 'height': height}
      self.command(
        'Emulation.setDeviceMetricsOverride',
        **size, deviceScaleFactor=1, mobile=width < 500,
      )  # fmt: skip
    except BaseException:
      self._end()
      raise

  def _start(self, folder: pathlib.Path, width: int, height: int) -> None:
    """Start Chromium with a pipe in each direction."""
    arguments = [
      find_program(), '--remote-debugging-pipe', f'--user-data-dir={folder}',
      '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run',
      '--disable-dev-shm-usage', f'--window-size={width},{height}',
      '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
      # Nothing but this computer can be reached.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ]  # fmt: skip
    # The names of sockets have 108 bytes at most.
    self._sockets = tempfile.TemporaryDirectory(
      prefix='page', ignore_cleanup_errors=True
    )
    theirs_in, self._out = os.pipe()
    self._in, theirs_out = os.pipe()
    self.process = subprocess.Popen(
      [
        sys.executable,
        '-c',
        LAUNCH,
        f'{theirs_in}',
        f'{theirs_out}',
        *arguments,
      ],
      pass_fds=(theirs_in, theirs_out),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      env={**os.environ, 'TMPDIR': self._sockets.name, 'HOME': str(folder)},
    )
    os.close(theirs_in)
    os.close(theirs_out)

  def __enter__(self) -> 'Browser':
    return self

  def __exit__(self, *_) -> None:
    self._end()

  def _end(self) -> None:
    """Close the pipes, which ends Chromium and all its processes."""
    os.close(self._out)
    try:
      self.process.wait(20)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
    os.close(self._in)
    self._sockets.cleanup()

  def command(self, name: str, **parameters) -> dict:
    """The result of a command of the DevTools protocol."""
    number = next(self._ids)
    message = {'id': number, 'method': name, 'params': parameters}
    if self._session is not None:
      message['sessionId'] = self._session
    data = json.dumps(message).encode() + b'\0'
    while data:
      data = data[os.write(self._out, data) :]
    end = time.monotonic() + 300
    while True:
      answer = self._read(end)
      if answer.get('method') == 'Network.requestWillBeSent':
        self._requested.add(answer['params']['request']['url'])
      if answer.get('id') == number:
        if 'error' in answer:
          raise RuntimeError(f'{name}: {answer["error"]["message"]}')
        return answer['result']

  def _read(self, end: float) -> dict:
    """The next message of Chromium, before the time `end`."""
    while b'\0' not in self._buffer:
      ready, *_ = select.select([self._in], [], [], end - time.monotonic())
      assert ready, 'chromium does not answer'
      block = os.read(self._in, 2**16)
      assert block, 'chromium ended'
      self._buffer += block
    message, _, self._buffer = self._buffer.partition(b'\0')
    return json.loads(message)

  def open(self, url: str) -> None:
    """Go to a page and wait until its documents are loaded."""
    found = self.command('Page.navigate', url=url)
    assert 'errorText' not in found, found
    self.wait('return document.readyState === "complete"')

  def run(self, script: str):
    """The result of JavaScript: `return ...`."""
    found = self.command(
      'Runtime.evaluate',
      expression=f'(() => {{ {script} }})()',
      returnByValue=True,
      awaitPromise=True,
    )
    if 'exceptionDetails' in found:
      raise RuntimeError(f'{script!r}: {found["exceptionDetails"]}')
    return found['result'].get('value')

  def find(self, css: str) -> int:
    """The number of the first element of a selector, when it exists."""
    self.wait(f'return !!document.querySelector({json.dumps(css)})')
    root = self.command('DOM.getDocument')['root']['nodeId']
    found = self.command('DOM.querySelector', nodeId=root, selector=css)
    return found['nodeId']

  def upload(self, css: str, path) -> None:
    """Choose a file in an <input type=file>."""
    self.command(
      'DOM.setFileInputFiles', nodeId=self.find(css), files=[str(path)]
    )

  def click(self, css: str) -> None:
    """Click an element through its script, wherever it is scrolled to."""
    self.find(css)
    self.run(f'document.querySelector({json.dumps(css)}).click()')

  def press(self, name: str) -> None:
    """Click the button with this text."""
    script = (
      'const b = [...document.querySelectorAll("button")].find('
      f'b => b.textContent.trim() === {json.dumps(name)});'
      'if (b && !b.disabled) { b.click(); return true } return false'
    )
    self.wait(script)

  def wait(self, script: str, seconds: float = 240):
    """Repeat JavaScript until it returns something true; returns that."""
    end = time.monotonic() + seconds
    while True:
      value = self.run(script)
      if value:
        return value
      if time.monotonic() > end:
        text = self.run('return document.body.innerText')
        raise AssertionError(f'{script!r} is not true of: {text}')
      time.sleep(0.1)

  def wait_for(self, text: str, seconds: float = 240) -> None:
    """Wait until the page shows a text."""
    self.wait(
      f'return document.body.innerText.includes({json.dumps(text)})', seconds
    )

  def screenshot(self, path) -> None:
    """A picture of the whole page."""
    size = self.run(
      'return [document.documentElement.clientWidth, '
      'document.documentElement.scrollHeight]'
    )
    clip = {'x': 0, 'y': 0, 'width': size[0], 'height': size[1], 'scale': 1}
    found = self.command(
      'Page.captureScreenshot', captureBeyondViewport=True, clip=clip
    )
    with open(path, 'wb') as file:
      file.write(base64.b64decode(found['data']))

  def requested(self) -> set[str]:
    """Addresses that the page has asked for since it was opened."""
    return self._requested
