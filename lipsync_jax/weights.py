"""Weights for inference, from any file that holds them.

Our own files are safetensors (`stored`). Files of Wav2Lip, PaddleGAN and
SyncNet v2 are imported and exported bit-exactly (`published`); nothing in
them is executed (`containers`).

  python -m lipsync_jax.weights import FILE OUT.safetensors
  python -m lipsync_jax.weights export W.safetensors OUT.pth|OUT.pdparams
  python -m lipsync_jax.weights half FILE OUT.safetensors
  python -m lipsync_jax.weights info W
"""

import argparse
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import sys
from fractions import Fraction

import numpy as np

from lipsync_jax import containers, exports, published, stored
from lipsync_jax.common import cache
from lipsync_jax.standins import UnsafeFile, shown
from lipsync_jax.stored import (
  LEAD,
  LEAD_PUBLISHED,
  Weights,
  WeightsError,
  fault,
  load,
  save,
)

__all__ = ['LEAD', 'UnsafeFile', 'Weights', 'WeightsError', 'load', 'save']

# The generator that `sync` uses when it is given none, with its card.
DEFAULT = pathlib.Path(__file__).parent / 'assets' / 'default.safetensors'
NETWORKS = ('generator', 'syncnet', 'discriminator', 'syncnet_v2')
KNOWN = {  # spec 6.5
  'b78b681b68ad9fe6c6fb1debc6ff43ad05834a8af8a62ffc4167b7b34ef63c37': (
    'wav2lip.pth'
  ),
  'ca9ab7b7b812c0e80a6e70a5977c545a1e8a365a6c49d5e533023c034d7ac3d8': (
    'wav2lip_gan.pth'
  ),
  '9b9936c721696446eeed353032cab242a8cf0eed8c46cde540366f6ae5493be5': (
    'lipsync_expert.pth'
  ),
  'b3f8f6f7e954af02f2ffe0f3ea11f3259af89bff6e70933001c7c6bc8c145d96': (
    'visual_quality_disc.pth'
  ),
}


