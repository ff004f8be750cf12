"""Line charts as SVG, several beside one another: what the pictures of a report need, and no more.

A picture has a white ground of its own, so that it can be read on a dark page too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

# Okabe and Ito, for all eyes; two more for pictures of many series
COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#555555")
WIDTH: Final = 400  # pixels of one panel
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 46, 46  # margins of a panel
LEGEND: Final = 22  # pixels of one line of the legend
ENTRY: Final = 232  # pixels of one entry in it
INK: Final = "#222"
GRID: Final = "#ddd"


@dataclass(frozen=True, slots=True)
class Panel:
    """`series` has one value for each of `labels`, None where there is none. `unit` is what the values are."""

    title: str
    unit: str
    axis: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    logarithmic: bool = False

    def values(self) -> list[float]:
        return [value for values in self.series.values() for value in values if value is not None]


def picture(title: str, panels: Sequence[Panel]) -> str:
    """SVG. A series has the same color in every panel."""
    panels = [panel for panel in panels if panel.values()]
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colors = {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}
    width = WIDTH * max(1, len(panels))
    columns = max(1, width // ENTRY)
    legend = LEGEND * math.ceil(len(names) / columns)
    height = 34 + HEIGHT + legend + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>',
        _text(16, 24, title, size=15, weight="bold"),
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({WIDTH * number},30)">{_panel(panel, colors)}</g>')
    for number, name in enumerate(names):
        x, y = 24 + ENTRY * (number % columns), 34 + HEIGHT + LEGEND * (number // columns) + 10
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{colors[name]}" stroke-width="2.5"/>')
        parts.append(f'<circle cx="{x + 11}" cy="{y}" r="3.5" fill="{colors[name]}"/>' + _text(x + 28, y + 4, name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, colors: Mapping[str, str]) -> str:
    marks = ticks(panel.values(), logarithmic=panel.logarithmic)
    low, high = _scaled(panel, marks[0]), _scaled(panel, marks[-1])

    def down(value: float) -> float:
        share = (_scaled(panel, value) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share

    def across(number: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (number + 0.5) / len(panel.labels)

    parts = [_text(LEFT, TOP - 26, panel.title, weight="bold"), _text(LEFT, TOP - 11, panel.unit, fill="#666")]
    for mark in marks:
        y = down(mark)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{mark:,g}", anchor="end"))
    for number, label in enumerate(panel.labels):
        parts.append(_text(across(number), HEIGHT - BOTTOM + 18, label, anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, panel.axis, anchor="middle", fill="#666"))
    for name, values in panel.series.items():
        points = [(across(number), down(value)) for number, value in enumerate(values) if value is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colors[name]}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colors[name]}"/>' for x, y in points]
    return "".join(parts)


def _scaled(panel: Panel, value: float) -> float:
    return math.log10(value) if panel.logarithmic else value


def ticks(values: Sequence[float], *, logarithmic: bool) -> list[float]:
    """Round numbers around all of `values`, at least two, in order. Linear ones begin at 0."""
    if logarithmic:
        return _log_ticks(min(values), max(values))
    step = _step(max(values) / 4)
    return [step * number for number in range(max(2, math.ceil(max(values) / step) + 1))]


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    wide = high / low > 100
    marks = [factor * 10.0**decade for decade in decades for factor in ((1,) if wide else (1, 2, 5))]
    first = max(number for number, mark in enumerate(marks) if mark <= low)
    last = min(number for number, mark in enumerate(marks) if mark >= high)
    return marks[first : max(last, first + 1) + 1]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal", fill: str = INK
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
