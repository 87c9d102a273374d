"""The web page in a real browser, with the command that serves it.

Chromium reaches no address but this computer's. Without Chromium the page is
used through gradio's client. LIPSYNC_JAX_SCREENSHOTS=DIR keeps pictures.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

pytest.importorskip('gradio', reason='needs the extra [app]')
from lipsync_jax.app import cli
from lipsync_jax.weights import articulation
from tests.helpers import browser, test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / 'lipsync_jax/app/examples'
FILES = ('mona.jpg', 'jfk.flac')
pytestmark = pytest.mark.slow
CHROMIUM = pytest.mark.skipif(
  browser.find_program() is None,
  reason='needs the program chromium',
)
PICTURES = os.environ.get('LIPSYNC_JAX_SCREENSHOTS')
OPEN_ALL = (
  'document.querySelectorAll("button.label-wrap").forEach(b => b.click())'
)
# Of its text, and of the first element behind it that is not transparent.
STATUS_COLORS = (
  'const at = (e) => getComputedStyle(e);'
  'const text = document.querySelector(".status");'
  'let behind = text;'
  'const clear = (e) => /^rgba.*, 0\\)$/.test(at(e).backgroundColor);'
  'while (clear(behind) && behind.parentElement)'
  ' behind = behind.parentElement;'
  'return [at(text).color, at(behind).backgroundColor]'
)
STATUS = 'return document.querySelector(".status").innerText'


@contextlib.contextmanager
def serve(folder: pathlib.Path, *words: str):
  """The command `lipsync app`; yields its address."""
  port = browser.free_port()
  folder.mkdir(exist_ok=True)
  process = subprocess.Popen(
    [sys.executable, '-m', 'lipsync_jax', 'app', '--port', str(port), *words],
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'TMPDIR': str(folder)},
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  address = f'http://127.0.0.1:{port}'
  try:
    while True:
      with contextlib.suppress(urllib.error.URLError):
        urllib.request.urlopen(address + '/config', timeout=60).read()
        break
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.2)
    yield address
  finally:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
  assert not list(folder.glob('lipsync-app-*'))  # its folder is gone


@pytest.fixture(scope='module')
def served(tmp_path_factory):
  folder = tmp_path_factory.mktemp('app') / 'tmp'
  with serve(folder, '--max-megabytes', '3') as address:
    yield address, folder


@pytest.fixture(scope='module')
def media(tmp_path_factory):
  """A photo of two people, a long name and a file that is no media."""
  import cv2

  folder = tmp_path_factory.mktemp('media')
  one = cv2.imread(str(EXAMPLES / 'mona.jpg'))
  wide = np.zeros((400, 800, 3), np.uint8)
  wide[:, :400] = cv2.resize(one, (400, 400))
  wide[100:, 450:750] = cv2.resize(one, (300, 300))
  cv2.imwrite(str(folder / 'two people.png'), wide)
  (folder / 'text.mp4').write_text('no media at all')
  (folder / 'large.mp4').write_bytes(bytes(4 * 2**20))
  return folder


@pytest.fixture
def window(served, tmp_path):
  """A window with the page."""
  with browser.Browser(tmp_path) as found:
    open_page(found, served[0])
    yield found


def open_page(window, address: str) -> None:
  window.open(address)
  window.wait_for('Use the example face')


def parts(folder: pathlib.Path) -> list[str]:
  """Outputs and temporary files below the server's folder."""
  names = ('*_lipsync.mp4', '*_preview.mp4', '*-part')
  return [p.name for name in names for p in folder.rglob(name)]


def take(window, name: str) -> None:
  if PICTURES:
    pathlib.Path(PICTURES).mkdir(exist_ok=True)
    window.screenshot(f'{PICTURES}/{name}.png')


