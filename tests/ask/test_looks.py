"""Looks that are shared, and that nobody is answered by who asked after they began."""

from __future__ import annotations

import asyncio

import pytest

from gateway.ask.looks import Looks


class Elsewhere:
    """A number that somebody else changes, and that takes until `gate` is open to be looked at."""

    def __init__(self) -> None:
        self.number = 0
        self.looked = 0
        self.gate = asyncio.Event()

    async def look(self) -> int:
        self.looked += 1
        seen = self.number
        await self.gate.wait()
        return seen


async def begun(elsewhere: Elsewhere, looks: int) -> None:
    while elsewhere.looked < looks:
        await asyncio.sleep(0)


async def test_who_asks_before_a_look_begins_shares_it() -> None:
    looks, elsewhere = Looks[int](), Elsewhere()
    elsewhere.gate.set()
    assert await asyncio.gather(*(looks("a", elsewhere.look) for _ in range(64))) == [0] * 64
    assert elsewhere.looked == 1


async def test_who_asks_after_a_look_began_is_answered_by_the_next() -> None:
    looks, elsewhere = Looks[int](), Elsewhere()
    early = asyncio.create_task(looks("a", elsewhere.look))
    await begun(elsewhere, 1)
    elsewhere.number = 1
    late = [asyncio.create_task(looks("a", elsewhere.look)) for _ in range(8)]
    await asyncio.sleep(0)
    elsewhere.gate.set()
    assert await early == 0
    assert await asyncio.gather(*late) == [1] * 8
    assert elsewhere.looked == 2


async def test_looks_at_different_things_do_not_wait_for_each_other() -> None:
    looks, closed, opened = Looks[int](), Elsewhere(), Elsewhere()
    waiting = asyncio.create_task(looks("a", closed.look))
    await begun(closed, 1)
    opened.gate.set()
    assert await looks("b", opened.look) == 0
    closed.gate.set()
    await waiting


async def test_who_leaves_takes_nobody_along() -> None:
    looks, elsewhere = Looks[int](), Elsewhere()
    leaving = asyncio.create_task(looks("a", elsewhere.look))
    staying = asyncio.create_task(looks("a", elsewhere.look))
    await begun(elsewhere, 1)
    leaving.cancel()
    elsewhere.gate.set()
    assert await staying == 0


async def test_a_failure_is_told_to_all_who_shared_it_and_the_next_look_is_another() -> None:
    looks = Looks[int]()

    async def fail() -> int:
        raise OSError("gone")

    async def succeed() -> int:
        return 7

    told = await asyncio.gather(*(looks("a", fail) for _ in range(3)), return_exceptions=True)
    assert [str(each) for each in told] == ["gone"] * 3
    assert await looks("a", succeed) == 7
    with pytest.raises(OSError, match="gone"):
        await looks("a", fail)
