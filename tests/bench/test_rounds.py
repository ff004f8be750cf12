"""What is believed of rounds: the warm-up is thrown away, and a ratio never leaves its round."""

from __future__ import annotations

import pytest

from bench import rounds


def counted(values: list[float]) -> rounds.Measure:
    left = iter(values)
    return lambda: {"texts_per_second": next(left)}


def test_the_first_round_is_thrown_away() -> None:
    measured = rounds.interleaved({"cell": {"ours": counted([1000.0, 1.0, 2.0])}}, 2)
    assert [figures["texts_per_second"] for figures in measured["cell"]["ours"]] == [1.0, 2.0]


def test_a_machine_that_drifts_moves_no_ratio() -> None:
    cell = {"ours": [{"texts_per_second": rate} for rate in (300.0, 30.0, 3.0)]}
    cell["theirs"] = [{"texts_per_second": rate} for rate in (100.0, 10.0, 1.0)]
    assert rounds.ratios(cell, "ours", "theirs") == pytest.approx([3, 3, 3])
    assert rounds.ratio(cell, "ours", "theirs") == pytest.approx(3)
    assert rounds.spread(cell["ours"], "texts_per_second") > 9


def test_sides_of_a_cell_are_measured_right_after_one_another() -> None:
    order: list[str] = []

    def side(name: str) -> rounds.Measure:
        return lambda: order.append(name) or {"texts_per_second": 1.0}  # type: ignore[func-returns-value]  # None is falsy

    rounds.interleaved({"a": {"x": side("ax"), "y": side("ay")}, "b": {"x": side("bx"), "y": side("by")}}, 1)
    assert order == ["ax", "ay", "bx", "by"] * 2
