"""Does it last? The short forms of `python -m bench.drop.endurance`, which has the long ones and says what each does.

What can be counted is held to the number. Memory has a wider bound than in the long forms: the first hundreds of
loads fill the caches of libraries.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.drop.endurance import __main__ as endurance
from bench.drop.endurance import contents, gauges, kills, loads, swaps
from gateway.volume.generations import Store
from gateway.volume.source import scan
from tests import making

SEED = 7
GROWTH = 0.05  # of resident memory


async def test_swaps_under_load_lose_no_request_and_every_answer_is_of_a_live_generation(tmp_path: Path) -> None:
    report = await swaps.run(24, folder=tmp_path, seed=SEED, warm_up=12, clients=4, quiet=True)
    assert report["failures"] == []
    assert report["swaps"] == 24
    assert report["answers"] > report["swaps"]
    assert report["answers_with_one_live_generation"] > 0
    assert len(report["answers_by_generation"]) == swaps.CONTENTS
    assert report["device_drift"] == 0
    assert report["end"]["host_restarts"] == 0
    assert report["host_drift"] < GROWTH
    assert report["gateway_drift"] < GROWTH


@pytest.mark.parametrize("failing", [False, True], ids=["loads", "failures"])
async def test_a_hundred_and_fifty_loads_leave_no_descriptor_no_thread_and_no_model(
    tmp_path: Path, failing: bool
) -> None:
    report = await loads.run(150, folder=tmp_path, models=16, seed=SEED, failing=failing, quiet=True)
    assert report["failed"] >= 150 if failing else report["loaded"] >= 150
    assert report["loaded"] == report["unloaded"]
    assert report["host_restarts"] == 0
    assert report["last"]["descriptors"] == report["first"]["descriptors"]
    assert report["last"]["threads"] <= report["first"]["threads"] + 1  # the tokenizer lane may be one short at first
    assert report["resident_drift"] < GROWTH


async def test_a_gateway_killed_in_whatever_it_does_comes_back_with_a_whole_generation(tmp_path: Path) -> None:
    report = await kills.run(6, folder=tmp_path, seed=SEED, quiet=True)  # raises Broken for a promise that is not kept
    assert report["by_kind"] == {"accept": 2, "swap": 2, "rollback": 1, "pull": 1}
    assert report["generations_read_again"] >= 6
    assert report["embeds"] >= 2


def test_an_answer_of_a_generation_that_is_not_live_is_a_failure(tmp_path: Path) -> None:
    """The judge of the swap run itself: a run that cannot fail proves nothing."""
    one, other = contents.make(tmp_path, 2)
    load = swaps.Load(lives=[swaps.Life(one, 0.0, until=2.0), swaps.Life(other, 1.0)])

    def judge(content: contents.Content, made: contents.Content, began: float, ended: float) -> list[str]:
        answer = {"embeddings": made.vectors[:2], "generation": content.generation, "header": content.generation}
        load.failures.clear()
        load.judge(answer, [0, 1], began, ended)
        return load.failures

    assert judge(one, one, 0.5, 0.6) == []
    assert judge(other, other, 1.5, 1.6) == []
    assert judge(one, one, 1.5, 1.6) == []
    assert judge(one, one, 2.5, 2.6) != []
    assert judge(other, other, 0.5, 0.6) != []
    assert judge(one, other, 1.5, 1.6) != []
    assert load.certain == 3


def test_a_generation_is_called_by_its_content_and_one_changed_byte_shows(tmp_path: Path) -> None:
    making.encoder(tmp_path / "root/finetuned/m")
    (directory,) = scan(str(tmp_path / "root")).directories.values()
    digest = Store(str(tmp_path / "state")).accept(directory, str(tmp_path / "root")).digest
    files = tmp_path / "state/generations" / digest / "files"
    assert kills.content_of(files) == digest
    os.chmod(files / "config.json", 0o644)
    (files / "config.json").write_bytes((files / "config.json").read_bytes() + b" ")
    assert kills.content_of(files) != digest


def test_every_breaking_of_a_model_breaks_it(tmp_path: Path) -> None:
    whole = making.encoder(tmp_path / "whole")
    before = {path.name: path.read_bytes() for path in Path(whole).iterdir() if path.is_file()}
    for number, breaking in enumerate(loads.BREAKINGS):
        copy = Path(making.encoder(tmp_path / f"broken-{number}"))
        breaking(copy)
        assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} != before


@pytest.mark.parametrize(
    ("samples", "growth"),
    [([100] * 20, 0.0), ([100] * 10 + [110] * 10, 0.1), ([100, 500, *[100] * 28], 0.0)],
    ids=["level", "grown", "one spike"],
)
def test_drift_is_the_growth_between_the_ends_of_a_run(samples: list[int], growth: float) -> None:
    assert gauges.drift(samples) == pytest.approx(growth)


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({}, None),
        ({"resident_drift": 0.011}, "memory of the host"),
        ({"host_restarts": 1}, "started 1 times more"),
        ({"last": {"descriptors": 11, "threads": 5}}, "descriptors"),
    ],
)
def test_a_promise_that_was_not_kept_is_named(change: dict[str, Any], promise: str | None) -> None:
    held = {"descriptors": 10, "threads": 5}
    broken = endurance.promises(
        "loads", {"resident_drift": 0, "host_restarts": 0, "first": held, "last": held} | change
    )
    assert [promise in found for found in broken] == ([True] if promise else [])  # type: ignore[operator]  # None: no promise
