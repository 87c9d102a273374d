"""Report: results of all cases as means with intervals, JSON and CSV.

A result is one row of one case: a dict with 'protocol', 'case', 'speaker',
'row', 'kind', 'frames', 'values', 'curves', and 'error' where there is none.
Intervals are of the mean (or median) over clips, by bootstrap.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lipsync_jax.common import atomic_file
from lipsync_jax.evaluation.metrics import METRICS, Metric

BOOTSTRAP_DRAWS = 2000  # of the bootstrap
SEED = 0
CONFIDENCE_LEVEL = 0.95
MAX_SHIFT = 15  # frames, the farthest shift that scorers try
MEDIANS = ('judge_offset', 'lse_offset', 'ridge_offset')


@dataclasses.dataclass(frozen=True)
class MetricSummary:
  """A measure over the clips of a row."""

  value: float
  low: float  # of the interval
  high: float
  count: int  # clips


def bootstrap_interval(
  values: Float[np.ndarray, 'n'], median: bool = False
) -> MetricSummary:
  """Mean (or median) over clips with its bootstrap interval."""
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
  """Names of a protocol's rows, in the order they came."""
  here = (r['row'] for r in results if r['protocol'] == protocol)
  return list(dict.fromkeys(here))


def protocol_names(results: Sequence[dict]) -> list[str]:
  """Protocols in the order they came."""
  return list(dict.fromkeys(r['protocol'] for r in results))


def system_results(
  results: Sequence[dict], protocol: str, row: str
) -> list[dict]:
  """The results of a row that did not fail."""
  return [
    r
    for r in results
    if (r['protocol'], r['row']) == (protocol, row) and not r.get('error')
  ]


def metric_values(results: Sequence[dict], key: str) -> Float[np.ndarray, 'n']:
  """A measure over results, without those that lack it."""
  found = [r['values'].get(key) for r in results]
  return np.array([v for v in found if v is not None], np.float64)


def protocol_table(
  results: Sequence[dict], protocol: str
) -> dict[str, dict[str, MetricSummary]]:
  """Cells by row and measure; measures that no row has are left out."""
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
  """The measures that some row has."""
  return [m for m in METRICS if any(m.key in row for row in cells.values())]


def mean_curve(results: Sequence[dict], name: str) -> Float[np.ndarray, 's']:
  """Mean curve over clips, NaN where none knows it; empty without clips."""
  found = [r['curves'][name] for r in results if r['curves'].get(name)]
  if not found:
    return np.zeros(0)
  rows = np.array([[np.nan if v is None else v for v in c] for c in found])
  known = np.isfinite(rows).sum(0)
  total = np.nansum(rows, axis=0)
  return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def offset_accuracy(
  results: Sequence[dict], key: str
) -> tuple[MetricSummary, MetricSummary]:
  """How often an offset is right on what is known, as shares of clips.

  The ground truth within a frame of 0; its sound moved by n frames, found,
  to the nearest frame, n away from where that clip's was before. Moves that
  end at the edge of the search are left out: there is nothing behind to
  compare with.
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
  """(protocol, row, reason, count) of what could not be scored."""
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
  """Facts of the run, tables, and every result (strips left out)."""
  plain = [{k: v for k, v in r.items() if k != 'strips'} for r in results]
  whole = {'facts': facts, 'summary': report_summary(results), 'results': plain}
  text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
  atomic_file.write_text(path, text + '\n')


def write_csv(path: str | os.PathLike, results: Sequence[dict]) -> None:
  """One line a result."""
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
  """The table of a protocol for a terminal."""
  cells = protocol_table(results, protocol)
  found = used_metrics(cells)
  width = max(len(row) for row in cells)
  head = ' '.join(f'{m.key:>13}' for m in found)
  out = [f'{protocol}:', f'  {"":{width}} {head}']
  for row, values in cells.items():
    words = [
      f'{values[m.key].value:13.3f}' if m.key in values else f'{"–":>13}'
      for m in found
    ]
    out.append(f'  {row:{width}} {" ".join(words)}')
  return out
