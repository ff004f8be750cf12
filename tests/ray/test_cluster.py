"""36 models on three nodes with room for 12: where they are, and what becomes of requests when things go."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.e2e.clients import TEXTS, Clients
from tests.ray import figures
from tests.ray.conftest import MODELS, NODES, PER_NODE
from tests.ray.nodes import Nodes
from tests.running import RunningGateway

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="session")]
HOT = MODELS[: NODES * PER_NODE]


async def all_up(gateway: RunningGateway, count: int = NODES) -> None:
    async def there() -> bool:
        return len(await figures.devices(gateway)) == count

    await figures.until(there)


async def test_as_many_models_as_there_is_room_for_are_balanced_and_sticky(gateway: RunningGateway) -> None:
    await all_up(gateway)
    for model in HOT:
        _, generation = await gateway.embed(TEXTS, model)
        await gateway.wait_for_log("generation_loaded", generation=generation)
    where = await figures.held(gateway)
    counts = figures.per_device(where)
    assert len(counts) == NODES
    assert max(counts.values()) - min(counts.values()) <= 1, counts
    begin = len(gateway.log)
    order = HOT * 10
    random.Random(1).shuffle(order)
    answers = await asyncio.gather(*(gateway.try_embed(TEXTS, model) for model in order))
    assert Counter(status for status, _ in answers) == {200: len(order)}
    assert await figures.held(gateway) == where
    await figures.heard(gateway, begin)
    loads = [each for each in gateway.log[begin:] if each.get("event") == "generation_loaded"]
    assert loads == [], "each went where its model was"
    figures.write("sticky", models=len(HOT), requests=len(order), loads=len(loads), per_node=sorted(counts.values()))


async def test_mixed_load_over_three_times_what_fits(gateway: RunningGateway) -> None:
    expected = {model: (await gateway.embed(TEXTS, model))[0] for model in MODELS}
    begin, began = len(gateway.log), time.monotonic()
    chosen = random.Random(2).choices(MODELS, [1 / (rank + 1) for rank in range(len(MODELS))], k=400)
    waiting = list(reversed(chosen))

    async def client() -> int:
        while waiting:
            vectors, _ = await gateway.embed(TEXTS, model := waiting.pop())
            np.testing.assert_allclose(vectors, expected[model], atol=1e-5)
        return 0

    await asyncio.gather(*(client() for _ in range(12)))
    seconds = time.monotonic() - began

    async def balanced() -> bool:  # what is held is heard of twice a second
        counts = figures.per_device(await figures.held(gateway)).values()
        return len(counts) == NODES and max(counts) - min(counts) <= 1

    await figures.until(balanced)
    counts = figures.per_device(await figures.held(gateway))
    await figures.heard(gateway, begin)
    loads = [each for each in gateway.log[begin:] if each.get("event") == "generation_loaded"]
    where = Counter((each["generation"], each["device"]) for each in loads)
    places = Counter(generation for generation, _ in where)
    assert max(counts.values()) <= PER_NODE
    figures.write(
        "mixed",
        models=len(MODELS),
        fits=NODES * PER_NODE,
        requests=len(chosen),
        failed=0,
        seconds=round(seconds, 2),
        loads=len(loads),
        models_loaded=len(places),
        models_on_one_node=sum(count == 1 for count in places.values()),
        per_node=sorted(counts.values()),
    )


def summary(answers: list[tuple[str, int, dict[str, Any]]]) -> dict[str, Any]:
    failed = [(model, status, body) for model, status, body in answers if status != 200]
    assert failed == []
    return {"requests": len(answers), "failed": len(failed)}


async def test_a_node_is_killed_under_load_and_another_takes_its_place(gateway: RunningGateway, nodes: Nodes) -> None:
    await all_up(gateway)
    victim = nodes.there[-1]
    clients = Clients(gateway, MODELS[:12])
    async with clients:
        await clients.more(100)
        await asyncio.to_thread(nodes.kill, victim)
        began = time.monotonic()
        await clients.until(lambda model, status, body: status == 200, 200)
        gone = time.monotonic() - began

        async def fewer() -> bool:
            return not any(name.startswith(f"{victim}/") for name in await figures.devices(gateway))

        noticed = await figures.until(fewer)
        await clients.more(100)
        new = await asyncio.to_thread(nodes.add)

        async def back() -> bool:
            return any(name.startswith(f"{new}/") for name in await figures.devices(gateway))

        joined = await figures.until(back)
        await clients.more(100)
    where = figures.per_device(await figures.held(gateway))
    figures.write(
        "node_killed",
        **summary(clients.answers),
        seconds_for_200_answers=round(gone, 2),
        seconds_until_not_listed=round(noticed, 2),
        seconds_until_a_new_node_serves=round(joined, 2),
        devices_after=len(where),
    )


async def test_a_replica_segfaults_under_load_and_comes_back(gateway: RunningGateway) -> None:
    await all_up(gateway)
    host = next(iter((await figures.devices(gateway)).values()))
    clients = Clients(gateway, MODELS[:12])
    async with clients:
        await clients.more(100)
        figures.crash(figures.replica_of(host["pid"]))
        await clients.more(100)

        async def another() -> bool:
            now = (await figures.devices(gateway)).get(host["device"])
            return now is not None and now["pid"] != host["pid"]

        seconds = await figures.until(another)
        await clients.more(100)
    figures.write("replica_crashed", **summary(clients.answers), seconds_until_it_serves=round(seconds, 2))


async def test_a_host_segfaults_under_load_and_its_replica_stays(gateway: RunningGateway) -> None:
    await all_up(gateway)
    host = next(iter((await figures.devices(gateway)).values()))
    replica = figures.replica_of(host["pid"])
    clients = Clients(gateway, MODELS[:12])
    async with clients:
        await clients.more(100)
        figures.crash(host["pid"])

        async def another() -> bool:
            now = (await figures.devices(gateway)).get(host["device"])
            return now is not None and now["pid"] != host["pid"]

        seconds = await figures.until(another)
        await clients.more(100)
    now = (await figures.devices(gateway))[host["device"]]
    assert figures.replica_of(now["pid"]) == replica
    figures.write("host_crashed", **summary(clients.answers), seconds_until_it_serves=round(seconds, 2))
