"""What a run came to: its scores before and after, and the questions that moved most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.runs.foreign import fields, number, text, whole

MOST_METRICS: Final = 24
MOVERS: Final = 5
LOWER_IS_BETTER: Final = ("loss", "perplexity")
COUNTS: Final = frozenset({"queries", "documents", "unanswered", "rows", "tokens"})


def is_lower_better(metric: str) -> bool:
    return metric.endswith(LOWER_IS_BETTER)


def difference(value: Any) -> dict[str, float] | None:
    """The mean, its interval and p, where all are numbers."""
    told = fields(value)
    found = {key: number(told.get(key)) for key in ("mean", "low", "high", "p")}
    return {key: each for key, each in found.items() if each is not None} if None not in found.values() else None


def short(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's progress: the metric that it was judged by, before and after."""
    metric = text(told.get("metric"), 64)
    return {
        "metric": metric,
        "better": "lower" if metric and is_lower_better(metric) else "higher",
        "before": number(told.get("before")),
        "after": number(told.get("after")),
        "difference": difference(told.get("difference")),
    }


def whole_story(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a run's scores.json: all metrics, and what moved. None where there are none."""
    before, after = fields(scores.get("before")), fields(scores.get("after"))
    metrics = _metrics(before, after)
    if not metrics:
        return None
    gained, lost = _moved(before.get("each_query"), after.get("each_query"))
    return {
        "metrics": metrics,
        "questions": whole(after.get("queries")) or whole(after.get("rows")),
        "documents": whole(after.get("documents")),
        "gained": gained,
        "lost": lost,
    }


def _metrics(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    sides = [fields(side.get("metrics")) or side for side in (before, after)]
    names = [name for name in sides[1] if name in sides[0] and name not in COUNTS][: 4 * MOST_METRICS]
    found = [(text(name, 64), number(sides[0][name]), number(sides[1][name])) for name in names]
    return [
        {"name": name, "before": old, "after": new, "better": "lower" if is_lower_better(name) else "higher"}
        for name, old, new in found
        if name and old is not None and new is not None
    ][:MOST_METRICS]


def _moved(before: Any, after: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The questions whose first right document came nearer, and those of which it went away: what counts most first."""
    if not isinstance(before, list) or not isinstance(after, list) or len(before) != len(after):
        return [], []
    moves = []
    for old, new in zip(before, after, strict=True):
        ranks = _rank(old), _rank(new)
        if ranks[0] and ranks[1] and ranks[0] != ranks[1]:
            moves.append((1 / ranks[1] - 1 / ranks[0], ranks[0], ranks[1], new))
    moves.sort(key=lambda move: -move[0])
    return [_told(*each) for each in moves[:MOVERS] if each[0] > 0], [
        _told(*each) for each in moves[: -MOVERS - 1 : -1] if each[0] < 0
    ]


def _rank(entry: Any) -> int | None:
    ranks = fields(entry).get("ranks")
    found = whole(ranks[0]) if isinstance(ranks, list) and ranks else None
    return found if found and found > 0 else None


def _told(gain: float, before: int, after: int, entry: Any) -> dict[str, Any]:
    said = fields(entry)
    texts = {key: text(said.get(key), 300) for key in ("query", "answer", "found")}
    return {"before": before, "after": after, **texts}
