"""What a choice costs the gateway's own process: microseconds of its CPU time, over the number of devices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from bench.scale import clock
from bench.scale.costs import KINDS
from bench.scale.costs import measured as costs
from bench.scale.rivals import BEFORE, OURS
from bench.scale.trial import Trial
from bench.scale.world import Cell

DEVICES: Final = (2, 10, 100, 1000)
EACH: Final = 8  # models on a device
SETS: Final = 7  # of choices, of which the fastest is believed: the others were disturbed
TIMES: Final = 20


def measured(*, quick: bool = False) -> list[dict[str, Any]]:
    counts = DEVICES[:2] if quick else DEVICES
    return [
        {"devices": devices, "policy": policy, **_of(devices, policy)}
        for devices in counts
        for policy in (OURS, BEFORE)
    ]


def _of(devices: int, policy: str) -> dict[str, float]:
    async def story() -> dict[str, float]:
        models = devices * (EACH + 2) + SETS * TIMES
        trial = Trial(Cell(devices, models, budget=EACH * KINDS[0].bytes, kinds=KINDS[:1]), policy, 1, costs())
        for host in trial.hosts:
            host.begin()
        await asyncio.sleep(0)
        held, others = trial.world.models[: devices * EACH], iter(trial.world.models[devices * EACH :])
        for index, host in enumerate(trial.hosts):
            for generation in held[index * EACH : (index + 1) * EACH]:
                await trial.engine._load_on(generation, host)
        await asyncio.sleep(1)
        place = trial.engine._place
        loaded = held[len(held) // 2]
        found = {
            "held_us": _microseconds(lambda: place(loaded)),
            "missing_us": _microseconds(lambda: place(next(others))),
        }
        for host in trial.hosts:
            host.close()
        return found

    return clock.run(story())


def _microseconds(choose: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(SETS):
        began = time.process_time()
        for _ in range(TIMES):
            choose()
        best = min(best, time.process_time() - began)
    return 1e6 * best / TIMES
