"""The metrics of a run as curves that can be drawn: a point for each step, and no more of them than can be seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from gateway.runs.foreign import number

Point = tuple[float, float]
MOST_POINTS: Final = 400
MOST_CURVES: Final = 24
NOT_CURVES: Final = frozenset({"step", "epoch", "timestamp"})


def curves(content: bytes) -> dict[str, dict[str, list[float]]]:
    """By key the steps and values of every line that has both. Lines that are cut or strange are passed over; a step
    that was done again after a kill counts once."""
    found: dict[str, dict[float, float]] = {}
    for line in _lines(content):
        step = number(line.get("step"))
        if step is None:
            continue
        for key, each in line.items():
            value = number(each)
            if value is None or key in NOT_CURVES or len(key) > 64 or (key not in found and len(found) >= MOST_CURVES):
                continue
            found.setdefault(key, {})[step] = value
    return {key: _columns(thinned(sorted(points.items()))) for key, points in found.items()}


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Means of neighbours where there are too many; the first and the last stay as they are."""
    if len(points) <= most:
        return list(points)
    first, *middle, last = points
    size = math.ceil(len(middle) / (most - 2))
    groups = [middle[start : start + size] for start in range(0, len(middle), size)]
    return [first, *((_mean(x for x, _ in group), _mean(y for _, y in group)) for group in groups), last]


def _mean(values: Iterator[float]) -> float:
    each = list(values)
    return sum(each) / len(each)


def _columns(points: Sequence[Point]) -> dict[str, list[float]]:
    return {"step": [x for x, _ in points], "value": [y for _, y in points]}


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    for each in content.split(b"\n"):
        try:
            line = orjson.loads(each)
        except orjson.JSONDecodeError:  # blank, or cut by a crash
            continue
        if isinstance(line, dict):
            yield line
