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

from lipsync_jax.common import atomic_file, cache
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.evaluation import (
  aggregate,
  cases,
  html_report,
  metrics,
  ridge_scorer,
  sync_metrics,
  syncnet_scorer,
  systems,
  video_clip,
)
from lipsync_jax.evaluation.clip import FPS, content_hash, with_audio
from lipsync_jax.evaluation.metrics import Scorers
from lipsync_jax.evaluation.systems import CaseContext, System
from lipsync_jax.faces import detector
from lipsync_jax.inference import pipeline
from lipsync_jax.weights import convert

VERSION = 2  # of results kept: raise it when a measure changes


def build_parser() -> argparse.ArgumentParser:
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
    choices=cases.PROTOCOLS,
    default=list(cases.PROTOCOLS),
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
    default=syncnet_scorer.DEFAULT_SCORER,
    metavar='FILE',
    help='a SyncNet of configs/judge.py (the one that comes along)',
  )
  add('--syncnet-v2', metavar='FILE', help='the published weights, for LSE')
  add('--ridge', metavar='FILE', help='other coefficients than the shipped')


def run_evaluation(args: argparse.Namespace) -> dict:
  """Run what a command line asks for; returns the summary of the report."""
  hidden = functools.partial(pipeline.progress_bar, True)
  rivals = systems.parse_baselines(args.rival)
  todo = load_cases(args, hidden)
  for row in rivals:
    if os.path.isfile(row.folder) and len(todo) > 1:
      raise systems.RenderError(
        f'--rival {row.name}: one file fits one case, found {len(todo)}; give '
        'a folder, or one pair and --protocol cross'
      )
  ours = systems.parse_checkpoints(
    args.checkpoint or [str(convert.DEFAULT_GENERATOR)]
  )
  rows = [*systems.control_systems(), *ours, *rivals]
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  with detector.FaceDetector() as finder:
    tools, marks = build_scorers(args, finder)
    results = score_cases(todo, rows, tools, marks, args, out)
  facts = report_facts(args, rows, marks, todo)
  aggregate.write_csv(out / 'report.csv', results)
  aggregate.write_json(out / 'report.json', results, facts)
  html_report.write_page(out / 'report.html', results, facts)
  for protocol in aggregate.protocol_names(results):
    print('\n'.join(aggregate.table_lines(results, protocol)))
  return aggregate.report_summary(results)


def load_cases(args: argparse.Namespace, bar) -> list[cases.EvalCase]:
  """All cases, those of the shards before those of videos."""
  source = ClipDataset(args.shards, args.split) if args.shards else None
  subjects = (
    cases.subjects_from_shards(source, args.least, args.limit) if source else []
  )
  videos = []
  for folder in args.videos:
    paths = video_clip.find_videos(folder)
    videos += [cases.video_subject(path, args.seconds, bar) for path in paths]
  listed = ()
  if args.pairs:
    listed = cases.subjects_from_list(
      args.pairs, args.root, source, args.seconds, bar
    )
  found = []
  for group in (subjects, videos):
    if group:
      others = [p for p in args.protocol if not (listed and p == 'cross')]
      found += cases.build_cases(others, group) if others else []
  if listed and 'cross' in args.protocol:
    found += cases.build_cases(['cross'], (), listed)
  if not found:
    raise cases.CaseError(
      'expected something to evaluate: give --shards, --videos or --pairs'
    )
  order = {p: i for i, p in enumerate(args.protocol)}
  return sorted(found, key=lambda case: order[case.protocol])


def build_scorers(args, finder) -> tuple[Scorers, dict[str, str]]:
  """What measures, and the marks by which results know it again."""
  tools = Scorers(
    detector=finder,
    ridge=ridge_scorer.load_ridge(args.ridge or ridge_scorer.DEFAULT_RIDGE),
    judge=syncnet_scorer.load_scorer(args.judge),
  )
  marks = {'ridge': tools.ridge.source}
  marks['judge'] = f'{tools.judge.source}, {tools.judge.sha256}'
  if args.syncnet_v2:
    found = convert.load_any(args.syncnet_v2, 'syncnet_v2')
    run_v2 = sync_metrics.syncnet_v2_predictor(found.variables)
    tools = dataclasses.replace(tools, syncnet_v2=run_v2)
    marks['SyncNet v2'] = found.source
  return tools, marks


def score_cases(todo, rows, tools, marks, args, out) -> list[dict]:
  """Score every row of every case, or remember its score."""
  import tqdm

  results = []
  most = round(args.seconds * FPS)
  pairs = [(case, row) for case in todo for row in rows]
  pairs = [(case, row) for case, row in pairs if not skipped_systems(row, case)]
  scene = None
  for case, row in tqdm.tqdm(
    pairs, 'scoring', unit=' rows', disable=args.quiet, file=sys.stderr
  ):
    if scene is None or scene.case is not case:
      scene = CaseContext(case, tools, most, out)
    results.append(case_result(row, scene, marks))
  return results


def skipped_systems(row: System, case: cases.EvalCase) -> bool:
  """Rows that say nothing under a protocol."""
  if row.kind == 'rival' and not case.subject.path:
    return True
  # Under silence only motion is asked, which no sound changes.
  return case.protocol == 'silence' and row.kind in ('shifted', 'foreign')


def case_result(row: System, scene: CaseContext, marks: dict) -> dict:
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
    found = score_case(row, scene)
  except (ValueError, OSError) as error:
    return words | {'error': ' '.join(str(error).split()), 'values': {}}
  with contextlib.suppress(OSError):  # a full or read-only disk is no matter
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(path, json.dumps(found, allow_nan=False))
  return words | found


def key_of(row: System, scene: CaseContext, marks: dict) -> str:
  """Names a result by the content of everything that decides it."""
  case = scene.case
  words = [str(VERSION), row.kind, str(row.shift), json.dumps(marks)]
  words.append(content_hash(scene.truth))
  if row.made:
    words += [case.protocol, content_hash(scene.driven())]
  if row.kind == 'foreign':
    words.append(content_hash(scene.foreign()))
  if row.kind == 'truth' and case.protocol == 'silence':
    words.append('silence')
  if row.dubber:
    words += [row.dubber.sha256, row.dubber.engine, case.subject.path]
  if row.kind == 'rival':
    path = cases.baseline_output(row.folder, case)
    if path is None:
      raise systems.RenderError(f'{row.name} has no file for it')
    words.append(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest())
  return hashlib.sha256('\n'.join(words).encode()).hexdigest()


def score_case(row: System, scene: CaseContext) -> dict:
  """Make the take of a row and measure it."""
  made = systems.system_clip(row, scene)
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
  found = metrics.compute_metrics(made, scene.tools, **options)
  if row.kind in ('shifted', 'foreign'):
    # These pictures are the ground truth's, and so is all that they show.
    for name in ('motion', 'jitter', 'late'):
      found['values'].pop(name)
  if row.made:
    found['strips'] = {
      'truth': metrics.contact_strip(with_audio(scene.truth, made.wave)),
      'made': metrics.contact_strip(made),
    }
  return found


def report_facts(args, rows, marks: dict, todo) -> dict:
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
    'what': f'{html_report.count_noun(clips, "clip")}; rows of '
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
  args = build_parser().parse_args(words)
  args.words = words
  try:
    run_evaluation(args)
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
