"""Pairs measured right after one another, round by round, and what is believed of them: medians, and their spread.

Machines drift by more than what is being compared. So a round measures every side of a cell within seconds, a ratio is
taken inside its round, and the median over the rounds is reported with the least and the greatest beside it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = dict[str, float]  # one measurement: texts_per_second, p50, p99, ...
Cell = dict[str, list[Figures]]  # side -> its measurements, one a round
Measure = Callable[[], Figures]


def interleaved(cells: Mapping[str, Mapping[str, Measure]], rounds: int, *, warm_up: bool = True) -> dict[str, Cell]:
    """cell -> side -> figures of each round. The first round warms everything up and is thrown away."""
    measured: dict[str, Cell] = {name: {side: [] for side in sides} for name, sides in cells.items()}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, sides in cells.items():
            for side, measure in sides.items():
                figures = measure()
                if number:
                    measured[name][side].append(figures)
            told(f"{f'round {number} of {rounds}' if number else 'warming up'}: {name}")
    return measured


def median(measured: Sequence[Figures], key: str) -> float:
    return statistics.median(figures[key] for figures in measured)


def ratios(cell: Cell, above: str, below: str, key: str = "texts_per_second") -> list[float]:
    """`above` over `below`, one for each round."""
    return [_over(a[key], b[key]) for a, b in zip(cell[above], cell[below], strict=True)]


def ratio(cell: Cell, above: str, below: str, key: str = "texts_per_second") -> float:
    return statistics.median(ratios(cell, above, below, key))


def spread(measured: Sequence[Figures], key: str) -> float:
    """Greatest less least, as a share of the median: 0.1 says that the rounds lie within 10% of one another."""
    values = [figures[key] for figures in measured]
    return _over(max(values) - min(values), statistics.median(values))


def widest(cells: Mapping[str, Cell], key: str = "texts_per_second") -> float:
    """The widest spread of any side of any cell."""
    return max((spread(side, key) for cell in cells.values() for side in cell.values() if side), default=0.0)


def told(line: str) -> None:
    """How far it is, for whoever waits; the report goes to standard output."""
    print(f"  {line}", file=sys.stderr, flush=True)


def _over(above: float, below: float) -> float:
    return above / below if below else 0.0


def rounded(document: Any) -> Any:
    """Six significant digits for every float of a report."""
    if isinstance(document, float):
        return float(f"{document:.6g}")
    if isinstance(document, Mapping):
        return {key: rounded(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [rounded(value) for value in document]
    return document
