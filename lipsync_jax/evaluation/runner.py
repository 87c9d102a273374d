"""An evaluation: all systems on all cases, and the report.

Writes report.json, report.csv and report.html. Each result is cached by the
content of its inputs: after an interruption the same command continues, and a
further system costs only its own results.
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

import numpy as np

from lipsync_jax.common import atomic_file, cache
from lipsync_jax.data.clip import ClipDataset
from lipsync_jax.evaluation import (
  aggregate,
  cases,
  contact_sheet,
  html_report,
  lip_motion,
  metrics,
  ridge_scorer,
  sync_metrics,
  systems,
  video_clip,
)
from lipsync_jax.evaluation.cli import PROTOCOLS
from lipsync_jax.evaluation.clip import FPS, content_hash, with_audio
from lipsync_jax.evaluation.metrics import Scorers
from lipsync_jax.evaluation.systems import CaseContext, System
from lipsync_jax.faces import detector
from lipsync_jax.inference.report import progress_bar
from lipsync_jax.weights import convert

VERSION = 3  # of cached results; to be raised when a metric changes


def run_evaluation(args: argparse.Namespace) -> dict:
  """Evaluate what a command line describes.

  Args:
    args: of `cli.parse_arguments`.

  Returns:
    The summary of the report (`aggregate.report_summary`).
  """
  baselines = systems.parse_baselines(args.baseline)
  eval_cases = load_cases(args)
  for system in baselines:
    if os.path.isfile(system.folder) and len(eval_cases) > 1:
      raise systems.RenderError(
        f'--baseline {system.name}: expected one case for one file, found '
        f'{len(eval_cases)}; give a folder, or one pair and --protocol cross'
      )
  rows = (*systems.control_systems(), *own_systems(args, eval_cases))
  rows += tuple(baselines)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  with detector.FaceDetector() as face_detector:
    scorers, sources = build_scorers(args, face_detector)
    evaluation = Evaluation(
      rows, scorers, sources, out, round(args.max_seconds * FPS)
    )
    results = evaluation.score(eval_cases, args.quiet)
  facts = report_facts(args, rows, sources, eval_cases)
  aggregate.write_csv(out / 'report.csv', results)
  aggregate.write_json(out / 'report.json', results, facts)
  html_report.write_page(out / 'report.html', results, facts)
  for protocol in aggregate.protocol_names(results):
    print('\n'.join(aggregate.table_lines(results, protocol)))
  return aggregate.report_summary(results)


def own_systems(
  args: argparse.Namespace, eval_cases: Sequence[cases.EvalCase]
) -> list[System]:
  """The rows of our renderers.

  Given checkpoints are scored whatever the renderers.
  """
  rows = []
  if 'mesh' in args.renderer and any(c.subject.path for c in eval_cases):
    rows.append(systems.mesh_system())
  weights = args.checkpoint
  if not weights and 'network' in args.renderer:
    weights = [str(convert.DEFAULT_GENERATOR)]
  return rows + systems.parse_checkpoints(weights)


def load_cases(args: argparse.Namespace) -> list[cases.EvalCase]:
  """All cases; those of shards come before those of videos."""
  progress = functools.partial(progress_bar, True)
  dataset = ClipDataset(args.shards, args.split) if args.shards else None
  subjects = []
  if dataset:
    subjects = cases.subjects_from_shards(dataset, args.min_seconds, args.limit)
  videos = [
    cases.video_subject(path, args.max_seconds, progress)
    for folder in args.videos
    for path in video_clip.find_videos(folder)
  ]
  listed: Sequence = ()
  if args.pairs:
    listed = cases.subjects_from_list(
      args.pairs, args.root, dataset, args.max_seconds, progress
    )
  result, protocols = [], chosen_protocols(args)
  unlisted = [p for p in protocols if not (listed and p == 'cross')]
  groups = [group for group in (subjects, videos) if group]
  if not groups:
    groups = [list({face.name: face for face, _ in listed}.values())]
  for group in groups:
    if group and unlisted:
      result += cases.build_cases(unlisted, group)
  if listed and 'cross' in protocols:
    result += cases.build_cases(['cross'], (), listed)
  if not result:
    raise cases.CaseError(
      'expected something to evaluate: give --shards, --videos or --pairs'
    )
  order = {p: i for i, p in enumerate(protocols)}
  return sorted(result, key=lambda case: order[case.protocol])


def chosen_protocols(args: argparse.Namespace) -> list[str]:
  """The protocols of a command line; a list of pairs alone means cross."""
  only_pairs = args.pairs and not (args.shards or args.videos)
  return args.protocol or (['cross'] if only_pairs else list(PROTOCOLS))


def build_scorers(
  args: argparse.Namespace, face_detector: detector.FaceDetector
) -> tuple[Scorers, dict[str, str]]:
  """The scorers, and their sources by name, which are part of cache keys."""
  scorers = Scorers(
    detector=face_detector,
    ridge=ridge_scorer.load_ridge(
      args.ridge_scorer or ridge_scorer.DEFAULT_RIDGE
    ),
    syncnet=sync_metrics.load_scorer(
      args.syncnet or sync_metrics.DEFAULT_SCORER
    ),
  )
  sources = {'ridge': scorers.ridge.source}
  sources['judge'] = f'{scorers.syncnet.source}, {scorers.syncnet.sha256}'
  if args.syncnet_v2:
    weights = convert.load_any(args.syncnet_v2, 'syncnet_v2')
    predict = sync_metrics.syncnet_v2_predictor(weights.variables)
    scorers = dataclasses.replace(scorers, syncnet_v2=predict)
    sources['SyncNet v2'] = weights.source
  return scorers, sources


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What is fixed while cases are scored.

  Attributes:
    systems: rows of the report.
    scorers: loaded.
    sources: of the scorers, by name.
    out: folder of the report.
    max_frames: of a clip.
  """

  systems: Sequence[System]
  scorers: Scorers
  sources: dict[str, str]
  out: pathlib.Path
  max_frames: int

  def score(
    self, eval_cases: Sequence[cases.EvalCase], quiet: bool = True
  ) -> list[dict]:
    """The result of every system on every case."""
    import tqdm

    pairs = [
      (case, system)
      for case in eval_cases
      for system in self.systems
      if not is_skipped(system, case)
    ]
    results, context = [], None
    for case, system in tqdm.tqdm(
      pairs, 'scoring', unit=' rows', disable=quiet, file=sys.stderr
    ):
      if context is None or context.case is not case:
        context = CaseContext(case, self.scorers, self.max_frames, self.out)
      results.append(self.result(system, context))
    return results

  def result(self, system: System, context: CaseContext) -> dict:
    """The result of a system on a case, from the cache if it is there."""
    case = context.case
    facts = {
      'protocol': case.protocol,
      'case': case.name,
      'subject': case.subject.name,
      'speaker': case.subject.speaker,
      'row': system.name,
      'kind': system.kind,
      'shift': system.shift,
    }
    try:
      key = result_key(system, context, self.sources)
      path = cache.cache_dir('evaluate') / f'{key}.json'
      with contextlib.suppress(OSError, ValueError):
        return facts | json.loads(path.read_text(encoding='utf-8'))
      values = score_case(system, context)
    except (ValueError, OSError) as error:
      return facts | {'error': ' '.join(str(error).split()), 'values': {}}
    with contextlib.suppress(OSError):  # a full disk only costs the cache
      path.parent.mkdir(parents=True, exist_ok=True)
      atomic_file.write_text(path, json.dumps(values, allow_nan=False))
    return facts | values


