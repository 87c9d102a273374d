"""The MCP tool, through the endpoint that `lipsync app --mcp` opens."""

import json
import sys
import urllib.request

import pytest

from lipsync_jax import __main__ as command
from lipsync_jax.app import jobs
from tests.helpers import browser


def test_without_mcp_the_remedy_is_one_line(monkeypatch, capsys):
  pytest.importorskip('gradio', reason='needs the extra [app]')
  monkeypatch.setitem(sys.modules, 'mcp', None)
  assert command.main(['app', '--mcp']) == 1
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'lipsync-jax[mcp]' in line


def test_the_tool_is_listed(tmp_path, monkeypatch):
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
  try:
    tools = {tool['name']: tool for tool in list_tools(address)}
  finally:
    blocks.close()
    runner.close()
  tool = tools['lip_sync']
  assert 'lips of a person' in tool['description']
  found = tool['inputSchema']['properties']
  assert found['person'] | {'description': ''} == {
    'type': 'string',
    'default': 'auto',
    'description': '',
  }
  assert found['strength']['type'] == 'number'
  assert set(found) == {'face', 'audio', 'person', 'strength'}
  assert set(tool['inputSchema']['required']) == {'face', 'audio'}


def list_tools(address: str) -> list[dict]:
  """The answer to MCP's `tools/list`."""
  message = {'jsonrpc': '2.0', 'id': 1, 'method': 'tools/list'}
  request = urllib.request.Request(
    f'{address}gradio_api/mcp/',
    json.dumps(message).encode(),
    {
      'Content-Type': 'application/json',
      'Accept': 'application/json, text/event-stream',
    },
  )
  with urllib.request.urlopen(request, timeout=60) as answer:
    text = answer.read().decode()
  lines = [line[5:] for line in text.splitlines() if line.startswith('data:')]
  return json.loads(lines[0] if lines else text)['result']['tools']
