"""What the code may never do, proved by reading it.

No shell, no other program, no pickle, no evaluated text and no network in
the package or the data preparation. Only `media/decoder_process` and the probes
of `app/doctor` start a process: Python, with a command line that holds no input
of the user. Only the page and the server of `app` open a port, and only
`app/webhooks` connects: to hosts that the server's owner names.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted(
  path
  for folder in ('lipsync_jax', 'data_prep', 'configs')
  for path in (ROOT / folder).rglob('*.py')
)
NETWORK = {
  *('socket', 'socketserver', 'ssl', 'http', 'urllib.request', 'urllib3'),
  *('ftplib', 'smtplib', 'poplib', 'imaplib', 'telnetlib', 'nntplib'),
  *('xmlrpc', 'requests', 'httpx', 'aiohttp', 'websockets', 'paramiko'),
  *('asyncio', 'webbrowser', 'wget', 'gdown', 'huggingface_hub'),
}
SERVERS = {'gradio', 'starlette', 'uvicorn', 'fastapi', 'flask', 'tornado'}
SERVING = {'app/page', 'app/server', 'app/serve_cli', 'app/submission'}
CALLING = {'app/webhooks': {'http', 'socket'}}
UNPICKLING = {
  *('pickle', '_pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib'),
  *('marshal', 'shelve', 'jsonpickle', 'pandas', 'yaml'),
}
PROGRAMS = {
  *('pty', 'commands', 'popen2', 'sh', 'pexpect', 'code', 'codeop'),
  *('imageio_ffmpeg', 'ffmpeg', 'moviepy', 'pydub', 'runpy'),
}
MODULES = NETWORK | UNPICKLING | PROGRAMS
EVALUATING = {'eval', 'exec', 'compile', '__import__', 'breakpoint'}
OS_CALLS = ('system', 'popen', 'exec', 'spawn', 'posix_spawn', 'startfile')
STARTERS = {'subprocess', 'multiprocessing'}
STARTING = {'media/decoder_process', 'app/doctor'}
IMPORTING = {'common/lazy', 'app/doctor'}  # names that are in our own code


def faults(text: str, room: str = '') -> list[str]:
  """Everything in a source that is forbidden."""
  found = []
  for node in ast.walk(ast.parse(text)):
    found += [
      f'imports {name}'
      for name in imported(node)
      if banned(name) and name.partition('.')[0] not in CALLING.get(room, set())
    ]
    starts = {name.partition('.')[0] for name in imported(node)} & STARTERS
    if starts and room not in STARTING:
      found.append(f'imports {starts}')
    serves = {name.partition('.')[0] for name in imported(node)} & SERVERS
    if serves and room not in SERVING:
      found.append(f'imports {serves}')
    if isinstance(node, ast.Call):
      found += [
        fault
        for fault in called(node)
        if fault != 'imports by name' or room not in IMPORTING
      ]
    # Named without a call counts too: it may be called elsewhere.
    name = ast.unparse(node) if isinstance(node, ast.Attribute) else ''
    if name.startswith(tuple(f'os.{call}' for call in OS_CALLS)):
      found.append(f'names {name}')
  return found


def imported(node: ast.AST) -> list[str]:
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if isinstance(node, ast.ImportFrom):
    names = [f'{node.module}.{alias.name}' for alias in node.names]
    return [node.module or '', *names]
  return []


def banned(name: str) -> bool:
  parts = name.split('.')
  heads = {'.'.join(parts[: i + 1]) for i in range(len(parts))}
  if name.startswith('os.') and parts[1].startswith(OS_CALLS):
    return True
  return bool(heads & MODULES)


def called(node: ast.Call) -> list[str]:
  """Faults of one call."""
  function, found = node.func, []
  name = function.id if isinstance(function, ast.Name) else ''
  attribute = function.attr if isinstance(function, ast.Attribute) else ''
  if name in EVALUATING:
    found.append(f'calls {name}')
  if attribute == 'import_module':
    found.append('imports by name')
  for word in node.keywords:
    false = isinstance(word.value, ast.Constant) and word.value.value is False
    if word.arg in ('shell', 'allow_pickle') and not false:
      found.append(f'{word.arg}=')
    if word.arg == 'weights_only' and false:
      found.append('weights_only=False')
  numpy = isinstance(function, ast.Attribute) and attribute == 'load'
  owner = function.value if numpy else None
  if isinstance(owner, ast.Name) and owner.id in ('np', 'numpy'):
    said = any(word.arg == 'allow_pickle' for word in node.keywords)
    found += [] if said else ['np.load without allow_pickle=False']
  return found


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.stem)
def test_nothing_forbidden(path):
  room = f'{path.parent.name}/{path.stem}'
  assert faults(path.read_text(encoding='utf-8'), room) == []


@pytest.mark.parametrize(
  'text',
  [
    'import pickle',
    'from pickle import Unpickler',
    'def f():\n  import socket',
    'from urllib import request',
    'import http.client as c',
    'import uvicorn',
    'def f():\n  import gradio as gr',
    'import subprocess',
    'from multiprocessing import pool',
    'import os\nos.system(x)',
    'import os\nrun = os.execv',
    'from os import popen',
    'eval(x)',
    'exec("x")',
    'np.load(path)',
    'np.load(path, allow_pickle=True)',
    'torch.load(path, weights_only=False)',
    'run(x, shell=True)',
    'run(x, shell=y)',
    'importlib.import_module(x)',
    'import yaml',
  ],
)
def test_the_judge_sees(text):
  assert faults(text)


def test_the_judge_lets_pass():
  fine = 'import urllib.parse\nimport os\nos.path.join(x)\nre.compile(x)\n'
  assert not faults(fine + 'np.load(x, allow_pickle=False)\nnet.eval()\n')


def started_processes(tree: ast.AST) -> list[ast.Call]:
  """The calls of `subprocess` in a source."""
  return [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and ast.unparse(node.func).startswith('subprocess.')
  ]


def test_the_one_process_gets_no_word_of_the_user():
  tree = ast.parse((ROOT / 'lipsync_jax/media/decoder_process.py').read_text())
  calls = started_processes(tree)
  assert [ast.unparse(call.func) for call in calls] == ['subprocess.Popen']
  assert [ast.unparse(arg) for arg in calls[0].args] == ['COMMAND']
  command = next(
    node.value
    for node in tree.body
    if isinstance(node, ast.Assign)
    and ast.unparse(node.targets[0]) == 'COMMAND'
  )
  for word in command.elts:
    constant = isinstance(word, ast.Constant)
    assert constant or ast.unparse(word) in (
      'sys.executable',
      'decoder_worker.__name__',
    )


def test_probes_get_no_word_of_the_user():
  """A probe's name is a constant, and an unknown one is refused."""
  tree = ast.parse((ROOT / 'lipsync_jax/app/doctor.py').read_text())
  calls = started_processes(tree)
  assert [ast.unparse(call.func) for call in calls] == ['subprocess.run']
  words = [ast.unparse(word) for word in calls[0].args[0].elts]
  assert words == [
    'sys.executable', "'-m'", "'lipsync_jax.app.doctor'", "'--probe'", 'name'
  ]  # fmt: skip
  names = {
    ast.unparse(call.args[0])
    for call in ast.walk(tree)
    if isinstance(call, ast.Call) and ast.unparse(call.func) == 'run_isolated'
  }
  assert names == {'name'}


def test_only_the_server_calls_webhooks():
  users = {
    f'{path.parent.name}/{path.stem}'
    for path in SOURCES
    if 'app.webhooks' in path.read_text()
    or 'import webhooks' in path.read_text()
  }
  assert users <= {'app/server', 'app/serve_cli', 'app/job_table', 'app/jobs'}