def is_skipped(system: System, case: cases.EvalCase) -> bool:
  """Whether a protocol has no use for a system."""
  if system.kind in ('baseline', 'mesh') and not case.subject.path:
    return True
  # Under silence only motion is measured, which no sound changes.
  return case.protocol == 'silence' and system.kind in ('shifted', 'foreign')


def result_key(system: System, context: CaseContext, sources: dict) -> str:
  """SHA-256 of everything that determines a result."""
  case = context.case
  words = [str(VERSION), system.kind, str(system.shift), json.dumps(sources)]
  words.append(content_hash(context.truth))
  if system.is_generated:
    words += [case.protocol, content_hash(context.driven())]
  if system.kind == 'foreign':
    words.append(content_hash(context.foreign()))
  words += closure_words(system, case)
  if system.kind == 'truth' and case.protocol == 'silence':
    words.append('silence')
  if system.kind in ('mesh', 'checkpoint'):
    words.append(systems.rendering_code())
  if system.dubber:
    dubber = system.dubber
    words += [dubber.sha256, dubber.engine, case.subject.path]
  if system.kind == 'mesh':
    words += [system.sha256, case.subject.path]
  if system.kind == 'baseline':
    path = cases.baseline_output(system.folder, case)
    if path is None:
      raise systems.RenderError(f'{system.name} has no file for it')
    words.append(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest())
  return hashlib.sha256('\n'.join(words).encode()).hexdigest()


