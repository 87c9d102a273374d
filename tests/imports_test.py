"""The architecture, executable: packages import only the packages below."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'lipsync_jax'

# Package -> the packages it may import: only those above it in this table.
PACKAGES = {
  'common': '',
  'audio': 'common',
  'media': 'common',
  'faces': 'common',
  'models': 'audio common',
  'weights': 'common models',
  'data': 'audio common faces',
  'rendering': 'audio common faces media models',
  'objects': 'faces media models rendering',
  'inference': 'audio common faces media models objects rendering weights',
  'batch': 'common inference media',
  'app': 'common inference media',
  'occlusion': 'common data faces models weights',
  'training': 'audio common data media models weights',
  'refinement': (
    'audio common data faces media models occlusion rendering training weights'
  ),
  'finetuning': (
    'audio common data faces inference media models rendering training weights'
  ),
  'evaluation': (
    'audio common data faces inference media models objects rendering weights'
  ),
  'benchmark': 'audio common data inference models training weights sync',
}
SHELLS = {
  '__init__': 'common faces inference models sync weights',  # for types
  'sync': 'common inference',
  '__main__': 'app batch finetuning sync',
  'main': 'refinement training',
  'evaluate': 'common evaluation',
}
LIGHT = set(PACKAGES) - {
  'data',
  'occlusion',
  'training',
  'refinement',
  'finetuning',
  'benchmark',
} | {
  'sync',
  'evaluate',
}
HEAVY = {'optax', 'orbax', 'grain', 'tensorflow', 'apache_beam', 'torch'}
# The only module of a light package that may import a heavy library.
EXCEPTIONS = {'batch/beam_runner'}
SOURCES = sorted(PACKAGE.rglob('*.py'))


def room_of(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported(path: pathlib.Path) -> set[str]:
  """Dotted names that a file imports, at any depth of nesting."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path.name}: relative import'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def packages_imported(path: pathlib.Path) -> set[str]:
  inner = [n.split('.') for n in imported(path) if n.startswith('lipsync_jax.')]
  known = PACKAGES.keys() | SHELLS.keys()
  return {n[1] for n in inner if n[1] in known} - {room_of(path)}


def module_graph() -> dict[str, set[str]]:
  """Modules of the package and the modules they import when loaded."""
  names = {
    '.'.join(('lipsync_jax', *path.relative_to(PACKAGE).with_suffix('').parts))
    for path in SOURCES
  }
  graph = {}
  for path in SOURCES:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    body = ast.parse(path.read_text(encoding='utf-8')).body
    found = set()
    for node in body:  # the top level only: lazy imports make no cycle
      if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
          found |= {node.module, f'{node.module}.{alias.name}'} & names
    graph['.'.join(('lipsync_jax', *parts))] = found
  return graph


def test_table_has_no_cycle():
  seen = set()
  for room, below in PACKAGES.items():
    assert set(below.split()) - {'sync'} <= seen, f'{room}: wrong order'
    seen.add(room)


def test_every_module_lies_in_a_package():
  assert {room_of(p) for p in SOURCES} == PACKAGES.keys() | SHELLS.keys()


def test_no_package_is_crowded():
  for name in PACKAGES:
    assert len(list((PACKAGE / name).glob('*.py'))) <= 20, name
    assert not list((PACKAGE / name).glob('*/*.py')), f'{name}: one level only'


def test_modules_have_no_cycle():
  graph, done = module_graph(), set()

  def visit(name: str, path: tuple[str, ...]) -> None:
    assert name not in path, ' -> '.join((*path, name))
    if name in done:
      return
    for other in graph[name]:
      visit(other, (*path, name))
    done.add(name)

  for name in graph:
    visit(name, ())


@pytest.mark.parametrize(
  'path', SOURCES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_down(path):
  allowed = PACKAGES | SHELLS
  assert packages_imported(path) <= set(allowed[room_of(path)].split())


@pytest.mark.parametrize(
  'path', SOURCES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_inference_is_light(path):
  name = str(path.relative_to(PACKAGE).with_suffix('').as_posix())
  if room_of(path) in LIGHT and name not in EXCEPTIONS:
    assert not {n.split('.')[0] for n in imported(path)} & HEAVY


@pytest.mark.parametrize(
  'code',
  [
    'import lipsync_jax',
    'import lipsync_jax.sync as s; s.cli.build_parser().format_help()',
    'import lipsync_jax.weights, lipsync_jax.inference, lipsync_jax.media',
  ],
)
def test_shells_load_nothing_heavy(code):
  heavy = {'jax', 'numpy', 'av', 'cv2', 'mediapipe', 'flax'}
  code = f'import sys; {code}; sys.exit(bool({heavy!r} & set(sys.modules)))'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
