"""Score lip-sync: every measure, with the ground truth beside it.

    python -m lipsync_jax.evaluate --shards SHARDS --out results/evaluation

scores the weights that come along by the judge that comes along.
Writes report.json, report.csv and report.html. Results of a clip are kept
by the content of all that made them: the same command goes on where it was
stopped, and one with another row adds only that.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from lipsync_jax import (
  appraisal,
  casting,
  entrants,
  footage,
  judge,
  lse,
  page,
  report,
  ridge,
  takes,
)
from lipsync_jax.appraisal import Tools
from lipsync_jax.common import cache
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.entrants import Entrant, Scene
from lipsync_jax.faces import detector
from lipsync_jax.inference import pipeline
from lipsync_jax.weights import convert

VERSION = 2  # of results kept: raise it when a measure changes


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    'python -m lipsync_jax.evaluate',
    description=__doc__.partition('\n')[0],
  )
  add = p.add_argument
  _add_rows(add)
  _add_scorers(add)
  add('--shards', metavar='DIR', help='clips of data_prep')
  add('--split', default='test', help='of the shards (test)')
  add(
    '--videos',
    action='append',
    default=[],
    metavar='DIR',
    help='videos, or one video; may be given again',
  )
  add(
    '--protocol',
    nargs='+',
    choices=casting.PROTOCOLS,
    default=list(casting.PROTOCOLS),
    help='all three by default',
  )
  add('--pairs', metavar='LIST', help='for cross; published lists as they are')
  add('--root', default='', metavar='DIR', help='of the names in --pairs')
  add(
    '--least',
    type=float,
    default=2.0,
    metavar='SECONDS',
    help='clips of a speaker are joined to this (2)',
  )
  add(
    '--seconds',
    type=float,
    default=10.0,
    help='of a clip or video, at most (10)',
  )
  add('--limit', type=int, metavar='N', help='clips of the shards, at most')
  add('--dtype', default='auto', choices=('auto', 'float32', 'bfloat16'))
  add('--out', required=True, metavar='DIR')
  add('--quiet', action='store_true', help='no progress bars')
  return p


def _add_rows(add) -> None:
  add(
    '--checkpoint',
    action='append',
    default=[],
    metavar='[NAME=]FILE',
    help='a generator; may be given again (the one that comes along)',
  )
  add(
    '--rival',
    action='append',
    default=[],
    metavar='NAME=DIR',
    help="another system's outputs for --videos (or its one file)",
  )


def _add_scorers(add) -> None:
  add(
    '--judge',
    default=judge.SHIPPED,
    metavar='FILE',
    help='a SyncNet of configs/judge.py (the one that comes along)',
  )
  add('--syncnet-v2', metavar='FILE', help='the published weights, for LSE')
  add('--ridge', metavar='FILE', help='other coefficients than the shipped')


def evaluate(args: argparse.Namespace) -> dict:
  """Run what a command line asks for; returns the summary of the report."""
  hidden = functools.partial(pipeline.progress_bar, True)
  rivals = entrants.rivals(args.rival)
  todo = cast(args, hidden)
  for row in rivals:
    if os.path.isfile(row.folder) and len(todo) > 1:
      raise entrants.EntrantError(
        f'--rival {row.name}: one file fits one case, found {len(todo)}; give '
        'a folder, or one pair and --protocol cross'
      )
  ours = entrants.checkpoints(
    args.checkpoint or [str(convert.DEFAULT_GENERATOR)]
  )
  rows = [*entrants.controls(), *ours, *rivals]
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  with detector.FaceDetector() as finder:
    tools, marks = equipment(args, finder)
    results = run(todo, rows, tools, marks, args, out)
  facts = facts_of(args, rows, marks, todo)
  report.write_csv(out / 'report.csv', results)
  report.write_json(out / 'report.json', results, facts)
  page.write(out / 'report.html', results, facts)
  for protocol in report.protocols_of(results):
    print('\n'.join(report.lines(results, protocol)))
  return report.summary(results)


def cast(args: argparse.Namespace, bar) -> list[casting.Case]:
  """All cases, those of the shards before those of videos."""
  source = ClipDataset(args.shards, args.split) if args.shards else None
  subjects = casting.of_shards(source, args.least, args.limit) if source else []
  videos = []
  for folder in args.videos:
    paths = footage.find(folder)
    videos += [casting.of_file(path, args.seconds, bar) for path in paths]
  listed = ()
  if args.pairs:
    listed = casting.from_list(args.pairs, args.root, source, args.seconds, bar)
  found = []
  for group in (subjects, videos):
    if group:
      others = [p for p in args.protocol if not (listed and p == 'cross')]
      found += casting.cases(others, group) if others else []
  if listed and 'cross' in args.protocol:
    found += casting.cases(['cross'], (), listed)
  if not found:
    raise casting.CastingError(
      'expected something to evaluate: give --shards, --videos or --pairs'
    )
  order = {p: i for i, p in enumerate(args.protocol)}
  return sorted(found, key=lambda case: order[case.protocol])


def equipment(args, finder) -> tuple[Tools, dict[str, str]]:
  """What measures, and the marks by which results know it again."""
  tools = Tools(
    detector=finder,
    ridge=ridge.load(args.ridge or ridge.SHIPPED),
    judge=judge.load(args.judge),
  )
  marks = {'ridge': tools.ridge.source}
  marks['judge'] = f'{tools.judge.source}, {tools.judge.sha256}'
  if args.syncnet_v2:
    found = convert.load_any(args.syncnet_v2, 'syncnet_v2')
    run_v2 = lse.predictor(found.variables)
    tools = dataclasses.replace(tools, syncnet_v2=run_v2)
    marks['SyncNet v2'] = found.source
  return tools, marks


def run(todo, rows, tools, marks, args, out) -> list[dict]:
  """Score every row of every case, or remember its score."""
  import tqdm

  results = []
  most = round(args.seconds * takes.RATE)
  pairs = [(case, row) for case in todo for row in rows]
  pairs = [(case, row) for case, row in pairs if not skipped(row, case)]
  scene = None
  for case, row in tqdm.tqdm(
    pairs, 'scoring', unit=' rows', disable=args.quiet, file=sys.stderr
  ):
    if scene is None or scene.case is not case:
      scene = Scene(case, tools, most, out)
    results.append(result(row, scene, marks))
  return results


def skipped(row: Entrant, case: casting.Case) -> bool:
  """Rows that say nothing under a protocol."""
  if row.kind == 'rival' and not case.subject.path:
    return True
  # Under silence only motion is asked, which no sound changes.
  return case.protocol == 'silence' and row.kind in ('shifted', 'foreign')


def result(row: Entrant, scene: Scene, marks: dict) -> dict:
  """One row of one case, from the cache if it is known."""
  case = scene.case
  words = {
    'protocol': case.protocol,
    'case': case.name,
    'subject': case.subject.name,
    'speaker': case.subject.speaker,
    'row': row.name,
    'kind': row.kind,
    'shift': row.shift,
  }
  try:
    path = cache.cache_dir('evaluate') / f'{key_of(row, scene, marks)}.json'
    with contextlib.suppress(OSError, ValueError):
      return words | json.loads(path.read_text(encoding='utf-8'))
    found = score(row, scene)
  except (ValueError, OSError) as error:
    return words | {'error': ' '.join(str(error).split()), 'values': {}}
  with contextlib.suppress(OSError):  # a full or read-only disk is no matter
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path, json.dumps(found, allow_nan=False))
  return words | found


def key_of(row: Entrant, scene: Scene, marks: dict) -> str:
  """Names a result by the content of everything that decides it."""
  case = scene.case
  words = [str(VERSION), row.kind, str(row.shift), json.dumps(marks)]
  words.append(takes.content(scene.truth))
  if row.made:
    words += [case.protocol, takes.content(scene.driven())]
  if row.kind == 'foreign':
    words.append(takes.content(scene.foreign()))
  if row.kind == 'truth' and case.protocol == 'silence':
    words.append('silence')
  if row.dubber:
    words += [row.dubber.sha256, row.dubber.engine, case.subject.path]
  if row.kind == 'rival':
    path = casting.output_of(row.folder, case)
    if path is None:
      raise entrants.EntrantError(f'{row.name} has no file for it')
    words.append(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest())
  return hashlib.sha256('\n'.join(words).encode()).hexdigest()


def score(row: Entrant, scene: Scene) -> dict:
  """Make the take of a row and measure it."""
  made = entrants.take_of(row, scene)
  protocol, options = scene.case.protocol, {}
  if row.made:
    options = {
      'truth': scene.truth,
      'true_points': scene.points,
      'heard': protocol != 'silence',
      'same_words': protocol == 'reconstruction',
    }
  elif row.kind == 'shifted':
    late = row.shift
    options = {'points': scene.points[late : late + len(made)]}
  else:
    options = {'points': scene.points[: len(made)]}
    options['heard'] = protocol != 'silence'
  found = appraisal.appraise(made, scene.tools, **options)
  if row.kind in ('shifted', 'foreign'):
    # These pictures are the ground truth's, and so is all that they show.
    for name in ('motion', 'jitter', 'late'):
      found['values'].pop(name)
  if row.made:
    found['strips'] = {
      'truth': appraisal.strip(takes.sounding(scene.truth, made.wave)),
      'made': appraisal.strip(made),
    }
  return found


def facts_of(args, rows, marks: dict, todo) -> dict:
  """What a reader needs to know of the run, and to repeat it."""
  import importlib.metadata

  clips = len({case.subject.name for case in todo})
  made = [row.name for row in rows if row.made]
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    marks = marks | {'lipsync-jax': importlib.metadata.version('lipsync-jax')}
  for row in rows:
    if row.dubber:
      words = f'{row.dubber.source}; {row.dubber.engine}; {row.dubber.sha256}'
      marks = marks | {f'row {row.name}': words}
  return {
    'what': f'{page.counted(clips, "clip")}; rows of '
    f'{", ".join(made) or "controls only"}. '
    + ('' if args.judge else 'No judge was given (--judge). ')
    + ('' if args.syncnet_v2 else 'LSE needs --syncnet-v2, not given. ')
    + 'FID is not computed.',
    'command': 'python -m lipsync_jax.evaluate ' + ' '.join(args.words),
    **marks,
  }


def main(argv: Sequence[str] | None = None) -> int:
  """The command: 0 done, 1 refused, 2 misused, 130 interrupted."""
  for name, level in (('GLOG_minloglevel', '3'), ('TF_CPP_MIN_LOG_LEVEL', '3')):
    os.environ.setdefault(name, level)
  words = list(sys.argv[1:] if argv is None else argv)
  args = parser().parse_args(words)
  args.words = words
  try:
    evaluate(args)
  except KeyboardInterrupt:
    print('interrupted; the same command goes on from here', file=sys.stderr)
    return 130
  except (ValueError, OSError) as error:
    if os.environ.get('LIPSYNC_JAX_DEBUG'):
      raise
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  print(pathlib.Path(args.out) / 'report.html')
  return 0


if __name__ == '__main__':
  sys.exit(main())
