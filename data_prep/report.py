"""The page `stats.html`: statistics and a contact sheet of a build.

It is a single file without scripts.
"""

import base64
import html
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from data_prep import process
from data_prep.process import Row
from lipsync_jax import audio
from lipsync_jax.data.clip import decode_clip
from lipsync_jax.faces import crop

SIDE = 96  # pixels of a face on the contact sheet
COLUMNS, ROWS = 12, 8  # of the contact sheet

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; color: #222;
  max-width: 1180px; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem;
  text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
img { max-width: 100%; height: auto } .bars { display: flex; gap: 3rem;
  flex-wrap: wrap }
text { font: 12px system-ui, sans-serif; fill: #444 } rect { fill: #4477aa }
"""


def render_page(rows: Sequence[Row], table: dict[str, dict[str, int]]) -> str:
  """The page as HTML.

  Args:
    rows: of all clips, see `process.Worker.rows`.
    table: see `pipeline.counts`.
  """
  kept = [row for row in rows if not row['reason']]
  measured = [row['offset'] for row in kept if 'offset' in row]
  drops = Counter(row['reason'] for row in rows if row['reason'])
  parts = [
    '<!doctype html><meta charset="utf-8"><title>Clips</title>',
    f'<style>{STYLE}</style><h1>{len(kept)} clips of {len(rows)} found</h1>',
    splits_table(rows, table),
    '<div class="bars">',
    bars('Rejected, by reason', dict(drops.most_common())),
    histogram('Length, seconds', [row['frames'] / audio.FPS for row in kept]),
    histogram('Width of the face, pixels', [row['width'] for row in kept]),
    *openings(kept),
    bars(
      'Offset of the sound, frames',
      {f'{o:+d}': n for o, n in sorted(Counter(measured).items())},
    )
    if measured
    else '<section><h2>Offset of the sound</h2><p>not measured</p></section>',
    bars('Clips of the largest speakers', speakers(kept)),
    '</div>',
    sheet_section(kept),
    examples(rows),
  ]
  return '\n'.join(parts)


def splits_table(rows: Sequence[Row], table: dict[str, dict[str, int]]) -> str:
  """Hours, speakers and counts of every split."""
  reasons = sorted({name for part in table.values() for name in part})
  reasons = [name for name in reasons if name not in ('found', 'kept')]
  head = ['split', 'hours', 'speakers', 'found', 'kept', *reasons]
  lines = [''.join(f'<th>{html.escape(name)}</th>' for name in head)]
  for split, part in table.items():
    kept = [r for r in rows if r['split'] == split and not r['reason']]
    hours = sum(row['frames'] for row in kept) / audio.FPS / 3600
    names = {row['key'].partition('/')[0] for row in kept}
    cells = [html.escape(split), f'{hours:.2f}', len(names)]
    cells += [part.get(name, 0) for name in ('found', 'kept', *reasons)]
    lines.append(''.join(f'<td>{cell}</td>' for cell in cells))
  return '<table>' + ''.join(f'<tr>{line}</tr>' for line in lines) + '</table>'


def bars(title: str, values: dict[str, float]) -> str:
  """A bar chart of named numbers."""
  most, marks = max(values.values(), default=1) or 1, []
  for i, (name, value) in enumerate(values.items()):
    y, width = 20 * i, 220 * value / most
    marks.append(
      f'<text x="130" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>'
      f'<rect x="138" y="{y + 3}" width="{width:.1f}" height="14"/>'
      f'<text x="{142 + width:.1f}" y="{y + 14}">{value:g}</text>'
    )
  drawn = ''.join(marks) or '<text y="14">none</text>'
  height = 20 * max(len(values), 1)
  return (
    f'<section><h2>{html.escape(title)}</h2>'
    f'<svg width="420" height="{height}">{drawn}</svg></section>'
  )


def histogram(title: str, values: Sequence[float]) -> str:
  """A bar chart of a histogram with ten bins."""
  if not values:
    return bars(title, {})
  ends = np.percentile(values, [0, 99.5])
  edges = np.linspace(ends[0], max(ends[1], ends[0] + 1e-6), 11)
  counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
  names = [f'{a:.3g} – {b:.3g}' for a, b in itertools.pairwise(edges)]
  return bars(title, dict(zip(names, counts.tolist(), strict=True)))


def openings(kept: Sequence[Row]) -> list[str]:
  """Histograms of the lips' opening: closed, and open."""
  found = [row['opening'] for row in kept if row.get('opening')]
  names = ('least, 5 % of the frames', 'median', 'most, 95 % of the frames')
  return [
    histogram(f'Lip opening in eye distances, {name}', [v[i] for v in found])
    for i, name in enumerate(names)
  ]


def speakers(kept: Sequence[Row], most: int = 15) -> dict[str, int]:
  """Numbers of clips of the largest speakers."""
  count = Counter(row['key'].partition('/')[0] for row in kept)
  return {name[-16:]: n for name, n in count.most_common(most)}


def contact_sheet(kept: Sequence[Row]) -> UInt8[np.ndarray, 'h w 3']:
  """Face crops of a sample of clips."""
  chosen = sorted(kept, key=lambda row: process.shuffle_key(row['key']))
  chosen = chosen[: COLUMNS * ROWS]
  height = max(1, -(-len(chosen) // COLUMNS))
  out = np.full((height * SIDE, COLUMNS * SIDE, 3), 255, np.uint8)
  for i, row in enumerate(chosen):
    y, x = SIDE * (i // COLUMNS), SIDE * (i % COLUMNS)
    out[y : y + SIDE, x : x + SIDE] = middle_face(row)
  return out


def middle_face(row: Row) -> UInt8[np.ndarray, '96 96 3']:
  """The middle frame's crop of a clip."""
  import cv2

  clip = decode_clip(process.read_record(row['pack'], row['at']))
  middle = len(clip.frames) // 2
  data = np.frombuffer(clip.frames[middle], np.uint8)
  rgb = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
  return crop.extract_crop(rgb, crop.crop_from_row(clip.crops[middle]), SIDE)


def sheet_section(kept: Sequence[Row]) -> str:
  """The contact sheet."""
  import cv2

  if not kept:
    return ''
  image = cv2.cvtColor(contact_sheet(kept), cv2.COLOR_RGB2BGR)
  flags = [cv2.IMWRITE_JPEG_QUALITY, 88]
  data = base64.b64encode(cv2.imencode('.jpg', image, flags)[1].tobytes())
  return (
    '<h2>Face crops of a sample of clips</h2>'
    f'<img alt="contact sheet" src="data:image/jpeg;base64,{data.decode()}">'
  )


def examples(rows: Sequence[Row], most: int = 40) -> str:
  """A sample of the rejected clips; rejected.jsonl has all."""
  rejected = [row for row in rows if row['reason']]
  rejected.sort(key=lambda row: process.shuffle_key(row['key']))
  lines = [
    ''.join(
      f'<td>{html.escape(str(row[name]))}</td>'
      for name in ('key', 'reason', 'detail')
    )
    for row in rejected[:most]
  ]
  if not lines:
    return ''
  table = ''.join(f'<tr>{line}</tr>' for line in lines)
  return f'<h2>A sample of rejected clips</h2><table>{table}</table>'
