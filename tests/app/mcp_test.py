"""The MCP tool, through the endpoint that `lipsync app --mcp` opens."""

import asyncio
import base64
import contextlib
import pathlib
import sys
import urllib.request

import numpy as np
import pytest

from lipsync_jax import __main__ as command
from lipsync_jax.app import jobs
from lipsync_jax.media import decoder
from tests.helpers import browser, test_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHOTO, SPEECH = ROOT / 'examples/mona.jpg', ROOT / 'examples/jfk.flac'


def test_without_mcp_the_remedy_is_one_line(monkeypatch, capsys):
  pytest.importorskip('gradio', reason='needs the extra [app]')
  monkeypatch.setitem(sys.modules, 'mcp', None)
  assert command.main(['app', '--mcp']) == 1
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'lipsync-jax[mcp]' in line


@pytest.fixture
def served(tmp_path, monkeypatch):
  """The address of the tool."""
  pytest.importorskip('gradio', reason='needs the extra [app]')
  pytest.importorskip('mcp', reason='needs the extra [mcp]')
  from lipsync_jax.app import cli, page

  for name in ('GRADIO_ANALYTICS_ENABLED', 'GRADIO_TEMP_DIR'):
    monkeypatch.setenv(name, '')  # restored at the end
  cli.prepare_environment(str(tmp_path))
  runner = jobs.JobRunner(folder=str(tmp_path / 'jobs'))
  blocks = page.build_page(runner, mcp=True)
  _, address, _ = blocks.launch(
    server_name='127.0.0.1',
    server_port=browser.free_port(),
    mcp_server=True,
    prevent_thread_lock=True,
    quiet=True,
    **page.launch_options(),
  )
  yield f'{address}gradio_api/mcp/'
  blocks.close()
  runner.close()


@contextlib.asynccontextmanager
async def open_client(address: str):
  """A session of the library `mcp`."""
  from mcp import ClientSession
  from mcp.client.streamable_http import streamablehttp_client

  async with (
    streamablehttp_client(address) as (source, sink, _),
    ClientSession(source, sink) as client,
  ):
    await client.initialize()
    yield client


def test_the_tool_alone_is_listed(served):
  async def list_tools():
    async with open_client(served) as client:
      return (await client.list_tools()).tools

  (tool,) = asyncio.run(list_tools())  # no endpoint of the page
  assert tool.name == 'lip_sync' and 'lips of a person' in tool.description
  found = tool.inputSchema['properties']
  assert found['person'] | {'description': ''} == {
    'type': 'string',
    'default': 'auto',
    'description': '',
  }
  assert found['strength']['type'] == 'number'
  assert set(found) == {'face', 'audio', 'person', 'strength'}
  assert set(tool.inputSchema['required']) == {'face', 'audio'}


def call(address: str, **arguments):
  """The result of a call of the tool."""

  async def work():
    async with open_client(address) as client:
      return await client.call_tool('lip_sync', arguments)

  return asyncio.run(work())


def as_data(path: pathlib.Path, kind: str) -> str:
  """A file as an address that holds it."""
  text = base64.b64encode(path.read_bytes()).decode()
  return f'data:{kind};base64,{text}'


def test_a_job(served, tmp_path):
  """A photo and a sound as `data:` addresses, and the video that comes back."""
  spoken = decoder.probe_audio(str(SPEECH))
  wave = np.concatenate(list(decoder.read_audio(spoken)), axis=1).mean(0)
  words = wave[spoken.rate : spoken.rate * 8 // 5]
  voice = test_clips.write_wav(tmp_path / 'voice.wav', words, spoken.rate)
  photo, sound = as_data(PHOTO, 'image/jpeg'), as_data(voice, 'audio/wav')
  result = call(served, face=photo, audio=sound, person='largest')
  assert not result.isError, result
  text = ' '.join(getattr(part, 'text', '') for part in result.content)
  address = next(word for word in text.split() if word.startswith('http'))
  out = tmp_path / 'out.mp4'
  with urllib.request.urlopen(address, timeout=60) as answer:
    out.write_bytes(answer.read())
  lumas = np.stack(test_clips.read_video(out)[1]).astype(int)
  assert len(lumas) == 15
  assert np.abs(lumas - lumas[0]).max() > 20  # the lips move


def test_a_refused_job_is_one_line(served, tmp_path):
  (tmp_path / 'text.mp4').write_text('no media')
  text = as_data(tmp_path / 'text.mp4', 'video/mp4')
  result = call(served, face=text, audio=text)
  assert result.isError
  line = result.content[0].text
  assert '\n' not in line and line.startswith('file.mp4: ')
