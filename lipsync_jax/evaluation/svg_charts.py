"""Line and scatter charts as SVG text.

Pure. The report needs no plotting library, so that `evaluate` runs in the base
installation. Each chart has a title, numbered axes and a legend.
"""

import html
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT = 560, 320  # pixels of a chart without its legend
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 44  # margins of the axes
LINE = 18  # height of a legend's line
# Safe for color blindness (Okabe and Ito); further series are dashed.
COLORS = (
  '#000000', '#999999', '#56b4e9', '#e69f00',
  '#d55e00', '#0072b2', '#009e73', '#cc79a7',
)  # fmt: skip

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def series_color(name: str, order: Sequence[str]) -> str:
  """The color of a series, by its place in `order`."""
  at = list(order).index(name) if name in order else 0
  return COLORS[at % len(COLORS)]


def axis_ticks(low: float, high: float, most: int = 6) -> list[float]:
  """Round numbers between `low` and `high`, at most `most`."""
  span = max(high - low, 1e-9)
  unit = 10.0 ** np.floor(np.log10(span / most))
  step = next(unit * k for k in (1, 2, 5, 10, 20) if span / (unit * k) <= most)
  first = np.ceil(low / step - 1e-9)
  count = int(np.floor(high / step + 1e-9) - first) + 1
  return [float(round((first + i) * step, 10)) for i in range(max(count, 0))]


def axis_bounds(values: Sequence[float]) -> tuple[float, float]:
  """Ends of an axis with all values and a margin."""
  known = [v for v in values if np.isfinite(v)]
  if not known:
    return 0.0, 1.0
  low, high = min(known), max(known)
  margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
  return low - margin, high + margin


class _Axes:
  """Map from values to pixels."""

  def __init__(self, x: tuple, y: tuple):
    self.x, self.y = x, y

  def at(self, x: float, y: float) -> tuple[float, float]:
    across = (x - self.x[0]) / (self.x[1] - self.x[0])
    up = (y - self.y[0]) / (self.y[1] - self.y[0])
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return LEFT + wide * across, TOP + high * (1 - up)

  def frame(self, title: str, xlabel: str, ylabel: str) -> list[str]:
    """Grid, numbers and labels."""
    out = [svg_text(WIDTH / 2, 18, title, 'middle', 14, 'bold')]
    for value in axis_ticks(*self.x):
      x, bottom = self.at(value, self.y[0])
      out += [svg_line(x, TOP, x, bottom, '#e4e4e4')]
      out += [svg_text(x, bottom + 15, f'{value:g}', 'middle')]
    for value in axis_ticks(*self.y):
      left, y = self.at(self.x[0], value)
      out += [svg_line(left, y, WIDTH - RIGHT, y, '#e4e4e4')]
      out += [svg_text(left - 6, y + 4, f'{value:g}', 'end')]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(
      svg_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, xlabel, 'middle')
    )
    turned = f' transform="rotate(-90 14 {middle:.0f})"'
    out.append(svg_text(14, middle, ylabel, 'middle', extra=turned))
    return out


def svg_text(
  x: float, y: float, words: str, anchor: str = 'start', size: int = 12,
  weight: str = 'normal', extra: str = '',
) -> str:  # fmt: skip
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    f' font-weight="{weight}"{extra}>{html.escape(words)}</text>'
  )


def svg_line(
  x0, y0, x1, y1, stroke: str, width: float = 1, dash: str = ''
) -> str:
  dashed = f' stroke-dasharray="{dash}"' if dash else ''
  return (
    f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" '
    f'stroke="{stroke}" stroke-width="{width}"{dashed}/>'
  )


def line_chart(
  title: str,
  series: Series,
  xlabel: str,
  ylabel: str,
  order: Sequence[str] = (),
) -> str:
  """Lines through (xs, ys) of each series, with a mark at x = 0.

  Args:
    title: above the chart.
    series: points by name.
    xlabel, ylabel: of the axes.
    order: names of all systems of a page, so that colors agree.
  """
  order = order or list(series)
  axes = _Axes(*_data_range(series))
  out = axes.frame(title, xlabel, ylabel)
  if axes.x[0] < 0 < axes.x[1]:
    x, y = axes.at(0, axes.y[0])
    out.append(svg_line(x, TOP, x, y, '#777777', 1, '2 3'))
  for name, (xs, ys) in series.items():
    points = [axes.at(x, y) for x, y in _finite_points(xs, ys)]
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    late = list(order).index(name) >= len(COLORS)
    dash = ' stroke-dasharray="6 3"' if late else ''
    out.append(
      f'<polyline points="{path}" fill="none" '
      f'stroke="{series_color(name, order)}" stroke-width="2"{dash}/>'
    )
  return _chart_document(out, list(series), order)


def scatter_chart(
  title: str,
  series: Series,
  xlabel: str,
  ylabel: str,
  order: Sequence[str] = (),
) -> str:
  """A dot for every (x, y), and a dashed line at x = y."""
  order = order or list(series)
  (x0, x1), (y0, y1) = _data_range(series)
  axes = _Axes((min(x0, y0), max(x1, y1)), (min(x0, y0), max(x1, y1)))
  out = axes.frame(title, xlabel, ylabel)
  ends = axes.at(axes.x[0], axes.x[0]), axes.at(axes.x[1], axes.x[1])
  out.append(svg_line(*ends[0], *ends[1], '#777777', 1, '4 4'))
  for name, (xs, ys) in series.items():
    for x, y in _finite_points(xs, ys):
      px, py = axes.at(x, y)
      out.append(
        f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" '
        f'fill="{series_color(name, order)}" '
        'fill-opacity="0.55"/>'
      )
  return _chart_document(out, list(series), order)


def _data_range(series: Series) -> tuple[tuple, tuple]:
  known = [p for xs, ys in series.values() for p in _finite_points(xs, ys)]
  return axis_bounds([p[0] for p in known]), axis_bounds([p[1] for p in known])


def _finite_points(xs, ys) -> list[tuple[float, float]]:
  pairs = zip(xs, ys, strict=True)
  return [(x, y) for x, y in pairs if np.isfinite(x) and np.isfinite(y)]


def _chart_document(parts: list[str], names: list[str], order) -> str:
  """The SVG document of a chart with its legend."""
  rows = []
  for i, name in enumerate(names):
    y = HEIGHT + LINE * i + 12
    rows.append(
      svg_line(LEFT, y - 4, LEFT + 22, y - 4, series_color(name, order), 3)
    )
    rows.append(svg_text(LEFT + 30, y, name))
  height = HEIGHT + LINE * len(names) + 8
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
    f'width="{WIDTH}" height="{height}" font-family="sans-serif" '
    f'role="img">{"".join(parts + rows)}</svg>'
  )
