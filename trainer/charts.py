"""Pictures of a run as SVG inside a page: colours come from the page's classes, so that they follow light and dark.

Every function returns one `<svg>`. Nothing in it comes from data but numbers, and names that are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Final

Point = tuple[float, float]
WIDTH: Final = 460
HEIGHT: Final = 220
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34
MOST_POINTS: Final = 500  # of a curve; more are not to be told apart
SMOOTHING: Final = 25  # of so many points, one on each side is averaged


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    points: Sequence[Point]
    kind: str  # the class that colours it: raw, main, second, third
    dots: bool = False


def lines(title: str, curves: Sequence[Curve], best: Point | None = None, *, from_zero: bool = False) -> str:
    """Curves over steps, on one scale; `best` is ringed."""
    drawn = [curve for curve in curves if curve.points]
    every = [point for curve in drawn for point in curve.points]
    if not every:
        return ""
    xs, ys = _span([x for x, _ in every], 0), _span([y for _, y in every] + [0.0] * from_zero, 0.06)
    inside = [*_grid(xs, ys)]
    for curve in drawn:
        places = [_place(point, xs, ys) for point in thinned(curve.points)]
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            inside.append(f'<polyline class="{curve.kind}" points="{path}"/>')
        if curve.dots or len(places) == 1:
            inside += [f'<circle class="{curve.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places]
    if best:
        x, y = _place(best, xs, ys)
        inside.append(f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    return _svg(title, HEIGHT, inside)


def bars(title: str, rows: Sequence[tuple[str, Bar | None, Bar]]) -> str:
    """For each metric two bars from 0 to 1, before and after, each with its interval."""
    inside, left, step = [], 84, 44
    height = 12 + step * len(rows) + 22
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = _along(tick, left)
        inside.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{height - 22}"/>')
        inside.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for number, (name, before, after) in enumerate(rows):
        top = 14 + step * number
        inside.append(f'<text x="{left - 8}" y="{top + 19}" text-anchor="end" class="name">{escape(name)}</text>')
        for bar, y, kind in ((before, top, "before"), (after, top + 15, "after")):
            if bar is not None:
                inside += _bar(bar, left, y, kind)
    return _svg(title, height, inside)


@dataclass(frozen=True, slots=True)
class Bar:
    value: float
    low: float
    high: float


def _bar(bar: Bar, left: int, y: int, kind: str) -> Iterator[str]:
    width, middle = _along(bar.value, left) - left, y + 6.5
    low, high = _along(bar.low, left), _along(bar.high, left)
    yield f'<rect class="{kind}" x="{left}" y="{y}" width="{max(width, 0):.1f}" height="13" rx="2"/>'
    for part in ("halo", "whisker"):  # the halo keeps it visible on the bar
        yield f'<path class="{part}" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {y + 3}v7M{high:.1f} {y + 3}v7"/>'
    inside = high > WIDTH - 58
    anchor, at = ("end", min(low, left + width) - 6) if inside else ("start", max(high, left + width) + 6)
    colour = "value on" if inside else "value"
    yield f'<text class="{colour}" x="{at:.1f}" y="{y + 10.5}" text-anchor="{anchor}">{bar.value:.3f}</text>'


def _along(value: float, left: int) -> float:
    return left + min(max(value, 0), 1) * (WIDTH - left - 16)


def columns(title: str, named: Sequence[tuple[str, int, str]]) -> str:
    """A histogram: name, count and class of each column."""
    most = max((count for _, count, _ in named), default=0) or 1
    width, inside = (WIDTH - 20) / max(1, len(named)), []
    for number, (name, count, kind) in enumerate(named):
        height = (HEIGHT - 62) * count / most
        x, y = 10 + width * number, HEIGHT - 36 - height
        middle = x + width / 2
        inside.append(
            f'<rect class="{kind}" x="{x + 3:.1f}" y="{y:.1f}" width="{width - 6:.1f}" height="{height:.1f}" rx="2"/>'
        )
        if count:
            inside.append(f'<text class="value" x="{middle:.1f}" y="{y - 5:.1f}" text-anchor="middle">{count}</text>')
        inside.append(f'<text x="{middle:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{escape(name)}</text>')
    inside.append(f'<line class="axis" x1="10" x2="{WIDTH - 10}" y1="{HEIGHT - 36}" y2="{HEIGHT - 36}"/>')
    return _svg(title, HEIGHT - 10, inside)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of each point and its neighbours on both sides, so that the curve lags behind nothing."""
    reach = max(1, len(points) // SMOOTHING)
    sums = [0.0, *accumulate(y for _, y in points)]
    found = []
    for place, (x, _) in enumerate(points):
        low, high = max(0, place - reach), min(len(points), place + reach + 1)
        found.append((x, (sums[high] - sums[low]) / (high - low)))
    return found


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Means of neighbours, where there are more points than can be seen; the last one stays."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means, points[-1]]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within the span, about so many."""
    rough = (high - low) / about
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Short: 12000 is 12k, 0.00005 is 5e-5."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:.3g}M"
    if abs(value) < 1e-3:
        mantissa, _, exponent = (
            f"{value:.2g}".partition("e") if "e" in f"{value:.2g}" else f"{value:.1e}".partition("e")
        )
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _span(values: Sequence[float], room: float) -> tuple[float, float]:
    """From zero where that costs little, and with some room at the ends that are not zero."""
    low, high = min(values), max(values)
    if low == high:
        low, high = (low - abs(low) * 0.1, high + abs(high) * 0.1) if high else (0.0, 1.0)
    if room == 0 or 0 <= low < (high - low) * 0.3:
        low = min(0.0, low)
    space = (high - low) * room
    return (low if low == 0 else low - space), high + space


def _place(point: Point, xs: Point, ys: Point) -> Point:
    x = LEFT + (point[0] - xs[0]) / (xs[1] - xs[0]) * (WIDTH - LEFT - RIGHT)
    y = HEIGHT - BOTTOM - (point[1] - ys[0]) / (ys[1] - ys[0]) * (HEIGHT - BOTTOM - TOP)
    return x, y


def _grid(xs: Point, ys: Point) -> Iterator[str]:
    for tick in ticks(*ys):
        _, y = _place((xs[0], tick), xs, ys)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
    for tick in ticks(*xs):
        x, _ = _place((tick, ys[0]), xs, ys)
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{number(tick)}</text>'
    bottom = HEIGHT - BOTTOM
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'


def _svg(title: str, height: int, inside: Sequence[str]) -> str:
    name = escape(title)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">{"".join(inside)}</svg>'
