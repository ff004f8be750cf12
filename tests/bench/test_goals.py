"""Verdicts follow from figures alone: what was not measured is not claimed, and what was missed is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import goals, overload, pages, tables
from bench.goals import Verdict
from bench.http import BATCHES, SINGLE
from bench.overload import Row
from bench.pictures import pictures

EMPTY: dict[str, Any] = {"parts": {}}


def side(rate: float, p50: float = 1.0, p99: float = 1.0) -> list[dict[str, float]]:
    return [{"texts_per_second": rate, "requests_per_second": rate, "p50": p50, "p99": p99}]


def http(single: float, batches: float) -> dict[str, Any]:
    """Where the runtime does 100 in one process, and `encode` 40 with 10 s for a text."""
    others = {"runtime": side(100), "encode": side(40, p50=10.0)}
    cells = {shape.name: {"gateway": side(single, p50=2.0), **others} for shape in SINGLE}
    return {"http": {"cells": cells | {BATCHES.name: {"gateway": side(batches), **others}}}}


def met(report: dict[str, Any], begins: str) -> list[bool | None]:
    return [verdict.met for verdict in goals.verdicts(report) if verdict.goal.startswith(begins)]


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    verdicts = goals.verdicts(EMPTY)
    assert {verdict.met for verdict in verdicts} == {None}
    assert {verdict.goal[0] for verdict in verdicts} == set("12345678")
    assert all(verdict.row()[2] == "not measured" for verdict in verdicts)


def test_a_part_that_failed_was_not_measured() -> None:
    assert {verdict.met for verdict in goals.verdicts({"parts": {"http": {"failed": "ServerFailed"}}})} == {None}


def test_goals_through_http_are_ratios_inside_a_run() -> None:
    assert met({"parts": http(90, 96)}, "1.") == [True, True]
    assert met({"parts": http(84, 94)}, "1.") == [False, False]
    assert met({"parts": http(90, 96)}, "2.") == [True, True, True]
    assert met({"parts": http(79, 96)}, "2.") == [False, True, True]


def test_the_gateway_is_held_against_the_best_peer_of_each_cell() -> None:
    cells = {
        "1 connections": {"gateway": side(90), "slow": side(1), "fast": side(30)},
        "64 connections": {"gateway": side(90, p99=1.0), "slow": side(29, p99=8.0), "fast": side(10, p99=3.0)},
    }
    throughput, tail = [
        verdict for verdict in goals.verdicts({"parts": {"peers": {"cells": cells}}}) if verdict.goal[0] == "3"
    ]
    assert throughput.measured == pytest.approx(3.0)
    assert throughput.met
    assert tail.measured == pytest.approx(1 / 3)
    assert tail.met is False


def test_a_goal_is_met_at_its_very_target() -> None:
    assert Verdict("", 0.85, "at least", 0.85).met
    assert Verdict("", 5.0, "at most", 5.0).met
    assert Verdict("", 5.01, "at most", 5.0).met is False


def rows(*, retry_after: float) -> list[Row]:
    """One request a second for ten seconds, each done three seconds later; then three that are refused at once."""
    accepted: list[Row] = [(float(began), began + 3.0, 200, None, None) for began in range(10)]
    return [*accepted, *((9.5, 9.502, 429, retry_after, 3.0) for _ in range(3))]


def test_retry_after_is_right_when_by_then_all_that_waited_is_done() -> None:
    judged = overload.judged(rows(retry_after=2.498), capacity=1.0)
    assert judged["retry_after"] == pytest.approx(1.0)
    assert judged["retry_after_right"] == 1.0
    assert overload.judged(rows(retry_after=1.0), capacity=1.0)["retry_after_right"] == 0.0


def test_an_overload_is_judged_by_who_was_served_and_how_soon_the_others_were_told() -> None:
    judged = overload.judged(rows(retry_after=2.5), capacity=1.0)
    assert (judged["accepted"], judged["refused"], judged["other"]) == (10, 3, 0)
    assert judged["p99"] == pytest.approx(3.0)
    assert judged["refusal_p99"] == pytest.approx(0.002)
    assert judged["throughput"] == pytest.approx(7 / 7.5)  # done between 2 and 9.5 seconds


def test_a_page_gets_the_tables_of_a_report_and_keeps_its_prose() -> None:
    page = "# Words\n\n<!-- goals -->\nold\n<!-- end -->\n\nmore words\n"
    filled = pages.filled(page, EMPTY)
    assert filled == f"# Words\n\n<!-- goals -->\n{tables.goals(EMPTY)}<!-- end -->\n\nmore words\n"
    assert pages.filled(filled, EMPTY) == filled


def test_the_page_on_performance_has_the_figures_that_are_kept_beside_it() -> None:
    report = json.loads((pages.DOCS / pages.FIGURES).read_text(encoding="utf-8"))
    page = (pages.DOCS / pages.PAGE).read_text(encoding="utf-8")
    assert page == pages.filled(page, report), "python -m bench --write-docs REPORT puts a run there"
    for name, drawn in pictures(report).items():
        assert (pages.DOCS / "pictures" / name).read_text(encoding="utf-8") == drawn


def test_a_block_that_no_report_has_is_an_error() -> None:
    with pytest.raises(KeyError):
        pages.filled("<!-- gaols -->\n<!-- end -->\n", EMPTY)
