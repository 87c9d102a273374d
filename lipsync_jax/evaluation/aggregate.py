"""Means of all results with confidence intervals, as JSON and CSV.

A result belongs to one system and one case. It is a dict with 'protocol',
'case', 'speaker', 'row' (the system), 'kind', 'frames', 'values', 'curves', and
'error' if it failed. Intervals are those of the mean (or median) over clips, by
bootstrap.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lipsync_jax.common import atomic_file
from lipsync_jax.evaluation.metric_list import GROUPS, METRICS, Metric

BOOTSTRAP_DRAWS = 2000  # of the bootstrap
SEED = 0
CONFIDENCE_LEVEL = 0.95
MAX_SHIFT = 15  # frames, the farthest shift of the scorers
MEDIANS = ('judge_offset', 'lse_offset', 'ridge_offset')


@dataclasses.dataclass(frozen=True)
class MetricSummary:
  """A metric over the clips of a system."""

  value: float
  low: float  # of the interval
  high: float
  count: int  # clips


def bootstrap_interval(
  values: Float[np.ndarray, 'n'], median: bool = False
) -> MetricSummary:
  """Mean (or median) over clips, with its bootstrap interval."""
  middle = np.median if median else np.mean
  if not values.size:
    return MetricSummary(np.nan, np.nan, np.nan, 0)
  rng = np.random.default_rng(SEED)
  rows = rng.integers(0, values.size, (BOOTSTRAP_DRAWS, values.size))
  ends = (1 - CONFIDENCE_LEVEL) / 2
  low, high = np.quantile(middle(values[rows], axis=1), [ends, 1 - ends])
  return MetricSummary(
    float(middle(values)), float(low), float(high), values.size
  )


def system_names(results: Sequence[dict], protocol: str) -> list[str]:
  """Systems of a protocol, in the order of the results."""
  here = (r['row'] for r in results if r['protocol'] == protocol)
  return list(dict.fromkeys(here))


def protocol_names(results: Sequence[dict]) -> list[str]:
  """Protocols in the order of the results."""
  return list(dict.fromkeys(r['protocol'] for r in results))


def system_results(
  results: Sequence[dict], protocol: str, row: str
) -> list[dict]:
  """The successful results of a system."""
  return [
    r
    for r in results
    if (r['protocol'], r['row']) == (protocol, row) and not r.get('error')
  ]


def metric_values(results: Sequence[dict], key: str) -> Float[np.ndarray, 'n']:
  """A metric of all results that have it."""
  values = [r['values'].get(key) for r in results]
  return np.array([v for v in values if v is not None], np.float64)


def protocol_table(
  results: Sequence[dict], protocol: str
) -> dict[str, dict[str, MetricSummary]]:
  """Summaries by system and metric, without metrics that are absent."""
  out = {}
  for row in system_names(results, protocol):
    here = system_results(results, protocol, row)
    cells = {
      m.key: bootstrap_interval(metric_values(here, m.key), m.key in MEDIANS)
      for m in METRICS
    }
    out[row] = {k: c for k, c in cells.items() if c.count}
  return out


def used_metrics(cells: dict[str, dict[str, MetricSummary]]) -> list[Metric]:
  """The metrics that some system has."""
  return [m for m in METRICS if any(m.key in row for row in cells.values())]


def mean_curve(results: Sequence[dict], name: str) -> Float[np.ndarray, 's']:
  """Mean curve over clips; NaN where unknown, empty without clips."""
  curves = [r['curves'][name] for r in results if r['curves'].get(name)]
  if not curves:
    return np.zeros(0)
  rows = np.array([[np.nan if v is None else v for v in c] for c in curves])
  known = np.isfinite(rows).sum(0)
  total = np.nansum(rows, axis=0)
  return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def offset_accuracy(
  results: Sequence[dict], key: str
) -> tuple[MetricSummary, MetricSummary]:
  """Accuracy of a scorer's offsets on known cases, as shares of clips.

  Returns:
    The share of ground truth clips with an offset within a frame of 0, and the
    share of shifted clips whose offset moved by the shift, to the nearest
    frame. Shifts to the edge of the search range are left out.
  """
  own, moved = {}, {}
  for r in results:
    value = r.get('values', {}).get(key)
    if value is None:
      continue
    if r['kind'] == 'truth':
      own[r['subject']] = value
    if r['kind'] == 'shifted':
      moved[r['subject'], r['shift']] = value
  inside = [abs(round(value)) <= 1 for value in own.values()]
  right = [
    round(own[subject] - value) == shift
    for (subject, shift), value in moved.items()
    if subject in own and abs(own[subject] - shift) < MAX_SHIFT - 1
  ]
  return tuple(
    bootstrap_interval(np.array(v, np.float64)) for v in (inside, right)
  )


def failed_results(results: Sequence[dict]) -> list[tuple[str, str, str, int]]:
  """(protocol, system, reason, count) of failed results."""
  counts: dict[tuple, int] = {}
  for r in results:
    if r.get('error'):
      key = (r['protocol'], r['row'], r['error'])
      counts[key] = counts.get(key, 0) + 1
  return [(*key, n) for key, n in counts.items()]


def report_summary(results: Sequence[dict]) -> dict:
  """All tables as plain dicts."""
  return {
    protocol: {
      row: {k: dataclasses.asdict(c) for k, c in cells.items()}
      for row, cells in protocol_table(results, protocol).items()
    }
    for protocol in protocol_names(results)
  }


def write_json(
  path: str | os.PathLike, results: Sequence[dict], facts: dict
) -> None:
  """Write the facts of the run, the tables, and every result."""
  plain = [{k: v for k, v in r.items() if k != 'strips'} for r in results]
  whole = {'facts': facts, 'summary': report_summary(results), 'results': plain}
  text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
  atomic_file.write_text(path, text + '\n')


def write_csv(path: str | os.PathLike, results: Sequence[dict]) -> None:
  """Write one line for each result."""
  keys = [m.key for m in METRICS]
  with (
    atomic_file.atomic_write(path) as part,
    open(part, 'w', newline='', encoding='utf-8') as file,
  ):
    out = csv.writer(file)
    out.writerow(
      ['protocol', 'case', 'speaker', 'row', 'frames', *keys, 'error']
    )
    for r in results:
      values = [r.get('values', {}).get(k) for k in keys]
      words = [r['protocol'], r['case'], r['speaker'], r['row']]
      out.writerow([*words, r.get('frames', 0), *values, r.get('error', '')])


def table_lines(results: Sequence[dict], protocol: str) -> list[str]:
  """The tables of a protocol, one for each group, for a terminal."""
  cells = protocol_table(results, protocol)
  width = max(len(row) for row in cells)
  out = [f'{protocol}:']
  for group in GROUPS:
    found = [m for m in used_metrics(cells) if m.group == group]
    if not found:
      continue
    head = ' '.join(f'{m.key:>17}' for m in found)
    out.append(f'  {"":{width}} {head}')
    for row, values in cells.items():
      words = [
        f'{values[m.key].value:17.3f}' if m.key in values else f'{"–":>17}'
        for m in found
      ]
      out.append(f'  {row:{width}} {" ".join(words)}')
  return out
