"""The part on adapters: its goals are right of figures that are made up, and its adapters are such as are served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import adapters, goals, pictures, registered, swapping, tables
from bench.setting import Setting
from gateway.model import Accepted
from gateway.volume.manifest import judge


def part(mixed: float, swapped: float, late: float, size: int) -> dict[str, Any]:
    def side(rate: float, p95: float = 1.0) -> list[dict[str, float]]:
        return [{"texts_per_second": rate, "p50": 0.5, "p95": p95}]

    cells = {
        "8 adapters": {"base": side(100), "mixed": side(95)},
        "32 adapters": {"base": side(100), "mixed": side(mixed)},
        "one at a time": {"mixed": side(mixed), "swapped": side(swapped)},
        swapping.CELL: {swapping.TOGETHER: side(mixed), swapping.ACTIVE: side(swapped), swapping.LOADED: side(swapped)},
    }
    many = {"cells": {"registered": {"10": side(90, 1.0), "1000": side(80, late)}}, "counts": [10, 1000], "slots": 100}
    return {
        "adapters": {"cells": cells, "bytes": {"on_device": size, "tensors": 100}},
        "registered": {**many, "ready": 60.0},
    }


def met(found: dict[str, Any]) -> list[bool | None]:
    rows = goals.verdicts({"parts": found})
    return [row.met for row in rows if "adapter" in row.goal or "p95" in row.goal]


def test_the_goals_of_adapters_are_met_by_what_meets_them_and_by_nothing_else() -> None:
    assert met(part(80, 16, 2.0, 110)) == [True] * 6
    assert met(part(79, 16, 2.1, 111)) == [False] * 6
    assert met({}) == [None] * 6
    found = part(80, 16, 2.0, 110)
    assert swapping.ACTIVE in tables.adapters(found["adapters"])
    assert "1,000 that were dropped at once" in tables.registered(found["registered"])
    assert "in 100 slots" in pictures.pictures({"parts": found})[pictures.REGISTERED]


def test_one_call_for_all_adapters_is_measured_beside_one_adapter_at_a_time(tmp_path: Path) -> None:
    names = adapters.published(tmp_path, 3)
    setting = Setting(tmp_path, tmp_path, rounds=1)
    cell = swapping.run(setting, tmp_path, adapters.BASE, names)[swapping.CELL]
    assert cell.keys() == {swapping.TOGETHER, swapping.ACTIVE, swapping.LOADED}
    assert all(figures["texts_per_second"] > 0 for side in cell.values() for figures in side)


def test_its_adapters_are_served_and_their_size_is_known(tmp_path: Path) -> None:
    (name,) = adapters.published(tmp_path, 1)
    verdict = judge(str(tmp_path / name), root=str(tmp_path))
    assert isinstance(verdict, Accepted), verdict
    assert verdict.manifest.stored_bytes == adapters.TENSORS
    drawn = registered.drawn([str(number) for number in range(100)])
    assert drawn.count("0") > drawn.count("9") > 0