@CHROMIUM
def test_second_person_preview_and_report(window, media, tmp_path):
  window.upload('#face input[type=file]', media / 'two people.png')
  window.wait_for('2 people found.')
  window.press('Use the example speech')
  window.wait('return !!document.querySelector("#audio #waveform")')
  window.click('#people button.thumbnail-item[aria-label="Thumbnail 2 of 2"]')
  window.wait('return document.querySelectorAll("#who input")[1].checked')
  window.run(OPEN_ALL)  # so that every setting sends what it shows
  window.wait_for('Of the lip motion')
  window.press('Preview of 5 seconds')
  window.wait_for('Done.')
  window.run(OPEN_ALL)
  window.wait('return document.querySelectorAll("video").length == 2')
  report = window.run('return document.querySelector("#report").innerText')
  assert 'Person 1 has new lips in 100 %' in report
  time.sleep(1)
  take(window, 'wide')
  before, after = (
    read_video(window, tmp_path, name) for name in ('before', 'after')
  )
  assert before.shape == after.shape and len(after) == 125
  moved = np.abs(after - before).mean(0) > 2
  # The second person alone; the encoding changes single pixels elsewhere.
  assert moved[:, 450:].sum() > 500 and moved[:, :450].sum() < 50
  urls = (urllib.parse.urlparse(url) for url in window.requested())
  hosts = {url.hostname for url in urls if url.scheme.startswith('http')}
  assert hosts == {'127.0.0.1'}


def read_video(window, folder, name: str) -> np.ndarray:
  """The frames of a player, as luma."""
  url = window.run(f'return document.querySelector("#{name} video").src')
  path = folder / f'{name}.mp4'
  with urllib.request.urlopen(url) as answer:
    path.write_bytes(answer.read())
  return np.stack(test_clips.read_video(path)[1]).astype(int)


@CHROMIUM
def test_cancel_keeps_nothing(window, served):
  before = parts(served[1])
  window.press('Use the example face')
  window.wait_for('1 person found.')
  window.press('Use the example speech')
  window.wait('return !!document.querySelector("#audio #waveform")')
  window.press('Make the whole video')
  window.wait_for('Moving the lips: frame')
  assert window.run('return !!document.querySelector(".status progress")')
  take(window, 'progress')
  window.press('Cancel')
  window.wait_for('Cancelled. Nothing was kept.')
  end = time.monotonic() + 60
  while parts(served[1]) != before:
    assert time.monotonic() < end, parts(served[1])
    time.sleep(0.1)
  time.sleep(1)
  assert 'Cancelled' in window.run(STATUS)
  # The page works on.
  window.press('Search the whole video for people')
  window.wait_for('1 person found.')


@CHROMIUM
@pytest.mark.parametrize('name', ['text.mp4', 'large.mp4'])
def test_a_bad_file_is_one_line(window, media, name):
  window.upload('#face input[type=file]', media / name)
  if name == 'large.mp4':
    window.wait('return document.body.innerText.includes("exceed")')
    return
  window.wait('return !!document.querySelector(".status[role=alert]")')
  line = window.run(STATUS)
  assert line.startswith('Error:') and 'text.mp4' in line


@CHROMIUM
def test_missing_inputs_are_named(window):
  window.press('Make the whole video')
  window.wait_for('Choose a face first.')


@CHROMIUM
def test_two_users_at_once(window, served, tmp_path):
  """The second waits for the first, and neither gets the other's files."""
  with browser.Browser(tmp_path / 'second') as other:
    open_page(other, served[0])
    for one in (window, other):
      one.press('Use the example face')
      one.wait_for('1 person found.')
      one.press('Use the example speech')
      one.wait('return !!document.querySelector("#audio #waveform")')
    for one in (window, other):
      one.press('Preview of 5 seconds')
    for one in (window, other):
      one.wait_for('Done.')
    urls = [
      one.run('return document.querySelector("#after video").src')
      for one in (window, other)
    ]
    assert all('mona_preview.mp4' in url for url in urls)


@CHROMIUM
@pytest.mark.parametrize('width', [1280, 390])
@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_every_width_and_theme(served, tmp_path, width, theme):
  """A preview; nothing to scroll sideways, and text that can be read."""
  with browser.Browser(tmp_path, width, 844) as window:
    window.open(f'{served[0]}/?__theme={theme}')
    window.press('Use the example face')
    window.wait_for('1 person found.')
    window.press('Use the example speech')
    window.wait('return !!document.querySelector("#audio #waveform")')
    window.press('Preview of 5 seconds')
    window.wait_for('Done.')
    window.wait('return document.querySelectorAll("video").length == 2')
    time.sleep(1)
    take(window, f'{width}_{theme}')
    window.run(OPEN_ALL)
    window.wait_for('Of the lip motion')
    wide, shown = window.run(
      'return [document.documentElement.scrollWidth, innerWidth]'
    )
    assert wide <= shown == width
    take(window, f'{width}_{theme}_open')
    colors = [luminance(color) for color in window.run(STATUS_COLORS)]
    assert (colors[1] < 0.2) == (theme == 'dark')
    brighter, darker = max(colors), min(colors)
    assert (brighter + 0.05) / (darker + 0.05) > 4.5  # WCAG 2, level AA


