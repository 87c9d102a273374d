"""A headless Chromium, driven by the WebDriver protocol of chromedriver."""

import base64
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # key of WebDriver's answers


def find_programs() -> tuple[str, str] | None:
  """Chromium and chromedriver, or None."""
  browser = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None
  )
  driver = shutil.which('chromedriver')
  return (browser, driver) if browser and driver else None


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


class Browser:
  """One window with a profile of its own; use it in a `with` statement."""

  def __init__(self, folder, width: int = 1280, height: int = 1400):
    program, driver = find_programs()
    port = free_port()
    pathlib.Path(folder).mkdir(exist_ok=True)
    self.process = subprocess.Popen(
      [driver, f'--port={port}'],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      env={**os.environ, 'TMPDIR': str(folder), 'HOME': str(folder)},
    )
    self.address = f'http://127.0.0.1:{port}/session'
    arguments = [
      '--headless=new', '--no-sandbox', '--disable-gpu',
      '--disable-dev-shm-usage', f'--window-size={width},{height}',
      '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
      # Nothing but this computer can be reached.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ]  # fmt: skip
    options = {'binary': program, 'args': arguments}
    wanted = {'goog:chromeOptions': options}
    wanted['goog:loggingPrefs'] = {'browser': 'ALL', 'performance': 'ALL'}
    try:
      found = self._first_answer({'capabilities': {'alwaysMatch': wanted}})
    except BaseException:
      self.process.kill()
      raise
    self.address += '/' + found['sessionId']
    # A window is at least 500 pixels wide, a telephone is not.
    size = {'width': width, 'height': height}
    self.command(
      'Emulation.setDeviceMetricsOverride',
      **size, deviceScaleFactor=1, mobile=width < 500,
    )  # fmt: skip

  def __enter__(self) -> 'Browser':
    return self

  def __exit__(self, *_) -> None:
    try:
      self.call('DELETE', '')
    finally:
      self.process.kill()
      self.process.wait()

  def call(self, method: str, path: str, body: dict | None = None):
    """Send a command; returns the value of its answer."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(
      self.address + path,
      data,
      {'Content-Type': 'application/json'},
      method=method,
    )
    try:
      with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)['value']
    except urllib.error.HTTPError as error:
      raise RuntimeError(json.load(error)['value']['message']) from None

  def command(self, name: str, **parameters):
    """A command of the DevTools protocol."""
    body = {'cmd': name, 'params': parameters}
    return self.call('POST', '/goog/cdp/execute', body)

  def _first_answer(self, body: dict) -> dict:
    end = time.monotonic() + 120
    while True:
      try:
        return self.call('POST', '', body)
      except urllib.error.URLError:
        assert time.monotonic() < end, 'chromedriver does not answer'
        time.sleep(0.2)

  def open(self, url: str) -> None:
    self.call('POST', '/url', {'url': url})

  def run(self, script: str, *arguments):
    """The result of JavaScript: `return ...`."""
    body = {'script': script, 'args': list(arguments)}
    return self.call('POST', '/execute/sync', body)

  def find(self, css: str) -> str:
    """The first element of a selector, when it exists."""
    self.wait(f'return !!document.querySelector({json.dumps(css)})')
    body = {'using': 'css selector', 'value': css}
    return self.call('POST', '/element', body)[ELEMENT]

  def upload(self, css: str, path) -> None:
    """Choose a file in an <input type=file>."""
    body = {'text': str(path)}
    self.call('POST', f'/element/{self.find(css)}/value', body)

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
    """Addresses that the page has asked for since the last call."""
    entries = self.call('POST', '/se/log', {'type': 'performance'})
    found = set()
    for entry in entries:
      event = json.loads(entry['message'])['message']
      if event['method'] == 'Network.requestWillBeSent':
        found.add(event['params']['request']['url'])
    return found
