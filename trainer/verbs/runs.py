"""`trainer runs`: what was trained in a folder, the newest first."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import InvalidInput

if TYPE_CHECKING:
    from trainer.record import Record

HELP = "what was trained in a folder, the newest first"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of runs")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    from trainer.record import is_run, located, read  # noqa: PLC0415

    if not options.folder.is_dir():
        raise InvalidInput(f"{options.folder}: no such directory")
    try:
        folders = [options.folder, *options.folder.iterdir()]
        records = [read(located(path)) for path in folders if path.is_dir() and is_run(path)]
    except OSError as error:
        raise InvalidInput(f"{error.filename or options.folder}: {error.strerror}") from error
    rows = sorted((row(record) for record in records), key=lambda each: (each["started_at"] or "", each["name"]))
    if options.json:
        print(json.dumps(rows[::-1], ensure_ascii=False))
    else:
        _show(rows[::-1], options.folder)
    return 0


def row(record: Record) -> dict[str, Any]:
    """One run: the metric before and after is that by which it was judged."""
    told, scored = record.progress, record.comparison
    metric = scored.metric if scored else told.get("metric")
    before = scored.before.of(scored.metric) if scored else told.get("before")
    after = scored.after.of(scored.metric) if scored else told.get("after")
    change = scored.difference.to_json() if scored else None
    return {
        "name": record.name,
        "status": record.status,
        "base": record.base,
        "examples": told.get("train_examples"),
        "metric": metric,
        "before": before,
        "after": after,
        "difference": change,
        "duration_seconds": told.get("duration_seconds"),
        "started_at": told.get("started_at"),
        "path": str(record.run.path),
    }


def _show(rows: list[dict[str, Any]], folder: Path) -> None:
    from trainer import tables  # noqa: PLC0415
    from trainer.printable import printable  # noqa: PLC0415
    from trainer.report import duration  # noqa: PLC0415

    if not rows:
        print(f"no runs in {folder}")
        return
    names = ("run", "status", "base", "examples", "score", "before", "after", "gain", "time")
    cells = [
        (
            *(printable(str(each[key] or "")) for key in ("name", "status", "base", "examples", "metric")),
            _score(each["before"]),
            _score(each["after"]),
            f"{each['difference']['mean']:+.3f}" if each["difference"] else "",
            duration(each["duration_seconds"]),
        )
        for each in rows
    ]
    tables.show(tables.table(names, cells, right=(3, 5, 6, 7, 8)))


def _score(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""
