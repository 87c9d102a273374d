"""Sheets of mouths for the report: the source above, every system below."""

import html
from collections.abc import Sequence

import numpy as np

# Sheets of a protocol, at most, spread evenly over the cases.
SHEETS, OTHER_SHEETS = {'cross': 24}, 6
FIGURES = (  # of the captions
  ('ridge_r', 'ridge', '{:.2f}'),
  ('amplitude', 'amplitude', '{:.2f}'),
  ('sharpness', 'sharpness', '{:.2f}'),
)


def clip_sheets(results: Sequence[dict], protocol: str) -> list[str]:
  """A sheet of mouths for every case of a protocol; [] without any."""
  cases: dict[str, list[dict]] = {}
  for r in results:
    if r['protocol'] == protocol and r.get('strips', {}).get('source_mouths'):
      cases.setdefault(r['case'], []).append(r)
  if not cases:
    return []
  names = list(cases)
  most = min(SHEETS.get(protocol, OTHER_SHEETS), len(names))
  chosen = np.linspace(0, len(names) - 1, most).round().astype(int)
  shown = [names[i] for i in chosen]
  return [
    '<h3>Mouths, clip by clip</h3>',
    f'<p>{len(shown)} of {len(names)} clips. Source above, systems below; '
    'frames spread evenly over the clip, all at the same times and places. '
    'Judge by eye first: scores miss much that is obvious here.</p>',
    *(_sheet(name, cases[name]) for name in shown),
  ]


def _sheet(case: str, results: Sequence[dict]) -> str:
  source = results[0]['strips']['source_mouths']
  rows = [_row('source', source)]
  for r in results:
    values = ', '.join(
      f'{title} {form.format(r["values"][key])}'
      for key, title, form in FIGURES
      if r['values'].get(key) is not None
    )
    label = f'{r["row"]}: {values}' if values else r['row']
    rows.append(_row(label, r['strips']['mouths']))
  caption = html.escape(case.replace(' < ', ' speaking the words of '))
  return (
    f'<figure class="sheet"><figcaption><b>{caption}</b></figcaption>'
    f'{"".join(rows)}</figure>'
  )


def _row(label: str, picture: str) -> str:
  name = html.escape(label, quote=True)
  return (
    f'<figcaption>{name}</figcaption>'
    f'<img alt="{name}" src="data:image/jpeg;base64,{picture}">'
  )