def score_case(system: System, context: CaseContext) -> dict:
  """Make the clip of a system and compute its metrics."""
  clip = systems.system_clip(system, context)
  protocol = context.case.protocol
  first = system.shift if system.kind == 'shifted' else 0
  lips = context.source.lips.part(slice(first, first + len(clip)))
  result = metrics.compute_metrics(
    clip,
    context.scorers,
    context.source,
    lips=None if system.is_generated else lips,
    has_speech=protocol != 'silence' and bool(clip.wave.any()),
    same_words=protocol == 'reconstruction',
    closures=expected_closures(system, context),
  )
  if system.kind in ('shifted', 'foreign'):
    # The pictures are those of the ground truth: its row has these values.
    for name in ('motion', 'jitter', 'late', 'flicker', 'lip_deviation'):
      result['values'].pop(name, None)
  if system.is_generated:
    source = with_audio(context.truth, clip.wave)
    arguments = (context.truth, context.points)
    result['strips'] = {
      'truth': contact_sheet.contact_strip(source),
      'made': contact_sheet.contact_strip(clip),
      'source_mouths': contact_sheet.mouth_strip(source, *arguments),
      'mouths': contact_sheet.mouth_strip(clip, *arguments),
    }
  return result


def expected_closures(
  system: System, context: CaseContext
) -> np.ndarray | None:
  """Frames in which the sound of a system's clip closes the lips.

  Own words are compared with the source's own lips, foreign ones with the
  partner's lips or, without its face, with p, b and m in its sound. The last
  also hold for the ground truth, which then shows what can be reached.
  """
  protocol = context.case.protocol
  if protocol == 'silence':
    return None
  if system.kind == 'foreign' or (system.is_generated and protocol == 'cross'):
    return context.foreign_closures
  if protocol == 'cross' and context.case.partner.is_sound:
    return context.own_labials
  return None if system.kind == 'truth' else context.own_closures


def closure_words(system: System, case: cases.EvalCase) -> list[str]:
  """What determines the expected closures (`expected_closures`)."""
  partner = case.partner
  if case.protocol == 'silence' or partner is None:
    return []
  marked = str(partner.is_sound and lip_motion.has_phonemes())
  if system.is_generated or system.kind == 'foreign':
    return [partner.path or partner.name, marked]
  return [marked] if case.protocol == 'cross' and partner.is_sound else []


def report_facts(
  args: argparse.Namespace,
  rows: Sequence[System],
  sources: dict,
  eval_cases: Sequence[cases.EvalCase],
) -> dict:
  """What a reader needs to know of the run, and to repeat it."""
  import importlib.metadata

  clips = len({case.subject.name for case in eval_cases})
  generated = [row.name for row in rows if row.is_generated]
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    version = importlib.metadata.version('lipsync-jax')
    sources = sources | {'lipsync-jax': version}
  if any(case.partner and case.partner.is_sound for case in eval_cases):
    marker = (
      'p, b, m by PocketSphinx'
      if lip_motion.has_phonemes()
      else ('none, PocketSphinx is not installed')
    )
    sources = sources | {'closures of sound files': marker}
  for row in rows:
    if row.kind == 'mesh':
      sources = sources | {f'row {row.name}': row.sha256}
    if row.dubber:
      dubber = row.dubber
      text = f'{dubber.source}; {dubber.engine}; {dubber.sha256}'
      sources = sources | {f'row {row.name}': text}
  return {
    'what': f'{html_report.count_noun(clips, "clip")}; rows of '
    f'{", ".join(generated) or "controls only"}. '
    + ('' if args.syncnet_v2 else 'LSE needs --syncnet-v2, not given. ')
    + 'FID is not computed.',
    'command': 'python -m lipsync_jax.evaluate ' + ' '.join(args.words),
    **sources,
  }
