"""The Dockerfiles: parsed, and executed as far as that needs no container."""

import fnmatch
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib

import pytest

from lipsync_jax.app import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = ('Dockerfile', 'Dockerfile.cuda')
PORT = 7860


def steps_of(text: str) -> list[tuple[str, str]]:
  """(instruction, rest) of a Dockerfile, continued lines joined."""
  lines = [x for x in text.splitlines() if x.strip() and x.lstrip()[0] != '#']
  joined = '\n'.join(lines).replace('\\\n', ' ').splitlines()
  split = [line.strip().partition(' ') for line in joined]
  return [(name.upper(), rest.strip()) for name, _, rest in split]


def rests(name: str, kind: str) -> list[str]:
  """The rests of all instructions of a kind in a file."""
  steps = steps_of((ROOT / name).read_text(encoding='utf-8'))
  return [rest for instruction, rest in steps if instruction == kind]


def ignored(path: str, patterns: list[str]) -> bool:
  """Whether .dockerignore excludes a path; the last match decides."""
  parts, hidden = pathlib.PurePosixPath(path).parts, False
  heads = ['/'.join(parts[: n + 1]) for n in range(len(parts))]
  for pattern in patterns:
    glob = pattern.lstrip('!').rstrip('/')
    names = parts if glob.startswith('**/') else heads
    if any(fnmatch.fnmatch(x, glob.removeprefix('**/')) for x in names):
      hidden = not pattern.startswith('!')
  return hidden


def ignore_patterns() -> list[str]:
  lines = (ROOT / '.dockerignore').read_text(encoding='utf-8').splitlines()
  return [line for line in lines if line and not line.startswith('#')]


def commands(name: str) -> list[list[str]]:
  """The words of every command in the RUN steps."""
  return [
    shlex.split(part)
    for rest in rests(name, 'RUN')
    for part in rest.split('&&')
  ]


def extras_of(name: str) -> set[str]:
  """Extras of the package that pip installs."""
  words = [w for line in commands(name) if line[0] == 'pip' for w in line]
  return {
    extra
    for word in words
    if word.startswith('.[')
    for extra in word[2:-1].split(',')
  }


def health_command(name: str) -> list[str]:
  (rest,) = rests(name, 'HEALTHCHECK')
  return json.loads(rest.split('CMD', 1)[1])


def start_command(name: str) -> list[str]:
  (rest,) = rests(name, 'CMD')
  return json.loads(rest)


def test_the_parser_joins_lines_and_leaves_comments_out():
  text = '# a\nFROM x\nRUN a \\\n  # b\n && c\n\nCMD ["d"]\n'
  steps = steps_of(text)
  assert steps[0] == ('FROM', 'x') and steps[2] == ('CMD', '["d"]')
  assert steps[1][1].split() == ['a', '&&', 'c']


@pytest.mark.parametrize(
  'path, hidden',
  [
    ('README.md', False),
    ('lipsync_jax/app/cli.py', False),
    ('lipsync_jax/app/__pycache__/cli.pyc', True),
    ('tests/docker_test.py', True),
    ('.git/config', True),
  ],
)
def test_only_the_package_is_sent(path, hidden):
  assert ignored(path, ignore_patterns()) == hidden


@pytest.mark.parametrize('name', FILES)
def test_copied_files_exist_and_are_sent(name):
  sources = [x for rest in rests(name, 'COPY') for x in rest.split()[:-1]]
  assert {'lipsync_jax', 'pyproject.toml'} <= set(sources)
  for source in sources:
    assert (ROOT / source).exists(), source
    assert not ignored(source, ignore_patterns()), source
  package = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  assert package['readme'] in sources
  held = {'LICENSE', 'NOTICE'} & set(package['license-files'])
  assert held <= set(sources)


@pytest.mark.parametrize('name', FILES)
def test_the_page_runs_without_rights_and_is_watched(name):
  steps = steps_of((ROOT / name).read_text(encoding='utf-8'))
  kinds = [kind for kind, _ in steps]
  assert kinds[0] == 'FROM' and kinds[-1] == 'CMD'
  users = [rest for kind, rest in steps if kind == 'USER']
  assert users and not {'root', '0'} & {u.split(':')[0] for u in users}
  assert any(w[0] == 'useradd' and w[-1] == users[-1] for w in commands(name))
  assert kinds.index('USER') < kinds.index('CMD')
  assert kinds.count('HEALTHCHECK') == 1
  assert any(f':{PORT}/' in word for word in health_command(name))
  assert rests(name, 'EXPOSE') == [str(PORT)]
  assert rests(name, 'STOPSIGNAL') == ['SIGINT']


