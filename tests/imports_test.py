"""The architecture, executable: arrows between rooms point only downwards."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'lipsync_jax'

# Room -> the rooms it may import. A room may only import rooms above it in
# this table, so that there can be no cycle. `models` is one room.
ROOMS = {
  '__init__': '',
  'cache': '',
  'claims': '',
  'memory': '',
  # sound and time
  'audio': '',
  'timeline': '',
  # media
  'planes': '',
  'source': '',
  'media': 'planes source',
  'sound': 'source',
  'wire': 'planes sound',
  'worker': 'media sound source wire',
  'decoder': 'planes sound source wire worker',
  'soundtrack': 'decoder sound source',
  'encode': 'claims decoder planes sound soundtrack source',
  # faces
  'faces': '',
  'detail': 'faces',
  'compose': 'detail faces',
  'tracks': 'faces',
  'paths': 'faces tracks',
  'detector': 'faces',
  'strands': 'faces tracks',
  'detect': 'detector faces strands tracks',
  'analyses': 'cache claims detector faces tracks',
  # networks and their files
  'models': '',
  'standins': '',
  'pickles': 'standins',
  'containers': 'pickles standins',
  'exports': 'claims standins',
  'published': 'models standins',
  'stored': 'claims published standins',
  'weights': 'cache containers exports models published standins stored',
  # the product
  'pipe': '',
  'request': '',
  'render': 'audio compose decoder faces paths pipe planes source timeline',
  'search': (
    'analyses decoder detect detector faces paths pipe planes request tracks'
  ),
  'silence': 'audio',
  'voices': 'audio claims decoder planes request silence sound',
  'coverage': 'faces paths timeline',
  'reels': 'encode pipe planes render request source',
  'produce': (
    'audio cache coverage decoder encode memory models pipe planes reels '
    'render request search source timeline voices weights'
  ),
  'sync': 'produce request',
  # training data
  'examples': '',
  'shards': '',
  'records': 'examples shards',
  'windows': 'audio',
  'flops': 'models windows',
  'augment': 'audio faces windows',
  'picks': 'windows',
  'data': 'audio augment faces picks records windows',
  'resident': 'audio augment data faces records windows',
  # training
  'processes': '',
  'settings': '',
  'losses': '',
  'state': 'models',
  'steps': 'losses models state',
  'recipe': (
    'augment flops losses models processes state steps stored weights windows'
  ),
  'feed': 'data picks recipe records resident state windows',
  'checkpoint': 'processes',
  'metrics': '',
  'film': 'data encode metrics planes records sound windows',
  'progress': 'flops metrics',
  'diagnose': 'losses state steps',
  'cartoons': 'audio records shards',
  'validation': ('data feed film losses metrics processes recipe state'),
  'train': (
    'cartoons checkpoint diagnose feed metrics processes progress recipe '
    'settings state validation weights'
  ),
  # evaluation
  'lse': 'audio faces models',
  'takes': 'faces records',
  'judge': 'audio lse models takes weights windows',
  'quality': 'faces',
  'ridge': 'audio quality records takes',
  'marks': 'detector faces takes',
  'dub': 'audio compose faces models silence takes weights',
  'footage': 'audio decoder faces paths planes search source takes tracks',
  'pairs': '',
  'appraisal': 'detector faces judge lse marks quality ridge takes',
  'casting': 'footage pairs records takes',
  'entrants': 'appraisal casting dub footage marks produce request takes',
  'report': 'appraisal',
  'charts': '',
  'page': 'appraisal charts report',
  'evaluate': (
    'appraisal cache casting detector entrants footage judge lse page '
    'produce records report ridge takes weights'
  ),
  # shells
  'benchmark': (
    'augment data flops losses models picks records resident state '
    'steps sync weights windows'
  ),
  'main': 'train',
}
TRAINING = {'picks', 'data', 'resident', 'state', 'steps', 'recipe', 'feed'}
TRAINING |= {'checkpoint', 'processes', 'progress', 'diagnose'}
TRAINING |= {'film', 'settings', 'validation', 'train', 'main'}
INFERENCE = set(ROOMS) - TRAINING - {'benchmark'}
HEAVY = {'optax', 'orbax', 'grain', 'tensorflow', 'apache_beam', 'torch'}


def sources():
  return [p for p in PACKAGE.rglob('*.py') if '__pycache__' not in p.parts]


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


def rooms_imported(path: pathlib.Path) -> set[str]:
  inner = [n.split('.') for n in imported(path) if n.startswith('lipsync_jax.')]
  return {n[1] for n in inner if n[1] in ROOMS} - {room_of(path)}


def test_table_has_no_cycle():
  seen = set()
  for room, below in ROOMS.items():
    assert set(below.split()) <= seen, f'{room} imports a room below it'
    seen.add(room)


def test_every_room_is_in_the_table():
  assert {room_of(p) for p in sources()} <= set(ROOMS)


@pytest.mark.parametrize('path', sources(), ids=lambda p: p.stem)
def test_arrows(path):
  allowed = set(ROOMS[room_of(path)].split())
  assert rooms_imported(path) <= allowed


@pytest.mark.parametrize('path', sources(), ids=lambda p: p.stem)
def test_inference_is_light(path):
  if room_of(path) in INFERENCE:
    assert not {n.split('.')[0] for n in imported(path)} & HEAVY


def test_help_loads_nothing_heavy():
  code = (
    'import sys, lipsync_jax.sync as s; s.parser().format_help(); '
    'heavy = {"jax", "numpy", "av", "cv2", "mediapipe", "flax"}; '
    'sys.exit(bool(heavy & set(sys.modules)))'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
