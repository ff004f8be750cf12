"""Results of an evaluation for a terminal. What is printed of data is made harmless first."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from trainer.bootstrap import interval, paired
from trainer.comparison import Comparison, Move
from trainer.drift import Drift
from trainer.printable import printable
from trainer.scores import Scores

LONGEST: Final = 90  # characters of a query
WIDE: Final = 120  # columns, where nothing says how many there are


def show(*tables: Any) -> None:
    """On stdout."""
    from rich.console import Console  # noqa: PLC0415  keeps `--help` instant

    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, markup=False, emoji=False, width=None if narrow else WIDE)
    for table in tables:
        console.print(table)


def scores(found: Scores, metrics: Sequence[str]) -> Any:
    rows = [(metric, _value(found.of(metric)), _between(*interval(found, metric))) for metric in metrics]
    return table(("metric", "score", "95% interval"), rows, _about(found), right=(1, 2))


def comparison(found: Comparison, metrics: Sequence[str]) -> Any:
    rows = []
    for metric in metrics:
        change = paired(found.before, found.after, metric)
        sure = change.low > 0 or change.high < 0
        interval_of = f"{change.low:+.4f} … {change.high:+.4f}"
        moved = f"{change.mean:+.4f}"
        rows.append(
            (metric, _value(found.before.of(metric)), _value(found.after.of(metric)), moved, interval_of, "yes" * sure)
        )
    names = ("metric", "before", "after", "change", "95% interval", "beyond luck")
    return table(names, rows, _about(found.after), right=(1, 2, 3, 4))


def moves(title: str, found: Sequence[Move]) -> Any:
    rows = [(f"{move.before} → {move.after}", _cut(move.query)) for move in found]
    return table(("rank", "query"), rows or [("none", "")], title)


def extremes(found: Scores, metric: str, count: int) -> Any:
    """The worst queries of one model: what they ask, and what came first in place of the answer."""
    worst = sorted(found.each_query, key=lambda scored: -scored.ranks[0])[:count]
    rows = [(str(scored.ranks[0]), _cut(scored.query), _cut(scored.found)) for scored in worst]
    return table(("rank", "query", "came first"), rows, "worst queries")


def drift(found: Drift) -> str:
    cosine = found.cosine
    between = (
        f"cosine mean {cosine.mean:.4f}, 5% below {cosine.p5:.4f}, least {cosine.min:.4f}"
        if cosine
        else "different dimensions, so no cosine"
    )
    return f"drift over {found.texts} texts: {between}; {found.overlap:.1%} of the {found.k} nearest are the same"


def table(names: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", right: Sequence[int] = ()) -> Any:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415  as text: what looks like markup stays what it is

    made = Table(title=Text(title, style="bold") if title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for number, name in enumerate(names):
        made.add_column(name, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _about(found: Scores) -> str:
    left_out = f"; {found.unanswered} queries that nothing answers are not scored" if found.unanswered else ""
    return f"{len(found.each_query)} queries over {found.documents} documents{left_out}"


def _value(score: float) -> str:
    return f"{score:.4f}"


def _between(low: float, high: float) -> str:
    return f"{low:.4f} … {high:.4f}"


def _cut(text: str) -> str:
    line = printable(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
