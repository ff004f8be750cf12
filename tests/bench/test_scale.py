"""The simulation, against what is known of queues and caches in closed form, and against itself."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from bench.pages import BLOCK
from bench.scale import clock, pages
from bench.scale.costs import KINDS, Costs, measured
from bench.scale.figures import over_seeds
from bench.scale.hosts import Disk, Ground, Ledger
from bench.scale.rivals import DOUBLING, OURS, POLICIES
from bench.scale.trial import Trial, run
from bench.scale.world import Cell, World
from gateway import events
from gateway.host.host import LEAST_CPU_BATCH
from gateway.host.recorder import Recorder

COSTS = Costs(call=0.005, token=0.0001, load=0.01, byte=2e-9, machine="none: these tests are about arithmetic")
MINILM = KINDS[:1]


def test_time_jumps_to_whatever_happens_next_and_stands_still_meanwhile() -> None:
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, asyncio.get_running_loop().time()))

    async def story() -> None:
        await asyncio.gather(sleeper("late", 86_400), sleeper("early", 0.5))

    clock.run(story())
    assert seen == [("early", 0.5), ("late", pytest.approx(86_400))]


def test_who_waits_for_what_never_comes_is_told_so() -> None:
    with pytest.raises(RuntimeError, match="nothing is left that could happen"):
        clock.run(asyncio.Event().wait())


def test_one_device_waits_as_an_m_d_1_queue_does() -> None:
    """Requests of one text that fills a call: each is served alone, in order, as long as any other. The mean wait is
    load / (2 (1 - load)) services (Pollaczek, Khinchine)."""
    busy, requests = 0.6, 8000
    cell = Cell(1, 1, busy=busy, requests=requests, kinds=MINILM, rows=1.0, row_tokens=LEAST_CPU_BATCH)
    found = run(cell, OURS, seed=1, costs=COSTS)
    service = COSTS.compute(LEAST_CPU_BATCH, 1.0)
    assert found["wait_mean"] == pytest.approx(service * busy / (2 * (1 - busy)), rel=0.1)
    assert found["hit_rate"] == 1.0


def test_one_device_hits_as_often_as_ches_approximation_says_of_an_lru() -> None:
    """Che, Tung, Wang (2002): a model is in the cache if it was asked for in the last T requests, where T is such that
    as many as fit are."""
    fits, models = 20, 120
    cell = Cell(1, models, 0.9, busy=0.002, requests=6000, budget=fits * MINILM[0].bytes, kinds=MINILM)
    found = run(cell, OURS, seed=2, costs=COSTS)
    asked = World(cell, 2, COSTS).popularity
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp(-asked * middle)).sum() < fits else (low, middle)
    expected = float((asked * (1 - np.exp(-asked * low))).sum())
    assert 0.3 < expected < 0.9
    assert found["hit_rate"] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("policy", POLICIES)
def test_whatever_dies_every_request_is_answered_once_and_no_device_holds_too_much(policy: str) -> None:
    """`Trial` and `Disk` assert it; what they cannot see is that nobody was refused either."""
    cell = Cell(4, 60, requests=500, swaps=0.5, deaths=2)
    found = run(cell, policy, seed=3, costs=COSTS)
    assert found["answered"] == cell.requests
    assert found["failed"] == 0


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    cell = Cell(3, 40, requests=300, deaths=1)
    first, again, other = (run(cell, OURS, seed, COSTS) for seed in (5, 5, 6))
    assert first == again
    assert first != other


async def _overfull() -> None:
    world = World(Cell(1, 3, budget=100, kinds=MINILM), 1, COSTS)
    recorder = Recorder.create()
    try:
        disk = Disk(0, Ground(world, COSTS, Ledger(1)), recorder, budget=2 * MINILM[0].bytes - 1)
        await disk.load(world.models[0])
        await disk.load(world.models[1])
    finally:
        recorder.close()


def test_a_pool_that_promises_too_much_is_caught() -> None:
    with pytest.raises(AssertionError, match="more than there is"):
        clock.run(_overfull())


def test_an_answer_that_was_lost_is_caught() -> None:
    async def story() -> None:
        trial = Trial(Cell(1, 5, requests=20), OURS, 1, COSTS)
        trial.outcomes["answered"] = -1  # as if one had had no answer
        await trial.run()

    with pytest.raises(AssertionError, match="one answer"):
        clock.run(story())


def test_costs_are_those_of_a_report_and_name_its_machine() -> None:
    cells = {"32 x 64": {"torch/float32": [{"texts_per_second": 100.0, "p50": 0.32}]}}
    cells["1 x 16"] = {"torch/float32": [{"texts_per_second": 100.0, "p50": 0.0105}]}
    token = 1 / 6400
    sizes = {
        name: {"bytes": size, "from_page_cache": {"answered": [0.02 + size * 1e-10 + 0.0105]}}
        for name, size in (("MiniLM", 10**8), ("BERT-base, random", 5 * 10**8))
    }
    report = {
        "machine": {"cpu": "Abacus", "cores": 3},
        "parts": {"inprocess": {"cells": cells}, "loads": {"sizes": sizes}},
    }
    costs = measured(report, volume=1e9)
    assert costs.machine == "Abacus, 3 cores"
    assert costs.compute(16, 1.0) == pytest.approx(0.0105)
    assert costs.compute(2048, 1.0) - costs.compute(1024, 1.0) == pytest.approx(1024 * token)
    assert costs.loading(10**8) == pytest.approx(0.02 + 0.01 + 0.1)


def test_an_interval_over_seeds_is_students() -> None:
    mean, half = over_seeds([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}])["x"]
    assert mean == 2.0
    assert half == pytest.approx(4.30 / 3**0.5, rel=0.01)
    assert over_seeds([{"x": 1.0}])["x"] == (1.0, 0.0)


def copies_for_a_crowd(policy: str) -> list[float]:
    """When the most popular model got one copy more, in seconds."""
    cell = Cell(16, 40, busy=0.6, requests=2500, kinds=MINILM, rows=8.0, crowd=0.8)
    came: list[float] = []

    async def story() -> None:
        trial = Trial(cell, policy, 1, COSTS)

        def told(event: events.Event) -> None:
            if isinstance(event, events.GenerationReplicated) and event.generation == busiest:
                came.append(asyncio.get_running_loop().time())

        asked = Counter(each.number for each in World(cell, 1, COSTS).asked())
        busiest = trial.world.models[asked.most_common(1)[0][0]].short
        trial.bus.subscribe(told)
        await trial.run()

    clock.run(story())
    return came


def test_a_crowd_gets_its_copies_within_moments_of_its_first_queue() -> None:
    came = copies_for_a_crowd(OURS)[1:]  # the first one came before
    assert len(came) >= 6
    assert came[5] - came[0] < 0.5


def test_where_only_what_devices_tell_counts_copies_double_each_time() -> None:
    came = copies_for_a_crowd(DOUBLING)
    assert list(Counter(came).values())[:3] == [1, 2, 4]


def test_a_device_more_does_more() -> None:
    """As many requests as one device can just not do: its queue grows, and that of two does not."""
    cell = Cell(1, 8, busy=1.3, requests=600, kinds=MINILM)
    one = run(cell, OURS, 7, COSTS)
    two = run(dataclasses.replace(cell, devices=2, busy=0.65), OURS, 7, COSTS)
    assert two["wait_p50"] < one["wait_p50"] / 5


def test_the_page_and_its_pictures_are_those_of_the_report_beside_it() -> None:
    report = json.loads((pages.DOCS / pages.FIGURES).read_text(encoding="utf-8"))
    page = (pages.DOCS / pages.PAGE).read_text(encoding="utf-8")
    assert pages.filled(page, report) == page
    assert {found[2] for found in BLOCK.finditer(page)} >= set(pages.blocks(report))
    for name, text in pages.pictures(report).items():
        assert (pages.DOCS / "pictures" / name).read_text(encoding="utf-8") == text
    assert set(pages.pictures(report)) <= set(pages.PICTURES)
