"""What the trials came to: a table by writer and case, the same as JSON, and a picture of every stall."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.drop.stalls import LONGEST
from bench.drop.trials import Cell, Outcome

COLUMNS: Final = {  # case, seen, sums -> the head of a column
    ("new", True, False): "new",
    ("new", False, False): "new, unseen",
    ("update", True, False): "update",
    ("update", False, False): "update, unseen",
    ("update", False, True): "update, unseen, SHA256SUMS",
}
ROW: Final = 22  # pixels of the picture
LEFT: Final = 190
WIDTH: Final = 460


def column(cell: Cell) -> str:
    return COLUMNS[(cell.case, cell.seen, cell.sums)]


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: wrong accepts of trials, by writer and case; `*` marks the cells that may be above 0."""
    heads = [head for head in COLUMNS.values() if any(column(each.trial.cell) == head for each in outcomes)]
    lines = ["| writer | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for writer in dict.fromkeys(each.trial.cell.writer.name for each in outcomes):
        own = [each for each in outcomes if each.trial.cell.writer.name == writer]
        cells = [_cell([each for each in own if column(each.trial.cell) == head]) for head in heads]
        lines.append(f"| {writer} | " + " | ".join(cells) + " |")
    totals = [_cell([each for each in outcomes if column(each.trial.cell) == head], mark=False) for head in heads]
    lines.append("| **all** | " + " | ".join(f"**{total}**" for total in totals) + " |")
    return "\n".join(lines) + "\n"


def _cell(outcomes: Sequence[Outcome], *, mark: bool = True) -> str:
    if not outcomes:
        return "-"
    wrong = sum(bool(each.wrong) for each in outcomes)
    star = "\\*" if mark and outcomes[0].trial.cell.may_be_wrong else ""
    return f"{wrong} of {len(outcomes)}{star}"


def forbidden(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Wrong accepts where there may be none."""
    return [each for each in outcomes if each.wrong and not each.trial.cell.may_be_wrong]


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Counts, and how long after the last byte a whole copy was accepted (seconds, median and maximum)."""
    late = sorted(each.seconds for each in outcomes if each.seconds is not None)
    return {
        "trials": len(outcomes),
        "trials with a stall over the quiet time": sum(each.trial.longest > 1 for each in outcomes),
        "wrong": sum(bool(each.wrong) for each in outcomes),
        "wrong where none may be": len(forbidden(outcomes)),
        "never accepted": sum(each.seconds is None for each in outcomes),
        "accepted after the last byte, median": round(statistics.median(late), 3) if late else None,
        "accepted after the last byte, longest": round(late[-1], 3) if late else None,
        "seconds": round(seconds, 1),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}",
    }


def as_json(outcomes: Sequence[Outcome], head: dict[str, Any]) -> str:
    rows = [
        {
            "trial": each.trial.number,
            "writer": each.trial.cell.writer.name,
            "case": column(each.trial.cell),
            "may be wrong": each.trial.cell.may_be_wrong,
            "stalls": [astuple(stall) for stall in each.trial.stalls],
            "longest stall in quiet times": round(each.trial.longest, 3),
            "wrong": each.wrong,
            "accepted after seconds": each.seconds,
        }
        for each in outcomes
    ]
    return json.dumps({**head, "outcomes": rows}, indent=1)


def picture(outcomes: Sequence[Outcome]) -> str:
    """SVG: a dot for each trial, by writer and longest stall; wrong accepts stand out."""
    writers = list(dict.fromkeys(each.trial.cell.writer.name for each in outcomes))
    height = ROW * (len(writers) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height + 20}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, name in enumerate(writers):
        parts.append(f'<text x="8" y="{ROW * (number + 1) + 4}">{escape(name)}</text>')
    for times in (0, 1, 2):
        x = LEFT + WIDTH * times / LONGEST
        parts.append(f'<line x1="{x}" y1="6" x2="{x}" y2="{height - ROW}" stroke="#ccc"/>')
        parts.append(f'<text x="{x}" y="{height - 4}" text-anchor="middle">{times} T</text>')
    parts.append(f'<text x="{LEFT}" y="{height + 14}">longest stall; a ring is a wrong accept</text>')
    for each in sorted(outcomes, key=lambda each: bool(each.wrong)):  # rings over dots
        x = LEFT + WIDTH * each.trial.longest / LONGEST
        y = ROW * (writers.index(each.trial.cell.writer.name) + 1) + (each.trial.number * 7 % 11 - 5)
        style = 'r="5" fill="none" stroke="#c00" stroke-width="2"' if each.wrong else 'r="2.5" fill="#37a" opacity=".6"'
        parts.append(f'<circle cx="{x:.1f}" cy="{y}" {style}/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
