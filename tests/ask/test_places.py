"""Places at a provider: as many as there are, shared by those who wait, and none of them lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from gateway.ask.places import Places
from tests.running import DEADLINE

LATE = 3600.0


def later() -> float:
    return asyncio.get_running_loop().time() + LATE


async def waiting(places: Places, tenant: str, order: list[str]) -> asyncio.Task[None]:
    """Stands in the queue when this returns, and notes when it has its place."""

    async def take() -> None:
        await places.take(tenant, later())
        order.append(tenant)

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    return task


async def test_who_asks_for_little_is_not_behind_who_asks_for_much() -> None:
    places, order = Places(2), list[str]()
    for _ in range(2):
        await places.take("much", later())
    much = [await waiting(places, "much", order) for _ in range(10)]
    little = [await waiting(places, "little", order) for _ in range(2)]
    for tenant in ("much", "much", "little"):
        places.give_back(tenant)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == ["little", "much", "little"]
    for task in (*much, *little):
        task.cancel()


async def test_of_equals_those_who_wait_longest_are_first() -> None:
    places, order = Places(1), list[str]()
    await places.take("first", later())
    tasks = [await waiting(places, tenant, order) for tenant in ("b", "a", "b", "a", "c")]
    holder = "first"
    for served in range(5):
        places.give_back(holder)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        assert len(order) == served + 1
        holder = order[-1]
    assert order == ["b", "a", "c", "b", "a"]


async def test_a_place_that_came_too_late_is_handed_on() -> None:
    places, order = Places(1), list[str]()
    await places.take("a", later())
    leaving, staying = await waiting(places, "b", order), await waiting(places, "c", order)
    places.give_back("a")  # it is b's, who leaves in the same breath
    leaving.cancel()
    await staying
    assert order == ["c"]
    places.give_back("c")
    await places.take("d", later())  # and there is still one


async def test_who_waits_until_then_waits_no_longer() -> None:
    places = Places(1)
    await places.take("a", later())
    with pytest.raises(TimeoutError):
        await places.take("b", asyncio.get_running_loop().time())
    places.give_back("a")
    await places.take("c", later())


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_and_goes_no_place_is_lost_or_made(seed: int) -> None:
    draw, places, held, served = random.Random(seed), Places(3), Counter[str](), Counter[str]()

    async def call(tenant: str) -> None:
        await places.take(tenant, later())
        held[tenant] += 1
        try:
            assert sum(held.values()) <= 3
            for _ in range(draw.randrange(4)):
                await asyncio.sleep(0)
            served[tenant] += 1
        finally:
            held[tenant] -= 1
            places.give_back(tenant)

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(call(draw.choice("abc"))))
        if draw.random() < 0.3:
            draw.choice(tasks).cancel()
        if draw.random() < 0.5:
            await asyncio.sleep(0)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert served.total() == sum(end is None for end in ended) > 100
    assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended)
    for tenant in "xyz":
        await asyncio.wait_for(places.take(tenant, later()), DEADLINE)
    stranger = asyncio.create_task(places.take("d", later()))
    await asyncio.sleep(0)
    assert not stranger.done()
    stranger.cancel()