def file_sha256(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def is_ours(path: str | os.PathLike) -> bool:
  """Whether a file (which must exist) is a safetensors file of `stored`."""
  if containers.kind(path) != 'safetensors':
    return False
  return 'format' in stored.metadata(path)


def read(path: str | os.PathLike, network: str | None = None) -> Weights:
  """Weights from any file, ours or published; the latter are cached.

  Args:
    path: what it is, its content says, not its name.
    network: one of NETWORKS that the caller needs; without it, a file with
      several gives its generator.

  Raises: WeightsError or UnsafeFile, in one line that starts with the path.
  """
  path = pathlib.Path(path)
  if is_ours(path):
    return need(path, load(path), network)
  sha256 = file_sha256(path)
  cached = (
    cache.cache_dir('weights') / f'{sha256[:32]}-{network or "any"}.safetensors'
  )
  with contextlib.suppress(WeightsError):  # absent, damaged or outdated
    return need(path, load(cached), network)
  weights = convert(path, network)
  with contextlib.suppress(OSError):  # a full or read-only disk is no matter
    cached.parent.mkdir(parents=True, exist_ok=True)
    save(cached, weights)
  return weights


def need(path, weights: Weights, network: str | None) -> Weights:
  if network in (None, weights.network):
    return weights
  raise fault(
    path, f'expected the weights of a {network}, found a {weights.network}'
  )


def convert(path: str | os.PathLike, network: str | None = None) -> Weights:
  """A published file as our weights; `network` as in `read`."""
  path = pathlib.Path(path)
  tree = containers.read(path)
  found, tensors = choose(path, tree, network)
  check(path, found, tensors)
  sha256 = file_sha256(path)
  counters = {
    name: int(x.item())
    for name, x in tensors.items()
    if name.endswith('_tracked')
  }
  weights = Weights(
    found,
    size=96,
    width=1.0,
    variables=published.read(found, tensors),
    source=f'{KNOWN.get(sha256, shown(path.name))}, SHA-256 {sha256}',
    # Only the generator's window starts before its frame.
    mel_lead=LEAD_PUBLISHED if found == 'generator' else Fraction(0),
    meta={'counters': counters, 'published': sha256 in KNOWN},
  )
  flat = dict(stored.flatten(weights.variables))
  return dataclasses.replace(weights, sha256=stored.digest(flat))


def choose(path, tree: dict, network: str | None) -> tuple[str, dict]:
  """The network's name and its tensors, from all that a file holds."""
  ranked = []
  for tensors in published.candidates(tree):
    scores = {name: published.likeness(name, tensors) for name in NETWORKS}
    best = max(NETWORKS, key=scores.get)
    if scores[best] > 0.2:
      ranked.append((NETWORKS.index(best), -scores[best], best, tensors))
  if not ranked:
    names = [key for part in published.candidates(tree) for key in part]
    some = shown(', '.join(names[:3])[:80])
    raise fault(
      path,
      f'expected a network of {", ".join(NETWORKS)}; found '
      f'{len(names)} tensors of another kind ({some} …)',
    )
  ranked.sort(key=lambda row: row[:2])
  for _, _, name, tensors in ranked:
    if network in (None, name):
      return name, tensors
  found = ' and a '.join(row[2] for row in ranked)
  raise fault(path, f'expected the weights of a {network}, found a {found}')


def check(path, network: str, tensors: dict) -> None:
  """Raise with everything that keeps tensors from being the network."""
  faults = {k: v for k, v in published.problems(network, tensors).items() if v}
  if not faults:
    return
  parts = [
    f'{len(names)} {kind} ({", ".join(names[:5])}{" …" * (len(names) > 5)})'
    for kind, names in faults.items()
  ]
  raise fault(
    path,
    f'not the published {network} (96 pixels): tensors ' + '; '.join(parts),
    tuple(
      f'{kind}: {name}' for kind, names in faults.items() for name in names
    ),
  )


def import_file(
  src: str | os.PathLike, dst: str | os.PathLike, network: str | None = None
) -> Weights:
  """Convert a published file to one of ours; nothing is written on error."""
  if pathlib.Path(dst).suffix != '.safetensors':
    raise fault(dst, 'expected a name ending in .safetensors')
  if is_ours(src):
    raise fault(src, 'is ours already; copy it instead')
  weights = convert(src, network)
  with one_line(dst):
    save(dst, weights)
  return weights


def halve_file(src: str | os.PathLike, dst: str | os.PathLike) -> None:
  """Store weights as float16, half as large; statistics stay float32.

  Running variances span more than float16 does, and weigh nothing.
  """
  weights = load(src) if is_ours(src) else convert(src)
  flat = dict(stored.flatten(weights.variables))
  with np.errstate(over='ignore'):
    halved = {
      name: x.astype(np.float16) if name.startswith('params/') else x
      for name, x in flat.items()
    }
  if not all(np.isfinite(x).all() for x in halved.values()):
    raise fault(src, 'some weights are too large for float16; keep float32')
  tree = stored.unflatten(halved)
  with one_line(dst):
    save(dst, dataclasses.replace(weights, variables=tree))


def export_file(src: str | os.PathLike, dst: str | os.PathLike) -> None:
  """Write weights as PyTorch's .pth or Paddle's .pdparams.

  PyTorch's file has the published form ({'state_dict': …}; SyncNet v2 is
  bare). Step counters that an import did not find are written as 0.
  """
  suffix = pathlib.Path(dst).suffix
  if suffix not in ('.pth', '.pdparams'):
    raise fault(dst, 'expected a name ending in .pth or .pdparams')
  weights = load(src) if is_ours(src) else convert(src)
  facts = weights.network, weights.size, weights.width
  tensors = published.write(*facts, weights.variables)
  if suffix == '.pdparams' and weights.network == 'syncnet_v2':
    raise fault(dst, 'SyncNet v2 has no Paddle form; use .pth')
  with one_line(dst):
    if suffix == '.pdparams':
      exports.write_pdparams(dst, *published.paddle(*facts, tensors))
      return
    counters = weights.meta.get('counters', {})
    tree = published.with_counters(*facts, tensors, counters)
    if weights.network != 'syncnet_v2':
      tree = {'state_dict': tree, 'optimizer': None}
      tree |= {'global_step': 0, 'global_epoch': 0}
    exports.write_pth(dst, tree)


@contextlib.contextmanager
def one_line(path):
  """Turn the system's refusal to write into one line."""
  try:
    yield
  except OSError as error:
    raise fault(path, f'cannot write: {error.strerror}') from None


def describe(path: str | os.PathLike) -> str:
  """What a file holds, in lines of `name value`."""
  weights = load(path) if is_ours(path) else convert(path)
  flat = dict(stored.flatten(weights.variables['params']))
  count = sum(x.size for x in flat.values())
  lines = {
    'network': f'{weights.network}, {weights.size} pixels, '
    f'width {weights.width:g}, {count:,} parameters',
    'file': 'ours' if is_ours(path) else 'published, not imported yet',
    'source': weights.source,
    'sha256': f'{weights.sha256} (of the tensors)',
    'mel lead': f'{weights.mel_lead} s before the frame',
  }
  lines |= stored.constants(weights.network)
  if weights.meta.get('published'):
    lines['licence'] = 'the authors allow research and personal use only'
  return '\n'.join(f'{name:9}{value}' for name, value in lines.items())


def main(argv: list[str] | None = None) -> int:
  """The command line; errors are one line on stderr and exit status 1."""
  parser = argparse.ArgumentParser(
    prog='python -m lipsync_jax.weights', description=__doc__.splitlines()[0]
  )
  commands = parser.add_subparsers(dest='command', required=True)
  add = commands.add_parser('import', help='published file to ours')
  add.add_argument('src', metavar='FILE')
  add.add_argument('dst', metavar='OUT.safetensors')
  add.add_argument('--network', choices=NETWORKS, help='of a file with several')
  add.add_argument('--verbose', action='store_true', help='list every fault')
  out = commands.add_parser('export', help='ours to .pth or .pdparams')
  out.add_argument('src', metavar='W.safetensors')
  out.add_argument('dst', metavar='OUT')
  half = commands.add_parser('half', help='ours or published to float16')
  half.add_argument('src', metavar='FILE')
  half.add_argument('dst', metavar='OUT.safetensors')
  info = commands.add_parser('info', help='say what a file holds')
  info.add_argument('src', metavar='W')
  args = parser.parse_args(argv)
  try:
    if args.command == 'import':
      import_file(args.src, args.dst, args.network)
    elif args.command == 'export':
      export_file(args.src, args.dst)
    elif args.command == 'half':
      halve_file(args.src, args.dst)
    print(args.dst if args.command != 'info' else describe(args.src))
  except (WeightsError, UnsafeFile) as error:
    print(f'weights: {error}', file=sys.stderr)
    if getattr(args, 'verbose', False):
      print(*getattr(error, 'problems', ()), sep='\n', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
