"""The report as one self-contained HTML file.

An introduction, then tables, curves, scatter charts and strips of frames for
each protocol. Every text from a file name is escaped.
"""

import html
import os
from collections.abc import Sequence

from lipsync_jax.common import atomic_file
from lipsync_jax.evaluation import aggregate, html_sheets, svg_charts
from lipsync_jax.evaluation.metric_list import METRICS, Metric

CLIPS_SHOWN = 3  # best and worst cases with strips
CURVES = {
  'judge': ('Held-out SyncNet', 'mean distance'),
  'lse': ('SyncNet v2', 'mean distance'),
  'ridge': ('Ridge', 'mean correlation'),
}
PROTOCOLS = {
  'reconstruction': 'Every face speaks its own words, so that the ground truth '
  'is known for every frame. As in use, the reference frame is the target '
  'frame: a network that copies it gets a perfect score here. Read this table '
  'together with the other two.',
  'cross': 'Every face speaks the words of another clip. The lips have no '
  'ground truth. A system should be as close to its sound as the ground truth '
  'is to its own, and much closer than the unmodified video with the foreign '
  'sound.',
  'silence': 'The sound is digital silence, so that lips should not move. '
  'Remaining mouth motion is leakage from the source; the ground truth row '
  'is the motion of the source.',
}
BETTER = {
  'low': 'lower is better',
  'high': 'higher is better',
  'zero': 'closer to 0 is better',
  'one': 'closer to 1 is better',
  'truth': 'closer to the ground truth is better',
}
UNEVEN = (
  '<b>The numbers of clips differ:</b> rows with fewer clips do not compare '
  'with the others; evaluate their clips alone.'
)
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;
margin:2em auto;max-width:1200px;padding:0 1em}
h1{font-size:1.6em}h2{margin-top:2.2em;border-bottom:2px solid #333}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
th,td{padding:.35em .7em;text-align:right;border-bottom:1px solid #ddd;
white-space:nowrap;vertical-align:top}th:first-child,td:first-child{
text-align:left;position:sticky;left:0;background:#fff}
thead th{border-bottom:2px solid #333}small{color:#666;font-weight:normal}
tr.made td{background:#eef6ff}tr.made td:first-child{font-weight:bold}
.charts{display:flex;flex-wrap:wrap;gap:1em}figure{margin:1em 0}
figure img{display:block;max-width:100%}figcaption{font-size:13px}
dt{font-weight:bold}dd{margin:0 0 .4em 1.2em}
"""


def render_page(results: Sequence[dict], facts: dict) -> str:
  """The whole document."""
  body = [
    '<h1>Lip-sync evaluation</h1>',
    f'<p>{_escape(facts["what"])}</p>',
    reading_guide(),
    scorer_check(results),
  ]
  for protocol in aggregate.protocol_names(results):
    body += protocol_section(results, protocol)
  body += [metric_glossary(results), run_settings(facts)]
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f'<title>Lip-sync evaluation</title><style>{STYLE}</style></head>'
    f'<body>{"".join(body)}</body></html>\n'
  )


def write_page(
  path: str | os.PathLike, results: Sequence[dict], facts: dict
) -> None:
  """Write the page."""
  atomic_file.write_text(path, render_page(results, facts))


def reading_guide() -> str:
  """The introduction: how to read the tables."""
  return (
    '<p><b>How to read this.</b> Scores compare within one page only, not '
    'with published tables: crops, encoders and clips change them more than '
    'models do. Each table has its own scale: the <i>ground truth</i> is the '
    'score of real speech; the ground truth with its sound <i>5 and 15 frames '
    'late</i> is the score of wrong sync; the <i>unmodified video with '
    'foreign sound</i> is the score without lip-sync. Rows on blue are '
    'generated. A score better than the ground truth is no success: the '
    'system fits the scorer, not real speech. Brackets are 95 % intervals '
    'over clips (bootstrap).</p>'
  )


def scorer_check(results: Sequence[dict]) -> str:
  """Accuracy of the scorers on the controls of this evaluation."""
  rows = []
  for key, name in (
    ('judge', 'held-out SyncNet'),
    ('lse', 'SyncNet v2'),
    ('ridge', 'ridge'),
  ):
    own, moved = aggregate.offset_accuracy(results, f'{key}_offset')
    if own.count:
      rows.append(
        f'<tr><td>{name}</td><td>{100 * own.value:.0f} % of {own.count}</td>'
        f'<td>{100 * moved.value:.0f} % of {moved.count}</td></tr>'
      )
  if not rows:
    return ''
  return (
    '<h2>Accuracy of the scorers</h2><p>A scorer should find an offset of 0 '
    'to a frame for real speech, and an offset that moves with a shifted '
    'sound. A scorer that often fails cannot rank systems.</p>'
    '<table><thead><tr><th>scorer</th><th>ground truth: offset within 1 '
    'frame</th><th>sound 5 frames late: offset moves by 5</th></tr>'
    '</thead><tbody>'
    f'{"".join(rows)}</tbody></table>'
  )


def protocol_section(results: Sequence[dict], protocol: str) -> list[str]:
  """The section of one protocol."""
  out = [
    f'<h2 id="{_escape(protocol)}">{_escape(protocol.capitalize())}</h2>',
    f'<p>{PROTOCOLS.get(protocol, "")}</p>',
    *html_sheets.clip_sheets(results, protocol),
    '<h3>Sync</h3>',
    metric_table(results, protocol, 'sync'),
    '<h3>Articulation</h3>',
    metric_table(results, protocol, 'articulation'),
    '<h3>Picture, jitter, duration</h3>',
    metric_table(results, protocol, 'picture'),
    '<div class="charts">',
    *curve_charts(results, protocol),
    *scatter_charts(results, protocol),
    '</div>',
  ]
  out += clip_strips(results, protocol)
  failed = [f for f in aggregate.failed_results(results) if f[0] == protocol]
  if failed:
    items = ''.join(
      f'<li>{_escape(row)}: {n} × {_escape(why)}</li>'
      for _, row, why, n in failed
    )
    out.append(f'<p>Failed, and in no mean:</p><ul>{items}</ul>')
  return out


def _kinds(results: Sequence[dict], protocol: str) -> dict[str, str]:
  return {r['row']: r['kind'] for r in results if r['protocol'] == protocol}


def metric_table(results: Sequence[dict], protocol: str, group: str) -> str:
  """Systems and their metrics of a group (`Metric.group`)."""
  cells, kinds = (
    aggregate.protocol_table(results, protocol),
    _kinds(results, protocol),
  )
  found = [m for m in aggregate.used_metrics(cells) if m.group == group]
  if not found:
    return '<p>None: there is no speech, or no lips.</p>'
  head = ''.join(
    f'<th title="{_escape(m.meaning)}">{_escape(m.title)}<br>'
    f'<small>{_escape(m.unit)} {_sign(m)}</small></th>'
    for m in found
  )
  rows = []
  for name, values in cells.items():
    if not any(m.key in values for m in found):
      continue
    made = (
      ' class="made"'
      if kinds[name] in ('mesh', 'checkpoint', 'baseline')
      else ''
    )
    clips = len(aggregate.system_results(results, protocol, name))
    row = ''.join(
      f'<td>{_cell(values.get(m.key), m.key, clips)}</td>' for m in found
    )
    label = f'{_escape(name)}<br><small>{count_noun(clips, "clip")}</small>'
    rows.append(f'<tr{made}><td>{label}</td>{row}</tr>')
  counts = {
    len(aggregate.system_results(results, protocol, name))
    for name, values in cells.items()
    if any(m.key in values for m in found)
  }
  note = '' if len(counts) == 1 else f'<p>{UNEVEN}</p>'
  return (
    f'{note}<div class="wide"><table><thead><tr><th>row</th>{head}</tr></thead>'
    f'<tbody>{"".join(rows)}</tbody></table></div>'
  )


def _sign(m: Metric) -> str:
  signs = {'low': '↓', 'high': '↑', 'zero': '→ 0', 'one': '→ 1'}
  return signs.get(m.better, '→ truth')


def _cell(cell: aggregate.MetricSummary | None, key: str, clips: int) -> str:
  """A value with its interval, and its clips where they are not the row's."""
  if cell is None:
    return '–'
  shown = format_frames if key in aggregate.MEDIANS else format_number
  of = '' if cell.count == clips else f'<br><small>of {cell.count}</small>'
  if cell.count == 1:  # one clip has no interval
    return shown(cell.value) + of
  return (
    f'{shown(cell.value)}<br><small>[{shown(cell.low)}, {shown(cell.high)}]'
    f'</small>{of}'
  )


def count_noun(count: int, noun: str) -> str:
  """'1 clip', '2 clips'."""
  return f'{count} {noun}{"s" * (count != 1)}'


def format_number(value: float) -> str:
  """A number with three significant digits or more."""
  digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
  return f'{value:.{digits}f}'


def format_frames(value: float) -> str:
  """Frames to a tenth, without a trailing zero."""
  return f'{round(value, 1) + 0.0:g}'  # + 0.0: never -0


def curve_charts(results: Sequence[dict], protocol: str) -> list[str]:
  """Distance over shift, one chart for each scorer."""
  out, order = [], aggregate.system_names(results, protocol)
  for key, (title, unit) in CURVES.items():
    series = {}
    for row in aggregate.system_names(results, protocol):
      ys = aggregate.mean_curve(
        aggregate.system_results(results, protocol, row), key
      )
      if ys.size:
        reach = len(ys) // 2
        series[row] = (list(range(-reach, reach + 1)), ys.tolist())
    if series:
      label = 'shift of the sound in frames'
      words = f'{title}: {unit} at each shift'
      out.append(svg_charts.line_chart(words, series, label, unit, order))
  return out


def scatter_charts(results: Sequence[dict], protocol: str) -> list[str]:
  """Scores of systems over those of the ground truth, clip by clip."""
  out, order = [], aggregate.system_names(results, protocol)
  for key, title in (
    ('judge_0', 'Held-out SyncNet distance'),
    ('lse_0', 'LSE-D without shift'),
    ('ridge_r', 'Ridge correlation'),
    ('motion', 'Mouth motion, % of face'),
  ):
    truth = _by_subject(results, protocol, 'truth', key)
    series = {}
    for row, kind in _kinds(results, protocol).items():
      if kind not in ('mesh', 'checkpoint', 'baseline', 'foreign'):
        continue
      pairs = [
        (truth[r['subject']], r['values'][key])
        for r in aggregate.system_results(results, protocol, row)
        if r['values'].get(key) is not None and r['subject'] in truth
      ]
      if pairs:
        series[row] = tuple(list(v) for v in zip(*pairs, strict=True))
    if series:
      x, y = 'ground truth', 'system'
      out.append(
        svg_charts.scatter_chart(f'{title}, clip by clip', series, x, y, order)
      )
  return out


def _by_subject(results, protocol, kind, key) -> dict[str, float]:
  return {
    r['subject']: r['values'][key]
    for r in results
    if (r['protocol'], r['kind']) == (protocol, kind)
    and not r.get('error')
    and r['values'].get(key) is not None
  }


def ranked_clips(results: Sequence[dict], protocol: str, row: str):
  """(metric, results from best to worst) of a system."""
  here = [
    r
    for r in aggregate.system_results(results, protocol, row)
    if r.get('strips')
  ]
  keys = {'silence': ['motion'], 'cross': ['judge_0', 'lse_0', 'border']}
  for key in keys.get(protocol, ['judge_0', 'lse_0', 'lips']):
    known = [r for r in here if r['values'].get(key) is not None]
    if known:
      return key, sorted(known, key=lambda r: r['values'][key])
  return '', here


def clip_strips(results: Sequence[dict], protocol: str) -> list[str]:
  """Strips of the best and worst clips of every generated system."""
  out = []
  for row, kind in _kinds(results, protocol).items():
    if kind not in ('mesh', 'checkpoint', 'baseline'):
      continue
    key, order = ranked_clips(results, protocol, row)
    if not order:
      continue
    shown = (
      order[:CLIPS_SHOWN] + order[max(CLIPS_SHOWN, len(order) - CLIPS_SHOWN) :]
    )
    title = {m.key: m.title for m in METRICS}.get(key, 'order')
    out.append(
      f'<h3>{_escape(row)}: best and worst clips</h3>'
      f'<p>By {_escape(title.lower())}, the best first. Source above, '
      'generated below; eight frames spread evenly over the clip.</p>'
    )
    for r in shown:
      value = r['values'].get(key)
      words = '' if value is None else f'{title.lower()} {format_number(value)}'
      images = ''.join(
        f'<img alt="{alt}" src="data:image/jpeg;base64,{r["strips"][name]}">'
        for name, alt in (('truth', 'source'), ('made', 'generated'))
      )
      spoken = r['case'].replace(' < ', ' speaking the words of ')
      caption = f'{_escape(spoken)}: {_escape(words)}'
      out.append(f'<figure>{images}<figcaption>{caption}</figcaption></figure>')
  return out


def metric_glossary(results: Sequence[dict]) -> str:
  """The meaning of each column."""
  found: dict[str, Metric] = {}
  for protocol in aggregate.protocol_names(results):
    for m in aggregate.used_metrics(
      aggregate.protocol_table(results, protocol)
    ):
      found[m.key] = m
  items = ''.join(
    f'<dt>{_escape(m.title)}</dt>'
    f'<dd>{_escape(m.meaning)}; {_escape(BETTER[m.better])}.</dd>'
    for m in found.values()
  )
  return f'<h2>Columns</h2><dl>{items}</dl>'


def run_settings(facts: dict) -> str:
  """The settings of the run."""
  items = ''.join(
    f'<dt>{_escape(str(k))}</dt><dd><code>{_escape(str(v))}</code></dd>'
    for k, v in facts.items()
    if k != 'what'
  )
  return f'<h2>Settings</h2><dl>{items}</dl>'


def _escape(words: str) -> str:
  return html.escape(words, quote=True)