@pytest.mark.parametrize('name', FILES)
def test_bases_and_pip_are_pinned_and_clean(name):
  for base in rests(name, 'FROM'):
    tag = base.split()[0].partition(':')[2]
    assert tag and 'latest' not in tag, base
    assert tag.startswith('3.12-slim')
  pips = [words for words in commands(name) if words[0] == 'pip']
  assert pips and all('--no-cache-dir' in words for words in pips)


@pytest.mark.parametrize('name', FILES)
def test_the_command_and_the_extras_exist(name):
  program, command, *flags = start_command(name)
  package = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  assert program in package['scripts'] and command == 'app'
  args = cli.build_parser().parse_args(flags)
  assert (args.host, args.port) == ('0.0.0.0', PORT)
  extras = extras_of(name)
  assert {'app'} <= extras <= package['optional-dependencies'].keys()
  assert ('cuda12' in extras) == name.endswith('.cuda')


@pytest.mark.parametrize('name', FILES)
def test_packages_of_the_system_exist(name):
  if shutil.which('apt-cache') is None:
    pytest.skip('apt is absent')
  packages = [
    word
    for words in commands(name)
    if words[:2] == ['apt-get', 'install']
    for word in words[2:]
    if not word.startswith('-')
  ]
  assert packages
  known = subprocess.run(
    ['apt-cache', 'policy', *packages], capture_output=True, text=True
  ).stdout
  if not known.strip():
    pytest.skip('apt has no lists; run apt-get update')
  missing = [p for p in packages if f'{p}:' not in known]
  # Names of the base's Debian 12; later ones append t64.
  renamed = subprocess.run(
    ['apt-cache', 'policy', *(f'{p}t64' for p in missing)],
    capture_output=True,
    text=True,
  ).stdout
  assert all(f'{p}t64:' in renamed for p in missing), missing


def free_port() -> int:
  with socket.socket() as held:
    held.bind(('127.0.0.1', 0))
    return held.getsockname()[1]


def build(folder: pathlib.Path) -> pathlib.Path:
  """Execute COPY and pip of `Dockerfile`; returns the programs' folder."""
  source = folder / 'src'
  source.mkdir()
  patterns = ignore_patterns()
  for path in ROOT.rglob('*'):
    relative = path.relative_to(ROOT).as_posix()
    copied = [x for rest in rests(FILES[0], 'COPY') for x in rest.split()[:-1]]
    within = relative.split('/')[0] in copied
    if within and path.is_file() and not ignored(relative, patterns):
      target = source / relative
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(path, target)
  subprocess.run([sys.executable, '-m', 'venv', folder / 'venv'], check=True)
  programs = folder / 'venv' / 'bin'
  for words in commands(FILES[0]):
    if words[0] == 'pip':
      # The machine's own cache of wheels makes the test shorter.
      words = [word for word in words if word != '--no-cache-dir']
      subprocess.run(
        [programs / 'python', '-m', *words], cwd=source, check=True
      )
  return programs


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.skipif(os.name != 'posix', reason='the image is Linux')
def test_the_built_page_answers_its_health_check(tmp_path):
  programs, port = build(tmp_path), str(free_port())
  program, *words = start_command(FILES[0])
  words = [port if word == str(PORT) else word for word in words]
  words = ['127.0.0.1' if word == '0.0.0.0' else word for word in words]
  python, *check = health_command(FILES[0])
  check = [word.replace(f':{PORT}/', f':{port}/') for word in check]
  home = tmp_path / 'home'
  home.mkdir()
  environment = {
    'PATH': f'{programs}:/usr/bin:/bin',
    'HOME': str(home),
    'LIPSYNC_JAX_CACHE': str(home / 'cache'),
    'JAX_PLATFORMS': 'cpu',
  }
  page = subprocess.Popen(
    [programs / program, *words], cwd=home, env=environment
  )
  try:
    for _ in range(150):
      healthy = subprocess.run(
        [programs / python, *check], env=environment, capture_output=True
      )
      if healthy.returncode == 0 or page.poll() is not None:
        break
      time.sleep(2)
    assert page.poll() is None, 'the page ended'
    assert healthy.returncode == 0, healthy.stderr.decode()
    page.send_signal(getattr(signal, rests(FILES[0], 'STOPSIGNAL')[0]))
    page.wait(60)
  finally:
    page.kill()
    page.wait()
