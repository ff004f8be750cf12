"""The part on adapters: its goals are right of figures that are made up, and its adapters are such as are served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import adapters, goals, tables
from gateway.model import Accepted
from gateway.volume.manifest import judge


def part(mixed: float, swapped: float, late: float, size: int) -> dict[str, Any]:
    def side(rate: float, p95: float = 1.0) -> list[dict[str, float]]:
        return [{"texts_per_second": rate, "p50": 0.5, "p95": p95}]

    cells = {
        "8 adapters": {"base": side(100), "mixed": side(95)},
        "32 adapters": {"base": side(100), "mixed": side(mixed)},
        "one at a time": {"mixed": side(mixed), "swapped": side(swapped)},
        "registered": {"few": side(90, 1.0), "many": side(80, late)},
    }
    return {"cells": cells, "bytes": {"on_device": size, "tensors": 100}, "registered": 1000, "slots": 100}


def met(found: dict[str, Any]) -> list[bool | None]:
    rows = goals.verdicts({"parts": {"adapters": found} if found else {}})
    return [row.met for row in rows if "adapter" in row.goal or "p95" in row.goal]


def test_the_goals_of_adapters_are_met_by_what_meets_them_and_by_nothing_else() -> None:
    assert met(part(80, 16, 2.0, 110)) == [True] * 4
    assert met(part(79, 16, 2.1, 111)) == [False] * 4
    assert met({}) == [None] * 4
    assert "1,000 adapters in 100 slots" in tables.adapters(part(80, 16, 2.0, 110))


def test_its_adapters_are_served_and_their_size_is_known(tmp_path: Path) -> None:
    (name,) = adapters._published(tmp_path, 1)
    verdict = judge(str(tmp_path / name), root=str(tmp_path))
    assert isinstance(verdict, Accepted), verdict
    assert verdict.manifest.stored_bytes == adapters.TENSORS
    drawn = adapters._drawn([str(number) for number in range(100)])
    assert drawn.count("0") > drawn.count("9") > 0
