"""The simulation beside what it stands for: the same requests to real host processes and to simulated ones end in the
same loads on the same devices, and the same evictions, in the same order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace

from bench.scale import clock
from bench.scale.costs import Costs
from bench.scale.hosts import Ground, Ledger, Process
from bench.scale.rivals import Engine
from bench.scale.world import Cell, World
from gateway import events
from gateway.engine import placement
from gateway.engine.supervisor import HostProcess
from gateway.host import wire
from gateway.host.wire import Options
from gateway.model import Generation
from tests import making
from tests.engine.test_process import rig

COSTS = Costs(call=0.001, token=0.0001, load=0.01, byte=1e-9, machine="none")
DEVICES, MODELS, REQUESTS = 3, 10, 45
PLAIN = Options()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Generation]:
    """Of two sizes, so that one that comes may need the room of two."""
    base = tmp_path_factory.mktemp("models")
    made = []
    for number in range(MODELS):
        path = making.encoder(str(base / f"m{number}"), seed=number, layers=2 + 4 * (number % 3 == 0))
        made.append(replace(making.generation(path), digest=f"{number:x}" * 64))
    return made


def size(generation: Generation) -> int:
    return generation.manifest.parameters * 4


class Population:
    """As much of a World as hosts look at."""

    def __init__(self, budget: int) -> None:
        self.cell = Cell(DEVICES, MODELS, budget=budget)

    size = staticmethod(size)

    def work(self, generation: Generation) -> float:
        return 1.0


def moves(told: Sequence[events.Event]) -> list[tuple[str, str, str]]:
    """What was loaded and evicted where, in order."""
    kinds = {events.GenerationLoaded: "loaded", events.GenerationUnloaded: "evicted"}
    return [(kinds[type(each)], each.generation[0], each.device) for each in told if type(each) in kinds]  # type: ignore[attr-defined]  # both have a generation and a device


class Turns:
    """Time in requests. What hosts tell of how long something has been idle is put in it: a report that was on its way
    for long would say too little, and the order of two models on two devices would hang on that. `rests`: what was
    used last has been told as computed, and then as idle."""

    def __init__(self, hosts: Sequence[HostProcess]) -> None:
        self.now = 0.0
        self.rests = False
        self._computed = False
        self._last = ""
        self._used: dict[str, float] = {}
        for host in hosts:
            host._clock = lambda: self.now
            host._receive = self._told_by(host)  # type: ignore[method-assign]  # every report is put in turns

    def use(self, generation: Generation) -> None:
        self.now += 1
        self.rests = self._computed = False
        self._last = generation.digest
        self._used[self._last] = self.now

    def _told_by(self, host: HostProcess) -> Callable[..., None]:
        receive = host._receive

        def told(report: wire.Report, *rest: Any) -> None:
            if isinstance(report, wire.Residency):
                idle = [replace(each, idle_seconds=self.now - self._used[each.digest]) for each in report.residents]
                report = replace(report, residents=idle)
            receive(report, *rest)
            if isinstance(report, wire.Batch):
                self._computed |= report.digest == self._last
            elif isinstance(report, wire.Residency) and self._computed:
                self.rests |= any(each.digest == self._last and not each.leases for each in report.residents)

        return told


async def on_processes(models: list[Generation], asked: Sequence[int], budget: int) -> list[tuple[str, str, str]]:
    async with rig(tuple(f"cpu:{index}" for index in range(DEVICES)), budget=budget, replicas=1) as running:
        await running.until(lambda: all(host.up for host in running.hosts))
        turns = Turns(running.hosts)
        for number in asked:
            turns.use(models[number])
            await running.embed(models[number], "anything")
            await running.until(lambda: turns.rests)
        return moves(running.told)


async def on_simulated(models: list[Generation], asked: Sequence[int], budget: int) -> list[tuple[str, str, str]]:
    bus, told = events.Events(), list[events.Event]()
    bus.subscribe(told.append)
    ground = Ground(cast(World, Population(budget)), COSTS, Ledger(DEVICES))
    hosts = [Process(index, ground, bus) for index in range(DEVICES)]
    engine = Engine(hosts, size, tell=bus, replicas=1)
    for host in hosts:
        host.begin()
    await asyncio.sleep(1)
    for number in asked:
        await engine.embed(models[number], cast(list[list[int]], [np.zeros(4, np.int64)]), PLAIN)
        await asyncio.sleep(1)
    found = moves(told)
    for host in hosts:
        host.close()
    return found


async def test_simulated_hosts_are_asked_for_the_same_as_real_ones(
    models: list[Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests come one after the other, at another pace here and there; so what is idle about as long counts by its
    order and not by how long (`RESTED`)."""
    monkeypatch.setattr(placement, "RESTED", 0.0)
    sizes = sorted(map(size, models))
    budget = sizes[0] + sizes[-1] + sizes[0] // 2
    chance = random.Random(3)
    asked = [min(int(chance.paretovariate(0.7)) - 1, MODELS - 1) for _ in range(REQUESTS)]
    real = await on_processes(models, asked, budget)
    simulated = await asyncio.to_thread(clock.run, on_simulated(models, asked, budget))
    assert len([move for move in real if move[0] == "evicted"]) > 5
    assert {device for _, _, device in real} == {f"cpu:{index}" for index in range(DEVICES)}
    assert simulated == real