def luminance(color: str) -> float:
  """The relative luminance of CSS's `rgb(r, g, b)`."""
  values = re.findall(r'[\d.]+', color)[:3]
  linear = [
    v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
    for v in (float(value) / 255 for value in values)
  ]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@CHROMIUM
def test_every_control_has_a_name_and_takes_the_focus(window):
  unnamed = window.run(
    'return [...document.querySelectorAll("button, input, select, textarea")]'
    '.filter(e => e.offsetParent && e.tabIndex >= 0)'
    '.filter(e => !(e.textContent.trim() || e.ariaLabel || e.title ||'
    ' e.labels?.length || e.getAttribute("aria-labelledby") ||'
    ' e.closest("label")))'
    '.map(e => e.outerHTML.slice(0, 200))'
  )
  assert unnamed == []
  assert window.run('return document.documentElement.lang') != ''


def test_nothing_else_is_served(served, media):
  """Neither files of the system, of the folder, nor of other jobs."""
  address, folder = served
  secret = folder / 'secret.txt'
  secret.write_text('secret')
  for path in (
    '/etc/passwd',
    ROOT / 'pyproject.toml',
    secret,
    media / 'text.mp4',
  ):
    for route in ('/gradio_api/file=', '/file='):
      url = address + route + urllib.parse.quote(str(path))
      with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url)
      assert caught.value.code in (403, 404)


def test_no_analytics_and_behind_a_path(tmp_path):
  with serve(tmp_path / 'tmp', '--root-path', '/lips') as address:
    with urllib.request.urlopen(address + '/config') as answer:
      config = json.load(answer)
    assert not config['analytics_enabled']
    assert config['root'].endswith('/lips')


def test_the_page_has_an_interface(served):
  """Through gradio's client: an error in words, and the people found."""
  from gradio_client import Client, handle_file

  client = Client(served[0], verbose=False)
  face = handle_file(str(EXAMPLES / 'mona.jpg'))
  gallery, *_, status = client.predict(face, api_name='/people')
  assert len(gallery) == 1 and '1 person found.' in status


def test_the_profile_of_a_person_is_used(served, tmp_path):
  """Through gradio's client: still lips, and one line on another file."""
  from gradio_client import Client, handle_file

  value = articulation.load_articulation()
  still = dataclasses.replace(value, basis=0 * value.basis)
  articulation.save_articulation(tmp_path / 'still.safetensors', still)
  client = Client(served[0], verbose=False)
  face, speech = (handle_file(str(EXAMPLES / n)) for n in FILES)

  def preview(profile, longer='remap'):
    return client.predict(
      face, speech, None, None, None, 1, 'mesh', 0, 0, longer, longer,
      handle_file(str(profile)), api_name='/preview',
    )  # fmt: skip

  before, after, *_ = preview(tmp_path / 'still.safetensors')
  _, first = test_clips.read_video(before)
  _, second = test_clips.read_video(after)
  assert len(first) == len(second) == 125
  # Lips that speak change pixels by 80 and more, the encoding by 12.
  pairs = zip(first, second, strict=True)
  assert max(abs(b.astype(int) - a).max() for a, b in pairs) < 30
  other = tmp_path / 'other.safetensors'
  other.write_text('words')
  *_, status = preview(other)
  assert 'Error' in status and 'safetensors' in status


def test_settings_precede_the_libraries(monkeypatch):
  for name in ('XLA_PYTHON_CLIENT_PREALLOCATE', 'HF_HUB_OFFLINE'):
    monkeypatch.delenv(name, raising=False)
  for name in ('GRADIO_ANALYTICS_ENABLED', 'GRADIO_TEMP_DIR', 'JAX_PLATFORMS'):
    monkeypatch.setenv(name, '')
  cli.prepare_environment('/somewhere', cpu=True)
  assert os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false'
  assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'
  assert os.environ['JAX_PLATFORMS'] == 'cpu'
